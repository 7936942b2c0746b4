//! Numbers and texts in the pieces of a chunk: little-endian groups of 7 bits, the top bit of each
//! byte saying that more follow.

pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// A piece that is being read, front to back. Everything is `None` where it is cut short or wrong.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// A number of 32 bits.
    pub(super) fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    pub(super) fn take(&mut self, len: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        let len = self.number()?;
        std::str::from_utf8(self.take(len)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_and_only_64_bits_are_numbers() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), 1 << 63, u64::MAX] {
            let mut out = Vec::new();
            put(&mut out, value);
            assert!(out.len() <= 10);
            let mut bytes = Bytes(&out);
            assert_eq!((bytes.number(), bytes.0), (Some(value), &[][..]));
            assert_eq!(Bytes(&out[..out.len() - 1]).number(), None);
        }
        let too_long = [0xff; 9];
        assert_eq!(Bytes(&[&too_long[..], &[2]].concat()).number(), None);
        assert_eq!(Bytes(&[&too_long[..], &[0x81, 0]].concat()).number(), None);
        assert_eq!(Bytes(&[0x80, 0x80, 0x80, 0x80, 0x10]).small(), None);
    }

    #[test]
    fn texts_are_whole_and_utf_8() {
        let mut out = Vec::new();
        put_text(&mut out, "ü");
        assert_eq!(Bytes(&out).text(), Some("ü"));
        assert_eq!(Bytes(&out[..2]).text(), None);
        assert_eq!(Bytes(&[1, 0xff]).text(), None);
    }
}
