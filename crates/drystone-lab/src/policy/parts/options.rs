//! Options of policies, read from text, with errors that say what is allowed.

use std::ops::RangeInclusive;

use drystone_core::config::{nearest, parse_bytes};

use crate::policy::OptionInfo;

/// There is no such option.
pub(in crate::policy) fn unknown(key: &str, options: &[OptionInfo]) -> String {
    let names = || options.iter().map(|option| option.name);
    let meant = nearest(key, names()).map(|name| format!(" (did you mean `{name}`?)"));
    let all = names().collect::<Vec<_>>().join(", ");
    let all = if all.is_empty() { "there are none".to_owned() } else { format!("they are {all}") };
    format!("unknown option `{key}`{}; {all}", meant.unwrap_or_default())
}

/// The option exists, and its value is not allowed.
pub(in crate::policy) fn bad(key: &str, value: &str, options: &[OptionInfo]) -> String {
    let allowed = options.iter().find(|option| option.name == key).map(|option| option.allowed);
    format!("`{key}` cannot be `{value}`: allowed is {}", allowed.unwrap_or_default())
}

/// A whole number in a range.
pub(in crate::policy) fn number(
    key: &str,
    value: &str,
    range: RangeInclusive<u64>,
    options: &[OptionInfo],
) -> Result<u64, String> {
    let number = value.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| bad(key, value, options))
}

/// A size in a range, in bytes, as in `12GiB` or `512`.
pub(in crate::policy) fn bytes(
    key: &str,
    value: &str,
    range: RangeInclusive<u64>,
    options: &[OptionInfo],
) -> Result<u64, String> {
    let bytes = parse_bytes(value).ok().filter(|bytes| range.contains(bytes));
    bytes.ok_or_else(|| bad(key, value, options))
}

/// A size in bytes, or a part of a device's memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::policy) enum Share {
    /// So many bytes.
    Bytes(u64),
    /// So many percent of what the device has.
    Percent(f64),
}

impl Share {
    /// In bytes, of a device that has `whole`.
    pub(in crate::policy) fn of(self, whole: u64) -> u64 {
        match self {
            Share::Bytes(bytes) => bytes,
            // The part of a device is exact in a double.
            Share::Percent(percent) => (whole as f64 * percent / 100.0) as u64,
        }
    }
}

/// A size in bytes, or a percentage as in `50%`.
pub(in crate::policy) fn share(
    key: &str,
    value: &str,
    options: &[OptionInfo],
) -> Result<Share, String> {
    let share = match value.strip_suffix('%') {
        None => parse_bytes(value).ok().map(Share::Bytes),
        Some(percent) => {
            let percent = percent.trim().parse().ok();
            percent.filter(|percent| (0.0..=100.0).contains(percent)).map(Share::Percent)
        }
    };
    share.ok_or_else(|| bad(key, value, options))
}

/// `true` or `false`, in the original's spelling or the user's.
pub(in crate::policy) fn flag(
    key: &str,
    value: &str,
    options: &[OptionInfo],
) -> Result<bool, String> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(bad(key, value, options)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: &[OptionInfo] = &[
        OptionInfo { name: "size", help: "", allowed: "a size up to 1GiB", default: "" },
        OptionInfo { name: "steps", help: "", allowed: "1 to 9", default: "" },
    ];

    #[test]
    fn values_in_their_ranges() {
        assert_eq!(bytes("size", "512MiB", 0..=1 << 30, OPTIONS), Ok(512 << 20));
        assert_eq!(number("steps", "9", 1..=9, OPTIONS), Ok(9));
        assert_eq!(share("size", "50%", OPTIONS), Ok(Share::Percent(50.0)));
        assert_eq!(share("size", "1KiB", OPTIONS), Ok(Share::Bytes(1024)));
        assert_eq!((Share::Percent(50.0).of(81), Share::Bytes(7).of(81)), (40, 7));
        assert_eq!(flag("steps", "True", OPTIONS), Ok(true));
        for value in ["", "2GiB", "-1", "1G"] {
            let error = bytes("size", value, 0..=1 << 30, OPTIONS).unwrap_err();
            assert_eq!(error, format!("`size` cannot be `{value}`: allowed is a size up to 1GiB"));
        }
        assert!(number("steps", "10", 1..=9, OPTIONS).unwrap_err().ends_with("allowed is 1 to 9"));
        for value in ["101%", "-1%", "NaN%", "%", "x"] {
            assert!(share("size", value, OPTIONS).is_err(), "{value}");
        }
        assert!(flag("steps", "yes", OPTIONS).is_err());
    }

    #[test]
    fn an_unknown_option_names_the_nearest() {
        let error = unknown("stesp", OPTIONS);
        assert_eq!(error, "unknown option `stesp` (did you mean `steps`?); they are size, steps");
        assert_eq!(unknown("x", &[]), "unknown option `x`; there are none");
    }
}
