//! A policy as written on the command line: `name` or `name:key=value,key=value`.

use std::fmt;
use std::str::FromStr;

use drystone_core::config::nearest;

use super::{POLICIES, PolicyInfo, PolicyMaker};

/// Options in the order given. The last of several values of a key holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyOptions(Vec<(String, String)>);

impl PolicyOptions {
    /// The keys and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

#[cfg(test)]
impl PolicyOptions {
    /// These.
    pub(super) fn of(pairs: &[(&str, &str)]) -> Self {
        let owned = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
        PolicyOptions(pairs.iter().map(owned).collect())
    }
}

/// As written, without the policy's name: `key=value,key=value`; empty without options.
impl fmt::Display for PolicyOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

/// A policy with its options, checked.
#[derive(Clone)]
pub struct PolicySpec {
    /// Which.
    pub info: &'static PolicyInfo,
    /// With what.
    pub options: PolicyOptions,
    /// Makes it.
    pub make: PolicyMaker,
}

impl PolicySpec {
    /// A policy with its default options.
    ///
    /// # Errors
    /// Where the policy cannot do without options.
    pub fn plain(info: &'static PolicyInfo) -> Result<Self, PolicyError> {
        Self::with(info, PolicyOptions::default())
    }

    fn with(info: &'static PolicyInfo, options: PolicyOptions) -> Result<Self, PolicyError> {
        let refused = |why| PolicyError::Options { policy: info.name, why };
        let make = (info.prepare)(&options).map_err(refused)?;
        Ok(PolicySpec { info, options, make })
    }
}

impl FromStr for PolicySpec {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let (name, options) = text.split_once(':').unwrap_or((text, ""));
        let name = name.trim();
        let Some(info) = POLICIES.iter().find(|info| info.name == name) else {
            let nearest = nearest(name, POLICIES.iter().map(|info| info.name));
            return Err(PolicyError::Unknown { name: name.to_owned(), nearest });
        };
        let mut pairs = Vec::new();
        for option in split(options) {
            let pair = option.split_once('=').filter(|(key, _)| !key.trim().is_empty());
            let Some((key, value)) = pair else {
                let option = option.to_owned();
                return Err(PolicyError::NotAnOption { policy: info.name, option });
            };
            pairs.push((key.trim().to_owned(), value.trim().to_owned()));
        }
        Self::with(info, PolicyOptions(pairs))
    }
}

/// The name, and the options if there are any: reads back as the same policy.
impl fmt::Display for PolicySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.info.name)?;
        if self.options.0.is_empty() { Ok(()) } else { write!(f, ":{}", self.options) }
    }
}

impl fmt::Debug for PolicySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PolicySpec({self})")
    }
}

/// Why a text names no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// No policy has this name.
    #[error("unknown policy `{name}`{}; the policies are {}", did_you_mean(*.nearest), names())]
    Unknown {
        /// The name as written.
        name: String,
        /// The policy that it resembles, if any does.
        nearest: Option<&'static str>,
    },
    /// An option is not of the form `key=value`.
    #[error(
        "`{option}` is no option of {policy}: the form is {policy}:key=value,key=value \
         (see `drystone policies`)"
    )]
    NotAnOption {
        /// The policy.
        policy: &'static str,
        /// What stands there.
        option: String,
    },
    /// The policy refuses an option.
    #[error("{policy}: {why}")]
    Options {
        /// The policy.
        policy: &'static str,
        /// What is wrong, and what is allowed.
        why: String,
    },
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}

fn names() -> String {
    POLICIES.iter().map(|info| info.name).collect::<Vec<_>>().join(", ")
}

/// The options of a list: at commas, but not at those inside brackets. A comma may end the list.
fn split(options: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut depth) = (0, 0usize);
    for (at, letter) in options.char_indices() {
        match letter {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&options[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !options[start..].trim().is_empty() {
        parts.push(&options[start..]);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        text.parse::<PolicySpec>().expect_err(text).to_string()
    }

    #[test]
    fn options_are_split_at_commas_outside_brackets() {
        assert_eq!(split(""), [""; 0]);
        assert_eq!(split("a=1,b=[1:2,3:4],c="), ["a=1", "b=[1:2,3:4]", "c="]);
        assert_eq!(split("a=1,"), ["a=1"]);
        assert_eq!(split("a=1,,b=2"), ["a=1", "", "b=2"]);
        assert_eq!(split("a=]1,b=2"), ["a=]1", "b=2"]);
    }

    #[test]
    fn a_policy_reads_back_as_it_is_shown() {
        let text = "drystone-malloc:roundup_power2_divisions=[256:1,>:8],limit=12GiB";
        let spec: PolicySpec = text.parse().unwrap();
        assert_eq!(spec.to_string(), text);
        assert_eq!(spec.options.iter().count(), 2);
        let plain: PolicySpec = " drystone-malloc:".parse().unwrap();
        assert_eq!(plain.to_string(), "drystone-malloc");
    }

    #[test]
    fn an_unknown_policy_names_the_nearest_and_all() {
        let message = error("drystone-maloc");
        assert!(message.contains("did you mean `drystone-malloc`?"), "{message}");
        let message = error("zzz:limit=1GiB");
        assert!(message.contains("`zzz`") && !message.contains("mean"), "{message}");
        assert!(message.contains("the policies are drystone, drystone-malloc"), "{message}");
    }

    #[test]
    fn a_bad_option_says_what_is_allowed() {
        assert!(error("drystone-malloc:limit").contains("key=value"));
        assert!(error("drystone-malloc:=3").contains("`=3` is no option"));
        assert!(error("drystone-malloc:limti=1GiB").contains("did you mean `limit`?"));
        assert!(error("drystone-malloc:limit=1G,").contains("`limit` cannot be `1G`"));
        assert!(error("drystone:reserve=none").contains("allowed is lean, balanced or fast"));
        for key in ["backing=malloc", "reserve=lean"] {
            let message = error(&format!("drystone-malloc:{key}"));
            assert!(message.contains("is about pages, and here are segments"), "{message}");
            assert!(format!("drystone:{key}").parse::<PolicySpec>().is_ok(), "{key}");
        }
    }
}
