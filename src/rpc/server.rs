//! From a request that arrived to its answer: routing, decoding, the journal, the reply.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, error, info_span, warn};
use uuid::Uuid;

use super::answer::Answer;
use super::dispatcher::{Dispatcher as Routes, Endpoint, Route, Version};
use super::failure::Fault;
use super::incoming::{Incoming, ReplyTo, Source};
use super::intake::{Intake, Taken, Waiting};
use super::methods::{ABSENT, METHODS};
use super::operator::{self, Operator};
use super::questions::Questions;
use super::raised::Asked;
use super::reply::{journal_fault, outcome_reply, query_fault};
use super::request::{Question, Request, decode, is_question};
use crate::dispatch::console::{self, ConsoleAccess, ConsoleEndpoint, ConsoleKind};
use crate::dispatch::events::{self, InstanceEvent};
use crate::dispatch::precache;
use crate::dispatch::query::{self, QueryError};
use crate::dispatch::{Dispatcher, Submission};
use crate::health::{Metrics, Outcome};
use crate::model::context::RequestContext;
use crate::model::diagnostics;
use crate::model::object::{VersionedObject, clip};
use crate::telemetry::Chain;
use crate::workflow::journal::JournalError;

/// nova's compute interface. 6.5 is what 2026.1 speaks; older minors are served by it.
const COMPUTE: Version = Version::new(6, 5);

/// Answers requests, from whichever door they came.
pub struct Server {
    dispatcher: Dispatcher,
    operator: Operator,
    routes: Routes,
    metrics: Arc<Metrics>,
    intake: Intake,
    questions: Questions,
    /// The operator's own: they tell what hangs while everybody else waits.
    operators: Questions,
    /// Events that need work, apart from questions: their neighbours are many.
    events: Questions,
    precaching: Questions,
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
            intake: Intake::new(),
            questions: Questions::new(),
            operators: Questions::new(),
            events: Questions::new(),
            // nova-conductor waits for as long: `[DEFAULT] long_rpc_timeout`.
            precaching: Questions::of(1, 16, Duration::from_secs(1800)),
            answering: TaskTracker::new(),
        }
    }

    /// Serves until `stop`, then gives back what has not been taken yet. Changes are journaled one
    /// by one, in the order in which they arrived; everything else is answered beside them.
    pub async fn serve(
        self: Arc<Self>,
        mut incoming: mpsc::Receiver<Incoming>,
        stop: CancellationToken,
    ) {
        while let Some(Some(request)) = stop.run_until_cancelled(incoming.recv()).await {
            self.take(request, &stop).await;
        }
        incoming.close();
        while let Some(request) = incoming.recv().await {
            request.hand_back();
        }
    }

    /// Waits until every answer that is due has been given.
    pub async fn finish(&self) {
        self.answering.close();
        self.answering.wait().await;
    }

    /// Routes and decodes. An acknowledgement waits for the connection: it is left to the request's
    /// own task.
    async fn take(self: &Arc<Self>, incoming: Incoming, stop: &CancellationToken) {
        let Incoming { request, mut context, reply, ack, source } = incoming;
        context.enter_span();
        let method = request.method.clone();
        let span = info_span!(
            "request",
            method = clip(&method),
            request_id = context.request_id(),
            global_request_id = context.global_request_id.as_deref(),
            trace_id = context.trace_id(),
            span_id = context.span_id(),
            parent_span_id = context.parent_span_id(),
        );
        span.in_scope(|| debug!(?source, "request"));
        let from_root = matches!(source, Source::Local { .. });
        let route = match self.routes.route(&request) {
            // What the operator may ask is for the operator's own socket.
            Ok(Route::Endpoint(1)) if !from_root => {
                Err(Fault::unsupported_version(&request.version, &method))
            }
            route => route,
        };
        let mut answered_with = None;
        let task = match route {
            Err(fault) => Task::Answer(Err(fault)),
            Ok(Route::Answer(value)) => Task::Answer(Ok(value)),
            Ok(Route::Endpoint(1)) => Task::Operator(request.args),
            Ok(Route::Endpoint(_)) => {
                let id = request.unique_id.unwrap_or_else(|| Uuid::new_v4().simple().to_string());
                let is_told = self.dispatcher.backends().notifier.is_on() && is_question(&method);
                let args = if is_told { request.args.clone() } else { Map::new() };
                match decode(&method, request.args, id, context.clone(), from_root) {
                    Err(fault) => Task::Answer(Err(fault)),
                    Ok(Request::Events(events)) => {
                        // Those who wait are told now, whatever else there is to do.
                        let work = events::deliver(self.dispatcher.backends(), events);
                        Task::Events(Box::new(context), work)
                    }
                    Ok(Request::CacheImages(ids)) => Task::CacheImages(Box::new(context), ids),
                    Ok(Request::Ask(question)) => {
                        // Whoever asks through the socket reads the answer, and needs no fault.
                        let uuid = question.uuid().filter(|_| !from_root);
                        let asked = Asked { context, method: method.clone(), args, uuid };
                        Task::Question(Box::new(asked), question)
                    }
                    Ok(Request::Change(record)) => {
                        answered_with = Answer::of(&record);
                        match self.intake.take(record, &self.dispatcher, stop).await {
                            Taken::Now(submitted) => {
                                after_journal(&method, submitted, answered_with.take())
                            }
                            Taken::Later(waiting) => Task::Waiting(waiting),
                            Taken::Not => Task::HandBack,
                        }
                    }
                }
            }
        };
        let (server, stop) = (self.clone(), stop.clone());
        let answering = async move {
            let task = match task {
                Task::Waiting(waiting) => match waiting.finish(&server.dispatcher, &stop).await {
                    Some(submitted) => after_journal(&method, submitted, answered_with.take()),
                    None => Task::HandBack,
                },
                task => task,
            };
            if matches!(task, Task::HandBack) {
                // Not acknowledged either, so that the broker keeps it.
                drop(ack);
                return reply.into_iter().for_each(|reply| reply.hand_back(&source));
            }
            ack.accept().await;
            if let Some(answer) = server.work(&method, task, &stop).await {
                finish(&server.metrics, &method, reply, answer);
            }
        };
        self.answering.spawn(answering.instrument(span));
    }

    /// Does what is left to do for an answer. `None`: the agent goes down before there is one.
    async fn work(
        &self,
        method: &str,
        task: Task,
        stop: &CancellationToken,
    ) -> Option<Result<Value, Fault>> {
        match task {
            Task::Answer(answer) => Some(answer),
            Task::Waiting(_) | Task::HandBack => None,
            Task::Outcome(outcome, answer) => {
                let outcome = outcome.await.ok()?;
                Some(match (outcome_reply(&outcome), answer) {
                    (Ok(()), Some(answer)) => answer.read(self.dispatcher.backends()).await,
                    (done, _) => done.map(|()| Value::Null),
                })
            }
            Task::Question(asked, question) => {
                let work = self.answer_question(&asked.context, question);
                let answer = self.questions.answer(work).await;
                if let Err(fault) = &answer {
                    asked.raised(fault, self.dispatcher.backends()).await;
                }
                Some(answer)
            }
            Task::Events(context, events) => {
                let on = self.dispatcher.backends();
                Some(self.events.answer(events::work_all(on, &context, events)).await)
            }
            Task::CacheImages(context, ids) => {
                let on = self.dispatcher.backends();
                let work = async { Ok(precache::cache_images(on, &context, ids).await) };
                stop.run_until_cancelled(self.precaching.answer(work)).await
            }
            Task::Operator(args) => {
                Some(self.operators.answer(self.operator.answer(method, &args)).await)
            }
        }
    }

    async fn answer_question(
        &self,
        context: &RequestContext,
        question: Question,
    ) -> Result<Value, Fault> {
        let on = self.dispatcher.backends();
        let fault = |error: QueryError| query_fault(&error);
        match question {
            Question::ConsoleOutput { uuid, tail } => {
                query::console_output(on, uuid, tail).await.map(Value::from).map_err(fault)
            }
            Question::Console { uuid, kind, console_type, building } => {
                let access = console::open(on, context, uuid, kind, &console_type).await;
                let access = access.map_err(|error| fault(error.while_building(building)))?;
                Ok(connection(&access, kind))
            }
            Question::ValidateConsolePort { uuid, port, console_type } => {
                let valid = console::validate_port(on, uuid, &port, &console_type).await;
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
            Question::SetHostEnabled(enabled) => {
                on.claims.set_enabled(context, enabled).await;
                Ok(Value::from(if enabled { "enabled" } else { "disabled" }))
            }
        }
    }
}

/// What is left to do for a request once it is routed and decoded.
enum Task {
    Answer(Result<Value, Fault>),
    /// A change that the journal can't take now.
    Waiting(Box<Waiting>),
    /// It is left to the agent's next run.
    HandBack,
    /// A change that is in the journal.
    Outcome(oneshot::Receiver<Arc<crate::dispatch::Outcome>>, Option<Box<Answer>>),
    Question(Box<Asked>, Question),
    Operator(Map<String, Value>),
    Events(Box<RequestContext>, Vec<InstanceEvent>),
    CacheImages(Box<RequestContext>, Vec<String>),
}

/// What is left to do for a change that the journal has looked at.
fn after_journal(
    method: &str,
    submitted: Result<Submission, JournalError>,
    answer: Option<Box<Answer>>,
) -> Task {
    match submitted {
        Ok(Submission::Accepted(outcome) | Submission::Duplicate(outcome)) => {
            Task::Outcome(outcome, answer)
        }
        Err(error) => {
            error!(method, error = %Chain(&error), "a request can't be written into the journal");
            Task::Answer(Err(journal_fault(&error)))
        }
    }
}

/// Answers, counts, and logs what went wrong: once, here.
fn finish(metrics: &Metrics, method: &str, reply: Option<ReplyTo>, answer: Result<Value, Fault>) {
    let outcome = match &answer {
        Ok(_) => Outcome::Done,
        Err(fault) => {
            warn!(error = %fault, called = reply.is_some(), "request failed");
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

/// nova's connection dict. Where there is no console proxy the address is the console's own, and
/// there is no token to give. nova: console/type.py
fn connection(access: &ConsoleAccess, kind: ConsoleKind) -> Value {
    let ConsoleEndpoint { host, port, tls_port } = &access.endpoint;
    let (token, url) = match &access.pass {
        Some(pass) => (pass.token.expose().to_owned(), pass.url.expose().to_owned()),
        None => (String::new(), format!("{}://{host}:{port}", kind.scheme())),
    };
    let mut connection = json!({
        "host": host,
        "port": port,
        "internal_access_path": null,
        "token": token,
        "access_url": url,
    });
    if kind == ConsoleKind::Spice {
        connection["tlsPort"] = json!(tls_port);
    }
    connection
}
