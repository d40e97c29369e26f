//! From a request that arrived to its answer: routing, decoding, the journal, the reply.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::TaskTracker;
use tracing::{debug, error, warn};
use uuid::Uuid;

use super::dispatcher::{Dispatcher as Routes, Endpoint, Route, Version};
use super::failure::Fault;
use super::incoming::{Ack, Incoming, ReplyTo, Source};
use super::operator::{self, Operator};
use super::reply::{journal_fault, outcome_reply, query_fault};
use super::request::{ABSENT, METHODS, Question, Request, decode};
use crate::dispatch::query::{self, ConsoleEndpoint};
use crate::dispatch::{Dispatcher, Submission};
use crate::health::{Metrics, Outcome};
use crate::model::diagnostics;
use crate::model::object::VersionedObject;
use crate::telemetry::Chain;
use crate::workflow::any::AnyRecord;

/// nova's compute interface. 6.5 is what 2026.1 speaks; older minors are served by it.
const COMPUTE: Version = Version::new(6, 5);

/// Questions answered at once; more wait.
const QUESTIONS: usize = 64;

/// Answers requests, from whichever door they came.
pub struct Server {
    dispatcher: Dispatcher,
    operator: Operator,
    routes: Routes,
    metrics: Arc<Metrics>,
    questions: Arc<Semaphore>,
    answering: TaskTracker,
}

impl Server {
    pub fn new(
        dispatcher: Dispatcher,
        operator: Operator,
        metrics: Arc<Metrics>,
        ping_enabled: bool,
    ) -> Self {
        let methods: Vec<&'static str> =
            METHODS.iter().map(|method| method.name).chain(ABSENT.iter().copied()).collect();
        let endpoints = vec![
            Endpoint { namespace: None, version: COMPUTE, methods: methods.leak() },
            Endpoint {
                namespace: Some(operator::NAMESPACE),
                version: Version::new(1, 0),
                methods: operator::METHODS,
            },
        ];
        Self {
            dispatcher,
            operator,
            routes: Routes::new("compute", endpoints, ping_enabled),
            metrics,
            questions: Arc::new(Semaphore::new(QUESTIONS)),
            answering: TaskTracker::new(),
        }
    }

    /// Serves until the channel closes. Changes are journaled one by one, in the order in which
    /// they arrived; everything else is answered beside them.
    pub async fn serve(self: Arc<Self>, mut incoming: mpsc::Receiver<Incoming>) {
        while let Some(request) = incoming.recv().await {
            self.clone().take(request).await;
        }
    }

    /// Waits until every answer that is due has been given.
    pub async fn finish(&self) {
        self.answering.close();
        self.answering.wait().await;
    }

    async fn take(self: Arc<Self>, incoming: Incoming) {
        let Incoming { request, context, reply, ack, source } = incoming;
        let method = request.method.clone();
        debug!(method, request_id = context.request_id(), ?source, "request");
        let route = match self.routes.route(&request) {
            // What the operator may ask is for the operator's own socket.
            Ok(Route::Endpoint(1)) if !matches!(source, Source::Local { .. }) => {
                Err(Fault::unsupported_version(&request.version, &method))
            }
            route => route,
        };
        let answered = match route {
            Err(fault) => Err(fault),
            Ok(Route::Answer(value)) => Ok(value),
            Ok(Route::Endpoint(1)) => {
                ack.accept().await;
                self.ask_operator(method, request.args, reply);
                return;
            }
            Ok(Route::Endpoint(_)) => {
                let id = request.unique_id.unwrap_or_else(|| Uuid::new_v4().simple().to_string());
                let from_root = matches!(source, Source::Local { .. });
                match decode(&method, request.args, id, context, from_root) {
                    Err(fault) => Err(fault),
                    Ok(Request::Change(record)) => {
                        self.change(method, record, reply, ack).await;
                        return;
                    }
                    Ok(Request::Ask(question)) => {
                        ack.accept().await;
                        self.ask(method, question, reply);
                        return;
                    }
                }
            }
        };
        ack.accept().await;
        self.answer(&method, reply, answered);
    }

    /// Journals a change, acknowledges it, and answers when it has ended.
    async fn change(&self, method: String, record: AnyRecord, reply: Option<ReplyTo>, ack: Ack) {
        match self.dispatcher.submit(record).await {
            Ok(Submission::Accepted(outcome)) => {
                ack.accept().await;
                let metrics = self.metrics.clone();
                self.answering.spawn(async move {
                    // The queue always tells how it ended, unless the agent is going down.
                    let Ok(outcome) = outcome.await else { return };
                    let answer = outcome_reply(&outcome).map(|()| Value::Null);
                    finish(&metrics, &method, reply, answer);
                });
            }
            Ok(Submission::Duplicate) => {
                ack.accept().await;
                let message =
                    "the request was taken up before; the instance's record tells how it ended";
                finish(&self.metrics, &method, reply, Err(Fault::nova("NovaException", message)));
            }
            Err(error) => {
                // Not taken: not acknowledged either, so that the broker keeps it.
                error!(method, error = %Chain(&error), "the journal refused a request");
                finish(&self.metrics, &method, reply, Err(journal_fault(&error)));
            }
        }
    }

    fn ask(self: Arc<Self>, method: String, question: Question, reply: Option<ReplyTo>) {
        let server = self.clone();
        self.answering.spawn(async move {
            let _permit = server.questions.acquire().await;
            let answer = server.answer_question(question).await;
            server.answer(&method, reply, answer);
        });
    }

    fn ask_operator(
        self: Arc<Self>,
        method: String,
        args: serde_json::Map<String, Value>,
        reply: Option<ReplyTo>,
    ) {
        let server = self.clone();
        self.answering.spawn(async move {
            let _permit = server.questions.acquire().await;
            let answer = server.operator.answer(&method, &args).await;
            server.answer(&method, reply, answer);
        });
    }

    fn answer(&self, method: &str, reply: Option<ReplyTo>, answer: Result<Value, Fault>) {
        finish(&self.metrics, method, reply, answer);
    }

    async fn answer_question(&self, question: Question) -> Result<Value, Fault> {
        let on = self.dispatcher.backends();
        let fault = |error| query_fault(&error);
        match question {
            Question::ConsoleOutput { uuid, tail } => {
                query::console_output(on, uuid, tail).await.map(Value::from).map_err(fault)
            }
            Question::VncConsole { uuid, console_type } => {
                let endpoint = query::vnc_console(on, uuid, &console_type).await.map_err(fault)?;
                Ok(connection(&endpoint, "vnc"))
            }
            Question::SerialConsole { uuid, console_type } => {
                let endpoint =
                    query::serial_console(on, uuid, &console_type).await.map_err(fault)?;
                Ok(connection(&endpoint, "tcp"))
            }
            Question::ValidateConsolePort { uuid, port, console_type } => {
                let valid = query::validate_console_port(on, uuid, &port, &console_type).await;
                valid.map(Value::from).map_err(fault)
            }
            Question::Diagnostics { uuid, guest } => {
                let counters = query::diagnostics(on, uuid, guest).await.map_err(fault)?;
                Ok(diagnostics::diagnostics(&counters).to_primitive())
            }
            Question::LegacyDiagnostics { uuid, guest } => {
                let counters = query::diagnostics(on, uuid, guest).await.map_err(fault)?;
                Ok(diagnostics::legacy_diagnostics(&counters).into())
            }
            Question::HostUptime => query::host_uptime().await.map(Value::from).map_err(fault),
        }
    }
}

/// Answers, counts, and logs what went wrong: once, here.
fn finish(metrics: &Metrics, method: &str, reply: Option<ReplyTo>, answer: Result<Value, Fault>) {
    let outcome = match &answer {
        Ok(_) => Outcome::Done,
        Err(fault) => {
            warn!(method, error = %fault, called = reply.is_some(), "request failed");
            Outcome::Failed
        }
    };
    let known = METHODS.iter().map(|known| known.name).chain(ABSENT.iter().copied());
    let label = known.chain(operator::METHODS.iter().copied()).find(|known| *known == method);
    metrics.rpc_request(label.unwrap_or("unknown"), outcome);
    if let Some(reply) = reply {
        reply.send(answer);
    }
}

/// nova's connection dict. There is no console proxy in standalone mode, so the address is the
/// console's own and there is no token to give.
fn connection(endpoint: &ConsoleEndpoint, scheme: &str) -> Value {
    let ConsoleEndpoint { host, port } = endpoint;
    json!({
        "host": host,
        "port": port,
        "internal_access_path": null,
        "token": "",
        "access_url": format!("{scheme}://{host}:{port}"),
    })
}
