//! TCP ports for serial consoles, given out from `[serial_console] port_range`.
//! nova: virt/libvirt/driver.py and console/serial.py, acquire_port
//!
//! What is given out is remembered here, and tried: a port that somebody else listens on is passed
//! over. After a restart the domains tell which ports they have: nobody listens on a suspended
//! guest's, and it needs it again.

use std::collections::HashMap;
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

use futures_util::{StreamExt, stream};
use tracing::warn;
use uuid::Uuid;

use super::Backends;
use crate::hypervisor::HypervisorError;
use crate::telemetry::Chain;

/// Domains asked at once.
const AT_ONCE: usize = 4;

/// The ports of this host.
#[derive(Debug)]
pub struct SerialPorts {
    address: String,
    range: RangeInclusive<u16>,
    taken: Mutex<HashMap<Uuid, Vec<u16>>>,
}

impl SerialPorts {
    /// Ports of `range`, listened on at `address`.
    pub fn new(address: &str, range: RangeInclusive<u16>) -> Self {
        Self { address: address.to_owned(), range, taken: Mutex::default() }
    }

    /// Gives the instance `count` ports in place of those it had. `None`: the range is used up.
    pub fn take(&self, instance: Uuid, count: usize) -> Option<Vec<u16>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.remove(&instance);
        let free = |port: &u16| {
            !taken.values().any(|ports| ports.contains(port))
                && TcpListener::bind((self.address.as_str(), *port)).is_ok()
        };
        let ports: Vec<u16> = self.range.clone().filter(free).take(count).collect();
        if ports.len() < count {
            return None;
        }
        taken.insert(instance, ports.clone());
        Some(ports)
    }

    /// Notes ports that a domain has from before.
    pub fn learn(&self, instance: Uuid, ports: Vec<u16>) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(instance, ports);
    }

    /// Takes the instance's ports back.
    pub fn release(&self, instance: Uuid) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&instance);
    }
}

/// Learns the ports of every domain of the host: at start, before any is given out.
pub async fn relearn(on: &Backends) {
    let Some(ports) = &on.settings.serial_ports else { return };
    let domains = match on.hypervisor.domains().await {
        Ok(domains) => domains,
        Err(error) => {
            return warn!(error = %Chain(&error), "serial ports of suspended guests are unknown");
        }
    };
    let asked = domains.iter().map(|domain| async {
        let uuid = domain.instance_uuid;
        (uuid, on.hypervisor.console_endpoints(uuid).await)
    });
    let mut answers = stream::iter(asked).buffer_unordered(AT_ONCE);
    while let Some((uuid, answer)) = answers.next().await {
        match answer {
            Ok(found) if found.serial.is_empty() => {}
            Ok(found) => ports.learn(uuid, found.serial.iter().map(|(_, port)| *port).collect()),
            // It went away meanwhile.
            Err(HypervisorError::NoDomain(_)) => {}
            Err(error) => {
                warn!(instance_uuid = %uuid, error = %Chain(&error), "its serial ports are unknown");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::hypervisor::Hypervisor;
    use crate::hypervisor::spec::{DomainSpec, SerialSpec};
    use crate::workflow::Settings;
    use crate::workflow::world::World;

    #[tokio::test]
    async fn a_suspended_guest_keeps_its_port_over_a_restart_of_the_agent() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let world = World::new();
        let (suspended, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let serial = SerialSpec::Tcp { address: "127.0.0.1".into(), port, log: None };
        let spec = DomainSpec { uuid: suspended, serials: vec![serial], ..DomainSpec::default() };
        world.hypervisor.define(&spec).await.unwrap();
        let ports = Arc::new(SerialPorts::new("127.0.0.1", port..=port));
        let settings = Settings { serial_ports: Some(ports.clone()), ..Settings::example() };
        relearn(&Backends { settings: Arc::new(settings), ..world.backends() }).await;
        assert_eq!(ports.take(other, 1), None);
        ports.release(suspended);
        assert_eq!(ports.take(other, 1), Some(vec![port]));
    }

    #[test]
    fn a_port_is_given_to_one_instance_and_never_while_somebody_listens_on_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let used = listener.local_addr().unwrap().port();
        let ports = SerialPorts::new("127.0.0.1", used..=used);
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(ports.take(a, 1), None);
        drop(listener);
        assert_eq!(ports.take(a, 1), Some(vec![used]));
        assert_eq!(ports.take(b, 1), None);
        assert_eq!(ports.take(a, 1), Some(vec![used]), "a new definition takes its place");
        ports.release(a);
        assert_eq!(ports.take(b, 1), Some(vec![used]));
    }
}
