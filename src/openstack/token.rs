//! A token: what it is, how long it holds and which services it is for.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::catalog::Catalog;
use crate::model::secret::Secret;

/// A new token is fetched this long before the old one ends.
const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// What is left of a token that may still be sent: the service that gets it may send it on.
const USABLE: Duration = Duration::from_secs(60);
/// Keystone's tokens are a few hundred bytes; a PKI one was some thousands.
const LONGEST: usize = 32 * 1024;

/// A token for the agent itself.
#[derive(Debug)]
pub struct Token {
    pub id: Secret,
    pub catalog: Catalog,
    pub project_id: Option<String>,
    pub user_id: Option<String>,
    renew_at: Instant,
    usable_until: Instant,
}

impl Token {
    /// Reads Keystone's answer, received `now`.
    ///
    /// # Errors
    /// What is wrong with it, without repeating it.
    pub fn parse(id: Option<&str>, body: &Value, now: Instant) -> Result<Self, String> {
        let id = id.ok_or("no X-Subject-Token")?;
        if id.is_empty() || id.len() > LONGEST || !id.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("X-Subject-Token is no token".to_owned());
        }
        let token = body.get("token").ok_or("no token in the body")?;
        let lifetime = lifetime(token).ok_or("no expires_at in the token")?;
        let id_of = |what: &str| Some(token.pointer(what)?.as_str()?.to_owned());
        // Short-lived ones, too, are used for most of their life.
        Ok(Self {
            id: Secret::new(id),
            catalog: Catalog::parse(token.get("catalog").unwrap_or(&Value::Null)),
            project_id: id_of("/project/id"),
            user_id: id_of("/user/id"),
            renew_at: now + (lifetime - RENEW_BEFORE.min(lifetime / 4)),
            usable_until: now + (lifetime - USABLE.min(lifetime / 8)),
        })
    }

    /// Whether it is time to fetch another, while this one still works.
    pub fn should_be_renewed(&self, now: Instant) -> bool {
        now >= self.renew_at
    }

    pub fn is_usable(&self, now: Instant) -> bool {
        now < self.usable_until
    }

    pub fn usable_for(&self, now: Instant) -> Duration {
        self.usable_until.saturating_duration_since(now)
    }
}

/// By Keystone's own clock where it says when it was issued: ours may be wrong.
fn lifetime(token: &Value) -> Option<Duration> {
    let time = |key: &str| token.get(key)?.as_str()?.parse::<jiff::Timestamp>().ok();
    let expires = time("expires_at")?;
    let issued = time("issued_at").unwrap_or_else(jiff::Timestamp::now);
    let span = expires.as_millisecond().saturating_sub(issued.as_millisecond()).max(0);
    // A year: what is longer overflows clocks.
    Some(Duration::from_millis(span.unsigned_abs()).min(Duration::from_secs(31_536_000)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(issued: &str, expires: &str) -> Result<Token, String> {
        let body = json!({"token": {"issued_at": issued, "expires_at": expires,
            "project": {"id": "p"}, "user": {"id": "u"}, "catalog": []}});
        Token::parse(Some("gAAA"), &body, Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_renewed_before_its_end_by_keystones_own_clock() {
        let now = Instant::now();
        let hour = token("2031-01-01T00:00:00.000000Z", "2031-01-01T01:00:00.000000Z").unwrap();
        let after = |seconds| now + Duration::from_secs(seconds);
        assert!(!hour.should_be_renewed(after(3290)) && hour.should_be_renewed(after(3300)));
        assert!(hour.is_usable(after(3530)) && !hour.is_usable(after(3540)));
        let short = token("2031-01-01T00:00:00Z", "2031-01-01T00:00:08Z").unwrap();
        assert!(!short.should_be_renewed(after(5)) && short.should_be_renewed(after(6)));
        assert!(short.is_usable(after(6)) && !short.is_usable(after(7)));
        let ended = token("2031-01-01T00:00:08Z", "2031-01-01T00:00:00Z").unwrap();
        assert!(!ended.is_usable(now));
    }

    #[test]
    fn an_answer_that_is_no_token_is_refused_and_not_repeated() {
        assert!(token("garbage", "garbage").is_err());
        let body = json!({"token": {"expires_at": "2031-01-01T00:00:00Z"}});
        for id in [None, Some(""), Some("a\nb"), Some("a b")] {
            assert!(Token::parse(id, &body, Instant::now()).is_err(), "{id:?}");
        }
        assert!(Token::parse(Some("t"), &json!("x"), Instant::now()).is_err());
        let good = Token::parse(Some("gAAA"), &body, Instant::now()).unwrap();
        assert!(!format!("{good:?}").contains("gAAA"));
    }
}
