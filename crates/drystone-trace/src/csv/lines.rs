//! Lines of an input through one buffer of fixed size.

use crate::error::{Position, TraceError};
use crate::input::Input;
use crate::limits::{Exceeded, LimitKind, Limits};

const BUFFER: usize = 1 << 18;

pub(crate) struct Lines<'a> {
    input: Input<'a>,
    buffer: Vec<u8>,
    /// What is read and not yet given out: `buffer[start..end]`.
    start: usize,
    end: usize,
    number: u64,
    max_line: usize,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(input: Input<'a>, limits: &Limits) -> Self {
        let max_line = usize::try_from(limits.max_line_bytes).unwrap_or(usize::MAX);
        let buffer = vec![0; BUFFER];
        Lines { input, buffer, start: 0, end: 0, number: 0, max_line }
    }

    /// The number of the line given out last, from 1.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Bytes of the input up to here, and a little ahead.
    pub(crate) fn taken(&self) -> u64 {
        self.input.taken()
    }

    /// The next line without its end.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, TraceError> {
        let mut searched = 0;
        let (line, used) = loop {
            let waiting = &self.buffer[self.start..self.end];
            if let Some(n) = waiting[searched..].iter().position(|&b| b == b'\n') {
                break (searched + n, searched + n + 1);
            }
            searched = waiting.len();
            if searched > self.max_line {
                break (searched, searched);
            }
            if !self.refill()? {
                if searched == 0 {
                    return Ok(None);
                }
                break (searched, searched);
            }
        };
        self.number += 1;
        if line > self.max_line {
            let exceeded = Exceeded { kind: LimitKind::LineBytes, allowed: self.max_line as u64 };
            return Err(exceeded.at(Position::Line(self.number)));
        }
        let line = self.start..self.start + line;
        self.start += used;
        let line = &self.buffer[line];
        Ok(Some(line.strip_suffix(b"\r").unwrap_or(line)))
    }

    /// Reads more behind what waits; false at the end of the input.
    fn refill(&mut self) -> Result<bool, TraceError> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            // Only for a line limit above BUFFER; bounded by it, as `next` stops there.
            self.buffer.resize(2 * self.end, 0);
        }
        let n = self.input.read(&mut self.buffer[self.end..])?;
        self.end += n;
        Ok(n > 0)
    }
}
