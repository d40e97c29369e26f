//! Which instance an operator means: its uuid, its name, or the beginning of its uuid.

use super::agent_client::Agent;
use super::output::Failure;
use super::view::{Summary, instances};

/// Shorter beginnings of a uuid are more likely a mistyped name.
const SHORTEST_PREFIX: usize = 3;

/// Why a name stands for no instance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error("there is no instance {0}")]
    Unknown(String),
    /// The uuids that it could be.
    #[error("{wanted} could be any of {}", .found.join(", "))]
    Ambiguous { wanted: String, found: Vec<String> },
}

impl From<ResolveError> for Failure {
    fn from(error: ResolveError) -> Self {
        let advice = match error {
            ResolveError::Unknown(_) => "`hypernova list` shows the instances of this host",
            ResolveError::Ambiguous { .. } => "name it by its uuid, or the beginning of it",
        };
        Self::told(error.to_string()).with_advice(advice)
    }
}

/// Finds what `wanted` means among `names`, pairs of a uuid and a name. A whole uuid goes before a
/// name, a name before the beginning of a uuid.
///
/// # Errors
/// [`ResolveError`] when it means none, or several.
pub fn resolve<'a, T>(
    items: &'a [T],
    wanted: &str,
    uuid: impl Fn(&T) -> String,
    name: impl Fn(&T) -> &str,
) -> Result<&'a T, ResolveError> {
    let lower = wanted.to_ascii_lowercase();
    let by_uuid = |item: &&T| uuid(item) == lower;
    let by_name = |item: &&T| name(item) == wanted;
    let by_prefix = |item: &&T| lower.len() >= SHORTEST_PREFIX && uuid(item).starts_with(&lower);
    let kinds: [&dyn Fn(&&T) -> bool; 3] = [&by_uuid, &by_name, &by_prefix];
    for kind in kinds {
        let found: Vec<&T> = items.iter().filter(kind).collect();
        match found[..] {
            [] => {}
            [one] => return Ok(one),
            _ => {
                let found = found.into_iter().map(&uuid).collect();
                return Err(ResolveError::Ambiguous { wanted: wanted.to_owned(), found });
            }
        }
    }
    Err(ResolveError::Unknown(wanted.to_owned()))
}

/// The instance that the agent has for `wanted`.
pub async fn find(agent: &dyn Agent, wanted: &str) -> Result<Summary, Failure> {
    let all = instances(agent).await?;
    Ok(pick(&all, wanted)?.clone())
}

pub fn pick<'a>(all: &'a [Summary], wanted: &str) -> Result<&'a Summary, ResolveError> {
    resolve(all, wanted, |summary| summary.uuid.to_string(), |summary| &summary.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(&str, &str); 4] = [
        ("24ef2f14-daa6-42b1-b7fa-7136169b5f1c", "web"),
        ("24ef9999-daa6-42b1-b7fa-7136169b5f1c", "db"),
        ("aaaa2f14-daa6-42b1-b7fa-7136169b5f1c", "twin"),
        ("bbbb2f14-daa6-42b1-b7fa-7136169b5f1c", "twin"),
    ];

    fn find(wanted: &str) -> Result<&'static str, ResolveError> {
        resolve(&ALL, wanted, |item| item.0.to_owned(), |item| item.1).map(|item| &item.0[..8])
    }

    #[test]
    fn an_instance_is_known_by_name_uuid_or_its_beginning() {
        assert_eq!(find("web"), Ok("24ef2f14"));
        assert_eq!(find("24EF2F14-DAA6-42B1-B7FA-7136169B5F1C"), Ok("24ef2f14"));
        assert_eq!(find("24ef9"), Ok("24ef9999"));
    }

    #[test]
    fn a_name_goes_before_the_beginning_of_another_ones_uuid() {
        let all = [ALL[0], ("cccc0000-daa6-42b1-b7fa-7136169b5f1c", "24ef2")];
        let found = resolve(&all, "24ef2", |item| item.0.to_owned(), |item| item.1);
        assert_eq!(found, Ok(&all[1]));
    }

    #[test]
    fn what_could_be_several_names_them() {
        for wanted in ["twin", "24ef"] {
            let error = find(wanted).unwrap_err();
            let ResolveError::Ambiguous { found, .. } = &error else { panic!("{error}") };
            assert_eq!(found.len(), 2, "{error}");
        }
        assert_eq!(
            find("24ef").unwrap_err().to_string(),
            "24ef could be any of 24ef2f14-daa6-42b1-b7fa-7136169b5f1c, \
             24ef9999-daa6-42b1-b7fa-7136169b5f1c"
        );
    }

    #[test]
    fn what_is_too_short_or_unknown_is_nothing() {
        for wanted in ["", "24", "nope", "24ef2f14-daa6-42b1-b7fa-7136169b5f1cx"] {
            assert_eq!(find(wanted), Err(ResolveError::Unknown(wanted.to_owned())));
        }
    }
}
