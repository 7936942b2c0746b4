//! What can be wrong with a configuration string, said so that the user can mend it.

use super::keys::KEYS;

/// Why a configuration was refused.
///
/// Positions are byte offsets, from 0, in the string that was parsed; `None` where one key was set
/// alone ([`Config::set`](super::Config::set)).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No such key.
    #[error(
        "unknown key `{key}`{}{}; the keys are {}",
        at(*.position), did_you_mean(*.nearest), all_keys()
    )]
    UnknownKey {
        /// The key as written.
        key: String,
        /// The known key that it resembles, if any does.
        nearest: Option<&'static str>,
        /// Where the key starts.
        position: Option<usize>,
    },
    /// The key exists, its value is not one of the allowed ones.
    #[error("`{key}` cannot be `{value}`{}: allowed is {allowed}", at(*.position))]
    BadValue {
        /// The key.
        key: &'static str,
        /// The value as written, without white space.
        value: String,
        /// What is allowed: spelling, unit and range.
        allowed: &'static str,
        /// Where the value starts.
        position: Option<usize>,
    },
    /// The string is not of the form `key:value,key:value`.
    #[error("expected {expected}, found {found}{}; the form is key:value,key:value", at(*.position))]
    Syntax {
        /// What should have stood there.
        expected: &'static str,
        /// What stands there.
        found: String,
        /// Where.
        position: Option<usize>,
    },
    /// The string came from an environment variable and was refused.
    #[error("in the environment variable {name}: {cause}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// Why.
        cause: Box<ConfigError>,
    },
    /// An environment variable is not UTF-8.
    #[error("the environment variable {name} is not valid UTF-8")]
    NotUnicode {
        /// The variable.
        name: &'static str,
    },
}

fn at(position: Option<usize>) -> String {
    position.map(|byte| format!(" at byte {byte}")).unwrap_or_default()
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|key| format!(" (did you mean `{key}`?)")).unwrap_or_default()
}

fn all_keys() -> String {
    KEYS.iter().map(|info| info.name).collect::<Vec<_>>().join(", ")
}
