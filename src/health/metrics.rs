//! What the agent counts, in OpenMetrics' terms.
//!
//! Labels are `&'static str`, but for the steps of a workflow, which are a closed set as well: a name
//! from a message can't make a new time series.

use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::health::Component;

/// How a workflow or a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    Done,
    /// It failed, and what it had done was taken back.
    Undone,
    /// It failed, and so did taking it back, or there was no way back.
    Stuck,
    /// It was not allowed to start.
    Refused,
    /// It waits for the agent's next start.
    Parked,
    Failed,
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let text = match self {
            Self::Done => "done",
            Self::Undone => "undone",
            Self::Stuck => "stuck",
            Self::Refused => "refused",
            Self::Parked => "parked",
            Self::Failed => "failed",
        };
        EncodeLabelValue::encode(&text, encoder)
    }
}

/// How a run of a periodic task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunOutcome {
    Done,
    Failed,
    /// Its budget was over, and it was given up.
    TimedOut,
}

impl EncodeLabelValue for RunOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let text = match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::TimedOut => "timed out",
        };
        EncodeLabelValue::encode(&text, encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkflowLabels {
    workflow: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkflowOutcomeLabels {
    workflow: &'static str,
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    workflow: &'static str,
    step: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HttpLabels {
    service: &'static str,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ComponentLabels {
    component: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeriodicLabels {
    task: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeriodicOutcomeLabels {
    task: &'static str,
    outcome: RunOutcome,
}

type Seconds<L> = Family<L, Histogram, fn() -> Histogram>;

/// The agent's counters. Every method is cheap and never fails.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    workflows_running: Family<WorkflowLabels, Gauge>,
    workflows_started: Family<WorkflowLabels, Counter>,
    workflows_finished: Family<WorkflowOutcomeLabels, Counter>,
    steps: Seconds<StepLabels>,
    requests: Family<RequestLabels, Counter>,
    libvirt_calls: Seconds<OperationLabels>,
    libvirt_timeouts: Family<OperationLabels, Counter>,
    http_requests: Seconds<HttpLabels>,
    connections_lost: Family<ComponentLabels, Counter>,
    periodic_runs: Family<PeriodicOutcomeLabels, Counter>,
    periodic_durations: Seconds<PeriodicLabels>,
    resident_memory: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("hypernova_build", "The running agent", build);
        let mut metrics = Self {
            registry,
            workflows_running: Family::default(),
            workflows_started: Family::default(),
            workflows_finished: Family::default(),
            steps: Family::new_with_constructor(step_seconds),
            requests: Family::default(),
            libvirt_calls: Family::new_with_constructor(call_seconds),
            libvirt_timeouts: Family::default(),
            http_requests: Family::new_with_constructor(call_seconds),
            connections_lost: Family::default(),
            periodic_runs: Family::default(),
            periodic_durations: Family::new_with_constructor(step_seconds),
            resident_memory: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let Self { registry, .. } = self;
        registry.register(
            "hypernova_workflows_running",
            "Workflows that run now",
            self.workflows_running.clone(),
        );
        registry.register(
            "hypernova_workflows_started",
            "Workflows that were started or resumed",
            self.workflows_started.clone(),
        );
        registry.register(
            "hypernova_workflows_finished",
            "Workflows that ended, by outcome",
            self.workflows_finished.clone(),
        );
        registry.register_with_unit(
            "hypernova_step_duration",
            "Time that steps took",
            Unit::Seconds,
            self.steps.clone(),
        );
        registry.register(
            "hypernova_rpc_requests",
            "Requests answered, by outcome",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "hypernova_libvirt_call_duration",
            "Time that libvirt calls took, those without an answer left out",
            Unit::Seconds,
            self.libvirt_calls.clone(),
        );
        registry.register(
            "hypernova_libvirt_timeouts",
            "libvirt calls without an answer in time",
            self.libvirt_timeouts.clone(),
        );
        registry.register_with_unit(
            "hypernova_http_request_duration",
            "Time that requests to OpenStack services took, by the answer's class",
            Unit::Seconds,
            self.http_requests.clone(),
        );
        registry.register(
            "hypernova_connections_lost",
            "Connections that broke",
            self.connections_lost.clone(),
        );
        registry.register(
            "hypernova_periodic_runs",
            "Runs of periodic tasks, by outcome",
            self.periodic_runs.clone(),
        );
        registry.register_with_unit(
            "hypernova_periodic_duration",
            "Time that runs of periodic tasks took",
            Unit::Seconds,
            self.periodic_durations.clone(),
        );
        registry.register_with_unit(
            "process_resident_memory",
            "Memory of the agent",
            Unit::Bytes,
            self.resident_memory.clone(),
        );
    }

    /// A workflow was started, or resumed after a restart.
    pub fn workflow_started(&self, workflow: &'static str) {
        let labels = WorkflowLabels { workflow };
        self.workflows_started.get_or_create(&labels).inc();
        self.workflows_running.get_or_create(&labels).inc();
    }

    /// A workflow that was started ended.
    pub fn workflow_finished(&self, workflow: &'static str, outcome: Outcome) {
        self.workflows_running.get_or_create(&WorkflowLabels { workflow }).dec();
        self.workflows_finished.get_or_create(&WorkflowOutcomeLabels { workflow, outcome }).inc();
    }

    /// A step was done, or tried. `step` is one of the workflow's own.
    pub fn step(&self, workflow: &'static str, step: String, took: Duration) {
        self.steps.get_or_create(&StepLabels { workflow, step }).observe(took.as_secs_f64());
    }

    /// A request was answered. `method` is one that the agent knows, or `unknown`.
    pub fn rpc_request(&self, method: &'static str, outcome: Outcome) {
        self.requests.get_or_create(&RequestLabels { method, outcome }).inc();
    }

    /// libvirt answered, well or badly.
    pub fn libvirt_call(&self, operation: &'static str, took: Duration) {
        self.libvirt_calls
            .get_or_create(&OperationLabels { operation })
            .observe(took.as_secs_f64());
    }

    /// libvirt didn't answer in time.
    pub fn libvirt_timed_out(&self, operation: &'static str) {
        self.libvirt_timeouts.get_or_create(&OperationLabels { operation }).inc();
    }

    /// An OpenStack service was asked; no status: it didn't answer.
    pub fn http_request(&self, service: &'static str, status: Option<u16>, took: Duration) {
        let status = match status {
            None => "none",
            Some(..300) => "2xx",
            Some(300..400) => "3xx",
            Some(400..500) => "4xx",
            Some(_) => "5xx",
        };
        self.http_requests
            .get_or_create(&HttpLabels { service, status })
            .observe(took.as_secs_f64());
    }

    /// Connections to `component` broke, so many since the last call; 0 is no news.
    pub fn connections_lost(&self, component: Component, times: u64) {
        let labels = ComponentLabels { component: component.as_str() };
        self.connections_lost.get_or_create(&labels).inc_by(times);
    }

    /// A periodic task ran.
    pub fn periodic_run(&self, task: &'static str, outcome: RunOutcome, took: Duration) {
        self.periodic_runs.get_or_create(&PeriodicOutcomeLabels { task, outcome }).inc();
        self.periodic_durations.get_or_create(&PeriodicLabels { task }).observe(took.as_secs_f64());
    }

    /// Everything, as OpenMetrics text.
    pub fn encode(&self) -> String {
        if let Some(bytes) = resident_bytes() {
            self.resident_memory.set(bytes);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a String takes all text");
        text
    }
}

/// From a file made to a disk copied.
fn step_seconds() -> Histogram {
    Histogram::new([0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0])
}

/// From a look-up to a guest's memory saved.
fn call_seconds() -> Histogram {
    Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 30.0, 180.0, 1800.0])
}

/// proc_pid_statm(5): the second number, in pages.
/// Memory of this process that is in RAM.
pub fn resident_bytes() -> Option<i64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: i64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    pages.checked_mul(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(text: &str, line: &str) {
        assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
    }

    #[test]
    fn what_happened_is_in_the_text() {
        let metrics = Metrics::new();
        metrics.workflow_started("spawn");
        metrics.workflow_started("spawn");
        metrics.workflow_finished("spawn", Outcome::Undone);
        metrics.step("spawn", "DefineDomain".to_owned(), Duration::from_millis(50));
        metrics.rpc_request("build_and_run_instance", Outcome::Done);
        metrics.libvirt_call("define", Duration::from_millis(2));
        metrics.libvirt_timed_out("define");
        metrics.http_request("neutron", Some(201), Duration::from_millis(90));
        metrics.http_request("neutron", None, Duration::from_secs(9));
        metrics.connections_lost(Component::Libvirt, 0);
        metrics.connections_lost(Component::RabbitMq, 2);
        let text = metrics.encode();
        has(&text, "hypernova_workflows_running{workflow=\"spawn\"} 1");
        has(&text, "hypernova_workflows_started_total{workflow=\"spawn\"} 2");
        has(&text, "hypernova_workflows_finished_total{workflow=\"spawn\",outcome=\"undone\"} 1");
        has(
            &text,
            "hypernova_step_duration_seconds_bucket{le=\"0.1\",workflow=\"spawn\",step=\"DefineDomain\"} 1",
        );
        has(
            &text,
            "hypernova_rpc_requests_total{method=\"build_and_run_instance\",outcome=\"done\"} 1",
        );
        has(&text, "hypernova_libvirt_call_duration_seconds_count{operation=\"define\"} 1");
        has(&text, "hypernova_libvirt_timeouts_total{operation=\"define\"} 1");
        for status in ["2xx", "none"] {
            let labels = format!("{{service=\"neutron\",status=\"{status}\"}}");
            has(&text, &format!("hypernova_http_request_duration_seconds_count{labels} 1"));
        }
        has(&text, "hypernova_connections_lost_total{component=\"libvirt\"} 0");
        has(&text, "hypernova_connections_lost_total{component=\"rabbitmq\"} 2");
        has(&text, &format!("hypernova_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")));
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn memory_is_looked_up_when_asked_for() {
        let text = Metrics::new().encode();
        let line = text.lines().find_map(|l| l.strip_prefix("process_resident_memory_bytes "));
        assert!(line.unwrap().parse::<u64>().unwrap() > 1 << 20);
    }
}
