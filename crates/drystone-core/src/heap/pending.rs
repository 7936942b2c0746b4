//! Blocks that their owners have freed while other streams may still be using them.

use std::sync::Arc;

use super::{Heap, HeapCore, Located};
use crate::ticket::{Stamp, Ticker};

/// Allocations between two looks at the pending blocks: an event record or query costs as much as
/// some ten allocations (0.14 to 0.3 µs on an H100).
const LOOK_EVERY: u32 = 8;
/// Allocations after the first block became pending that look every time: a program that then waits
/// for the other stream gets its block back, as from PyTorch's own allocator.
const LOOK_FIRST: u32 = 4;

/// A stream that must pass a stamp.
#[derive(Clone)]
pub(crate) struct Wait {
    pub(crate) ticker: Arc<Ticker>,
    pub(crate) stamp: Stamp,
}

/// A block and the streams it waits for.
pub(super) struct Pending {
    pub(super) block: Located,
    waits: Vec<Wait>,
}

impl HeapCore {
    /// Makes a used block wait for the streams recorded on it, up to what they were given so far.
    pub(super) fn make_pending(&mut self, block: Located) {
        let waits = self.take_uses(block.index).into_iter().map(|ticker| {
            let stamp = ticker.stamp();
            Wait { ticker, stamp }
        });
        let waits = waits.collect();
        self.blocks[block.index].set_pending();
        if self.pending.is_empty() {
            self.unlooked = 0;
        }
        self.pending.push(Pending { block, waits });
    }

    /// Whether any block is pending.
    #[inline]
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Before an allocation while blocks are pending: whether it is time to ask how far their
    /// streams have come. Seldom enough to cost little, often enough that a block does not stay
    /// pending long after its streams have passed.
    pub(crate) fn looks_at_pending(&mut self) -> bool {
        let look = self.unlooked < LOOK_FIRST || self.unlooked.is_multiple_of(LOOK_EVERY);
        self.unlooked = self.unlooked.wrapping_add(1);
        look
    }

    /// What the pending blocks wait for: one wait per stream, for its highest stamp.
    pub(crate) fn waits(&self) -> Vec<Wait> {
        let mut waits: Vec<Wait> = Vec::new();
        for wait in self.pending.iter().flat_map(|pending| &pending.waits) {
            if wait.ticker.has_passed(wait.stamp) {
                continue;
            }
            match waits.iter_mut().find(|known| Arc::ptr_eq(&known.ticker, &wait.ticker)) {
                Some(known) => known.stamp = known.stamp.max(wait.stamp),
                None => waits.push(wait.clone()),
            }
        }
        waits
    }
}

impl Heap {
    /// Frees every pending block whose streams are known to have passed, counted; tells `note` the
    /// address and the bytes asked for of each.
    pub(crate) fn settle_pending(&self, core: &mut HeapCore, note: impl Fn(u64, u64)) {
        core.unpark_all();
        let mut at = 0;
        while at < core.pending.len() {
            let pending = &core.pending[at];
            if pending.waits.iter().all(|wait| wait.ticker.has_passed(wait.stamp)) {
                let Pending { block, .. } = core.pending.swap_remove(at);
                note(core.address_of(block.index), block.requested);
                core.make_free(block.index, block.kind);
                let split = core.split_of(block.kind);
                self.counters.of(block.kind).pending_done(block.bytes, block.requested, split);
            } else {
                at += 1;
            }
        }
    }
}
