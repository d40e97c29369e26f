//! TCP ports for serial consoles, given out from `[serial_console] port_range`.
//! nova: virt/libvirt/driver.py and console/serial.py, acquire_port
//!
//! What is given out is remembered here, and tried: a port that somebody else listens on is passed
//! over. After a restart the running domains' ports are found in use that way.

use std::collections::HashMap;
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

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

    /// Takes the instance's ports back.
    pub fn release(&self, instance: Uuid) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&instance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
