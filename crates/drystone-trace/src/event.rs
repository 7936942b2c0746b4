//! The event model: what a program asked its allocator for, and nothing of how it was answered.

use crate::dropped::Dropped;

/// The block number of an event that has no block (segments, out of memory, markers).
pub const NO_BLOCK: u32 = u32::MAX;

/// The largest size of an event in bytes, 2^60: torch refuses larger requests itself, and up to
/// here sums of a few sizes cannot overflow.
pub const MAX_SIZE: u64 = 1 << 60;

/// Device numbers are below this.
pub const MAX_DEVICES: u32 = 1024;

/// What an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Op {
    /// The program was given a block.
    Alloc,
    /// The program gave a block back; other streams may still be using its bytes.
    FreeRequested,
    /// Nobody uses the block's bytes any more: its own stream may be given them again.
    FreeCompleted,
    /// The recording allocator took a segment from the device.
    SegmentAlloc,
    /// The recording allocator gave a segment back to the device.
    SegmentFree,
    /// The recording allocator mapped memory into an expandable segment.
    SegmentMap,
    /// The recording allocator unmapped memory of an expandable segment.
    SegmentUnmap,
    /// A request could not be met.
    OutOfMemory,
    /// A snapshot was taken here.
    Snapshot,
}

impl Op {
    /// All operations, in the order of their discriminants.
    pub const ALL: [Op; 9] = [
        Op::Alloc,
        Op::FreeRequested,
        Op::FreeCompleted,
        Op::SegmentAlloc,
        Op::SegmentFree,
        Op::SegmentMap,
        Op::SegmentUnmap,
        Op::OutOfMemory,
        Op::Snapshot,
    ];

    /// The letter in the `op` column of a CSV.
    pub const fn letter(self) -> char {
        match self {
            Op::Alloc => 'a',
            Op::FreeRequested => 'f',
            Op::FreeCompleted => 'c',
            Op::SegmentAlloc => 'S',
            Op::SegmentFree => 'R',
            Op::SegmentMap => 'm',
            Op::SegmentUnmap => 'u',
            Op::OutOfMemory => 'o',
            Op::Snapshot => 's',
        }
    }

    /// Whether events of this kind name a block; the others have [`NO_BLOCK`].
    pub const fn has_block(self) -> bool {
        matches!(self, Op::Alloc | Op::FreeRequested | Op::FreeCompleted)
    }
}

/// One event. Times never go back from one event of a [`Trace`] to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// Microseconds; only differences mean something.
    pub t_us: u64,
    /// Requested bytes of the block (of the segment, for segment events); at most [`MAX_SIZE`].
    /// A free has the size of its block's [`Op::Alloc`].
    pub size: u64,
    /// The block, counted from 0 in order of allocation, or [`NO_BLOCK`].
    pub id: u32,
    /// The stream, counted from 0 in order of appearance; 0 is always the default stream.
    pub stream: u32,
    /// The device; below [`MAX_DEVICES`].
    pub device: u32,
    /// What happened.
    pub op: Op,
}

const _: () = assert!(size_of::<Event>() <= 32, "millions of events are held at once");

/// A recorded run, repaired so that a replay may rely on it:
///
/// * every block has exactly one [`Op::Alloc`] before its frees, and is used once: numbers are not
///   reused;
/// * a block has at most one [`Op::FreeRequested`], then at most one [`Op::FreeCompleted`], never
///   the second without the first;
/// * times do not go back, sizes of one block agree, and numbers are dense.
///
/// What had to be changed for that is in [`Trace::dropped`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// What to call it: the file's name without directory and endings.
    pub name: String,
    /// The events in order.
    pub events: Vec<Event>,
    /// How many blocks there are; their numbers are below this.
    pub blocks: u32,
    /// How many streams there are, counting the default one even if unused; numbers are below this.
    pub streams: u32,
    /// How many devices there are: one more than the highest number, at least 1.
    pub devices: u32,
    /// How many of the first events are [`Op::Alloc`] of blocks that were live before the recording
    /// began. Their order and time were not recorded.
    pub prelude: usize,
    /// The pool of each block, by block number: 0 for the default pool, from 1 on in order of
    /// appearance for private ones, such as those of captured graphs. Empty, or shorter than there
    /// are blocks, where the others lay in the default pool or nothing is known.
    pub block_pools: Vec<u32>,
    /// What was dropped or repaired, and why.
    pub dropped: Dropped,
}

impl Trace {
    /// Microseconds from the first event to the last; 0 without events.
    pub fn duration_us(&self) -> u64 {
        match (self.events.first(), self.events.last()) {
            (Some(first), Some(last)) => last.t_us - first.t_us,
            _ => 0,
        }
    }

    /// The pool of a block: 0 for the default one, and where it is not known.
    pub fn pool_of(&self, block: u32) -> u32 {
        self.block_pools.get(block as usize).copied().unwrap_or(0)
    }

    /// Says the pool of a block.
    pub fn set_pool(&mut self, block: u32, pool: u32) {
        let at = block as usize;
        if pool != self.pool_of(block) {
            self.block_pools.resize(self.block_pools.len().max(at + 1), 0);
            self.block_pools[at] = pool;
        }
    }

    /// How many pools there are, counting the default one even if unused; numbers are below this.
    pub fn pools(&self) -> u32 {
        self.block_pools.iter().max().map_or(1, |most| most + 1)
    }

    /// The most bytes that were ever allocated and not yet free-completed, over all devices. This
    /// is what no allocator can stay below.
    pub fn peak_live_bytes(&self) -> u64 {
        // 128 bits: 2^32 blocks of 2^60 bytes.
        let (mut live, mut peak) = (0u128, 0u128);
        for event in &self.events {
            match event.op {
                Op::Alloc => {
                    live += u128::from(event.size);
                    peak = peak.max(live);
                }
                Op::FreeCompleted => live -= u128::from(event.size),
                _ => {}
            }
        }
        u64::try_from(peak).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(op: Op, t_us: u64, id: u32, size: u64) -> Event {
        Event { t_us, size, id, stream: 0, device: 0, op }
    }

    fn trace(events: Vec<Event>) -> Trace {
        Trace {
            name: String::new(),
            events,
            blocks: 0,
            streams: 1,
            devices: 1,
            prelude: 0,
            block_pools: Vec::new(),
            dropped: Dropped::default(),
        }
    }

    #[test]
    fn a_requested_free_still_counts_as_live_and_a_completed_one_does_not() {
        let t = trace(vec![
            event(Op::Alloc, 5, 0, 100),
            event(Op::FreeRequested, 6, 0, 100),
            event(Op::Alloc, 7, 1, 10),
            event(Op::FreeCompleted, 8, 0, 100),
            event(Op::Alloc, 9, 2, 50),
            event(Op::SegmentAlloc, 25, NO_BLOCK, 1 << 40),
        ]);
        assert_eq!(t.peak_live_bytes(), 110);
        assert_eq!(t.duration_us(), 20);
        assert_eq!(trace(Vec::new()).duration_us(), 0);
    }

    #[test]
    fn a_peak_beyond_64_bits_saturates() {
        let t = trace((0..20).map(|i| event(Op::Alloc, 0, i, MAX_SIZE)).collect());
        assert_eq!(t.peak_live_bytes(), u64::MAX);
    }

    #[test]
    fn letters_are_distinct() {
        let letters: std::collections::HashSet<_> = Op::ALL.iter().map(|op| op.letter()).collect();
        assert_eq!(letters.len(), Op::ALL.len());
    }
}
