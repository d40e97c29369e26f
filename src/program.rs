//! What the binary does besides asking a running agent: `serve`, `check` and `xml`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::agent;
use crate::check;
use crate::cli::agent_client::{Agent, AgentRequest, CallFailure};
use crate::cli::check::{CheckArgs, Finding, Verdict};
use crate::cli::output::{Failure, Output};
use crate::cli::serve::ServeArgs;
use crate::cli::{ConfigArgs, Daemon};
use crate::config::hypernova::ControlPlane;
use crate::config::{Config, ConfigError};
use crate::model::context::RequestContext;
use crate::network::standalone::StandaloneNetwork;
use crate::rpc::client::{CallError, Target, Wait};
use crate::rpc::local::LocalClient;
use crate::telemetry::{Chain, Settings, Telemetry};

/// How long a command waits for an answer: a stop waits for the guest.
const CALL_TIMEOUT: Duration = Duration::from_secs(3600);

/// The agent keeps few threads: it waits for libvirt, disks and the network, and computes little.
const WORKERS: usize = 2;

/// The program.
pub struct Program;

#[async_trait]
impl Daemon for Program {
    fn serve(&self, args: &ServeArgs, socket: Option<&Path>) -> ExitCode {
        let socket = socket.map(Path::to_owned);
        let sources = args.config.sources();
        let args = args.clone();
        let load = move || {
            let mut config = Config::load(&args.config.sources())?;
            if args.standalone {
                config.hypernova.control_plane = ControlPlane::Standalone;
            }
            if let Some(socket) = &socket {
                config.hypernova.socket.clone_from(socket);
            }
            Ok::<_, ConfigError>(config)
        };
        let config = match load() {
            Ok(config) => config,
            Err(error) => return complain(&error),
        };
        let telemetry = match Telemetry::start(&Settings::from_config(&config)) {
            Ok(telemetry) => telemetry,
            Err(error) => return complain(&error),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return complain(&error),
        };
        match runtime.block_on(agent::serve(config, sources, telemetry, load)) {
            Ok(()) => {
                // A libvirt call that hangs must not hold up the end.
                runtime.shutdown_background();
                ExitCode::SUCCESS
            }
            Err(error) => {
                tracing::error!(error = %Chain(&error), "the agent can't start");
                complain(&error)
            }
        }
    }

    async fn check(&self, args: &CheckArgs) -> Vec<Finding> {
        match Config::load(&args.config.sources()) {
            Ok(mut config) => {
                if args.standalone {
                    config.hypernova.control_plane = ControlPlane::Standalone;
                }
                check::run(&config).await
            }
            Err(error) => vec![Finding {
                subject: "configuration".to_owned(),
                verdict: Verdict::Failed,
                message: Chain(&error).to_string(),
                advice: Some("correct the file".to_owned()),
            }],
        }
    }

    async fn xml(
        &self,
        config: &ConfigArgs,
        build: Map<String, Value>,
    ) -> Result<String, CallFailure> {
        let failure = |class: &str, message: String| CallFailure::new(class, message);
        let config = Config::load(&config.sources())
            .map_err(|error| failure("ConfigError", Chain(&error).to_string()))?;
        let settings = agent::preview_settings(&config)
            .map_err(|error| failure("AgentError", Chain(&error).to_string()))?;
        let network = StandaloneNetwork::new(config.hypernova.default_network.as_str())
            .map_err(|error| failure("NetworkError", Chain(&error).to_string()))?;
        let instances_path = &config.default_.instances_path;
        crate::rpc::preview::xml(&settings, instances_path, &network, build)
            .await
            .map_err(|fault| failure(&fault.class, fault.message.clone()))
    }

    async fn connect(&self, socket: &Path) -> Result<Arc<dyn Agent>, CallFailure> {
        let agent = SocketAgent(socket.to_owned());
        // Whether anybody is there shows at once, and not with the first request.
        agent.client().await?;
        Ok(Arc::new(agent))
    }
}

fn complain(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    let failure = Failure::told(Chain(error).to_string());
    Output::standard(false).failure(&failure);
    ExitCode::FAILURE
}

/// The agent behind its socket: a connection for each request, so that several can be under way.
struct SocketAgent(PathBuf);

impl SocketAgent {
    async fn client(&self) -> Result<LocalClient, CallFailure> {
        let unreachable =
            |error| CallFailure::new(CallFailure::UNREACHABLE, Chain(&error).to_string());
        LocalClient::connect(&self.0).await.map_err(unreachable)
    }

    fn target(request: &AgentRequest) -> Target {
        let target = Target::new("compute", request.version);
        match request.namespace {
            Some(namespace) => target.in_namespace(namespace),
            None => target,
        }
    }
}

#[async_trait]
impl Agent for SocketAgent {
    async fn call(&self, request: AgentRequest) -> Result<Value, CallFailure> {
        let target = Self::target(&request);
        let wait = Wait::of(CALL_TIMEOUT);
        let context = RequestContext::admin();
        let mut client = self.client().await?;
        client.call(&target, request.method, request.args, &context, wait).await.map_err(failure)
    }

    async fn cast(&self, request: AgentRequest) -> Result<(), CallFailure> {
        let target = Self::target(&request);
        let context = RequestContext::admin();
        let mut client = self.client().await?;
        client.cast(&target, request.method, request.args, &context).await.map_err(failure)
    }
}

fn failure(error: CallError) -> CallFailure {
    match error {
        CallError::Remote(remote) => {
            CallFailure { class: remote.class.clone(), message: remote.message.clone() }
        }
        other => CallFailure {
            class: CallFailure::UNREACHABLE.to_owned(),
            message: Chain(&other).to_string(),
        },
    }
}
