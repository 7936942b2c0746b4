//! One line of a log.

use crate::csv::{Stream, Wrong, field, number, wrong};
use crate::event::MAX_SIZE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Allocate,
    Failure,
    Free,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Microseconds since midnight.
    pub(super) time: i64,
    pub(super) action: Action,
    /// 0 where there is none.
    pub(super) pointer: u64,
    pub(super) size: u64,
    /// What names the stream: 0 is the default one.
    pub(super) stream: Stream,
}

const COLUMNS: &str = super::COLUMNS;

pub(super) fn parse(line: &[u8]) -> Result<Line, Wrong> {
    let mut rest = Some(line);
    let mut next = || field(&mut rest).ok_or_else(|| wrong("line", line, COLUMNS));
    let found = next()?;
    let thread = number(found).ok_or_else(|| wrong("Thread", found, "a whole number"))?;
    let found = next()?;
    let time =
        time(found).ok_or_else(|| wrong("Time", found, "a time of day, as in 04:22:48.103275"))?;
    let action = match next()? {
        b"allocate" => Action::Allocate,
        b"allocate failure" => Action::Failure,
        b"free" => Action::Free,
        found => return Err(wrong("Action", found, "allocate, allocate failure or free")),
    };
    let found = next()?;
    let pointer = match found {
        b"(nil)" | b"nullptr" => 0,
        _ => hexadecimal(found)
            .ok_or_else(|| wrong("Pointer", found, "a hexadecimal number, or (nil)"))?,
    };
    let found = next()?;
    let size = number(found)
        .filter(|&size| size <= MAX_SIZE)
        .ok_or_else(|| wrong("Size", found, format!("a whole number from 0 to {MAX_SIZE}")))?;
    let found = next()?;
    let stream =
        stream(found, thread).ok_or_else(|| wrong("Stream", found, "a hexadecimal number"))?;
    if next().is_ok() {
        return Err(wrong("line", line, COLUMNS));
    }
    Ok(Line { time, action, pointer, size, stream })
}

/// The names of default streams, as CUDA defines them.
const LEGACY: u64 = 1;
const PER_THREAD: u64 = 2;

fn stream(field: &[u8], thread: u64) -> Option<Stream> {
    // Handles of other streams are addresses, in the lower half of the 64 bits.
    const THREADS: u64 = 1 << 63;
    let digits = field.strip_prefix(b"0x").unwrap_or(field);
    if digits.len() > 16 && digits.iter().all(u8::is_ascii_hexdigit) {
        return Some(Stream::OutOfRange);
    }
    Some(Stream::Named(match hexadecimal(field)? {
        LEGACY => 0,
        PER_THREAD => THREADS | thread,
        other => other,
    }))
}

/// With `0x` or without it.
fn hexadecimal(field: &[u8]) -> Option<u64> {
    let digits = field.strip_prefix(b"0x").unwrap_or(field);
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    digits.iter().try_fold(0, |value, &digit| {
        let digit = char::from(digit).to_digit(16)?;
        Some(value << 4 | u64::from(digit))
    })
}

/// `HH:MM:SS`, and up to nine digits of a second behind a point.
fn time(field: &[u8]) -> Option<i64> {
    let mut parts = field.splitn(3, |&byte| byte == b':');
    let mut part = |most: u64| number(parts.next()?).filter(|&value| value <= most);
    let (hours, minutes) = (part(23)?, part(59)?);
    let mut seconds = parts.next()?.splitn(2, |&byte| byte == b'.');
    // A leap second has the number 60.
    let whole = number(seconds.next()?).filter(|&value| value <= 60)?;
    let micros = match seconds.next() {
        None => 0,
        Some(digits) if digits.len() > 9 => return None,
        Some(digits) => {
            let scale = 10u64.pow(9 - digits.len() as u32);
            number(digits)? * scale / 1000
        }
    };
    Some((((hours * 60 + minutes) * 60 + whole) * 1_000_000 + micros) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_rmm_is_understood() {
        let line = parse(b"13664,04:22:48.103275,allocate,0x100,1000,0x55d0c0ffee00");
        let expected = Line {
            time: 15_768_103_275,
            action: Action::Allocate,
            pointer: 256,
            size: 1000,
            stream: Stream::Named(0x55d0_c0ff_ee00),
        };
        assert_eq!(line.ok(), Some(expected));
    }

    #[test]
    fn streams_of_threads_are_apart_and_the_legacy_one_is_the_default() {
        assert_eq!(stream(b"0", 7), Some(Stream::Named(0)));
        assert_eq!(stream(b"0x0", 7), Some(Stream::Named(0)));
        assert_eq!(stream(b"0x1", 7), Some(Stream::Named(0)));
        assert_ne!(stream(b"0x2", 7), stream(b"0x2", 8));
        assert_eq!(stream(b"2", 7), stream(b"0x2", 7));
        assert_eq!(stream(b"0x10", 7), Some(Stream::Named(16)));
        assert_eq!(stream(b"0x12345678901234567", 7), Some(Stream::OutOfRange));
    }

    #[test]
    fn times_have_up_to_nine_digits_behind_the_second() {
        for (text, micros) in [
            ("00:00:00", Some(0)),
            ("00:00:01.5", Some(1_500_000)),
            ("00:01:00.000001", Some(60_000_001)),
            ("23:59:60.999999999", Some(86_400_999_999)),
            ("24:00:00", None),
            ("00:60:00", None),
            ("00:00", None),
            ("00:00:00.", None),
            ("00:00:00.0000000000", None),
            ("1:2:3:4", None),
            ("-1:00:00", None),
        ] {
            assert_eq!(time(text.as_bytes()), micros, "{text}");
        }
    }
}
