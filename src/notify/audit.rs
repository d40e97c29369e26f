//! The periods in which the use of instances is counted. nova: utils.py,
//! last_completed_audit_period

use jiff::ToSpan;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

use crate::model::time::Timestamp;

/// How long a period is, and where in its unit it begins: `month`, `day@18`, …
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditPeriod {
    unit: Unit,
    offset: i8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Hour,
    Day,
    Month,
    Year,
}

impl AuditPeriod {
    /// `None` for another unit, or an offset that no unit of the kind has: a month may begin on the
    /// 1st to the 28th.
    pub fn parse(text: &str) -> Option<Self> {
        let (unit, offset) = text.split_once('@').unwrap_or((text, "0"));
        let offset: i8 = offset.parse().ok()?;
        let (unit, allowed) = match unit {
            "hour" => (Unit::Hour, 0..=59),
            "day" => (Unit::Day, 0..=23),
            "month" => (Unit::Month, 0..=28),
            "year" => (Unit::Year, 0..=12),
            _ => return None,
        };
        allowed.contains(&offset).then_some(Self { unit, offset })
    }

    /// The last period that is over: (its beginning, its end), the end before `now`.
    pub fn last_completed(self, now: Timestamp) -> (Timestamp, Timestamp) {
        let now = civil(now);
        let span = match self.unit {
            Unit::Hour => 1.hour(),
            Unit::Day => 1.day(),
            Unit::Month => 1.month(),
            Unit::Year => 1.year(),
        };
        let mut end = self.begin_of(now);
        if end >= now {
            end = end.saturating_sub(span);
        }
        (timestamp(end.saturating_sub(span)), timestamp(end))
    }

    /// The current period so far: (its beginning, `now`).
    pub fn current(self, now: Timestamp) -> (Timestamp, Timestamp) {
        (self.last_completed(now).1, now)
    }

    /// Where a period begins in the unit that `now` is in.
    fn begin_of(self, now: DateTime) -> DateTime {
        let Self { unit, offset } = self;
        let (date, first) = (now.date(), offset.max(1));
        let midnight = |date: Date| date.at(0, 0, 0, 0);
        match unit {
            Unit::Hour => date.at(now.hour(), offset, 0, 0),
            Unit::Day => date.at(offset, 0, 0, 0),
            Unit::Month => midnight(Date::constant(date.year(), date.month(), first)),
            Unit::Year => midnight(Date::constant(date.year(), first, 1)),
        }
    }
}

fn civil(time: Timestamp) -> DateTime {
    let time = jiff::Timestamp::from_second(time.as_second()).unwrap_or_default();
    time.to_zoned(TimeZone::UTC).datetime()
}

fn timestamp(time: DateTime) -> Timestamp {
    let zoned = time.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp().as_second());
    Timestamp::from_second(zoned.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What nova's function answers for 2026-01-15T09:20:00Z.
    #[test]
    fn the_last_period_is_novas() {
        let now = Timestamp::parse("2026-01-15T09:20:00Z").unwrap();
        for (unit, begin, end) in [
            ("month", "2025-12-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            ("month@20", "2025-11-20T00:00:00Z", "2025-12-20T00:00:00Z"),
            ("year", "2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            ("year@3", "2024-03-01T00:00:00Z", "2025-03-01T00:00:00Z"),
            ("day", "2026-01-14T00:00:00Z", "2026-01-15T00:00:00Z"),
            ("day@18", "2026-01-13T18:00:00Z", "2026-01-14T18:00:00Z"),
            ("hour", "2026-01-15T08:00:00Z", "2026-01-15T09:00:00Z"),
            ("hour@30", "2026-01-15T07:30:00Z", "2026-01-15T08:30:00Z"),
        ] {
            let (first, last) = AuditPeriod::parse(unit).unwrap().last_completed(now);
            assert_eq!((first.to_string(), last.to_string()), (begin.into(), end.into()), "{unit}");
        }
        let (first, last) = AuditPeriod::parse("day").unwrap().current(now);
        assert_eq!((first.to_string().as_str(), last), ("2026-01-15T00:00:00Z", now));
    }

    #[test]
    fn what_no_calendar_has_is_refused() {
        for text in ["week", "month@29", "day@24", "hour@60", "year@13", "day@", "day@-1", ""] {
            assert_eq!(AuditPeriod::parse(text), None, "{text}");
        }
    }
}
