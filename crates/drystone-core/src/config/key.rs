//! What a key is, and the rules that several keys share.

use super::bytes::MIB;
use super::error::ConfigError;
use super::keys::KEYS;
use super::nearest::nearest;
use super::settings::{Config, DEFAULT_LARGE_SEGMENT};
use super::syntax::Value;

/// Where a key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// torch 2.11 knows it.
    Torch,
    /// A later torch knows it; 2.11 does not.
    LaterTorch,
    /// Drystone's own.
    Drystone,
}

/// One key of the configuration string.
#[derive(Clone, Copy, Debug)]
pub struct KeyInfo {
    /// The key as written.
    pub name: &'static str,
    /// Who defined it.
    pub origin: Origin,
    /// What it does, in a sentence.
    pub help: &'static str,
    /// The values that are accepted: spelling, unit and range.
    pub allowed: &'static str,
    /// The value without it, in words where no value says the same.
    pub default: &'static str,
    /// Whether Drystone acts on it. Keys that only other allocators act on are checked and stored.
    pub has_effect: bool,
    /// Writes the value into a configuration that is left as it was when the value is refused.
    pub(super) apply: fn(&mut Config, &Value) -> Option<()>,
    /// The value as text unless it is the default; `None` also for a second name of another key.
    pub(super) show: fn(&Config) -> Option<String>,
}

impl KeyInfo {
    /// Whether the key sets the large segment size, by either name.
    pub(super) fn is_large_segment(&self) -> bool {
        matches!(self.name, "large_segment_size_mb" | "large_segment_size")
    }

    /// The error that the key does not allow a value.
    pub(super) fn refuses(&self, value: &str, position: Option<usize>) -> ConfigError {
        ConfigError::BadValue {
            key: self.name,
            value: value.to_owned(),
            allowed: self.allowed,
            position,
        }
    }
}

/// The entry of a key.
pub(super) fn find(name: &str, position: Option<usize>) -> Result<&'static KeyInfo, ConfigError> {
    KEYS.iter().find(|info| info.name == name).ok_or_else(|| ConfigError::UnknownKey {
        key: name.to_owned(),
        nearest: nearest(name, KEYS.iter().map(|info| info.name)),
        position,
    })
}

/// Stores a value that was accepted.
pub(super) fn put<T>(value: Option<T>, slot: &mut T) -> Option<()> {
    *slot = value?;
    Some(())
}

/// Sets the least segment size for large requests; as in torch, the other sizes may not lie below
/// it, and the rounding follows it until it is set.
pub(super) fn set_large_segment(config: &mut Config, bytes: u64) -> Option<()> {
    let follows = config.max_non_split_rounding == large_segment(config);
    if config.max_split_size.is_some_and(|size| below_large(size, bytes))
        || !follows && below_large(config.max_non_split_rounding, bytes)
    {
        return None;
    }
    config.min_large_segment = Some(bytes);
    if follows {
        config.max_non_split_rounding = bytes;
    }
    Some(())
}

/// The size in bytes that bounds `max_split_size_mb` and `max_non_split_rounding_mb`.
pub(super) fn large_segment(config: &Config) -> u64 {
    config.min_large_segment.unwrap_or(DEFAULT_LARGE_SEGMENT)
}

/// torch compares whole MiB.
fn below_large(bytes: u64, large: u64) -> bool {
    bytes / MIB < large / MIB
}

/// A size from torch's key in MiB that is not below the large segment size.
pub(super) fn at_least_large(config: &Config, value: &Value) -> Option<u64> {
    value.torch_mib().filter(|&bytes| !below_large(bytes, large_segment(config)))
}

/// Whether torch's key in MiB can say this large segment size.
pub(super) fn is_torch_large_segment(bytes: u64) -> bool {
    bytes.is_multiple_of(MIB) && bytes > 10 * MIB
}

pub(super) fn show_bool(value: bool) -> Option<String> {
    value.then(|| "True".to_owned())
}

pub(super) fn show_unless<T: PartialEq + ToString>(value: T, default: T) -> Option<String> {
    (value != default).then(|| value.to_string())
}
