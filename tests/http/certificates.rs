//! TLS with certificates of the test's own.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use hypernova::openstack::{ApiError, ApiRequest, Identity, Service, Session};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::json;
use tokio_rustls::TlsAcceptor;

use crate::cloud::{HOUR, PASSWORD, catalog, session, token};
use crate::server::{Answer, Server};

/// Makes `name.pem` and `name.key`: a certificate for localhost, signed by itself or by `ca`.
fn certificate(directory: &Path, name: &str, ca: Option<&str>) {
    let path = |name: &str, kind: &str| directory.join(format!("{name}.{kind}"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj"]);
    openssl.arg(format!("/CN={name}")).arg("-keyout").arg(path(name, "key"));
    openssl.arg("-out").arg(path(name, "pem"));
    match ca {
        None => openssl.args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"]),
        Some(ca) => openssl
            .args(["-addext", "subjectAltName=DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-CA")
            .arg(path(ca, "pem"))
            .arg("-CAkey")
            .arg(path(ca, "key")),
    };
    let made = openssl.output().expect("openssl is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn acceptor(directory: &Path, name: &str, clients: Option<&str>) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let read = |name: &str| {
        CertificateDer::pem_file_iter(directory.join(format!("{name}.pem")))
            .unwrap()
            .map(Result::unwrap)
            .collect::<Vec<_>>()
    };
    let key = PrivateKeyDer::from_pem_file(directory.join(format!("{name}.key"))).unwrap();
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(read(ca));
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    TlsAcceptor::from(Arc::new(builder.with_single_cert(read(name), key).unwrap()))
}

async fn ask(session: &Session) -> Result<(), ApiError> {
    let request = ApiRequest::get("/x", Identity::Service);
    session.service(Service::Placement).send(request).await.map(drop)
}

#[tokio::test]
async fn certificates_are_verified_as_the_options_say() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    certificate(directory, "ca", None);
    certificate(directory, "other", None);
    certificate(directory, "server", Some("ca"));
    certificate(directory, "client", Some("ca"));

    let open = acceptor(directory, "server", None);
    let service = Server::start_with(Some(open.clone()), |_| Answer::json(200, &json!({}))).await;
    let catalog = catalog(&[("placement", "internal", "R", &service.url(""))]);
    let keystone = Server::start_with(Some(open), move |_| token("t", HOUR, &catalog)).await;
    let with = |options: &str| {
        let path = directory.display();
        session(&format!(
            "[placement]\n{PASSWORD}auth_url = {}\n{}\n",
            keystone.url(""),
            options.replace("DIR", &path.to_string())
        ))
    };
    ask(&with("cafile = DIR/ca.pem")).await.unwrap();
    ask(&with("insecure = true")).await.unwrap();
    assert_eq!((keystone.seen().len(), service.seen().len()), (2, 2));

    for distrusted in ["cafile = DIR/other.pem", ""] {
        let before = keystone.connections();
        let error = ask(&with(distrusted)).await.unwrap_err();
        let ApiError::Unreachable { service: "keystone", message } = &error else {
            panic!("{error:?}")
        };
        assert!(message.contains("certificate"), "{message}");
        // Asking again wouldn't help.
        assert_eq!(keystone.connections(), before + 1);
    }
    assert_eq!((keystone.seen().len(), service.seen().len()), (2, 2));

    let picky = acceptor(directory, "server", Some("ca"));
    let service = Server::start_with(Some(picky), |_| Answer::json(200, &json!({}))).await;
    let at = format!("cafile = DIR/ca.pem\nendpoint_override = {}\n", service.url(""));
    assert!(ask(&with(&format!("{at}connect_retries = 0"))).await.is_err());
    ask(&with(&format!("{at}certfile = DIR/client.pem\nkeyfile = DIR/client.key"))).await.unwrap();
    let both = std::fs::read_to_string(directory.join("client.pem")).unwrap()
        + &std::fs::read_to_string(directory.join("client.key")).unwrap();
    std::fs::write(directory.join("both.pem"), both).unwrap();
    ask(&with(&format!("{at}certfile = DIR/both.pem"))).await.unwrap();
    assert_eq!(service.seen().len(), 2);
}

#[test]
fn a_file_that_holds_no_certificate_is_found_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("empty.pem");
    std::fs::write(&path, "nothing").unwrap();
    for option in ["cafile", "certfile"] {
        let config = crate::cloud::config(&format!("[neutron]\n{option} = {}", path.display()));
        let error = Session::from_config(&config, None).err().unwrap().to_string();
        assert!(error.starts_with(&format!("[neutron] {option} = ")), "{error}");
    }
}
