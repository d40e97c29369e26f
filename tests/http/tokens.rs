//! Tokens: one for many, renewed in time, and Keystone's bad days.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use hypernova::openstack::{ApiError, ApiRequest, Identity, Service, Session};
use serde_json::{Value, json};

use crate::cloud::{HOUR, Keystone, PASSWORD, RECORDED_TOKEN, catalog, session, token, token_of};
use crate::server::{Answer, Server};

async fn ask(session: &Session, service: Service) -> Result<(), ApiError> {
    session.service(service).send(ApiRequest::get("/x", Identity::Service)).await.map(drop)
}

async fn anything() -> Server {
    Server::start(|_| Answer::json(200, &json!({}))).await
}

/// Keystone gives these answers in turn; placement is elsewhere.
async fn keystone_saying(answers: Vec<Answer>) -> (Server, Server, Session) {
    let service = anything().await;
    let answers = Mutex::new(answers.into_iter());
    let keystone = Server::start(move |_| answers.lock().unwrap().next().unwrap()).await;
    let session = session(&format!(
        "[placement]\n{PASSWORD}auth_url = {}\nendpoint_override = {}\n",
        keystone.url("/v3"),
        service.url("")
    ));
    (keystone, service, session)
}

#[tokio::test]
async fn the_recorded_answer_is_a_token_with_its_catalog() {
    let mut recorded: Value = serde_json::from_str(RECORDED_TOKEN).unwrap();
    let service = anything().await;
    let text = recorded["token"]["catalog"].to_string();
    let text = text.replace("http://192.0.2.1:18778", &service.url(""));
    recorded["token"]["catalog"] = serde_json::from_str(&text).unwrap();
    let answer = Answer::json(201, &recorded).header("x-subject-token", "gAAAAA");
    let keystone = Server::start(move |_| answer.clone()).await;
    let session = session(&format!(
        "[placement]\n{PASSWORD}auth_url = {}\nregion_name = RegionOne\n",
        keystone.url("")
    ));
    ask(&session, Service::Placement).await.unwrap();
    assert_eq!(token_of(&service.seen()[0]), "gAAAAA");
    let body = json!({"auth": {
        "identity": {"methods": ["password"], "password": {"user": {
            "name": "nova", "domain": {"id": "default"}, "password": "hunter2"}}},
        "scope": {"project": {"name": "service", "domain": {"id": "default"}}}}});
    assert_eq!(keystone.seen()[0].json(), body);
}

#[tokio::test]
async fn many_who_wait_make_one_request_and_sections_share_it() {
    let service = anything().await;
    let url = service.url("");
    let catalog =
        catalog(&[("placement", "internal", "R", &url), ("network", "internal", "R", &url)]);
    let keystone = Keystone::start(HOUR, catalog).await;
    let auth = keystone.auth();
    let other = auth.replace("username = nova", "username = other");
    let session = session(&format!(
        "[placement]\n{auth}[neutron]\nauth_section = shared\n[shared]\n{auth}[cinder]\n{other}\
         endpoint_template = {url}\n"
    ));
    let both = (0..40)
        .map(|n| ask(&session, if n % 2 == 0 { Service::Placement } else { Service::Neutron }));
    for result in futures_util::future::join_all(both).await {
        result.unwrap();
    }
    assert_eq!((keystone.issued(), service.seen().len()), (1, 40));
    ask(&session, Service::Cinder).await.unwrap();
    assert_eq!(keystone.issued(), 2);
}

#[tokio::test]
async fn a_token_is_renewed_before_its_end_and_nobody_waits() {
    let service = anything().await;
    let lifetime = Duration::from_millis(2000);
    let catalog = catalog(&[("placement", "internal", "R", &service.url(""))]);
    let keystone = Keystone::start(lifetime, catalog).await;
    let session = session(&format!("[placement]\n{}", keystone.auth()));
    let started = Instant::now();
    while started.elapsed() < lifetime * 2 {
        ask(&session, Service::Placement).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let tokens: Vec<_> = service.seen().iter().map(|seen| token_of(seen).to_owned()).collect();
    // Each holds for 1.5 s, and the old one goes out until the new one is there.
    assert!((2..=4).contains(&keystone.issued()), "{}", keystone.issued());
    assert_eq!(tokens[0], "token-1");
    assert_eq!(*tokens.last().unwrap(), format!("token-{}", keystone.issued()));
}

#[tokio::test]
async fn an_ended_token_is_replaced_first() {
    let (keystone, service, session) = keystone_saying(vec![
        token("old", Duration::from_millis(80), &json!([])),
        token("new", HOUR, &json!([])),
    ])
    .await;
    ask(&session, Service::Placement).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    ask(&session, Service::Placement).await.unwrap();
    let tokens: Vec<_> = service.seen().iter().map(|seen| token_of(seen).to_owned()).collect();
    assert_eq!((tokens, keystone.seen().len()), (vec!["old".to_owned(), "new".to_owned()], 2));
}

#[tokio::test]
async fn an_outage_while_the_old_token_holds_is_not_felt() {
    let mut answers = vec![token("old", Duration::from_secs(4), &json!([]))];
    answers.extend(std::iter::repeat_n(Answer::status(500), 100));
    let (keystone, service, session) = keystone_saying(answers).await;
    ask(&session, Service::Placement).await.unwrap();
    tokio::time::sleep(Duration::from_millis(3050)).await;
    for _ in 0..10 {
        ask(&session, Service::Placement).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!((service.seen().len(), keystone.seen().len()), (11, 2));
}

#[tokio::test]
async fn keystone_is_asked_again_when_it_is_busy_or_hangs_up() {
    let (keystone, _service, session) = keystone_saying(vec![
        Answer::status(503),
        Answer::hangup(),
        Answer::status(429).header("retry-after", "1"),
        token("t", HOUR, &json!([])),
    ])
    .await;
    ask(&session, Service::Placement).await.unwrap();
    assert_eq!(keystone.seen().len(), 4);
}

#[tokio::test]
async fn bad_credentials_are_refused_at_once_and_for_all_who_wait() {
    let refusal = json!({"error": {"code": 401, "title": "Unauthorized",
        "message": "The request you have made requires authentication."}});
    let (keystone, service, session) = keystone_saying(vec![Answer::json(401, &refusal); 10]).await;
    let all = (0..10).map(|_| ask(&session, Service::Placement));
    for result in futures_util::future::join_all(all).await {
        let error = result.unwrap_err();
        let ApiError::Unauthorized { service: "keystone", message } = &error else {
            panic!("{error:?}")
        };
        assert!(message.contains("requires authentication"), "{message}");
        assert!(!format!("{error:?}").contains("hunter2"));
    }
    assert_eq!((keystone.seen().len(), service.seen().len()), (1, 0));
}

#[tokio::test]
async fn what_is_no_token_is_garbled() {
    for answer in [
        Answer::json(201, &json!({"token": {}})).header("x-subject-token", "t"),
        Answer::bytes(201, "<html>"),
        token("", HOUR, &json!([])),
        Answer::json(200, &json!({"versions": []})),
        Answer::status(404),
    ] {
        let (_keystone, _service, session) = keystone_saying(vec![answer]).await;
        let error = ask(&session, Service::Placement).await.unwrap_err();
        assert!(matches!(error, ApiError::Garbled { service: "keystone", .. }), "{error:?}");
    }
}

#[tokio::test]
async fn an_application_credential_asks_without_a_project() {
    let service = anything().await;
    let keystone = Server::start(|_| token("t", HOUR, &json!([]))).await;
    let session = session(&format!(
        "[placement]\nauth_type = v3applicationcredential\nauth_url = {}\n\
         application_credential_id = abc\napplication_credential_secret = hush\n\
         endpoint_override = {}\n",
        keystone.url("/v3/"),
        service.url("")
    ));
    ask(&session, Service::Placement).await.unwrap();
    let body = json!({"auth": {"identity": {"methods": ["application_credential"],
        "application_credential": {"id": "abc", "secret": "hush"}}}});
    assert_eq!(keystone.seen()[0].json(), body);
}
