//! The right to open a console. nova: objects/console_auth_token.py

use url::form_urlencoded;
use uuid::Uuid;

use super::codec::ObjectError;
use crate::model::secret::Secret;
use crate::model::time::Timestamp;
use crate::versioned_object;

versioned_object! {
    /// A token for one console of one instance.
    ConsoleAuthToken "1.3" {
        id: i64,
        /// `novnc`, `serial`, `spice-html5`, …
        console_type: String,
        host: String,
        port: i64,
        tls_port: Option<i64>,
        internal_access_path: Option<String>,
        instance_uuid: Uuid,
        /// The proxy's URL, to which the token is added.
        access_url_base: Option<String>,
        token: Secret,
        /// Seconds since 1970.
        expires: i64,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
    }
}

impl ConsoleAuthToken {
    /// Where the user's browser goes: the proxy's URL with the token in it. Secret, as who has it
    /// has the console. nova: `ConsoleAuthToken.access_url`.
    ///
    /// # Errors
    /// [`ObjectError::Missing`] before the conductor has authorised the token, and without a URL.
    pub fn access_url(&self) -> Result<Secret, ObjectError> {
        let missing = |field| ObjectError::Missing { class: "ConsoleAuthToken", field };
        let token = self.token.get().ok_or_else(|| missing("token"))?.expose();
        let base = self.access_url_base.text().ok_or_else(|| missing("access_url_base"))?;
        if self.console_type.text() != Some("novnc") {
            return Ok(Secret::new(format!("{base}?token={token}")));
        }
        // noVNC 1.1 and later read the token out of the parameter `path`, which the operator's URL
        // may have already.
        let (base, fragment) = match base.split_once('#') {
            Some((base, fragment)) => (base, format!("#{fragment}")),
            None => (base, String::new()),
        };
        let (base, query) = base.split_once('?').unwrap_or((base, ""));
        let given: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .filter(|(_, value)| !value.is_empty())
            .collect();
        let path = given.iter().find(|(key, _)| key == "path").map_or("", |(_, path)| path);
        let path = format!("{path}?token={token}");
        let mut query = form_urlencoded::Serializer::new(String::new());
        let mut placed = false;
        for (key, value) in &given {
            match (key == "path", placed) {
                (true, true) => {}
                (true, false) => {
                    query.append_pair("path", &path);
                    placed = true;
                }
                (false, _) => {
                    query.append_pair(key, value);
                }
            }
        }
        if !placed {
            query.append_pair("path", &path);
        }
        Ok(Secret::new(format!("{base}?{}{fragment}", query.finish())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(kind: &str, base: &str) -> String {
        let mut token = ConsoleAuthToken::default();
        token.console_type.set(kind.to_owned());
        token.access_url_base.set(Some(base.to_owned()));
        token.token.set(Secret::new("t-1"));
        token.access_url().unwrap().expose().to_owned()
    }

    #[test]
    fn novnc_finds_the_token_in_its_path() {
        assert_eq!(
            url("novnc", "http://p/vnc_lite.html"),
            "http://p/vnc_lite.html?path=%3Ftoken%3Dt-1"
        );
        assert_eq!(
            url("novnc", "http://p/v.html?a=1&path=ws&b=2#x"),
            "http://p/v.html?a=1&path=ws%3Ftoken%3Dt-1&b=2#x"
        );
    }

    #[test]
    fn other_consoles_take_the_token_as_it_is() {
        assert_eq!(url("serial", "ws://p:6083/"), "ws://p:6083/?token=t-1");
    }

    #[test]
    fn there_is_no_url_before_the_token() {
        let error = ConsoleAuthToken::default().access_url().unwrap_err();
        assert_eq!(error.to_string(), "ConsoleAuthToken has no token");
    }
}
