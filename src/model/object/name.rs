//! The domain's name, made of `[DEFAULT] instance_name_template`. nova: objects/instance.py, `name`.

use std::fmt::Write;

use uuid::Uuid;

use super::codec::ObjectError;
use super::instance::Instance;
use crate::model::class::Class;

/// Why an instance has no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A template that we don't read, or that would name all instances alike.
    #[error("instance_name_template {template:?} {problem}")]
    Template { template: String, problem: &'static str },
    /// The name could lead out of a directory, or libvirt would refuse it.
    #[error("instance {0} would have a name that is no file name")]
    Unsafe(Uuid),
    #[error(transparent)]
    Object(#[from] ObjectError),
}

impl NameError {
    /// Always [`Class::Refused`]: no host would name it otherwise.
    pub fn class(&self) -> Class {
        Class::Refused
    }
}

/// A template of Python's `%`: with one conversion it is given the instance's id
/// (`instance-%08x`), with named ones the fields of the instance (`vm-%(uuid)s`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameTemplate(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Id { width: usize, zeros: bool, hex: bool },
    Uuid,
    Hostname,
    DisplayName,
    ProjectId,
    UserId,
}

impl NameTemplate {
    /// # Errors
    /// [`NameError::Template`] for conversions other than `%d`, `%x` (with width and zeros) of the
    /// id and `%(…)s` of `uuid`, `hostname`, `display_name`, `project_id` and `user_id`, for a mix
    /// of the two kinds, and for a template without any.
    pub fn parse(template: &str) -> Result<Self, NameError> {
        let refuse = |problem| Err(NameError::Template { template: template.to_owned(), problem });
        let mut parts = vec![];
        let (mut named, mut positional) = (0, 0);
        let mut rest = template;
        while let Some((text, after)) = rest.split_once('%') {
            parts.push(Part::Text(text.to_owned()));
            if let Some(after) = after.strip_prefix('%') {
                parts.push(Part::Text("%".to_owned()));
                rest = after;
                continue;
            }
            let (key, after) = match after.strip_prefix('(').map(|key| key.split_once(')')) {
                Some(Some((key, after))) => (Some(key), after),
                Some(None) => return refuse("has a name without an end"),
                None => (None, after),
            };
            let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (width, after) = after.split_at(digits);
            let mut left = after.chars();
            let conversion = left.next();
            rest = left.as_str();
            let zeros = width.starts_with('0');
            let Ok(width) = format!("0{width}").parse::<usize>() else {
                return refuse("has a width that is no width");
            };
            if width > 64 {
                return refuse("has a width that is no width");
            }
            match key {
                Some(_) => named += 1,
                None => positional += 1,
            }
            parts.push(match (key, conversion, width) {
                (None | Some("id"), Some('d' | 'i' | 's'), _) => {
                    Part::Id { width, zeros, hex: false }
                }
                (None | Some("id"), Some('x'), _) => Part::Id { width, zeros, hex: true },
                (Some("uuid"), Some('s'), 0) => Part::Uuid,
                (Some("hostname"), Some('s'), 0) => Part::Hostname,
                (Some("display_name"), Some('s'), 0) => Part::DisplayName,
                (Some("project_id"), Some('s'), 0) => Part::ProjectId,
                (Some("user_id"), Some('s'), 0) => Part::UserId,
                _ => return refuse("has a conversion that is not supported"),
            });
        }
        parts.push(Part::Text(rest.to_owned()));
        match (named, positional) {
            (0, 0) => refuse("names every instance alike"),
            (0, 1) | (_, 0) => Ok(Self(parts)),
            _ => refuse("mixes conversions, or has more than one of the id"),
        }
    }
}

impl Instance {
    /// The domain's name, such as `instance-0000000d`. It is a safe file name.
    ///
    /// # Errors
    /// [`NameError::Object`] when a field that the template names is unset or null,
    /// [`NameError::Unsafe`] when the name has a slash, a control character or a leading dot, or is
    /// longer than a file name may be.
    pub fn name(&self, template: &NameTemplate) -> Result<String, NameError> {
        let missing = |field| ObjectError::Missing { class: "Instance", field };
        let mut name = String::new();
        for part in &template.0 {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Id { width, zeros, hex } => {
                    let id = *self.id.get().ok_or_else(|| missing("id"))?;
                    let digits = if *hex { format!("{id:x}") } else { id.to_string() };
                    let fill = if *zeros { '0' } else { ' ' };
                    name.extend(std::iter::repeat_n(fill, width.saturating_sub(digits.len())));
                    name.push_str(&digits);
                }
                Part::Uuid => {
                    write!(name, "{}", self.uuid()?).expect("a String takes everything");
                }
                Part::Hostname => {
                    name.push_str(self.hostname.value().ok_or_else(|| missing("hostname"))?);
                }
                Part::DisplayName => {
                    name.push_str(
                        self.display_name.value().ok_or_else(|| missing("display_name"))?,
                    );
                }
                Part::ProjectId => {
                    name.push_str(self.project_id.value().ok_or_else(|| missing("project_id"))?);
                }
                Part::UserId => {
                    name.push_str(self.user_id.value().ok_or_else(|| missing("user_id"))?);
                }
            }
        }
        let bad = |c: char| c == '/' || c.is_control();
        if name.is_empty() || name.starts_with('.') || name.len() > 200 || name.contains(bad) {
            return Err(NameError::Unsafe(self.uuid()?));
        }
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(template: &str) -> Result<String, NameError> {
        let mut instance = Instance::default();
        instance.id.load(Some(29));
        instance.uuid.load(Some(Uuid::from_u128(0xabc)));
        instance.hostname.load(Some(Some("web".into())));
        instance.display_name.load(Some(Some("../../etc/passwd".into())));
        instance.name(&NameTemplate::parse(template)?)
    }

    #[test]
    fn a_template_is_filled_as_python_fills_it() {
        assert_eq!(named("instance-%08x").unwrap(), "instance-0000001d");
        assert_eq!(named("instance-%d").unwrap(), "instance-29");
        assert_eq!(named("i%%-%4d").unwrap(), "i%-  29");
        let by_uuid = named("vm-%(uuid)s").unwrap();
        assert_eq!(by_uuid, "vm-00000000-0000-0000-0000-000000000abc");
        assert_eq!(named("%(hostname)s-%(id)04x").unwrap(), "web-001d");
    }

    #[test]
    fn a_template_we_do_not_read_is_refused() {
        for template in [
            "",
            "instance",
            "100%%",
            "%f",
            "%d-%d",
            "%(uuid)s-%d",
            "%(uuid",
            "%",
            "%99999999999d",
            "%500d",
            "%(uuid)x",
            "%(user_data)s",
            "%-8d",
            "%(uuid)8s",
        ] {
            let parsed = NameTemplate::parse(template);
            assert!(matches!(parsed, Err(NameError::Template { .. })), "{template}: {parsed:?}");
        }
    }

    #[test]
    fn a_name_never_leads_out_of_a_directory() {
        assert!(matches!(named("%(display_name)s"), Err(NameError::Unsafe(_))));
        assert!(matches!(named(".%(hostname)s"), Err(NameError::Unsafe(_))));
        assert!(matches!(named("a/%d"), Err(NameError::Unsafe(_))));
    }

    #[test]
    fn an_unset_field_is_named() {
        let template = NameTemplate::parse("%08x").unwrap();
        let error = Instance::default().name(&template).unwrap_err();
        assert_eq!(error.to_string(), "Instance has no id");
    }
}
