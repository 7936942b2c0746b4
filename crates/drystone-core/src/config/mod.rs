//! Configuration: `PYTORCH_ALLOC_CONF` as torch 2.11 reads it, with Drystone's own keys beside it.
//!
//! A configuration string is `key:value,key:value`; white space counts nowhere and the last of
//! several values of a key holds. [`KEYS`] lists every key with what it does and allows; an unknown
//! key is an error, as in torch. torch's keys have torch's value rules and bounds, including that
//! `large_segment_size_mb` is read before the keys it bounds wherever it stands. Some of them
//! concern other allocators: they are checked and kept in [`TorchOnly`] and do nothing.
//!
//! Differences from torch 2.11, on purpose:
//!
//! * Separators are checked. torch looks at where `:` and `,` should stand and ignores what it
//!   finds, so that `max_split_size_mb,40` and `a:1:b:2` pass; here they are errors.
//! * Keys of later versions of torch ([`Origin::LaterTorch`]) are accepted.
//! * Real numbers are decimal: `strtod`'s hexadecimal ones (`0x1p-1`) read as 0.
//! * [`Config::from_env`] prefers `PYTORCH_ALLOC_CONF` to the older `PYTORCH_CUDA_ALLOC_CONF`;
//!   torch 2.11 takes the older one when both are set.
//!
//! ```
//! use drystone_core::config::Config;
//!
//! let config: Config = "expandable_segments:True, limit:12GiB".parse()?;
//! assert_eq!(config.limit, Some(12 << 30));
//! let refused = Config::parse("max_split_size:128").unwrap_err();
//! assert!(refused.to_string().contains("did you mean `max_split_size_mb`?"));
//! # Ok::<(), drystone_core::config::ConfigError>(())
//! ```

mod backing;
mod bytes;
mod error;
mod key;
mod keys;
mod nearest;
mod settings;
mod syntax;
mod values;

use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;

pub use backing::{Backing, Reserve};
pub use bytes::{BytesError, format_bytes, format_bytes_exact, parse_bytes};
pub use error::ConfigError;
pub use key::{KeyInfo, Origin};
pub use keys::KEYS;
pub use nearest::{edit_distance, nearest};
pub use settings::{Backend, Config, CrossStream, TorchOnly};

use syntax::Value;

/// The environment variables that [`Config::from_env`] reads: the first that is set holds.
pub const VARIABLES: [&str; 3] = ["DRYSTONE_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"];

impl Config {
    /// Reads a configuration string. Keys that it does not name have their default.
    ///
    /// # Errors
    ///
    /// When the string is malformed, names an unknown key or a value that its key does not allow.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let settings = syntax::settings(text)?;
        let mut config = Self::default();
        // torch reads the large segment size first, wherever it stands: it bounds other keys.
        let (first, then): (Vec<_>, Vec<_>) =
            settings.iter().partition(|(info, _)| info.is_large_segment());
        for (info, value) in first.into_iter().chain(then) {
            config.apply(info, value, Some(value.position))?;
        }
        Ok(config)
    }

    /// Sets one key, by the rules of [`Config::parse`]; the order of calls is the order of effects.
    ///
    /// A list of `roundup_power2_divisions` is laid over the value before it, and
    /// `max_non_split_rounding` follows the large segment size while the two are equal.
    ///
    /// # Errors
    ///
    /// When the key is unknown or does not allow the value; then nothing has changed.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        let info = key::find(key, None)?;
        let value = syntax::lone_value(value).map_err(|error| match error {
            ConfigError::Syntax { .. } => info.refuses(value, None),
            other => other,
        })?;
        self.apply(info, &value, None)
    }

    /// Reads the configuration from the first of [`VARIABLES`] that is set, even to an empty
    /// string; the default when none is.
    ///
    /// # Errors
    ///
    /// As [`Config::parse`]; the error names the variable.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_variables(|name| std::env::var_os(name))
    }

    fn from_variables(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let Some((name, value)) =
            VARIABLES.into_iter().find_map(|name| lookup(name).map(|value| (name, value)))
        else {
            return Ok(Self::default());
        };
        let text = value.to_str().ok_or(ConfigError::NotUnicode { name })?;
        Self::parse(text).map_err(|cause| ConfigError::Variable { name, cause: Box::new(cause) })
    }

    /// The keys that are not at their default and on which Drystone does not act, so that the
    /// allocator can say so.
    pub fn without_effect(&self) -> impl Iterator<Item = &'static KeyInfo> {
        KEYS.iter().filter(|info| !info.has_effect && (info.show)(self).is_some())
    }

    fn apply(
        &mut self,
        info: &KeyInfo,
        value: &Value,
        position: Option<usize>,
    ) -> Result<(), ConfigError> {
        (info.apply)(self, value).ok_or_else(|| info.refuses(&value.text, position))
    }
}

impl FromStr for Config {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        Self::parse(text)
    }
}

/// The keys that are not at their default, as a string that parses to the same configuration; the
/// empty string for the default. Fields that were set to what no string can say are written as the
/// nearest value below.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for info in KEYS {
            if let Some(value) = (info.show)(self) {
                write!(f, "{separator}{}:{value}", info.name)?;
                separator = ",";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks variables up in a list instead of the environment, which tests share.
    fn from(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_variables(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn the_first_variable_that_is_set_holds() {
        let history = |variables: &[(&str, &str)]| from(variables).map(|config| config.history);
        let torch = ("PYTORCH_ALLOC_CONF", "history:2");
        let cuda = ("PYTORCH_CUDA_ALLOC_CONF", "history:3");
        assert_eq!(history(&[]), Ok(0));
        assert_eq!(history(&[cuda]), Ok(3));
        assert_eq!(history(&[cuda, torch]), Ok(2));
        assert_eq!(history(&[cuda, torch, ("DRYSTONE_CONF", "history:1")]), Ok(1));
        assert_eq!(history(&[cuda, torch, ("DRYSTONE_CONF", "")]), Ok(0));
    }

    #[test]
    fn an_error_names_the_variable() {
        let error = from(&[("PYTORCH_ALLOC_CONF", "histroy:2")]).expect_err("a misspelt key");
        let message = error.to_string();
        assert!(message.contains("PYTORCH_ALLOC_CONF"), "{message}");
        assert!(message.contains("did you mean `history`"), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn a_variable_must_be_utf_8() {
        use std::os::unix::ffi::OsStringExt;
        let error = Config::from_variables(|_| Some(OsString::from_vec(vec![0xff])))
            .expect_err("not UTF-8");
        assert_eq!(error, ConfigError::NotUnicode { name: "DRYSTONE_CONF" });
    }
}
