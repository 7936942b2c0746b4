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
    fn fields_are_what_commas_separate() {
        let mut rest = Some(&b"a,,b"[..]);
        assert_eq!(field(&mut rest), Some(&b"a"[..]));
        assert_eq!(field(&mut rest), Some(&b""[..]));
        assert_eq!(field(&mut rest), Some(&b"b"[..]));
        assert_eq!(field(&mut rest), None);
    }
}
