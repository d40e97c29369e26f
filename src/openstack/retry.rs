//! When a request is sent again: pure, but for the dice.

use std::time::Duration;

/// Before the first repeat; doubled each time. keystoneauth1: session.py, `_Retries`.
const FIRST_DELAY: Duration = Duration::from_millis(500);
/// The longest pause, also when a service asks for a longer one.
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// How often, and after which answers.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Repeats of requests that got no answer.
    pub connect_retries: u32,
    pub connect_delay: Option<Duration>,
    /// Repeats of requests that the service was too busy for.
    pub status_retries: u32,
    pub status_delay: Option<Duration>,
    pub statuses: Vec<u16>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            connect_retries: 3,
            connect_delay: None,
            status_retries: 3,
            status_delay: None,
            statuses: vec![429, 503],
        }
    }
}

/// One request's repeats so far.
#[derive(Debug)]
pub struct Attempts<'a> {
    policy: &'a RetryPolicy,
    /// The request changes nothing more when it is done twice.
    repeatable: bool,
    connects: u32,
    statuses: u32,
}

impl<'a> Attempts<'a> {
    pub fn new(policy: &'a RetryPolicy, repeatable: bool) -> Self {
        Self { policy, repeatable, connects: 0, statuses: 0 }
    }

    /// The number of the attempt that is under way, from 1.
    pub fn number(&self) -> u32 {
        1 + self.connects + self.statuses
    }

    /// The pause before the next attempt, after one without an answer; `None`: give up.
    pub fn after_failure(&mut self, may_have_arrived: bool) -> Option<Duration> {
        if may_have_arrived && !self.repeatable || self.connects >= self.policy.connect_retries {
            return None;
        }
        self.connects += 1;
        Some(pause(self.policy.connect_delay, self.connects))
    }

    /// The pause before the next attempt, after an answer; `None`: the answer stands.
    ///
    /// A request that must not be done twice is repeated only where the service says that it wasn't
    /// done: by 429, or by when to come back.
    pub fn after_status(&mut self, status: u16, retry_after: Option<Duration>) -> Option<Duration> {
        let busy = self.policy.statuses.contains(&status);
        let refused_unseen = status == 429 || retry_after.is_some();
        if !busy || !(self.repeatable || refused_unseen) {
            return None;
        }
        if self.statuses >= self.policy.status_retries {
            return None;
        }
        self.statuses += 1;
        let own = pause(self.policy.status_delay, self.statuses);
        Some(retry_after.map_or(own, |asked| own.max(asked.min(LONGEST_DELAY))))
    }
}

/// `fixed`, or a doubled one. Up to a half is added at random, so that a thousand agents don't come
/// back together.
fn pause(fixed: Option<Duration>, repeat: u32) -> Duration {
    let doubled = FIRST_DELAY.saturating_mul(1 << repeat.saturating_sub(1).min(16));
    let pause = fixed.unwrap_or(doubled).min(LONGEST_DELAY);
    pause.mul_f64(1.0 + fastrand::f64() / 2.0)
}

/// `Retry-After`: seconds, or a date.
pub fn retry_after(header: &str) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let date = jiff::fmt::rfc2822::parse(header).ok()?.timestamp();
    let seconds = date.as_second().saturating_sub(jiff::Timestamp::now().as_second());
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_done_is_done_again_only_if_that_changes_nothing() {
        let policy = RetryPolicy::default();
        for repeatable in [true, false] {
            let attempts = || Attempts::new(&policy, repeatable);
            assert_eq!(attempts().after_failure(true).is_some(), repeatable);
            assert_eq!(attempts().after_status(503, None).is_some(), repeatable);
            assert!(attempts().after_failure(false).is_some());
            assert!(attempts().after_status(429, None).is_some());
            assert!(attempts().after_status(503, Some(Duration::ZERO)).is_some());
        }
    }

    #[test]
    fn other_answers_stand() {
        let policy = RetryPolicy::default();
        for status in [200, 201, 204, 400, 401, 404, 409, 500, 502] {
            assert_eq!(Attempts::new(&policy, true).after_status(status, None), None, "{status}");
        }
    }

    #[test]
    fn repeats_end_and_pauses_grow_to_a_bound() {
        let policy = RetryPolicy { connect_retries: 12, ..RetryPolicy::default() };
        let mut attempts = Attempts::new(&policy, true);
        let pauses: Vec<_> = std::iter::from_fn(|| attempts.after_failure(true)).collect();
        assert_eq!((pauses.len(), attempts.number()), (12, 13));
        assert!((0.5..0.75).contains(&pauses[0].as_secs_f64()), "{pauses:?}");
        assert!((2.0..3.0).contains(&pauses[2].as_secs_f64()), "{pauses:?}");
        assert!(pauses.iter().all(|pause| pause.as_secs() <= 45), "{pauses:?}");
        let none = RetryPolicy { connect_retries: 0, status_retries: 0, ..policy };
        assert_eq!(Attempts::new(&none, true).after_failure(false), None);
        assert_eq!(Attempts::new(&none, true).after_status(503, None), None);
    }

    #[test]
    fn a_service_is_given_the_time_it_asks_for_within_bounds() {
        let policy = RetryPolicy::default();
        let after = |asked: &str| {
            Attempts::new(&policy, true).after_status(503, retry_after(asked)).unwrap()
        };
        assert_eq!(after("7"), Duration::from_secs(7));
        assert_eq!(after("86400"), LONGEST_DELAY);
        assert!(after("0") >= FIRST_DELAY);
        assert!(after("Fri, 31 Dec 1999 23:59:59 GMT") < Duration::from_secs(1));
        assert_eq!(after("Tue, 31 Dec 2199 23:59:59 GMT"), LONGEST_DELAY);
        assert_eq!(retry_after("soon"), None);
    }
}
