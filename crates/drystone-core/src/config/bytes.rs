//! Sizes in bytes as people write them: `12GiB`, `1.5 GB`, `4096`; and back.

/// Bytes in one MiB, the unit of torch's `*_mb` keys.
pub(super) const MIB: u64 = 1 << 20;

/// Every suffix that [`parse_bytes`] knows, in lower case, with its bytes.
const UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("b", 1),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
];

/// The units that are printed, smallest first.
const PRINTED: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];

/// Why a text is not a size in bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BytesError {
    /// The text does not start with a number such as `12` or `1.5`.
    #[error("`{text}` is not a size: a number was expected first, as in 12GiB or 1.5GB")]
    NotANumber {
        /// The whole text.
        text: String,
    },
    /// What follows the number is not a unit.
    #[error(
        "`{unit}` is not a unit of bytes: use B, KiB, MiB, GiB, TiB (powers of 1024) or \
         KB, MB, GB, TB (powers of 1000)"
    )]
    UnknownUnit {
        /// What follows the number.
        unit: String,
    },
    /// The size does not fit in 64 bits.
    #[error("`{text}` is too large: a size must be below 16777216 TiB")]
    TooLarge {
        /// The whole text.
        text: String,
    },
}

/// Reads a size in bytes: a number, with an optional fraction, and an optional unit.
///
/// Units are B, KiB, MiB, GiB, TiB (powers of 1024) and KB, MB, GB, TB (powers of 1000), in any
/// case, with or without a space before them; without a unit the number is bytes. A fraction is
/// computed exactly and rounded down to a whole byte. Signs and exponents are refused.
///
/// # Errors
///
/// When the text is not of that form, or the size does not fit in a `u64`.
///
/// ```
/// # use drystone_core::config::parse_bytes;
/// assert_eq!(parse_bytes("12GiB"), Ok(12 << 30));
/// assert_eq!(parse_bytes("1.5 gb"), Ok(1_500_000_000));
/// assert!(parse_bytes("12G").is_err());
/// ```
pub fn parse_bytes(text: &str) -> Result<u64, BytesError> {
    let trimmed = text.trim();
    let not_a_number = || BytesError::NotANumber { text: text.to_owned() };
    let too_large = || BytesError::TooLarge { text: text.to_owned() };

    let (whole, rest) = split_digits(trimmed);
    if whole.is_empty() {
        return Err(not_a_number());
    }
    let (fraction, rest) = match rest.strip_prefix('.') {
        None => ("", rest),
        Some(after) => match split_digits(after) {
            ("", _) => return Err(not_a_number()),
            split => split,
        },
    };
    let unit = rest.trim();
    let scale = UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .map(|&(_, bytes)| u128::from(bytes))
        .ok_or_else(|| BytesError::UnknownUnit { unit: unit.to_owned() })?;

    let whole: u128 = whole.parse::<u64>().map_err(|_| too_large())?.into();
    let mut total = whole * scale;
    // A digit after the 18th is worth less than a millionth of a byte of the largest unit.
    let kept = &fraction[..fraction.len().min(18)];
    if !kept.is_empty() {
        let digits: u128 = kept.parse().map_err(|_| not_a_number())?;
        total += digits * scale / 10u128.pow(kept.len() as u32);
    }
    u64::try_from(total).map_err(|_| too_large())
}

/// Splits a text after its leading decimal digits.
fn split_digits(text: &str) -> (&str, &str) {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at(end)
}

/// Writes a size for people: `512 B`, `1.50 GiB`; two decimals, powers of 1024.
///
/// It is rounded; [`format_bytes_exact`] is not.
///
/// ```
/// # use drystone_core::config::format_bytes;
/// assert_eq!(format_bytes(512), "512 B");
/// assert_eq!(format_bytes(3 << 29), "1.50 GiB");
/// ```
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    // 1023.995 would print as 1024.00, so the next unit takes over there.
    while unit + 1 < PRINTED.len() && value >= if unit == 0 { 1024.0 } else { 1023.995 } {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.2} {}", PRINTED[unit]) }
}

/// Writes a size so that [`parse_bytes`] reads the same number: the largest unit that divides it.
///
/// ```
/// # use drystone_core::config::format_bytes_exact;
/// assert_eq!(format_bytes_exact(12 << 30), "12GiB");
/// assert_eq!(format_bytes_exact((1 << 30) + 512), "1073742336B");
/// ```
#[must_use]
pub fn format_bytes_exact(bytes: u64) -> String {
    let unit = if bytes == 0 { 0 } else { (bytes.trailing_zeros() / 10).min(4) };
    format!("{}{}", bytes >> (10 * unit), PRINTED[unit as usize])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_that_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4096B", 4096),
            ("12GiB", 12 << 30),
            ("12 gib", 12 << 30),
            (" 1TIB ", 1 << 40),
            ("1.5GB", 1_500_000_000),
            ("0.3KiB", 307),
            ("0.1TB", 100_000_000_000),
            ("18446744073709551615", u64::MAX),
            ("0.999999999999999999999TiB", (1 << 40) - 1),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn sizes_that_are_refused() {
        for text in ["", " ", "GiB", "-1", "+1", ".5GiB", "1.GiB", "1.5.2GiB", "1e9", "12G", "0x10"]
        {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        for text in ["18446744073709551616", "16777216TiB", "99999999999999999999999TiB"] {
            assert!(matches!(parse_bytes(text), Err(BytesError::TooLarge { .. })), "{text}");
        }
        let message = parse_bytes("12G").expect_err("no such unit").to_string();
        assert!(message.contains("`G`") && message.contains("GiB"), "{message}");
    }

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            ((1 << 20) - 1, "1.00 MiB"),
            (20 << 20, "20.00 MiB"),
            (3 << 29, "1.50 GiB"),
            (u64::MAX, "16777216.00 TiB"),
        ] {
            assert_eq!(format_bytes(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn an_exact_size_reads_back(bytes: u64, shift in 0u32..64) {
            let bytes = bytes >> shift << (shift / 2);
            prop_assert_eq!(parse_bytes(&format_bytes_exact(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse_bytes(&text);
        }
    }
}
