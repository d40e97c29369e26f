//! TLS by oslo.messaging's rules, which are not a browser's: without `ssl_ca_file` nothing is
//! verified, with one the chain is, and the host's name only when
//! `ssl_enforce_hostname_verification` says so.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use crate::rpc::options::RabbitOptions;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {option} = {}", path.display())]
    Read {
        option: &'static str,
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("{option} = {} holds no certificate", path.display())]
    Empty { option: &'static str, path: PathBuf },
    #[error("ssl_cert_file and ssl_key_file go together")]
    HalfAClient,
    #[error("the TLS settings of [oslo_messaging_rabbit] do not work")]
    Refused(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What the options ask for; `None` without `ssl`. Reads the files, so that a wrong path is found
/// at the start and not at the first reconnect.
pub fn client_config(options: &RabbitOptions) -> Result<Option<Arc<ClientConfig>>, TlsError> {
    if !options.ssl {
        return Ok(None);
    }
    let provider = Arc::new(crypto::ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match &options.ssl_ca_file {
        None => Arc::new(Unverified(provider.clone())),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates("ssl_ca_file", path)?);
            let chain = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone())
                .build()
                .map_err(|error| TlsError::Refused(error.into()))?;
            if options.ssl_enforce_hostname_verification {
                chain
            } else {
                Arc::new(AnyName(chain))
            }
        }
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Refused(error.into()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match (&options.ssl_cert_file, &options.ssl_key_file) {
        (None, None) => builder.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            let chain = certificates("ssl_cert_file", certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::Read {
                option: "ssl_key_file",
                path: key.clone(),
                source,
            })?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| TlsError::Refused(error.into()))?
        }
        _ => return Err(TlsError::HalfAClient),
    };
    Ok(Some(Arc::new(config)))
}

fn certificates(
    option: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|source| TlsError::Read { option, path: path.to_owned(), source })?;
    if found.is_empty() {
        return Err(TlsError::Empty { option, path: path.to_owned() });
    }
    Ok(found)
}

/// Takes any certificate whose key the server holds: Python's `CERT_NONE`.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let schemes = &self.0.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signed, schemes)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let schemes = &self.0.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signed, schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Verifies the chain and lets the name be. The name is looked at last, so a complaint about it
/// means that all else was right.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.0.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_ssl_there_is_no_tls_and_without_a_ca_there_is() {
        let plain = RabbitOptions { ssl_ca_file: Some("/absent".into()), ..RabbitOptions::default() };
        assert!(client_config(&plain).expect("plain").is_none());
        let unverified = RabbitOptions { ssl: true, ..RabbitOptions::default() };
        assert!(client_config(&unverified).expect("unverified").is_some());
    }

    #[test]
    fn a_file_that_is_missing_or_half_given_is_found_at_the_start() {
        let absent =
            RabbitOptions { ssl: true, ssl_ca_file: Some("/absent".into()), ..RabbitOptions::default() };
        let error = client_config(&absent).expect_err("no such file");
        assert_eq!(error.to_string(), "cannot read ssl_ca_file = /absent");
        let half = RabbitOptions { ssl: true, ssl_key_file: Some("/k".into()), ..RabbitOptions::default() };
        assert!(matches!(client_config(&half), Err(TlsError::HalfAClient)));
    }
}
