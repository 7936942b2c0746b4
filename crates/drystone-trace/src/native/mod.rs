//! Drystone's own format of traces (`.dst`): chunks of columns, packed with Zstandard, below one
//! byte an event for most runs. `docs/trace-format.md` has it byte by byte.
//!
//! Writer and reader hold one chunk. Every chunk has a checksum, and the last one the totals, so
//! that damage and truncation are seen.

mod bytes;
mod chunk;
mod columns;
mod reader;
mod tables;
mod writer;

pub(crate) use chunk::MAGIC;
pub use reader::NativeReader;
pub(crate) use reader::read;
pub use writer::{NativeWriter, write_native};

use crate::event::Event;
use crate::snapshot::StackId;

/// The most events of a chunk.
const MOST_EVENTS: usize = 1 << 16;

/// An event of a native trace, with what is known of it beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The event.
    pub event: Event,
    /// Of an allocation or out of memory: who asked.
    pub stack: StackId,
    /// Of out of memory: bytes that the device had free, if that is known.
    pub device_free: Option<u64>,
    /// Of an allocation: the block's pool, as in [`Trace::block_pools`](crate::Trace::block_pools).
    /// Of all else it is 0, and not written.
    pub pool: u32,
}

impl From<Event> for Entry {
    fn from(event: Event) -> Self {
        Entry { event, stack: StackId::default(), device_free: None, pool: 0 }
    }
}

/// Whether an input that starts with `head` is a native trace.
pub(crate) fn is_native(head: &[u8]) -> bool {
    head.starts_with(&MAGIC)
}
