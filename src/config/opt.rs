//! How an option is declared, and how its value becomes a field.
//!
//! [`section!`](crate::config::opt::section) makes a struct of a section's options, with the table
//! from which the loader, `hypernova check` and the sample file know their names and defaults.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::value::{Kind, Value};
use crate::model::secret::Secret;

/// What an option is when no file sets it.
#[derive(Debug, Clone, Copy)]
pub enum Default {
    Unset,
    /// As it would stand in a file: `$name` is replaced, quotes aren't.
    Text(&'static str),
    /// Asked of this host.
    OfHost {
        ask: fn() -> String,
        /// For the sample file.
        shown: &'static str,
    },
}

/// An option without its name: type, bounds, default, earlier names.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    pub kind: Kind,
    pub default: Default,
    /// May be given more than once, in which case all values count: oslo.config's `MultiStrOpt`.
    pub multiple: bool,
    /// Its value is never shown.
    pub secret: bool,
    /// What a number counts, for the sample file.
    pub unit: &'static str,
    /// Other names in the same section: oslo.config's deprecated names without a group.
    pub also: &'static [&'static str],
    /// Deprecated (section, name) pairs, in oslo.config's order.
    pub formerly: &'static [(&'static str, &'static str)],
}

impl Opt {
    const fn of(kind: Kind) -> Self {
        let default = Default::Unset;
        Self { kind, default, multiple: false, secret: false, unit: "", also: &[], formerly: &[] }
    }

    pub const fn text() -> Self {
        Self::of(Kind::Text)
    }

    pub const fn choice(choices: &'static [&'static str]) -> Self {
        Self::of(Kind::Choice(choices))
    }

    pub const fn integer(min: i64, max: i64) -> Self {
        Self::of(Kind::Integer { min, max })
    }

    /// A whole number of seconds, `min` or more.
    pub const fn seconds(min: i64) -> Self {
        // A century: what is longer overflows clocks.
        Self::of(Kind::Integer { min, max: 3_200_000_000 }).unit("seconds")
    }

    /// How often a periodic task runs, in seconds: 0 is once a minute, a negative number is never.
    pub const fn spacing() -> Self {
        Self::of(Kind::Integer { min: -3_200_000_000, max: 3_200_000_000 }).unit("seconds")
    }

    pub const fn float(min: f64, max: f64) -> Self {
        Self::of(Kind::Float { min, max })
    }

    pub const fn boolean() -> Self {
        Self::of(Kind::Boolean)
    }

    pub const fn list() -> Self {
        Self::of(Kind::List)
    }

    pub const fn kind(kind: Kind) -> Self {
        Self::of(kind)
    }

    pub const fn default(mut self, text: &'static str) -> Self {
        self.default = Default::Text(text);
        self
    }

    pub const fn of_host(mut self, ask: fn() -> String, shown: &'static str) -> Self {
        self.default = Default::OfHost { ask, shown };
        self
    }

    pub const fn multiple(mut self) -> Self {
        self.multiple = true;
        self
    }

    pub const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    pub const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    pub const fn also(mut self, names: &'static [&'static str]) -> Self {
        self.also = names;
        self
    }

    pub const fn formerly(mut self, names: &'static [(&'static str, &'static str)]) -> Self {
        self.formerly = names;
        self
    }
}

/// An option of a section.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    pub section: &'static str,
    pub name: &'static str,
    pub opt: Opt,
    /// Its documentation, line by line.
    pub doc: &'static [&'static str],
}

impl OptionSpec {
    /// Every place where it may stand, the present one first, when it is read from `section`: its
    /// own, or the one that an `auth_section` names.
    pub fn names_in<'a>(&self, section: &'a str) -> Vec<(&'a str, &'static str)> {
        std::iter::once((section, self.name))
            .chain(self.opt.also.iter().map(|name| (section, *name)))
            .chain(self.opt.formerly.iter().copied())
            .collect()
    }

    /// Whether `[section] name` is this option when it is read from `section`, now or formerly.
    pub fn is_named(&self, section: &str, name: &str) -> bool {
        self.names_in(self.section).contains(&(section, name))
    }
}

/// The options of a section and of its groups in one table.
pub const fn joined<const N: usize>(parts: &[&[OptionSpec]]) -> [OptionSpec; N] {
    let nothing = OptionSpec { section: "", name: "", opt: Opt::text(), doc: &[] };
    let mut all = [nothing; N];
    let (mut part, mut filled) = (0, 0);
    while part < parts.len() {
        let mut option = 0;
        while option < parts[part].len() {
            all[filled] = parts[part][option];
            filled += 1;
            option += 1;
        }
        part += 1;
    }
    all
}

/// A field's type, made of an option's value. `None`: the option is unset.
pub trait FromValue: Sized {
    /// # Errors
    /// What is allowed, without the value.
    fn from_value(value: Option<Value>) -> Result<Self, String>;
}

/// The type and the declaration don't fit each other; a test over all sections finds that.
fn mismatch<T>() -> Result<T, String> {
    Err("needs a value".to_owned())
}

impl FromValue for String {
    fn from_value(value: Option<Value>) -> Result<Self, String> {
        match value {
            Some(Value::Text(text)) => Ok(text),
            _ => mismatch(),
        }
    }
}

impl FromValue for PathBuf {
    fn from_value(value: Option<Value>) -> Result<Self, String> {
        match String::from_value(value)? {
            text if text.is_empty() => Err("must not be empty".to_owned()),
            text => Ok(text.into()),
        }
    }
}

impl FromValue for Secret {
    fn from_value(value: Option<Value>) -> Result<Self, String> {
        String::from_value(value).map(Self::new)
    }
}

impl FromValue for SocketAddr {
    fn from_value(value: Option<Value>) -> Result<Self, String> {
        let text = String::from_value(value)?;
        text.parse().map_err(|_| "must be an address and a port, such as 127.0.0.1:9177".to_owned())
    }
}

impl FromValue for bool {
    fn from_value(value: Option<Value>) -> Result<Self, String> {
        match value {
            Some(Value::Boolean(value)) => Ok(value),
            _ => mismatch(),
        }
    }
}

impl FromValue for Duration {
    /// The number counts seconds.
    fn from_value(value: Option<Value>) -> Result<Self, String> {
        match value {
            Some(Value::Integer(seconds)) => u64::try_from(seconds)
                .map(Self::from_secs)
                .map_err(|_| "must not be negative".to_owned()),
            Some(Value::Float(seconds)) => Self::try_from_secs_f64(seconds)
                .map_err(|_| "must be a number of seconds".to_owned()),
            _ => mismatch(),
        }
    }
}

impl FromValue for Vec<String> {
    fn from_value(value: Option<Value>) -> Result<Self, String> {
        match value {
            Some(Value::List(items)) => Ok(items),
            _ => mismatch(),
        }
    }
}

impl FromValue for Vec<u16> {
    fn from_value(value: Option<Value>) -> Result<Self, String> {
        let number = |item: &String| item.parse().map_err(|_| "must be whole numbers".to_owned());
        Vec::<String>::from_value(value)?.iter().map(number).collect()
    }
}

impl FromValue for Vec<PathBuf> {
    fn from_value(value: Option<Value>) -> Result<Self, String> {
        Ok(Vec::<String>::from_value(value)?.into_iter().map(PathBuf::from).collect())
    }
}

impl FromValue for f64 {
    fn from_value(value: Option<Value>) -> Result<Self, String> {
        match value {
            Some(Value::Float(number)) => Ok(number),
            _ => mismatch(),
        }
    }
}

macro_rules! whole_numbers {
    ($($type:ty)*) => {$(
        impl FromValue for $type {
            fn from_value(value: Option<Value>) -> Result<Self, String> {
                match value {
                    Some(Value::Integer(number)) => Self::try_from(number)
                        .map_err(|_| format!("must be between {} and {}", Self::MIN, Self::MAX)),
                    _ => mismatch(),
                }
            }
        }
    )*};
}
whole_numbers!(u8 u16 u32 u64 usize i64);

impl<T: FromValue> FromValue for Option<T> {
    /// An empty text is `None` too: to nova both are false.
    fn from_value(value: Option<Value>) -> Result<Self, String> {
        match value {
            None => Ok(None),
            Some(Value::Text(text)) if text.is_empty() => Ok(None),
            value => T::from_value(value).map(Some),
        }
    }
}

/// Declares a section: a struct with a field for each option, named as in the file.
///
/// A field's doc comment is also the sample file's text. A `group` is a field with options that
/// several sections have; see [`group!`](crate::config::opt::group).
macro_rules! section {
    (
        $(#[doc = $section_doc:literal])+
        $struct:ident in $section:literal:
        $(
            $(#[doc = $doc:literal])+
            $field:ident: $type:ty = $opt:expr;
        )+
        $(group $group:ident: $group_type:ty = $options:expr;)*
    ) => {
        $(#[doc = $section_doc])+
        #[derive(Debug, Clone, PartialEq)]
        pub struct $struct {
            $($(#[doc = $doc])+ pub $field: $type,)+
            $(pub $group: $group_type,)*
        }

        impl $struct {
            /// The section's name in a file.
            pub const SECTION: &'static str = $section;
            /// What the section is for, line by line.
            pub const DOC: &'static [&'static str] = &[$($section_doc),+];
            /// Its options, in the order of the sample file.
            pub const OPTIONS: &'static [$crate::config::opt::OptionSpec] =
                &$crate::config::opt::joined::<{ Self::OWN.len() $(+ $options.len())* }>(
                    &[Self::OWN, $(&$options),*]
                );
            /// Those that aren't of a group.
            const OWN: &'static [$crate::config::opt::OptionSpec] = &[
                $($crate::config::opt::OptionSpec {
                    section: $section,
                    name: stringify!($field),
                    opt: $opt,
                    doc: &[$($doc),+],
                },)+
            ];

            pub(in $crate::config) fn read(
                resolver: &$crate::config::oslo::Resolver<'_>,
            ) -> Result<Self, $crate::config::ConfigError> {
                let mut options = Self::OWN.iter();
                let mut next = || options.next().expect("one for each field");
                Ok(Self {
                    $($field: resolver.field(next())?,)+
                    $($group: <$group_type>::read(resolver, $section, &$options)?,)*
                })
            }
        }
    };
}
pub(crate) use section;

/// Declares options that several sections have: a struct, `options(section)` with their table for a
/// section, and `read` from one.
macro_rules! group {
    (
        $(#[doc = $group_doc:literal])+
        $struct:ident:
        $(
            $(#[doc = $doc:literal])+
            $field:ident: $type:ty = $opt:expr;
        )+
    ) => {
        $(#[doc = $group_doc])+
        #[derive(Debug, Clone, PartialEq)]
        pub struct $struct {
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        impl $struct {
            const COUNT: usize = [$(stringify!($field)),+].len();

            pub(in $crate::config) const fn options(
                section: &'static str,
            ) -> [$crate::config::opt::OptionSpec; Self::COUNT] {
                [$($crate::config::opt::OptionSpec {
                    section,
                    name: stringify!($field),
                    opt: $opt,
                    doc: &[$($doc),+],
                }),+]
            }

            /// `options` are those of `options()`, or of a section that has them a bit otherwise.
            fn read_from(
                resolver: &$crate::config::oslo::Resolver<'_>,
                section: &str,
                options: &[$crate::config::opt::OptionSpec],
            ) -> Result<Self, $crate::config::ConfigError> {
                let mut options = options.iter();
                let mut next = || options.next().expect("one for each field");
                Ok(Self { $($field: resolver.field_in(section, next())?,)+ })
            }
        }
    };
}
pub(crate) use group;

/// Declares an enum whose variants are an option's choices.
macro_rules! choices {
    (
        $(#[doc = $enum_doc:literal])+
        $name:ident: $($(#[doc = $doc:literal])* $variant:ident = $text:literal,)+
    ) => {
        $(#[doc = $enum_doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[doc = $doc])* $variant,)+ }

        impl $name {
            pub const CHOICES: &'static [&'static str] = &[$($text),+];

            /// As it is spelt in a file.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl $crate::config::opt::FromValue for $name {
            fn from_value(value: Option<$crate::config::value::Value>) -> Result<Self, String> {
                match String::from_value(value)?.as_str() {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(format!("must be one of {}", Self::CHOICES.join(", "))),
                }
            }
        }
    };
}
pub(crate) use choices;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_text_is_no_value_and_an_empty_number_is_unset() {
        let empty = || Some(Value::Text(String::new()));
        assert_eq!(Option::<String>::from_value(empty()), Ok(None));
        assert_eq!(Option::<SocketAddr>::from_value(empty()), Ok(None));
        assert!(PathBuf::from_value(empty()).is_err());
        assert_eq!(Option::<u16>::from_value(None), Ok(None));
        assert!(u16::from_value(None).is_err());
    }

    #[test]
    fn numbers_that_do_not_fit_their_field_are_refused() {
        assert!(u8::from_value(Some(Value::Integer(256))).is_err());
        assert!(Duration::from_value(Some(Value::Integer(-1))).is_err());
        assert!(Duration::from_value(Some(Value::Float(f64::MAX))).is_err());
        let duration = Duration::from_value(Some(Value::Float(1.5)));
        assert_eq!(duration, Ok(Duration::from_millis(1500)));
    }
}
