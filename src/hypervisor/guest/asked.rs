//! What a flavor's extra specs (`hw:…`) and an image's properties (`hw_…`) ask for, looked up
//! together.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::GuestError;

/// Both sides of a request for a guest.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    specs: &'a [(String, String)],
    properties: &'a BTreeMap<String, String>,
}

/// oslo's reading of a boolean: anything it doesn't know is false.
///
/// oslo.utils: strutils.bool_from_string
pub fn truth(text: &str) -> bool {
    matches!(text.trim().to_ascii_lowercase().as_str(), "1" | "t" | "true" | "on" | "y" | "yes")
}

impl<'a> Asked<'a> {
    pub fn new(specs: &'a [(String, String)], properties: &'a BTreeMap<String, String>) -> Self {
        Self { specs, properties }
    }

    /// An extra spec of the flavor.
    pub fn spec(&self, key: &str) -> Option<&'a str> {
        self.specs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub fn specs(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.specs.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A property of the image.
    pub fn property(&self, key: &str) -> Option<&'a str> {
        self.properties.get(key).map(String::as_str)
    }

    pub fn properties(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.properties.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A number among the extra specs.
    pub fn spec_number<T: FromStr>(&self, key: &str) -> Result<Option<T>, GuestError> {
        self.spec(key).map(|text| number(key, text)).transpose()
    }

    /// A number among the properties.
    pub fn property_number<T: FromStr>(&self, key: &str) -> Result<Option<T>, GuestError> {
        self.property(key).map(|text| number(key, text)).transpose()
    }

    /// `hw:key` and `hw_key`, which must not contradict each other.
    ///
    /// nova: virt/hardware.py, `_get_unique_flavor_image_meta`
    pub fn agreed(&self, prefix: &str, key: &str) -> Result<Option<&'a str>, GuestError> {
        let set = |value: Option<&'a str>| value.filter(|value| !value.is_empty());
        let spec = set(self.spec(&format!("{prefix}:{key}")));
        let property = set(self.property(&format!("{prefix}_{key}")));
        match (spec, property) {
            (Some(spec), Some(property)) if spec != property => Err(conflict(prefix, key)),
            (spec, property) => Ok(spec.or(property)),
        }
    }

    /// The same for a boolean, however each side spells it.
    pub fn agreed_truth(&self, key: &str) -> Result<Option<bool>, GuestError> {
        let spec = self.spec(&format!("hw:{key}")).map(truth);
        let property = self.property(&format!("hw_{key}")).map(truth);
        match (spec, property) {
            (Some(spec), Some(property)) if spec != property => Err(conflict("hw", key)),
            (spec, property) => Ok(spec.or(property)),
        }
    }
}

fn conflict(prefix: &str, key: &str) -> GuestError {
    GuestError::invalid(
        "FlavorImageConflict",
        format!("the flavor's {prefix}:{key} contradicts the image's {prefix}_{key}"),
    )
}

fn number<T: FromStr>(key: &str, text: &str) -> Result<T, GuestError> {
    text.trim().parse().map_err(|_| {
        GuestError::invalid("InvalidRequest", format!("{key} must be a number, not {text:?}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flavor_and_image_must_agree() {
        let spec = |value: &str| vec![("hw:pmu".to_owned(), value.to_owned())];
        let properties = BTreeMap::from([("hw_pmu".to_owned(), "True".to_owned())]);
        assert_eq!(Asked::new(&spec("yes"), &properties).agreed_truth("pmu"), Ok(Some(true)));
        let error = Asked::new(&spec("no"), &properties).agreed_truth("pmu").unwrap_err();
        assert_eq!(error.exception(), "FlavorImageConflict");
        assert!(Asked::new(&spec("yes"), &properties).agreed("hw", "pmu").is_err());
    }
}
