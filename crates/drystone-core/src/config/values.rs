//! How the text of a value becomes a number, a size or a switch; `None` is a refusal.
//!
//! torch's keys are read by the C library's rules (`strtoull`, `strtod`), which take the longest
//! number that the text begins with: `512MB` is 512. Drystone's own keys are strict.

use super::bytes::{MIB, parse_bytes};
use super::syntax::{Form, Value};

/// Bytes in one page of device memory; segments are whole pages.
const PAGE: u64 = 2 * MIB;

impl Value {
    /// The text of a value that is one word; a list is refused.
    pub(super) fn word(&self) -> Option<&str> {
        matches!(self.form, Form::Word).then_some(self.text.as_str())
    }

    /// torch's whole number.
    pub(super) fn torch_unsigned(&self) -> Option<u64> {
        torch_unsigned(self.word()?)
    }

    /// torch's size in MiB, as bytes; what does not fit is cut down to the most whole MiB that do.
    pub(super) fn torch_mib(&self) -> Option<u64> {
        Some(self.torch_unsigned()?.min(u64::MAX / MIB) * MIB)
    }

    /// torch's real number.
    pub(super) fn torch_float(&self) -> Option<f64> {
        torch_float(self.word()?)
    }

    /// torch's switch: `True` or `False`, in no other spelling.
    pub(super) fn torch_bool(&self) -> Option<bool> {
        match self.word()? {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        }
    }

    /// A size in bytes, at least `least`.
    pub(super) fn bytes(&self, least: u64) -> Option<u64> {
        parse_bytes(self.word()?).ok().filter(|&bytes| bytes >= least)
    }

    /// A size of whole pages, from one page up to `most` bytes.
    pub(super) fn pages(&self, most: u64) -> Option<u64> {
        self.bytes(PAGE).filter(|&bytes| bytes.is_multiple_of(PAGE) && bytes <= most)
    }

    /// A whole number of at most 32 bits, digits only.
    pub(super) fn count(&self) -> Option<u32> {
        let word = self.word()?;
        word.bytes().all(|byte| byte.is_ascii_digit()).then(|| word.parse().ok())?
    }

    /// A number from 0 to `most`.
    pub(super) fn number(&self, most: f64) -> Option<f64> {
        self.word()?.parse().ok().filter(|number: &f64| (0.0..=most).contains(number))
    }

    /// A fraction above 0, at most 1.
    pub(super) fn fraction(&self) -> Option<f64> {
        self.word()?.parse().ok().filter(|&fraction: &f64| fraction > 0.0 && fraction <= 1.0)
    }

    /// torch's roundup divisions, laid over the slots of an earlier value of the same key.
    ///
    /// One number fills all slots. In a list, `K:d` sets the slot of sizes of K MiB, the first such
    /// entry also those below it, and `>:d` all slots above the last `K`.
    pub(super) fn torch_divisions(&self, earlier: &[u64; 16]) -> Option<[u64; 16]> {
        let pairs = match &self.form {
            Form::Word => {
                let divisions = torch_unsigned(&self.text)?;
                return divisions.is_power_of_two().then_some([divisions; 16]);
            }
            Form::Pairs(pairs) => pairs,
        };
        let mut slots = *earlier;
        let mut last = None;
        for (interval, divisions) in pairs {
            let divisions = torch_unsigned(divisions)?;
            if divisions != 0 && !divisions.is_power_of_two() {
                return None;
            }
            if interval == ">" {
                // Without a `K` before it, `>` starts above slot 0: so does torch.
                slots[last.unwrap_or(0) + 1..].fill(divisions);
                continue;
            }
            let mib = torch_unsigned(interval)?;
            if !mib.is_power_of_two() {
                return None;
            }
            let slot = (mib.ilog2() as usize).min(slots.len() - 1);
            if last.is_none() {
                slots[..slot].fill(divisions);
            }
            slots[slot] = divisions;
            last = Some(slot);
        }
        Some(slots)
    }
}

/// The text of divisions that [`Value::torch_divisions`] reads back; `None` when all are 0.
pub(super) fn show_divisions(slots: &[u64; 16]) -> Option<String> {
    let first = slots[0];
    let run = slots.iter().take_while(|&&slot| slot == first).count();
    if run == slots.len() {
        return (first != 0).then(|| first.to_string());
    }
    // The first interval fills the slots below it too.
    let mut text = format!("[{}:{first}", 1u64 << (run - 1));
    for (slot, divisions) in slots.iter().enumerate().skip(run).filter(|&(_, &d)| d != 0) {
        // `>` counts from the last interval written, which must be the slot below.
        let below_is_written = slot == run || slots[slot - 1] != 0;
        if below_is_written && slots[slot..].iter().all(|later| later == divisions) {
            text.push_str(&format!(",>:{divisions}"));
            break;
        }
        text.push_str(&format!(",{}:{divisions}", 1u64 << slot));
    }
    text.push(']');
    Some(text)
}

/// C's `strtoull`: an optional sign and the digits that follow. A negative number wraps round, so
/// that `-1` is the largest there is; a number of more than 64 bits is refused.
fn torch_unsigned(text: &str) -> Option<u64> {
    let (negative, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) => (text.starts_with('-'), digits),
        None => (false, text),
    };
    let end = digits.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = digits[..end].parse().ok()?;
    Some(if negative { number.wrapping_neg() } else { number })
}

/// C's `strtod` for decimal numbers: the longest one that the text begins with.
fn torch_float(text: &str) -> Option<f64> {
    let bytes = text.as_bytes();
    let digits_from =
        |start: usize| bytes[start..].iter().take_while(|b| b.is_ascii_digit()).count();

    let sign = usize::from(matches!(bytes.first(), Some(b'+' | b'-')));
    let whole = digits_from(sign);
    let mut end = sign + whole;
    let mut fraction = 0;
    if bytes.get(end) == Some(&b'.') {
        fraction = digits_from(end + 1);
        end += 1 + fraction;
    }
    if whole + fraction == 0 {
        return None;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        // An `e` without digits is not part of the number.
        match digits_from((end + 1 + sign).min(bytes.len())) {
            0 => {}
            digits => end += 1 + sign + digits,
        }
    }
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_as_the_c_library_reads_them() {
        for (text, number) in [
            ("128", Some(128)),
            ("+128", Some(128)),
            ("128MB", Some(128)),
            ("12.7", Some(12)),
            ("0x80", Some(0)),
            ("-1", Some(u64::MAX)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("", None),
            ("-", None),
            ("+-1", None),
            ("MB", None),
        ] {
            assert_eq!(torch_unsigned(text), number, "{text}");
        }
    }

    #[test]
    fn real_numbers_as_the_c_library_reads_them() {
        for (text, number) in [
            ("0.5", Some(0.5)),
            (".5", Some(0.5)),
            ("1.", Some(1.0)),
            ("+0.5x", Some(0.5)),
            ("-0.5", Some(-0.5)),
            ("5e-1", Some(0.5)),
            ("5e", Some(5.0)),
            ("5e+", Some(5.0)),
            ("0.8%", Some(0.8)),
            (".", None),
            ("", None),
            ("-", None),
            ("e5", None),
        ] {
            assert_eq!(torch_float(text), number, "{text}");
        }
    }
}
