//! Requests to a service: whose they are, where they go, and when they are repeated.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hypernova::model::class::Class;
use hypernova::model::context::RequestContext;
use hypernova::openstack::{ApiError, ApiRequest, Identity, Method, Observer, Service, Session};
use serde_json::json;

use crate::cloud::{HOUR, Keystone, PASSWORD, catalog, config, session, token_of, user};
use crate::server::{Answer, Seen, Server};

/// A service that gives these answers in turn, and then 200.
async fn service(answers: Vec<Answer>) -> Server {
    let answers = Mutex::new(answers.into_iter());
    Server::start(move |_| {
        let next = answers.lock().unwrap().next();
        next.unwrap_or_else(|| Answer::json(200, &json!({"done": true})))
    })
    .await
}

async fn placement(service: &Server) -> (Keystone, Session) {
    let keystone = Keystone::of("placement", service).await;
    let session = session(&format!("[placement]\n{}", keystone.auth()));
    (keystone, session)
}

async fn ask(
    session: &Session,
    method: Method,
) -> Result<hypernova::openstack::ApiResponse, ApiError> {
    let request = ApiRequest::new(method, "/things", Identity::Service);
    session.service(Service::Placement).send(request).await
}

#[tokio::test]
async fn a_request_arrives_whole_and_its_answer_comes_back() {
    let service = Server::start(|_| {
        let answer = Answer::json(201, &json!({"uuid": "u"}));
        answer.header("x-openstack-request-id", "req-theirs")
    })
    .await;
    let (_keystone, session) = placement(&service).await;
    let mut context = RequestContext::admin();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    context.rest.insert("traceparent".to_owned(), json!(parent));
    context.global_request_id = Some("req-global".to_owned());
    let request = ApiRequest::new(Method::Post, "/resource_providers", Identity::Service)
        .query("name", "a b&c")
        .query("in", "x,y")
        .header("openstack-api-version", "placement 1.36")
        .on_behalf_of(&context)
        .body(json!({"name": "compute1"}));
    let answer = session.service(Service::Placement).send(request).await.unwrap();
    assert_eq!((answer.status, &answer.body), (201, &json!({"uuid": "u"})));
    assert_eq!(answer.request_id.as_deref(), Some("req-theirs"));

    let seen = service.seen().remove(0);
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/resource_providers"));
    assert_eq!(seen.query, "name=a+b%26c&in=x%2Cy");
    assert_eq!(seen.json(), json!({"name": "compute1"}));
    for (name, value) in [
        ("x-auth-token", "token-1"),
        ("openstack-api-version", "placement 1.36"),
        ("x-openstack-request-id", "req-global"),
        ("content-type", "application/json"),
        ("accept", "application/json"),
    ] {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }
    assert!(seen.header("user-agent").unwrap().starts_with("hypernova/"));
    assert_eq!(seen.header("x-service-token"), None);
    let trace = seen.header("traceparent").unwrap();
    assert!(trace.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && trace != parent);
}

#[tokio::test]
async fn a_token_that_is_not_taken_is_renewed_once() {
    let fussy = Server::start(|seen| match token_of(seen) {
        "token-2" => Answer::json(200, &json!({})),
        _ => Answer::status(401),
    })
    .await;
    let (keystone, session) = placement(&fussy).await;
    assert_eq!(ask(&session, Method::Post).await.unwrap().status, 200);
    assert_eq!(keystone.issued(), 2);
    // The new one is kept.
    ask(&session, Method::Get).await.unwrap();
    assert_eq!(keystone.issued(), 2);

    let never =
        Server::start(|_| Answer::json(401, &json!({"error": {"message": "who are you?"}}))).await;
    let (keystone, session) = placement(&never).await;
    let error = ask(&session, Method::Get).await.unwrap_err();
    assert!(
        matches!(&error, ApiError::Unauthorized { service: "placement", message }
        if message == "who are you?"),
        "{error}"
    );
    assert_eq!(error.class(), Class::Refused);
    assert_eq!((keystone.issued(), never.seen().len()), (2, 2));
}

#[tokio::test]
async fn a_busy_service_is_asked_again_and_given_its_time() {
    let busy = || Answer::status(503);
    let service_ = service(vec![busy(), Answer::status(429), busy()]).await;
    let (_keystone, session) = placement(&service_).await;
    assert_eq!(ask(&session, Method::Get).await.unwrap().status, 200);
    assert_eq!(service_.seen().len(), 4);

    let service_ = service(vec![busy().header("retry-after", "1")]).await;
    let (_keystone, session) = placement(&service_).await;
    let started = Instant::now();
    assert_eq!(ask(&session, Method::Post).await.unwrap().status, 200);
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());

    let always = service(vec![busy(); 10]).await;
    let (_keystone, session) = placement(&always).await;
    let answer = ask(&session, Method::Get).await.unwrap();
    assert_eq!((answer.status, always.seen().len()), (503, 4));
    let error = answer.success("list things").unwrap_err();
    assert_eq!(error.class(), Class::Transient);
}

#[tokio::test]
async fn what_may_have_been_done_is_not_done_again() {
    for (method, asked) in [
        (Method::Get, 2),
        (Method::Put, 2),
        (Method::Delete, 2),
        (Method::Post, 1),
        (Method::Patch, 1),
    ] {
        for bad in [Answer::hangup(), Answer::truncated(200, "{", 100), Answer::status(503)] {
            let service = service(vec![bad]).await;
            let (_keystone, session) = placement(&service).await;
            let answer = ask(&session, method).await;
            assert_eq!(service.seen().len(), asked, "{method:?}");
            assert_eq!(answer.is_ok_and(|answer| answer.status == 200), asked == 2, "{method:?}");
        }
    }
    let service = service(vec![Answer::hangup()]).await;
    let (_keystone, session) = placement(&service).await;
    let request = ApiRequest::new(Method::Post, "/x", Identity::Service).repeatable();
    assert_eq!(session.service(Service::Placement).send(request).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_service_that_is_away_is_tried_until_the_retries_are_used_up() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let keystone = Keystone::start(HOUR, catalog(&[])).await;
    let session = session(&format!(
        "[placement]\n{}endpoint_override = {address}\nconnect_retries = 2\n",
        keystone.auth()
    ));
    let error = ask(&session, Method::Post).await.unwrap_err();
    let ApiError::Unreachable { service: "placement", message } = &error else {
        panic!("{error:?}")
    };
    assert!(message.contains(&address) && message.contains("refused"), "{message}");
    assert_eq!(error.class(), Class::Transient);
}

#[tokio::test]
async fn an_answer_has_a_deadline_and_a_size() {
    let stalled = service(vec![
        Answer::silence(),
        Answer::stalled("{"),
        Answer::slow(vec!["{".into(), "}".into()], Duration::from_secs(5)),
    ])
    .await;
    let keystone = Keystone::of("placement", &stalled).await;
    let session = session(&format!("[placement]\n{}timeout = 1\n", keystone.auth()));
    let started = Instant::now();
    assert_eq!(ask(&session, Method::Get).await.unwrap().status, 200);
    assert!((3..10).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());

    let huge = vec![b' '; 17 << 20];
    let endless = service(vec![
        Answer::bytes(200, huge.clone()),
        Answer::slow(vec![huge.into()], Duration::ZERO),
    ])
    .await;
    let (_keystone, session) = placement(&endless).await;
    for _ in 0..2 {
        let error = ask(&session, Method::Post).await.unwrap_err();
        assert!(error.to_string().contains("too large"), "{error}");
    }
}

#[tokio::test]
async fn an_answer_that_is_no_json_is_garbled_unless_it_is_an_error() {
    let service = service(vec![
        Answer::bytes(200, "<html>hello</html>"),
        Answer::bytes(404, "<html>not here</html>"),
        Answer::status(204),
    ])
    .await;
    let (_keystone, session) = placement(&service).await;
    let error = ask(&session, Method::Get).await.unwrap_err();
    assert!(matches!(error, ApiError::Garbled { service: "placement", .. }), "{error}");
    let answer = ask(&session, Method::Get).await.unwrap();
    assert_eq!((answer.status, answer.success("x").unwrap_err().class()), (404, Class::Absent));
    let answer = ask(&session, Method::Get).await.unwrap();
    assert_eq!((answer.status, answer.body.is_null()), (204, true));
}

#[tokio::test]
async fn the_catalog_is_searched_by_region_and_interface() {
    let (good, bad) = (service(vec![]).await, service(vec![]).await);
    let (here, there) = (good.url("/placement"), bad.url(""));
    let catalog = catalog(&[
        ("placement", "admin", "RegionTwo", &there),
        ("placement", "internal", "RegionOne", &there),
        ("placement", "public", "RegionTwo", &here),
        ("network", "public", "RegionTwo", &there),
    ]);
    let keystone = Keystone::start(HOUR, catalog).await;
    let auth = keystone.auth();
    let two = session(&format!("[placement]\n{auth}region_name = RegionTwo\n"));
    ask(&two, Method::Get).await.unwrap();
    assert_eq!((good.asked(), bad.asked().len()), (vec!["GET /placement/things".to_owned()], 0));

    let three = session(&format!("[placement]\n{auth}region_name = RegionThree\n"));
    let error = ask(&three, Method::Get).await.unwrap_err();
    assert!(matches!(&error, ApiError::NoEndpoint { .. }), "{error}");
    assert!(error.to_string().contains("RegionThree"), "{error}");

    let overridden = session(&format!("[placement]\n{auth}endpoint_override = {here}/\n"));
    ask(&overridden, Method::Get).await.unwrap();
    assert_eq!(good.seen().len(), 2);
}

#[tokio::test]
async fn a_users_request_carries_the_users_token_and_ours_beside_it() {
    let service = service(vec![]).await;
    let keystone = Keystone::start(HOUR, catalog(&[])).await;
    let sections = format!(
        "[neutron]\n{auth}[service_user]\n{auth}send_service_user_token = true\n",
        auth = keystone.auth()
    );
    let session = session(&sections);
    let context = user("network", &service);
    let request = ApiRequest::get("/v2.0/ports", Identity::User(&context));
    session.service(Service::Neutron).send(request).await.unwrap();
    let seen = service.seen().remove(0);
    assert_eq!((token_of(&seen), seen.header("x-service-token")), ("user-token", Some("token-1")));
    assert_eq!(seen.header("x-openstack-request-id"), Some("req-local"));
    assert_eq!(seen.path, "/v2.0/ports");
}

#[tokio::test]
async fn a_service_token_that_is_not_taken_is_renewed() {
    let fussy = Server::start(|seen| match seen.header("x-service-token") {
        Some("token-2") => Answer::json(200, &json!({})),
        _ => Answer::status(401),
    })
    .await;
    let keystone = Keystone::start(HOUR, catalog(&[])).await;
    let auth = keystone.auth();
    let with = session(&format!("[service_user]\n{auth}send_service_user_token = true\n"));
    let context = user("image", &fussy);
    let request = || ApiRequest::get("/v2/images", Identity::User(&context));
    with.service(Service::Glance).send(request()).await.unwrap();
    assert_eq!(keystone.issued(), 2);

    // The user's own token is all there is: nothing can be renewed.
    let without = session("");
    let before = fussy.seen().len();
    let error = without.service(Service::Glance).send(request()).await.unwrap_err();
    assert!(matches!(error, ApiError::Unauthorized { service: "glance", .. }), "{error}");
    assert_eq!(fussy.seen().len(), before + 1);
}

#[tokio::test]
async fn an_admin_without_a_token_is_the_service_and_nobody_else_is() {
    let service = service(vec![]).await;
    let keystone = Keystone::of("network", &service).await;
    let session = session(&format!("[neutron]\n{}", keystone.auth()));
    let neutron = session.service(Service::Neutron);
    let admin = RequestContext::admin();
    neutron.send(ApiRequest::get("/v2.0/ports", Identity::User(&admin))).await.unwrap();
    assert_eq!(token_of(&service.seen()[0]), "token-1");

    let nobody = RequestContext::default();
    let error = neutron.send(ApiRequest::get("/v2.0/ports", Identity::User(&nobody))).await;
    assert!(matches!(error, Err(ApiError::Unauthorized { .. })));

    // Placement has no credentials: that shows when they are needed.
    let error = ask(&session, Method::Get).await.unwrap_err().to_string();
    assert!(error.contains("[placement] auth_type is not set"), "{error}");
}

#[tokio::test]
async fn cinder_is_found_as_its_own_options_say() {
    let service = service(vec![]).await;
    let keystone = Keystone::start(
        HOUR,
        catalog(&[("block-storage", "public", "RegionOne", &service.url("/v3/p1"))]),
    )
    .await;
    let auth = keystone.auth();
    let cinder = |options: &str| session(&format!("[cinder]\n{auth}{options}"));
    let ask = async |session: Session, identity: Identity<'_>| {
        session.service(Service::Cinder).send(ApiRequest::get("/volumes", identity)).await.unwrap();
    };
    ask(cinder(""), Identity::Service).await;
    let template = format!("endpoint_template = {}/%(project_id)s\n", service.url("/v3"));
    // As in nova.conf, where a `$` would stand for an option and a `%` stands for itself.
    let context = user("image", &service);
    ask(cinder(&template), Identity::User(&context)).await;
    assert_eq!(service.asked(), ["GET /v3/p1/volumes", "GET /v3/p1/volumes"]);
}

#[tokio::test]
async fn a_redirect_is_followed_on_the_same_host_with_method_and_body() {
    let elsewhere = service(vec![]).await;
    let outside = elsewhere.url("/stolen").replace("localhost", "127.0.0.1");
    let service_ = Server::start(move |seen: &Seen| match seen.path.as_str() {
        "/things" => Answer::status(308).header("location", "/moved/things"),
        "/moved/things" => Answer::json(200, &json!({})),
        _ => Answer::status(302).header("location", outside.clone()),
    })
    .await;
    let (_keystone, session) = placement(&service_).await;
    let placement = session.service(Service::Placement);
    let post = ApiRequest::new(Method::Post, "/things", Identity::Service).body(json!({"a": 1}));
    placement.send(post).await.unwrap();
    let seen = service_.seen();
    assert_eq!((seen[1].method.as_str(), seen[1].json()), ("POST", json!({"a": 1})));

    let answer = placement.send(ApiRequest::get("/away", Identity::Service)).await.unwrap();
    assert_eq!((answer.status, elsewhere.seen().len()), (302, 0));
}

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_log_however_talkative_has_a_token_or_a_password() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let service = service(vec![Answer::status(401), Answer::status(503), Answer::hangup()]).await;
    let keystone = Keystone::start(HOUR, catalog(&[])).await;
    let auth = keystone.auth();
    let session = session(&format!(
        "[service_user]\n{auth}send_service_user_token = true\n\
        [glance]\nconnect_retry_delay = 0.01\nstatus_code_retry_delay = 0.01\n"
    ));
    let context = user("image", &service);
    let request = || ApiRequest::get("/v2/images", Identity::User(&context));
    session.service(Service::Glance).send(request()).await.unwrap();

    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for secret in ["token-1", "token-2", "user-token", "hunter2"] {
        assert!(!text.contains(secret), "{secret} in\n{text}");
    }
    assert_eq!(text.matches("HTTP request answered").count(), 3, "{text}");
    assert_eq!(text.matches("HTTP request failed").count(), 1, "{text}");
    assert!(text.contains("status=503") && text.contains("path=\"/v2/images\""), "{text}");
    assert!(!format!("{:?}", request()).contains("user-token"));
}

#[derive(Debug, Default)]
struct Counted(AtomicUsize);

impl Observer for Counted {
    fn answered(&self, service: &'static str, status: Option<u16>, _: Duration) {
        assert_eq!((service, status), ("placement", Some(200)));
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn who_counts_requests_is_told() {
    let service = service(vec![]).await;
    let keystone = Keystone::of("placement", &service).await;
    let counted = Arc::new(Counted::default());
    let config = config(&format!("[placement]\n{}", keystone.auth()));
    let session = Session::from_config(&config, Some(counted.clone())).unwrap();
    ask(&session, Method::Get).await.unwrap();
    assert_eq!(counted.0.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_probe_says_of_each_service_what_came_of_it() {
    let good = service(vec![]).await;
    let bad = Server::start(|_| Answer::status(500)).await;
    let keystone = Keystone::start(
        HOUR,
        catalog(&[
            ("placement", "internal", "R", &good.url("")),
            ("block-storage", "public", "R", &bad.url("/v3")),
        ]),
    )
    .await;
    let auth = keystone.auth();
    let session = session(&format!("[placement]\n{auth}[neutron]\n{auth}[cinder]\n{auth}"));
    let probed = session.probe().await;
    let lines: Vec<_> = probed
        .iter()
        .map(|probed| match &probed.result {
            Ok(found) => format!("{} {found}", probed.subject),
            Err(error) => format!("{} {error}", probed.subject),
        })
        .collect();
    let tokens = keystone.server.url("/v3/auth/tokens");
    assert_eq!(lines[0], format!("keystone {tokens} gives tokens for 58 minutes"));
    assert_eq!(lines[1], format!("placement {} answers", good.url("")));
    assert!(lines[2].contains("the catalog has no network endpoint"), "{lines:?}");
    assert!(lines[3].contains("glance [service_user] has no credentials"), "{lines:?}");
    assert!(lines[4].contains("status 500"), "{lines:?}");
    assert_eq!((lines.len(), keystone.issued()), (5, 1));
}

#[test]
fn what_can_not_work_is_found_before_anybody_is_asked() {
    for (options, problem) in [
        ("[placement]\nauth_type = password", "[placement] username is needed"),
        ("[neutron]\ncafile = /absent", "[neutron] cafile = /absent"),
        ("[neutron]\nkeyfile = /absent", "certfile is not set"),
        ("[glance]\napi_servers = glance:9292", "[glance] api_servers = glance:9292"),
        ("[placement]\nendpoint_override = nowhere", "no http or https address"),
        ("[cinder]\nendpoint_template = ftp://c", "no http or https address"),
    ] {
        let error = Session::from_config(&config(options), None).err().unwrap();
        assert!(error.to_string().contains(problem), "{error}");
        assert_eq!(error.class(), Class::Refused);
    }
    assert!(PASSWORD.contains("hunter2"));
}
