//! The values of options: read from text, with errors that say what is allowed.

use drystone_core::config::{nearest, parse_bytes};
use drystone_lab::{GenerateError, GeneratorSpec, PolicyError, PolicySpec};
use drystone_trace::Format;

/// Which device to replay on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceName {
    /// The simulated one.
    Sim,
    /// The CUDA device of this number.
    Cuda(u32),
}

/// The most memory that a simulated device has addresses for.
const MAX_CAPACITY: u64 = 1 << 40;
/// The longest time that makes sense for an option: an hour.
const MAX_DURATION_NS: f64 = 3600e9;

pub(crate) fn policy(text: &str) -> Result<PolicySpec, PolicyError> {
    text.parse()
}

pub(crate) fn generator(text: &str) -> Result<GeneratorSpec, GenerateError> {
    text.parse()
}

/// A format to write in.
pub(crate) fn format(text: &str) -> Result<Format, String> {
    let names = Format::ALL.map(Format::name);
    let found = Format::ALL.into_iter().find(|format| format.name() == text);
    found.ok_or_else(|| {
        let meant = nearest(text, names).map(|name| format!(" (did you mean `{name}`?)"));
        let meant = meant.unwrap_or_default();
        format!("there is no such format{meant}; formats are {}", names.join(", "))
    })
}

/// A size in bytes, from 1 byte to 1 TiB.
pub(crate) fn capacity(text: &str) -> Result<u64, String> {
    match parse_bytes(text) {
        Err(error) => Err(error.to_string()),
        Ok(0) => Err("a device without memory can hold nothing: give a size above 0".to_owned()),
        Ok(bytes) if bytes > MAX_CAPACITY => Err("at most 1TiB is allowed".to_owned()),
        Ok(bytes) => Ok(bytes),
    }
}

/// A time as in `5ms`, in nanoseconds.
pub(crate) fn duration_ns(text: &str) -> Result<u64, String> {
    const ALLOWED: &str = "a time is a number and a unit, us, ms or s, as in 500us, 5ms or 1.5s";
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    // No sign and no exponent can be in the number, so it is finite and not below 0.
    let number: f64 = number.parse().map_err(|_| ALLOWED.to_owned())?;
    let scale = match unit.trim() {
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "" if number == 0.0 => 0.0,
        "" => return Err(format!("`{text}` has no unit; {ALLOWED}")),
        unit => return Err(format!("`{unit}` is no unit of time; {ALLOWED}")),
    };
    let ns = number * scale;
    if ns > MAX_DURATION_NS {
        return Err("at most 3600s are allowed".to_owned());
    }
    Ok(ns.round() as u64)
}

/// A percentage as in `0.1%`, from 0% to 100%, as a part of 1.
pub(crate) fn part(text: &str) -> Result<f64, String> {
    let number = text.trim().strip_suffix('%').and_then(|number| number.trim_end().parse().ok());
    let percent = number.filter(|percent| (0.0..=100.0).contains(percent));
    percent
        .map(|percent: f64| percent / 100.0)
        .ok_or_else(|| "use 0% to 100%, as in 0.1%".to_owned())
}

pub(crate) fn device(text: &str) -> Result<DeviceName, String> {
    if text == "sim" {
        return Ok(DeviceName::Sim);
    }
    if let Some(number) = text.strip_prefix("cuda:")
        && !number.is_empty()
        && number.bytes().all(|digit| digit.is_ascii_digit())
        && let Ok(ordinal) = number.parse()
    {
        return Ok(DeviceName::Cuda(ordinal));
    }
    let nearest = nearest(text, ["sim", "cuda:0"]);
    let meant = nearest.map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default();
    Err(format!(
        "there is no such device{meant}; a device is `sim`, or `cuda:` and a number from 0"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, ns) in [
            ("5ms", 5_000_000),
            ("0", 0),
            ("500us", 500_000),
            ("500 µs", 500_000),
            ("1.5s", 1_500_000_000),
            ("0.0001ms", 100),
            ("3600s", 3_600_000_000_000),
        ] {
            assert_eq!(duration_ns(text), Ok(ns), "{text}");
        }
        for (text, why) in [
            ("", "a number and a unit"),
            ("ms", "a number and a unit"),
            ("-5ms", "a number and a unit"),
            ("1.2.3s", "a number and a unit"),
            ("5", "`5` has no unit"),
            ("5min", "`min` is no unit"),
            ("1e3ms", "`e3ms` is no unit"),
            ("3601s", "at most 3600s"),
        ] {
            let error = duration_ns(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn capacities() {
        assert_eq!(capacity("12GiB"), Ok(12 << 30));
        assert_eq!(capacity("1TiB"), Ok(1 << 40));
        assert!(capacity("0").unwrap_err().contains("above 0"));
        assert!(capacity("2TiB").unwrap_err().contains("at most 1TiB"));
        assert!(capacity("12G").unwrap_err().contains("use B, KiB, MiB, GiB"));
    }

    #[test]
    fn parts() {
        for (text, value) in [("0.1%", 0.001), ("0%", 0.0), ("100 %", 1.0), (" 5%", 0.05)] {
            assert_eq!(part(text), Ok(value), "{text}");
        }
        for text in ["", "%", "0.1", "-1%", "101%", "NaN%", "inf%", "1%%"] {
            assert_eq!(part(text), Err("use 0% to 100%, as in 0.1%".to_owned()), "{text}");
        }
    }

    #[test]
    fn devices() {
        assert_eq!(device("sim"), Ok(DeviceName::Sim));
        assert_eq!(device("cuda:12"), Ok(DeviceName::Cuda(12)));
        for text in ["cuda", "cuda:", "cuda:x", "cuda:+1", "cuda:99999999999", "gpu"] {
            assert!(device(text).unwrap_err().contains("a device is `sim`, or `cuda:`"), "{text}");
        }
        assert!(device("cuda0").unwrap_err().contains("did you mean `cuda:0`"));
    }
}
