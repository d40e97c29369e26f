//! What an option's text must look like, and what it becomes: oslo.config's `types.py` for the
//! types that our options have.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::config::ini::is_space;

/// An option's type with its bounds. Equal to the oslo.config type of the same name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Text,
    /// Exactly one of these.
    Choice(&'static [&'static str]),
    /// Inclusive bounds; no bound: as far as an `i64` goes.
    Integer {
        min: i64,
        max: i64,
    },
    /// One of these numbers. nova: conf/libvirt.py, `QueueSizeType`.
    IntegerChoice(&'static [i64]),
    /// Inclusive bounds.
    Float {
        min: f64,
        max: f64,
    },
    Boolean,
    /// Separated by commas.
    List,
    /// An IP address or a host name.
    HostAddress,
    /// The same, with `_` in names.
    HostDomain,
    /// Scheme and host at least.
    Uri,
}

/// An option's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    List(Vec<String>),
}

impl Kind {
    /// Reads `text`. `None` is a number that was left empty, which oslo.config takes as unset.
    ///
    /// # Errors
    /// What is allowed, in words that don't repeat `text`: it may be secret.
    pub fn parse(&self, text: &str) -> Result<Option<Value>, String> {
        let value = match *self {
            Self::Text => Value::Text(text.to_owned()),
            Self::Choice(choices) if choices.contains(&text) => Value::Text(text.to_owned()),
            Self::Choice(choices) => return Err(format!("must be one of {}", choices.join(", "))),
            Self::Integer { min, max } => match integer(text)? {
                None => return Ok(None),
                Some(number) if (min..=max).contains(&number) => Value::Integer(number),
                Some(_) => return Err(bounds(min, max, i64::MIN, i64::MAX)),
            },
            Self::IntegerChoice(choices) => match integer(text)? {
                None => return Ok(None),
                Some(number) if choices.contains(&number) => Value::Integer(number),
                Some(_) => {
                    let choices: Vec<_> = choices.iter().map(ToString::to_string).collect();
                    return Err(format!("must be one of {}", choices.join(", ")));
                }
            },
            Self::Float { min, max } => match text.trim_matches(is_space) {
                "" => return Ok(None),
                text => {
                    let number: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
                    if !number.is_finite() || !(min..=max).contains(&number) {
                        return Err(bounds(min, max, f64::MIN, f64::MAX));
                    }
                    Value::Float(number)
                }
            },
            Self::Boolean => match text.to_lowercase().as_str() {
                "true" | "1" | "on" | "yes" => Value::Boolean(true),
                "false" | "0" | "off" | "no" => Value::Boolean(false),
                _ => return Err("must be true or false".to_owned()),
            },
            Self::List => Value::List(list(text)),
            Self::HostAddress => Value::Text(host_address(text, false)?),
            Self::HostDomain => Value::Text(host_address(text, true)?),
            Self::Uri if is_uri(text) => Value::Text(text.to_owned()),
            Self::Uri => return Err("must be a URI with a scheme and a host".to_owned()),
        };
        Ok(Some(value))
    }
}

impl Value {
    /// What `$name` puts in the place of an option with this value: Python's `str()` of it.
    pub fn substituted(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => format!("{number:?}"),
            Self::Boolean(true) => "True".to_owned(),
            Self::Boolean(false) => "False".to_owned(),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(|item| format!("'{item}'")).collect();
                format!("[{}]", items.join(", "))
            }
        }
    }
}

fn bounds<T: std::fmt::Display + PartialEq>(min: T, max: T, lowest: T, highest: T) -> String {
    match (min == lowest, max == highest) {
        (true, true) => "must be a number".to_owned(),
        (false, true) => format!("must be {min} or more"),
        (true, false) => format!("must be {max} or less"),
        (false, false) => format!("must be between {min} and {max}"),
    }
}

/// Python's `int()`: a sign, and single underscores between digits.
fn integer(text: &str) -> Result<Option<i64>, String> {
    let text = text.trim_matches(is_space);
    if text.is_empty() {
        return Ok(None);
    }
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let whole = !digits.is_empty()
        && digits.split('_').all(|g| !g.is_empty() && g.bytes().all(|b| b.is_ascii_digit()));
    if !whole {
        return Err("must be a whole number".to_owned());
    }
    text.replace('_', "").parse().map(Some).map_err(|_| "is too large a number".to_owned())
}

fn list(text: &str) -> Vec<String> {
    let text = text.trim_matches(is_space).trim_end_matches(',');
    if text.is_empty() {
        return Vec::new();
    }
    text.split(',').map(|item| item.trim_matches(is_space).to_owned()).collect()
}

/// oslo.config: types.py, `HostAddress` and `HostDomain`. A final dot of a name goes.
fn host_address(text: &str, underscores: bool) -> Result<String, String> {
    if text.parse::<Ipv4Addr>().is_ok() || text.parse::<Ipv6Addr>().is_ok() {
        return Ok(text.to_owned());
    }
    let refused = || "must be an IP address or a host name".to_owned();
    if text.is_empty() || text.chars().count() > 253 {
        return Err(refused());
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let label_is_good = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || (underscores && b == b'_'))
    };
    // A last label of digits alone is a mistyped address.
    let last = name.rsplit('.').next().unwrap_or_default();
    let named = last.bytes().any(|b| b.is_ascii_alphabetic() || b == b'-');
    if named && name.split('.').all(label_is_good) { Ok(name.to_owned()) } else { Err(refused()) }
}

/// Scheme and host as RFC 3986 has them. The path isn't looked at: oslo.config escapes what is
/// wrong in it before it looks. oslo.config: types.py, `URI`.
fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let scheme_is_good = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    let authority = &rest[..rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len())];
    let (user, host) = authority.split_once('@').unwrap_or(("", authority));
    let (host_is_good, port) = match host.strip_prefix('[') {
        Some(literal) => match literal.split_once(']') {
            Some((address, port)) => (address.parse::<Ipv6Addr>().is_ok(), port),
            None => (false, ""),
        },
        None => {
            let (name, port) = host.split_at(host.find(':').unwrap_or(host.len()));
            // Four short numbers are an address, and then must be a good one.
            let parts: Vec<_> = name.split('.').collect();
            let number =
                |p: &&str| (1..=3).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit());
            let is_address = parts.len() == 4 && parts.iter().all(number);
            let address_is_good = parts.iter().all(|part| part.parse::<u8>().is_ok());
            (!name.is_empty() && is_escaped(name, "") && (!is_address || address_is_good), port)
        }
    };
    let port = port.strip_prefix(':').unwrap_or(port);
    let port_is_good = port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
    scheme_is_good && is_escaped(user, ":") && host_is_good && port_is_good
}

/// Whether `text` is of RFC 3986's unreserved characters, sub-delimiters and `%XX`, or `extra`.
fn is_escaped(text: &str, extra: &str) -> bool {
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let good = match c {
            '%' => (0..2).all(|_| rest.next().is_some_and(|c| c.is_ascii_hexdigit())),
            _ => c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=".contains(c) || extra.contains(c),
        };
        if !good {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_keep_their_bounds() {
        let kind = Kind::Integer { min: 0, max: 28 };
        assert_eq!(kind.parse(" 1_0 "), Ok(Some(Value::Integer(10))));
        assert_eq!(kind.parse(""), Ok(None));
        assert_eq!(kind.parse("29"), Err("must be between 0 and 28".to_owned()));
        assert_eq!(kind.parse("1.5"), Err("must be a whole number".to_owned()));
        assert_eq!(
            Kind::Integer { min: -1, max: i64::MAX }.parse("-2").unwrap_err(),
            "must be -1 or more"
        );
        assert!(Kind::Float { min: 0.0, max: 4.5 }.parse("nan").is_err());
        assert!(Kind::IntegerChoice(&[256, 512]).parse("300").is_err());
    }

    #[test]
    fn a_list_drops_commas_at_its_end_and_keeps_empty_items() {
        let list = |text: &str| match Kind::List.parse(text) {
            Ok(Some(Value::List(items))) => items,
            other => panic!("{other:?}"),
        };
        assert_eq!(list(" a, b ,,c,, "), ["a", "b", "", "c"]);
        assert!(list(" ").is_empty());
    }

    #[test]
    fn addresses_and_uris_are_checked() {
        let address = |text: &str| Kind::HostAddress.parse(text).is_ok();
        assert!(address("10.0.0.1") && address("::1") && address("host-1.example."));
        assert!(!address("10.0.0.256") && !address("-host") && !address("a_b") && !address(""));
        assert!(Kind::HostDomain.parse("a_b").is_ok());
        let uri = |text: &str| Kind::Uri.parse(text).is_ok();
        assert!(uri("http://127.0.0.1:6080/vnc_auto.html") && uri("ws://[::1]:6083/"));
        assert!(!uri("127.0.0.1:6080") && !uri("http://") && !uri("http://a b"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(?s).{0,60}") {
            for kind in [Kind::Text, Kind::Choice(&["a"]), Kind::Integer { min: 0, max: 9 },
                Kind::Float { min: 0.0, max: 1.0 }, Kind::Boolean, Kind::List, Kind::HostAddress,
                Kind::HostDomain, Kind::Uri] {
                kind.parse(&text).ok();
            }
        }

        #[test]
        fn no_uri_like_text_panics(text in "[a-z]{1,3}://[a-z0-9@:%/\\[\\]?#é.]{0,40}") {
            Kind::Uri.parse(&text).ok();
        }
    }
}
