//! `transport_url`: which brokers, as whom, in which virtual host, and options for this URL alone.
//!
//! oslo.messaging: transport.py, TransportURL.parse

use std::net::Ipv6Addr;

use crate::model::secret::Secret;
use crate::rpc::options::{OptionsError, RabbitOptions};

/// A parsed `rabbit://…` URL.
#[derive(Debug, Clone, PartialEq)]
pub struct TransportUrl {
    /// At least one.
    pub hosts: Vec<BrokerHost>,
    pub vhost: String,
    /// Options of `[oslo_messaging_rabbit]` for this URL only.
    query: Vec<(String, String)>,
}

/// One broker of the URL.
#[derive(Debug, Clone, PartialEq)]
pub struct BrokerHost {
    /// A name or an address, an IPv6 one without brackets.
    pub hostname: String,
    pub port: u16,
    pub username: String,
    pub password: Secret,
}

/// Never holds the URL itself: there is a password in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportUrlError {
    #[error("transport_url has no scheme")]
    NoScheme,
    #[error("transport_url: {0:?} is not a driver of this agent; use rabbit://")]
    Scheme(String),
    #[error("transport_url: {0:?} is not a port")]
    Port(String),
    #[error("transport_url: {0:?} is not an IPv6 address in brackets")]
    Address(String),
    #[error("transport_url: what is percent-encoded is not UTF-8")]
    Encoding,
    #[error("transport_url: the virtual host's name is longer than 255 bytes")]
    Vhost,
    #[error(transparent)]
    Option(#[from] OptionsError),
}

impl TransportUrl {
    /// Parses by oslo's rules, and checks that every option of the query exists and fits.
    pub fn parse(url: &str) -> Result<Self, TransportUrlError> {
        let (scheme, rest) = url.split_once(':').ok_or(TransportUrlError::NoScheme)?;
        let scheme = scheme.to_ascii_lowercase();
        if !matches!(scheme.as_str(), "rabbit" | "kombu" | "kombu+amqp") {
            return Err(TransportUrlError::Scheme(scheme));
        }
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (netloc, path) = rest.split_once('/').unwrap_or((rest, ""));
        // "//" is one more spelling of "/".
        let vhost = match decode(path)?.as_str() {
            "" => "/".to_owned(),
            vhost => vhost.to_owned(),
        };
        if vhost.len() > 255 {
            return Err(TransportUrlError::Vhost);
        }
        let mut hosts = Vec::new();
        for host in netloc.split(',').filter(|host| !host.is_empty()) {
            hosts.push(BrokerHost::parse(host)?);
        }
        if hosts.is_empty() {
            hosts.push(BrokerHost::parse("localhost")?);
        }
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            // Python's parse_qs drops empty values, and a repeated one joins the first.
            if value.is_empty() {
                continue;
            }
            match pairs.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = format!("{known},{value}"),
                None => pairs.push((name.into_owned(), value.into_owned())),
            }
        }
        let url = Self { hosts, vhost, query: pairs };
        url.options(&RabbitOptions::default())?;
        Ok(url)
    }

    /// The section's options as they are for this URL.
    pub fn options(&self, section: &RabbitOptions) -> Result<RabbitOptions, OptionsError> {
        let mut options = section.clone();
        for (name, value) in &self.query {
            options.set(name, value)?;
        }
        Ok(options)
    }
}

impl BrokerHost {
    fn parse(text: &str) -> Result<Self, TransportUrlError> {
        // The last @ ends the credentials: a user name may hold one.
        let (username, password, address) = match text.rsplit_once('@') {
            None => ("guest".to_owned(), "guest".to_owned(), text),
            Some((credentials, address)) => match credentials.split_once(':') {
                Some((user, password)) => (decode(user)?, decode(password)?, address),
                None => (decode(credentials)?, String::new(), address),
            },
        };
        let (hostname, port) = match address.strip_prefix('[') {
            Some(bracketed) => {
                let wrong = || TransportUrlError::Address(address.to_owned());
                let (hostname, after) = bracketed.split_once(']').ok_or_else(wrong)?;
                hostname.parse::<Ipv6Addr>().map_err(|_| wrong())?;
                match after.strip_prefix(':') {
                    Some(port) => (hostname, port),
                    None if after.is_empty() => (hostname, ""),
                    None => return Err(wrong()),
                }
            }
            // A bare IPv6 address has colons, and none of them starts a port.
            None if address.matches(':').count() > 1 => (address, ""),
            None => address.split_once(':').unwrap_or((address, "")),
        };
        let port = match port {
            // oslo's default, with TLS too.
            "" => 5672,
            text => text
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| TransportUrlError::Port(text.to_owned()))?,
        };
        let hostname = if hostname.is_empty() { "localhost" } else { hostname };
        Ok(Self { hostname: hostname.to_owned(), port, username, password: Secret::new(password) })
    }

    /// For logs: `host:port`, never who.
    pub fn address(&self) -> String {
        if self.hostname.contains(':') {
            format!("[{}]:{}", self.hostname, self.port)
        } else {
            format!("{}:{}", self.hostname, self.port)
        }
    }
}

/// Undoes percent-encoding; a stray `%` stays, as Python's `unquote` leaves it.
fn decode(text: &str) -> Result<String, TransportUrlError> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digit =
            |offset: usize| bytes.get(at + offset).and_then(|byte| char::from(*byte).to_digit(16));
        match (bytes[at], digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).map_err(|_| TransportUrlError::Encoding)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vhost(url: &str) -> String {
        TransportUrl::parse(url).expect(url).vhost
    }

    #[test]
    fn the_bare_scheme_is_guest_at_localhost() {
        let url = TransportUrl::parse("rabbit://").expect("valid");
        assert_eq!(url.vhost, "/");
        assert_eq!(url.hosts[0].address(), "localhost:5672");
        assert_eq!(
            (url.hosts[0].username.as_str(), url.hosts[0].password.expose()),
            ("guest", "guest")
        );
    }

    #[test]
    fn every_spelling_of_the_default_virtual_host_means_it() {
        for url in
            ["rabbit://h", "rabbit://h/", "rabbit://h//", "rabbit://h/%2F", "rabbit://h/?ssl=0"]
        {
            assert_eq!(vhost(url), "/", "{url}");
        }
        assert_eq!(vhost("rabbit://h/a/b"), "a/b");
        assert_eq!(vhost("rabbit://h/nova%20cell"), "nova cell");
    }

    #[test]
    fn several_hosts_keep_their_own_credentials_and_ports() {
        let url =
            TransportUrl::parse("rabbit://u1:p%401@h1:1,u@x:p2@[fe80::1]:2,u3:p:3@h3/v?ssl=1")
                .expect("valid");
        let seen: Vec<_> = url
            .hosts
            .iter()
            .map(|h| (h.address(), h.username.as_str(), h.password.expose()))
            .collect();
        assert_eq!(
            seen,
            [
                ("h1:1".into(), "u1", "p@1"),
                ("[fe80::1]:2".into(), "u@x", "p2"),
                ("h3:5672".into(), "u3", "p:3"),
            ]
        );
        assert!(url.options(&RabbitOptions::default()).expect("valid").ssl);
    }

    #[test]
    fn an_option_of_the_query_overrides_the_section_and_an_unknown_one_is_refused() {
        let url = TransportUrl::parse("rabbit://h/?heartbeat_timeout_threshold=30").expect("valid");
        let section = RabbitOptions { rabbit_quorum_queue: true, ..RabbitOptions::default() };
        let options = url.options(&section).expect("valid");
        assert_eq!(options.heartbeat_timeout_threshold.as_secs(), 30);
        assert!(options.rabbit_quorum_queue);
        assert!(matches!(
            TransportUrl::parse("rabbit://h/?typo=1"),
            Err(TransportUrlError::Option(_))
        ));
    }

    #[test]
    fn what_is_no_rabbit_url_is_refused_without_showing_the_password() {
        for url in
            ["", "nova", "fake://u:hunter2@h", "rabbit://u:hunter2@h:x", "rabbit://u:hunter2@[::1"]
        {
            let error = TransportUrl::parse(url).expect_err(url);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        let url = TransportUrl::parse("rabbit://u:hunter2@h").expect("valid");
        assert!(!format!("{url:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,80}") {
            TransportUrl::parse(&text).ok();
            TransportUrl::parse(&format!("rabbit://{text}")).ok();
        }
    }
}
