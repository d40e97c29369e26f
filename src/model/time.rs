//! Points in time as versioned objects spell them: `2026-11-20T23:09:41Z`, whole seconds, UTC.

use std::fmt;

use serde_json::{Value, json};

use crate::model::object::codec::{FieldType, ObjectError};

/// A point in time, in whole seconds: finer parts are lost on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    pub fn now() -> Self {
        Self::from_second(jiff::Timestamp::now().as_second())
    }

    /// Seconds since 1970; out of jiff's range (years -9999 to 9999) becomes the epoch.
    pub fn from_second(second: i64) -> Self {
        Self(jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
    }

    pub fn as_second(self) -> i64 {
        self.0.as_second()
    }

    /// Takes ISO 8601 with or without a zone (UTC then) and fraction.
    pub fn parse(text: &str) -> Option<Self> {
        let zoned = text.parse::<jiff::Timestamp>().ok();
        let naive = || {
            let civil = text.parse::<jiff::civil::DateTime>().ok()?;
            Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
        };
        Some(Self::from_second(zoned.or_else(naive)?.as_second()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.strftime("%Y-%m-%dT%H:%M:%SZ"))
    }
}

impl FieldType for Timestamp {
    fn decode(value: &Value) -> Result<Self, ObjectError> {
        value
            .as_str()
            .and_then(Self::parse)
            .ok_or_else(|| ObjectError::wrong_type("an ISO 8601 time", value))
    }

    fn encode(&self) -> Value {
        json!(self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_time_becomes_whole_seconds_utc() {
        for text in
            ["2026-11-20T23:09:41Z", "2026-11-20T23:09:41.500000", "2026-11-20T23:09:41+00:00"]
        {
            let time = Timestamp::parse(text).expect(text);
            assert_eq!(time.to_string(), "2026-11-20T23:09:41Z");
        }
        assert_eq!(Timestamp::parse("yesterday"), None);
    }
}
