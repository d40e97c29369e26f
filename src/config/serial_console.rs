//! `[serial_console]`: guests' serial ports over TCP.

use std::ops::RangeInclusive;

use crate::config::opt::{FromValue, Opt, section};
use crate::config::value::Value;

/// TCP ports, `10000:20000` in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRange(pub RangeInclusive<u16>);

impl FromValue for PortRange {
    fn from_value(value: Option<Value>) -> Result<Self, String> {
        let text = String::from_value(value)?;
        text.split_once(':')
            .and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)))
            .filter(|(first, last)| first < last)
            .map(|(first, last)| Self(first..=last))
            .ok_or_else(|| "must be two ports, the lower one first, such as 10000:20000".to_owned())
    }
}

section! {
    /// Guests' serial ports over TCP.
    SerialConsole in "serial_console":

    /// Whether guests get serial ports that nova-serialproxy can reach.
    enabled: bool = Opt::boolean().default("false");

    /// The ports on this host that they listen on.
    port_range: PortRange = Opt::text().default("10000:20000");

    /// Where users find nova-serialproxy.
    base_url: String = Opt::text().default("ws://127.0.0.1:6083/");

    /// The address on this host that they listen on.
    proxyclient_address: String = Opt::text().default("127.0.0.1");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_goes_up() {
        let read = |text: &str| PortRange::from_value(Some(Value::Text(text.to_owned())));
        assert_eq!(read("10:20"), Ok(PortRange(10..=20)));
        for bad in ["20:10", "10", "10:70000", "a:b", "10:20:30"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
