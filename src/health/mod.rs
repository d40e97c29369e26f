//! What operators' monitoring sees: `metrics.rs` counts, [`Health`] says which of the agent's
//! neighbours can be reached, `server.rs` shows both on a local address.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

mod metrics;
mod server;

pub use metrics::{Metrics, Outcome, RunOutcome, resident_bytes};
pub use server::{HealthError, HealthServer};

/// What the agent can't work without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    Libvirt,
    RabbitMq,
    Journal,
}

impl Component {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Libvirt => "libvirt",
            Self::RabbitMq => "rabbitmq",
            Self::Journal => "journal",
        }
    }
}

/// How a component is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not reached yet.
    Starting,
    Up,
    /// Why, for an operator to read: no secrets.
    Down(String),
}

/// The states of the components, shared by those who know them and those who ask.
#[derive(Debug, Clone)]
pub struct Health(Arc<Mutex<BTreeMap<Component, State>>>);

impl Health {
    /// All of `components` are starting. One that isn't among them, such as RabbitMQ in
    /// standalone mode, doesn't count.
    pub fn new(components: &[Component]) -> Self {
        let states = components.iter().map(|component| (*component, State::Starting));
        Self(Arc::new(Mutex::new(states.collect())))
    }

    /// Whoever talks to `component` says how that goes. One that doesn't count stays uncounted.
    pub fn set(&self, component: Component, state: State) {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = states.get_mut(&component) {
            *known = state;
        }
    }

    /// Whether everything is up.
    pub fn is_healthy(&self) -> bool {
        self.states().values().all(|state| *state == State::Up)
    }

    /// A copy of every component's state.
    pub fn states(&self) -> BTreeMap<Component, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn to_json(&self) -> (bool, Value) {
        let states = self.states();
        let healthy = states.values().all(|state| *state == State::Up);
        let components: serde_json::Map<_, _> = states
            .into_iter()
            .map(|(component, state)| {
                let state = match state {
                    State::Starting => json!({"state": "starting"}),
                    State::Up => json!({"state": "up"}),
                    State::Down(reason) => json!({"state": "down", "reason": reason}),
                };
                (component.as_str().to_owned(), state)
            })
            .collect();
        let status = if healthy { "ok" } else { "unavailable" };
        (healthy, json!({"status": status, "components": components}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_all_up_is_healthy() {
        let health = Health::new(&[Component::Libvirt, Component::Journal]);
        assert!(!health.is_healthy());
        health.set(Component::Libvirt, State::Up);
        assert!(!health.is_healthy());
        health.set(Component::Journal, State::Up);
        assert!(health.is_healthy());
        health.set(Component::Libvirt, State::Down("gone".to_owned()));
        assert!(!health.is_healthy());
    }

    #[test]
    fn a_component_of_the_other_mode_does_not_count() {
        let health = Health::new(&[Component::Journal]);
        health.set(Component::Journal, State::Up);
        health.set(Component::RabbitMq, State::Down("no".to_owned()));
        let expected = json!({"status": "ok", "components": {"journal": {"state": "up"}}});
        assert_eq!(health.to_json(), (true, expected));
    }
}
