//! The bytes of a pickle, taken from front to back, never beyond their end.

use crate::error::PickleProblem;

pub(super) struct Text<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Text<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Text { bytes, at: 0 }
    }

    /// Bytes taken so far.
    pub(super) fn offset(&self) -> u64 {
        self.at as u64
    }

    /// Whether `len` more bytes are there; comes before anything is taken for them.
    pub(super) fn check(&self, len: u64) -> Result<(), PickleProblem> {
        let left = (self.bytes.len() - self.at) as u64;
        if len > left {
            return Err(PickleProblem::Truncated { needed: len, left });
        }
        Ok(())
    }

    pub(super) fn take(&mut self, len: u64) -> Result<&'a [u8], PickleProblem> {
        self.check(len)?;
        let bytes = &self.bytes[self.at..][..len as usize];
        self.at += bytes.len();
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleProblem> {
        self.check(N as u64)?;
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes[self.at..][..N]);
        self.at += N;
        Ok(array)
    }

    pub(super) fn byte(&mut self) -> Result<u8, PickleProblem> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u64(&mut self) -> Result<u64, PickleProblem> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length that the format stores with a sign.
    pub(super) fn signed_len(&mut self) -> Result<u64, PickleProblem> {
        let len = i32::from_le_bytes(self.array()?);
        u64::try_from(len).map_err(|_| PickleProblem::NegativeLength(len))
    }
}
