//! Columns of numbers as text in a page: variable-length integers, deflated, in base 64.
//!
//! Each column begins with its length. What changes little from one number to the next is written
//! as differences. `page/columns.js` reads them.

use std::io::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::write::DeflateEncoder;

/// Columns being written.
#[derive(Debug, Default)]
pub(super) struct Columns {
    bytes: Vec<u8>,
}

impl Columns {
    /// A column of numbers as they are.
    pub(super) fn plain(&mut self, numbers: impl ExactSizeIterator<Item = u64>) {
        self.number(numbers.len() as u64);
        numbers.for_each(|number| self.number(number));
    }

    /// A column of differences from one number to the next, from 0 on, either way.
    pub(super) fn differences(&mut self, numbers: impl ExactSizeIterator<Item = u64>) {
        self.number(numbers.len() as u64);
        let mut last = 0u64;
        for number in numbers {
            let difference = number.wrapping_sub(last) as i64;
            self.number((difference.wrapping_shl(1) ^ (difference >> 63)) as u64);
            last = number;
        }
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    /// The columns as text.
    pub(super) fn text(&self) -> String {
        packed(&self.bytes)
    }
}

/// Any bytes as text: deflated, in base 64.
pub(super) fn packed(bytes: &[u8]) -> String {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    // A Vec takes everything.
    let _ = encoder.write_all(bytes);
    BASE64_STANDARD.encode(encoder.finish().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_lengths_and_numbers() {
        let mut columns = Columns::default();
        columns.plain([0, 127, 128, 1 << 35].into_iter());
        assert_eq!(columns.bytes, [4, 0, 127, 0x80, 1, 0x80, 0x80, 0x80, 0x80, 0x80, 1]);
        let mut columns = Columns::default();
        columns.differences([5, 5, 3, 0, u64::MAX].into_iter());
        assert_eq!(columns.bytes, [5, 10, 0, 3, 5, 1]);
        assert!(columns.text().bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b)));
    }
}
