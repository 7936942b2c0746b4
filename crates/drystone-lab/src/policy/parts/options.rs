//! Options of policies, read from text, with errors that say what is allowed.

use std::fmt::Display;
use std::ops::RangeInclusive;

use drystone_core::config::{nearest, parse_bytes};

use crate::policy::{OptionInfo, PolicyOptions};

/// The options that were given to a policy, of those that it takes. Each is read by its name; where
/// it stands several times, all values must be allowed, and the last holds.
pub(in crate::policy) struct Given<'a> {
    given: &'a PolicyOptions,
    options: &'a [OptionInfo],
}

impl<'a> Given<'a> {
    /// Or says which option there is not.
    pub(in crate::policy) fn new(
        given: &'a PolicyOptions,
        options: &'a [OptionInfo],
    ) -> Result<Self, String> {
        let is_known = |key: &str| options.iter().any(|option| option.name == key);
        match given.iter().find(|(key, _)| !is_known(key)) {
            Some((key, _)) => Err(unknown(key, options)),
            None => Ok(Given { given, options }),
        }
    }

    /// The value as `parse` has it; none unless it was given. What `parse` makes nothing of is refused.
    pub(in crate::policy) fn read<T>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let mut last = None;
        for (_, value) in self.given.iter().filter(|(known, _)| *known == key) {
            last = Some(parse(value).ok_or_else(|| self.bad(key, value))?);
        }
        Ok(last)
    }

    /// The option exists, and its value is not allowed.
    pub(in crate::policy) fn bad(&self, key: &str, value: impl Display) -> String {
        let allowed = self.options.iter().find(|option| option.name == key);
        let allowed = allowed.map_or("", |option| option.allowed);
        format!("`{key}` cannot be `{value}`: allowed is {allowed}")
    }

    /// A whole number in a range.
    pub(in crate::policy) fn number(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, String> {
        self.read(key, |value| value.parse().ok().filter(|number| range.contains(number)))
    }

    /// A size in a range, in bytes, as in `12GiB` or `512`.
    pub(in crate::policy) fn bytes(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, String> {
        self.read(key, |value| parse_bytes(value).ok().filter(|bytes| range.contains(bytes)))
    }

    /// A size in a range that is a power of two.
    pub(in crate::policy) fn power(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, String> {
        let is_one = |bytes: &u64| bytes.is_power_of_two() && range.contains(bytes);
        self.read(key, |value| parse_bytes(value).ok().filter(is_one))
    }

    /// A size in bytes, or a percentage as in `50%`.
    pub(in crate::policy) fn share(&self, key: &str) -> Result<Option<Share>, String> {
        self.share_if(key, |_| true)
    }

    /// One of which `fits` holds.
    pub(in crate::policy) fn share_if(
        &self,
        key: &str,
        fits: impl Fn(&Share) -> bool,
    ) -> Result<Option<Share>, String> {
        let parse = |value: &str| match value.strip_suffix('%') {
            None => parse_bytes(value).ok().map(Share::Bytes),
            Some(percent) => {
                let percent = percent.trim().parse().ok();
                percent.filter(|percent| (0.0..=100.0).contains(percent)).map(Share::Percent)
            }
        };
        self.read(key, |value| parse(value).filter(&fits))
    }

    /// `true` or `false`, in the original's spelling or the user's.
    pub(in crate::policy) fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        self.read(key, |value| value.to_ascii_lowercase().parse().ok())
    }
}

/// There is no such option.
fn unknown(key: &str, options: &[OptionInfo]) -> String {
    let names = || options.iter().map(|option| option.name);
    let meant = nearest(key, names()).map(|name| format!(" (did you mean `{name}`?)"));
    let all = names().collect::<Vec<_>>().join(", ");
    let all = if all.is_empty() { "there are none".to_owned() } else { format!("they are {all}") };
    format!("unknown option `{key}`{}; {all}", meant.unwrap_or_default())
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

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: &[OptionInfo] = &[
        OptionInfo { name: "size", help: "", allowed: "a size up to 1GiB", default: "" },
        OptionInfo { name: "steps", help: "", allowed: "1 to 9", default: "" },
    ];

    /// Two values of each option, of which the second holds.
    fn given(size: &str, steps: &str) -> PolicyOptions {
        let pairs = [("size", "7"), ("steps", "3"), ("size", size), ("steps", steps)];
        PolicyOptions::of(&pairs)
    }

    #[test]
    fn values_in_their_ranges() {
        let options = given("512MiB", "9");
        let read = Given::new(&options, OPTIONS).unwrap();
        assert_eq!(read.bytes("size", 0..=1 << 30), Ok(Some(512 << 20)));
        assert_eq!(read.number("steps", 1..=9), Ok(Some(9)));
        assert_eq!(read.number("steps", 4..=9).unwrap_err(), read.bad("steps", 3), "both count");
        let none = PolicyOptions::default();
        assert_eq!(Given::new(&none, OPTIONS).unwrap().number("steps", 1..=9), Ok(None));
        for value in ["", "2GiB", "-1", "1G"] {
            let options = given(value, "1");
            let error = Given::new(&options, OPTIONS).unwrap().bytes("size", 0..=1 << 30);
            let expected = format!("`size` cannot be `{value}`: allowed is a size up to 1GiB");
            assert_eq!(error, Err(expected));
        }
        let options = given("6", "10");
        let read = Given::new(&options, OPTIONS).unwrap();
        assert!(read.number("steps", 1..=9).unwrap_err().ends_with("allowed is 1 to 9"));
        assert!(read.power("size", 1..=9).is_err(), "7 and 6 are no powers of two");
    }

    #[test]
    fn shares_and_flags() {
        assert_eq!((Share::Percent(50.0).of(81), Share::Bytes(7).of(81)), (40, 7));
        let share = |value| Given::new(&given(value, "1"), OPTIONS).unwrap().share("size");
        assert_eq!(share("50%"), Ok(Some(Share::Percent(50.0))));
        assert_eq!(share("1KiB"), Ok(Some(Share::Bytes(1024))));
        for value in ["101%", "-1%", "NaN%", "%", "x"] {
            assert!(share(value).is_err(), "{value}");
        }
        let flag = |value| {
            let options = PolicyOptions::of(&[("steps", value)]);
            Given::new(&options, OPTIONS).unwrap().flag("steps")
        };
        assert_eq!((flag("True"), flag("false")), (Ok(Some(true)), Ok(Some(false))));
        assert!(flag("yes").is_err());
    }

    #[test]
    fn an_unknown_option_names_the_nearest() {
        let options = PolicyOptions::of(&[("stesp", "1")]);
        let error = Given::new(&options, OPTIONS).err();
        let error = error.unwrap_or_default();
        assert_eq!(error, "unknown option `stesp` (did you mean `steps`?); they are size, steps");
        assert_eq!(unknown("x", &[]), "unknown option `x`; there are none");
    }
}
