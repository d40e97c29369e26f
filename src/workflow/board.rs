//! The board: what runs now, at which step, since when and how far.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use crate::health::Metrics;
use crate::model::time::Timestamp;

/// Every workflow that is queued or running in this agent.
pub struct Board {
    running: Mutex<HashMap<String, Arc<Running>>>,
    metrics: Arc<Metrics>,
}

/// One of them.
#[derive(Debug)]
pub struct Running {
    id: String,
    workflow: &'static str,
    instance_uuid: Uuid,
    request_id: String,
    steps: usize,
    queued_at: Timestamp,
    at: Mutex<At>,
    done: AtomicU64,
    total: AtomicU64,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Clone)]
struct At {
    phase: &'static str,
    step: String,
    step_index: usize,
    since: Timestamp,
}

/// A row for `hypernova workflows`. Times in ISO 8601; `done` and `total` in bytes, 0 when the step
/// doesn't count any.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub id: String,
    pub workflow: String,
    pub instance_uuid: Uuid,
    pub request_id: String,
    pub phase: String,
    pub step: String,
    /// Counted from 1; 0 before the first.
    pub step_index: usize,
    pub steps: usize,
    pub started_at: String,
    pub step_started_at: String,
    pub done: u64,
    pub total: u64,
    pub failure: Option<String>,
    pub undo_failure: Option<String>,
}

impl Board {
    /// An empty one. `metrics` count the steps of what is put on it.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { running: Mutex::default(), metrics }
    }

    /// Puts a queued workflow on the board.
    pub fn add(
        &self,
        id: &str,
        workflow: &'static str,
        steps: usize,
        instance_uuid: Uuid,
        request_id: &str,
    ) -> Arc<Running> {
        let now = Timestamp::now();
        let running = Arc::new(Running {
            id: id.to_owned(),
            workflow,
            instance_uuid,
            request_id: request_id.to_owned(),
            steps,
            queued_at: now,
            at: Mutex::new(At { phase: "queued", step: "-".to_owned(), step_index: 0, since: now }),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            metrics: self.metrics.clone(),
        });
        self.lock().insert(id.to_owned(), running.clone());
        running
    }

    pub fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// What is on it now, oldest first.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<_> = self.lock().values().map(|running| running.row()).collect();
        rows.sort_by(|a, b| (&a.started_at, &a.id).cmp(&(&b.started_at, &b.id)));
        rows
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// One that is on no board: for a workflow that is run directly.
    pub fn detached() -> Self {
        let now = Timestamp::now();
        Self {
            id: String::new(),
            workflow: "",
            instance_uuid: Uuid::nil(),
            request_id: String::new(),
            steps: 0,
            queued_at: now,
            at: Mutex::new(At { phase: "queued", step: "-".to_owned(), step_index: 0, since: now }),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            metrics: Arc::default(),
        }
    }

    pub fn at_step(&self, index: usize, step: &impl Debug) {
        self.set("forward", index, step);
    }

    pub fn undoing_step(&self, index: usize, step: &impl Debug) {
        self.set("undoing", index, step);
    }

    /// A step was done, or tried in vain.
    pub fn step_ended(&self, step: &impl Debug, took: Duration) {
        self.metrics.step(self.workflow, format!("{step:?}"), took);
    }

    /// How far the step is: bytes done, and in all (0: not known).
    pub fn progress(&self, done: u64, total: Option<u64>) {
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total.unwrap_or(0), Ordering::Relaxed);
    }

    fn set(&self, phase: &'static str, index: usize, step: &impl Debug) {
        self.progress(0, None);
        let at =
            At { phase, step: format!("{step:?}"), step_index: index + 1, since: Timestamp::now() };
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    fn row(&self) -> Row {
        let at = self.at.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Row {
            id: self.id.clone(),
            workflow: self.workflow.to_owned(),
            instance_uuid: self.instance_uuid,
            request_id: self.request_id.clone(),
            phase: at.phase.to_owned(),
            step: at.step,
            step_index: at.step_index,
            steps: self.steps,
            started_at: self.queued_at.to_string(),
            step_started_at: at.since.to_string(),
            done: self.done.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
            failure: None,
            undo_failure: None,
        }
    }
}
