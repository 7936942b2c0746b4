//! Fields of a line: numbers by hand, since that is where the time goes.

/// Splits off the field before the next comma, or all that is left.
pub(crate) fn field<'a>(rest: &mut Option<&'a [u8]>) -> Option<&'a [u8]> {
    let line = (*rest)?;
    match line.iter().position(|&b| b == b',') {
        Some(comma) => {
            *rest = Some(&line[comma + 1..]);
            Some(&line[..comma])
        }
        None => {
            *rest = None;
            Some(line)
        }
    }
}

/// A decimal number of 64 bits: digits only, at least one.
pub(crate) fn number(field: &[u8]) -> Option<u64> {
    // 19 digits cannot overflow, so that the usual field needs no checks.
    const SAFE: usize = 19;
    if field.is_empty() {
        return None;
    }
    let mut value = 0u64;
    for (i, byte) in field.iter().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = if i < SAFE {
            value * 10 + u64::from(digit)
        } else {
            value.checked_mul(10)?.checked_add(u64::from(digit))?
        };
    }
    Some(value)
}

/// What a field says of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// A number of 64 bits; negative ones, as torch writes handles, by their bits.
    Named(u64),
    /// A number that is none of 64 bits.
    OutOfRange,
}

/// A stream: a decimal number, which may be negative.
pub(super) fn stream(field: &[u8]) -> Option<Stream> {
    if let Some(named) = number(field) {
        return Some(Stream::Named(named));
    }
    let digits = field.strip_prefix(b"-").unwrap_or(field);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let signed = number(digits).and_then(|value| 0i64.checked_sub_unsigned(value));
    Some(match signed {
        Some(value) if digits.len() < field.len() => Stream::Named(value as u64),
        _ => Stream::OutOfRange,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_digits_within_64_bits() {
        assert_eq!(number(b"0"), Some(0));
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(number(b"000000000000000000000007"), Some(7));
        for bad in ["", "18446744073709551616", "99999999999999999999999", "-1", "+1", "1 ", "0x1"]
        {
            assert_eq!(number(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn streams_are_numbers_of_64_bits_or_out_of_range() {
        for (text, expected) in [
            ("7", Some(Stream::Named(7))),
            ("18446744073709551615", Some(Stream::Named(u64::MAX))),
            ("-1", Some(Stream::Named(u64::MAX))),
            ("-9223372036854775808", Some(Stream::Named(1 << 63))),
            ("18446744073709551616", Some(Stream::OutOfRange)),
            ("-9223372036854775809", Some(Stream::OutOfRange)),
            ("-99999999999999999999999", Some(Stream::OutOfRange)),
            ("-", None),
            ("", None),
            ("0x7", None),
            ("0.5", None),
        ] {
            assert_eq!(stream(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn fields_are_what_commas_separate() {
        let mut rest = Some(&b"a,,b"[..]);
        assert_eq!(field(&mut rest), Some(&b"a"[..]));
        assert_eq!(field(&mut rest), Some(&b""[..]));
        assert_eq!(field(&mut rest), Some(&b"b"[..]));
        assert_eq!(field(&mut rest), None);
    }
}
