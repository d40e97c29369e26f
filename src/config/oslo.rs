//! An option's value, and what `$name` in it stands for. oslo.config: cfg.py,
//! `ConfigOpts._do_get` and `_substitute`.
//!
//! `$name` and `${name}` stand for an option of the same section, or else of `[DEFAULT]`;
//! `$section.name` for one of that section; `$$` and `\$` for a dollar. What stands for an option
//! is its value after its type has read it. A `$name` that nothing has is an error, as it is in
//! oslo.config.

use std::cell::Cell;

use crate::config::ConfigError;
use crate::config::files::Files;
use crate::config::opt::{Default, FromValue, OptionSpec};
use crate::config::value::Value;

/// References to references end here: oslo.config ends in a `RecursionError`.
const MAX_DEPTH: usize = 32;
/// Of one option's value, counting every reference below it.
const MAX_REFERENCES: u32 = 1000;
/// Bytes that one value may grow to.
const MAX_VALUE: usize = 64 * 1024;

/// Finds options' values in files, knowing the declared options.
#[derive(Debug)]
pub struct Resolver<'a> {
    files: &'a Files,
    specs: &'a [OptionSpec],
    /// References that the value being resolved may still make.
    budget: Cell<u32>,
}

/// Why a `$name` has no value.
type BadReference = String;

impl<'a> Resolver<'a> {
    /// `specs` are the options that a `$name` may mean; one that is only in `files` it may mean
    /// too, as text.
    pub fn new(files: &'a Files, specs: &'a [OptionSpec]) -> Self {
        Self { files, specs, budget: Cell::new(0) }
    }

    /// The value of `spec` as a field.
    ///
    /// # Errors
    /// [`ConfigError::Value`], naming the place.
    pub fn field<T: FromValue>(&self, spec: &OptionSpec) -> Result<T, ConfigError> {
        self.field_in(spec.section, spec)
    }

    /// The same, read from `section` instead of its own.
    ///
    /// # Errors
    /// [`ConfigError::Value`], naming the place.
    pub fn field_in<T: FromValue>(
        &self,
        section: &str,
        spec: &OptionSpec,
    ) -> Result<T, ConfigError> {
        let value = self.value_in(section, spec)?;
        T::from_value(value).map_err(|problem| self.refused_in(section, spec, problem))
    }

    /// The value of `spec`; `None` when it is unset.
    ///
    /// # Errors
    /// [`ConfigError::Value`], naming the place.
    pub fn value(&self, spec: &OptionSpec) -> Result<Option<Value>, ConfigError> {
        self.value_in(spec.section, spec)
    }

    fn value_in(&self, section: &str, spec: &OptionSpec) -> Result<Option<Value>, ConfigError> {
        self.budget.set(MAX_REFERENCES);
        self.resolve(section, spec, 0).map_err(|problem| self.refused_in(section, spec, problem))
    }

    /// That `spec`'s value can't be taken, as an error.
    pub fn refused(&self, spec: &OptionSpec, problem: impl Into<String>) -> ConfigError {
        self.refused_in(spec.section, spec, problem)
    }

    fn refused_in(
        &self,
        section: &str,
        spec: &OptionSpec,
        problem: impl Into<String>,
    ) -> ConfigError {
        let found = self.files.find(&spec.names_in(section), spec.opt.multiple);
        let place = found.last().map_or_else(
            || "default".to_owned(),
            |(path, assignment)| format!("{}:{}", path.display(), assignment.line),
        );
        let value = match found.last() {
            _ if spec.opt.secret => "***".to_owned(),
            Some((_, assignment)) => assignment.value.clone(),
            None => match spec.opt.default {
                Default::Text(text) => text.to_owned(),
                Default::Unset | Default::OfHost { .. } => String::new(),
            },
        };
        let (section, option) = (section.to_owned(), spec.name);
        ConfigError::Value { place, section, option, value, problem: problem.into() }
    }

    fn resolve(
        &self,
        section: &str,
        spec: &OptionSpec,
        depth: usize,
    ) -> Result<Option<Value>, BadReference> {
        let found = self.files.find(&spec.names_in(section), spec.opt.multiple);
        let hide = |problem: BadReference, secret: bool| {
            if secret {
                "a '$' in it names no option: a dollar is written '$$'".into()
            } else {
                problem
            }
        };
        let substitute = |text: &str| {
            self.substitute(text, section, depth).map_err(|p| hide(p, spec.opt.secret))
        };
        if spec.opt.multiple {
            let values = found.iter().map(|(_, a)| substitute(&a.value));
            return values.collect::<Result<_, _>>().map(|values| Some(Value::List(values)));
        }
        let text = match (found.last(), spec.opt.default) {
            (Some((_, assignment)), _) => substitute(&assignment.value)?,
            (None, Default::Text(text)) => substitute(text)?,
            (None, Default::OfHost { ask, .. }) => ask(),
            (None, Default::Unset) => return Ok(None),
        };
        spec.opt.kind.parse(&text)
    }

    /// Puts values in the place of `$name`. oslo.config: cfg.py, `Template`; Python's
    /// `string.Template.safe_substitute`.
    fn substitute(&self, text: &str, section: &str, depth: usize) -> Result<String, BadReference> {
        // `\$` is `$$` to oslo.config before anything else is looked at.
        let text = text.replace("\\$", "$$");
        let mut rest = text.as_str();
        let mut result = String::new();
        while let Some(dollar) = rest.find('$') {
            result.push_str(&rest[..dollar]);
            rest = &rest[dollar + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                result.push('$');
                rest = after;
                continue;
            }
            let braced = rest.strip_prefix('{');
            let name = identifier(braced.unwrap_or(rest));
            let after = braced.unwrap_or(rest).strip_prefix(name).unwrap_or_default();
            let after = if braced.is_some() { after.strip_prefix('}') } else { Some(after) };
            match after {
                Some(after) if !name.is_empty() => {
                    result.push_str(&self.reference(name, section, depth + 1)?);
                    rest = after;
                }
                // A dollar that starts no name is a dollar.
                _ => result.push('$'),
            }
            if result.len() > MAX_VALUE {
                return Err(format!("grows beyond {MAX_VALUE} bytes"));
            }
        }
        result.push_str(rest);
        Ok(result)
    }

    fn reference(
        &self,
        reference: &str,
        section: &str,
        depth: usize,
    ) -> Result<String, BadReference> {
        let left = self.budget.get().checked_sub(1);
        let Some(left) = left.filter(|_| depth <= MAX_DEPTH) else {
            return Err(format!("${reference} leads back to itself"));
        };
        self.budget.set(left);
        let places: Vec<(&str, &str)> = match reference.split_once('.') {
            // `[DEFAULT]` is no group to oslo.config: its options are named alone.
            Some(("DEFAULT", _)) => Vec::new(),
            Some(place) => vec![place],
            None => vec![(section, reference), ("DEFAULT", reference)],
        };
        for (section, name) in &places {
            // A deprecated name stands for the option too.
            let present = self.specs.iter().find(|s| (s.section, s.name) == (*section, *name));
            let is_former = |s: &&OptionSpec| s.is_named(section, name);
            if let Some(spec) = present.or_else(|| self.specs.iter().find(is_former)) {
                let value = self.resolve(spec.section, spec, depth);
                let value = value.map_err(|p| format!("${reference}: {p}"))?;
                return Ok(value.map(|value| value.substituted()).unwrap_or_default());
            }
        }
        // nova knows more options than we do: one that is set can be referred to.
        for (section, name) in &places {
            if let Some((_, assignment)) = self.files.find(&[(section, name)], false).last() {
                return self.substitute(&assignment.value, section, depth);
            }
        }
        match reference.split_once('.') {
            Some((section, _)) if section == "DEFAULT" || !self.knows_section(section) => {
                Err(format!("${reference}: there is no section [{section}]"))
            }
            _ => Err(format!("${reference} names no option that is set: a dollar is written '$$'")),
        }
    }

    fn knows_section(&self, section: &str) -> bool {
        self.specs.iter().any(|spec| spec.section == section) || self.files.has_section(section)
    }
}

/// The longest `[_a-z][._a-z0-9]*`, in either case, that `text` starts with.
fn identifier(text: &str) -> &str {
    let first = |c: char| c == '_' || c.is_ascii_alphabetic();
    if !text.starts_with(first) {
        return "";
    }
    let end = text.find(|c: char| !(first(c) || c == '.' || c.is_ascii_digit()));
    &text[..end.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::config::opt::Opt;

    const fn spec(section: &'static str, name: &'static str, opt: Opt) -> OptionSpec {
        OptionSpec { section, name, opt, doc: &[] }
    }

    const SPECS: &[OptionSpec] = &[
        spec("DEFAULT", "base", Opt::text().default("/var")),
        spec("DEFAULT", "path", Opt::text().default("$base/lib")),
        spec("DEFAULT", "count", Opt::integer(0, 10).default("3")),
        spec("DEFAULT", "password", Opt::text().secret()),
        spec("libvirt", "path", Opt::text().default("${path}")),
        spec("libvirt", "base", Opt::text()),
        spec("libvirt", "many", Opt::text().multiple()),
        spec("libvirt", "on", Opt::boolean().default("yes")),
    ];

    fn get(text: &str, section: &str, name: &str) -> Result<Option<Value>, String> {
        let mut files = Files::default();
        files.add(Path::new("a.conf"), text).unwrap();
        let spec = SPECS.iter().find(|s| s.section == section && s.name == name).unwrap();
        Resolver::new(&files, SPECS).value(spec).map_err(|e| e.to_string())
    }

    fn base(value: &str) -> Result<String, String> {
        let text = format!("[DEFAULT]\nbase = {value}\nother = o$$p\ncount = 07");
        get(&text, "DEFAULT", "base").map(|value| value.unwrap().substituted())
    }

    #[test]
    fn references_are_replaced_and_dollars_kept() {
        assert_eq!(base("a$count-${count}.$other/"), Ok("a7-7.o$p/".to_owned()));
        assert_eq!(
            base(r"\$count $$count $1 ${a-b} $"),
            Ok("$count $count $1 ${a-b} $".to_owned())
        );
        assert_eq!(base("${libvirt.on}"), Ok("True".to_owned()));
    }

    #[test]
    fn defaults_refer_too() {
        assert_eq!(get("", "DEFAULT", "path"), Ok(Some(Value::Text("/var/lib".to_owned()))));
    }

    #[test]
    fn a_name_means_its_own_section_first() {
        let text = "[DEFAULT]\nbase = d\n[libvirt]\nbase = l\nmany = $base\nmany = $count";
        let many = Value::List(vec!["l".to_owned(), "3".to_owned()]);
        assert_eq!(get(text, "libvirt", "many"), Ok(Some(many)));
    }

    #[test]
    fn an_option_that_is_unset_stands_for_nothing() {
        assert_eq!(base("[$password]"), Ok("[]".to_owned()));
    }

    #[test]
    fn unknown_names_and_circles_are_errors() {
        for value in [
            "$nothing",
            "$libvirt.nothing",
            "$nowhere.x",
            "$base",
            "$COUNT",
            "$count.x",
            "$DEFAULT.count",
        ] {
            let error = base(value).unwrap_err();
            assert!(error.starts_with("a.conf:2: [DEFAULT] base"), "{error}");
        }
    }

    #[test]
    fn an_error_in_a_secret_tells_nothing_of_it() {
        let error = get("[DEFAULT]\npassword = hun$ter2", "DEFAULT", "password").unwrap_err();
        assert!(error.contains("a.conf:2") && error.contains("$$"), "{error}");
        assert!(!error.contains("hun") && !error.contains("ter2"), "{error}");
    }

    #[test]
    fn references_that_double_at_each_step_end_soon() {
        let mut text = "[x]\nv0 =\n".to_owned();
        for n in 0..31 {
            text += &format!("v{} = $v{n}$v{n}\n", n + 1);
        }
        text += "[DEFAULT]\nbase = $x.v31";
        assert!(get(&text, "DEFAULT", "base").unwrap_err().contains("leads back to itself"));
    }

    proptest! {
        #[test]
        fn no_value_panics(value in "[${}a-z.\\\\_é1 ]{0,40}") {
            base(&value).ok();
        }
    }
}
