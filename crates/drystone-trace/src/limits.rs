//! What input may make a reader take: the limits, and the account that enforces the memory one.

use std::fmt;

use crate::error::{Position, TraceError};

/// Bounds on what one input may cost. Every reader stops with [`TraceError::Limit`] at the first
/// one passed, before the memory for it is taken.
///
/// The defaults let through anything a real job records (a ring of 50 million events) and stop
/// decompression bombs and made-up structures. They are set with functional update:
///
/// ```
/// let limits = drystone_trace::Limits { max_events: 1_000, ..Default::default() };
/// # assert_eq!(limits.max_events, 1_000);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Events in a trace, entries of a snapshot's rings. Default 50,000,000.
    pub max_events: u64,
    /// Bytes of the input after decompression. Default 4 GiB.
    pub max_decompressed_bytes: u64,
    /// Bytes of memory that a reader may hold for one input: pickle text, values, events, tables.
    /// A decompressor's window counts by itself. Default 8 GiB.
    pub max_memory_bytes: u64,
    /// Bytes of one line of a CSV. Default 4,096.
    pub max_line_bytes: u64,
    /// Bytes of one string (or other run of bytes) in a pickle. Default 16 MiB.
    pub max_string_bytes: u64,
    /// Containers in containers in a pickle. A snapshot has 6. Default 256.
    pub max_depth: u32,
    /// Values in a pickle. Default, and most that can be: 2^28 - 1.
    pub max_objects: u64,
    /// Bytes that any input may take before the two ratios below count. Default 64 MiB.
    pub free_bytes: u64,
    /// Bytes of memory for each byte of a CSV, a log or a pickle, above `free_bytes`. What a real job
    /// records takes less. Default 4.
    pub max_memory_ratio: u64,
    /// Bytes after decompression (of a native trace: of events) for each byte of the file, above
    /// `free_bytes`. Default 16,384: more than any real trace shrinks, less than a bomb.
    pub max_expansion: u64,
}

impl Limits {
    /// What a file of which so many bytes were read may have unfolded to.
    pub(crate) fn unfolded(&self, file: u64) -> u64 {
        self.free_bytes.saturating_add(self.max_expansion.saturating_mul(file))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_events: 50_000_000,
            max_decompressed_bytes: 4 << 30,
            max_memory_bytes: 8 << 30,
            max_line_bytes: 4096,
            max_string_bytes: 16 << 20,
            max_depth: 256,
            max_objects: (1 << 28) - 1,
            free_bytes: 64 << 20,
            max_memory_ratio: 4,
            max_expansion: 16_384,
        }
    }
}

/// Which of the [`Limits`] was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LimitKind {
    /// [`Limits::max_events`].
    Events,
    /// [`Limits::max_decompressed_bytes`], or the 4 GiB that a pickle can have at most.
    /// Also [`Limits::max_expansion`].
    DecompressedBytes,
    /// [`Limits::max_memory_bytes`], [`Limits::max_memory_ratio`], or the machine has no more.
    Memory,
    /// [`Limits::max_line_bytes`].
    LineBytes,
    /// [`Limits::max_string_bytes`].
    StringBytes,
    /// [`Limits::max_depth`].
    Depth,
    /// [`Limits::max_objects`].
    Objects,
    /// Shared values of a pickle stand for far more than the pickle holds; the number is of values
    /// visited.
    Expansion,
}

impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LimitKind::Events => "events",
            LimitKind::DecompressedBytes => "bytes after decompression",
            LimitKind::Memory => "bytes of memory",
            LimitKind::LineBytes => "bytes in a line",
            LimitKind::StringBytes => "bytes in a string",
            LimitKind::Depth => "containers in containers",
            LimitKind::Objects => "values",
            LimitKind::Expansion => "values visited through shared ones",
        })
    }
}

/// A limit that was passed, where the place is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exceeded {
    pub(crate) kind: LimitKind,
    pub(crate) allowed: u64,
}

impl Exceeded {
    pub(crate) fn at(self, position: Position) -> TraceError {
        TraceError::Limit { kind: self.kind, allowed: self.allowed, position }
    }
}

/// The account of memory held for one input.
#[derive(Debug)]
pub(crate) struct Budget {
    used: u64,
    max: u64,
    limits: Limits,
}

impl Budget {
    pub(crate) fn new(limits: &Limits) -> Self {
        Budget { used: 0, max: limits.max_memory_bytes, limits: limits.clone() }
    }

    /// So many bytes of text were read so far: from now on the memory is held against them, too.
    pub(crate) fn seen(&mut self, text: u64) {
        let Limits { free_bytes, max_memory_ratio, max_memory_bytes, .. } = self.limits;
        let allowed = free_bytes.saturating_add(max_memory_ratio.saturating_mul(text));
        self.max = allowed.min(max_memory_bytes);
    }

    /// Bytes that are accounted for.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// The limits for what comes after this, of which `kept` bytes stay.
    pub(crate) fn left(&self, kept: u64) -> Limits {
        Limits { max_memory_bytes: self.max.saturating_sub(kept), ..self.limits.clone() }
    }

    /// Accounts for `bytes` more, or says that they may not be taken.
    pub(crate) fn charge(&mut self, bytes: u64) -> Result<(), Exceeded> {
        match self.used.checked_add(bytes) {
            Some(used) if used <= self.max => {
                self.used = used;
                Ok(())
            }
            _ => Err(Exceeded { kind: LimitKind::Memory, allowed: self.max }),
        }
    }

    /// Takes back what was charged for a vector that is dropped.
    pub(crate) fn release<T>(&mut self, vec: Vec<T>) {
        self.used -= (vec.capacity() * size_of::<T>()) as u64;
    }

    /// Takes back what was charged otherwise.
    pub(crate) fn refund(&mut self, bytes: u64) {
        self.used -= bytes;
    }

    /// Makes room for `extra` more items. Grows by an eighth, not by doubling: the slack counts as
    /// memory held, and the readers promise a small multiple of the input.
    pub(crate) fn reserve<T>(&mut self, vec: &mut Vec<T>, extra: usize) -> Result<(), Exceeded> {
        if vec.capacity() - vec.len() >= extra {
            return Ok(());
        }
        self.grow(vec, extra)
    }

    #[cold]
    fn grow<T>(&mut self, vec: &mut Vec<T>, extra: usize) -> Result<(), Exceeded> {
        let refused = Exceeded { kind: LimitKind::Memory, allowed: self.max };
        let capacity = vec.capacity();
        let wanted = vec.len().checked_add(extra).ok_or(refused)?;
        let target = wanted.max(capacity.saturating_add(capacity / 8)).max(16);
        let bytes = ((target - capacity) as u64).saturating_mul(size_of::<T>() as u64);
        self.charge(bytes)?;
        vec.try_reserve_exact(target - vec.len()).map_err(|_| refused)
    }

    /// Appends one item, within the account.
    pub(crate) fn push<T>(&mut self, vec: &mut Vec<T>, item: T) -> Result<(), Exceeded> {
        self.reserve(vec, 1)?;
        vec.push(item);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_stops_growing_at_the_limit_and_not_before() {
        let limits = Limits { max_memory_bytes: 8 * 1000, ..Limits::default() };
        let mut budget = Budget::new(&limits);
        let mut items: Vec<u64> = Vec::new();
        let refused = loop {
            if let Err(refused) = budget.push(&mut items, 7) {
                break refused;
            }
        };
        assert_eq!(refused, Exceeded { kind: LimitKind::Memory, allowed: 8000 });
        assert!(items.capacity() <= 1000, "held {}", items.capacity());
        assert!(items.len() >= 600, "only {} of 1000 used", items.len());
    }

    #[test]
    fn an_absurd_reserve_is_refused_without_an_attempt() {
        let mut budget = Budget::new(&Limits::default());
        let mut items: Vec<u64> = Vec::new();
        assert!(budget.reserve(&mut items, usize::MAX).is_err());
        assert_eq!(items.capacity(), 0);
        assert!(budget.charge(u64::MAX).is_err());
    }
}
