//! Movable blocks: what their owners declare so may be taken elsewhere, copied by the owner.
//!
//! Pages are remapped without a copy, but a page on which one small block survives cannot be. A
//! pass ([`Allocator::plan_moves`]) lists moves that empty whole handles (or segments): blocks out
//! of those with the fewest live bytes into free space of fuller ones, which is reserved for them.
//! The owner copies, on the block's stream, and commits each move; then the old place is free in
//! the order of that stream. No new memory is opened, and only movable blocks are moved.

mod plan;

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use super::{Allocator, Request};
use crate::block::State;
use crate::device::Device;
use crate::driver::{DeviceId, Driver, StreamId};
use crate::error::{AllocError, InvalidDevice, MoveError};
use plan::{Placed, Plan};

/// Names a movable block for its whole life, wherever it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MovableId(pub(crate) u64);

impl std::fmt::Display for MovableId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "movable block {}", self.0)
    }
}

/// How much a pass may move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveLimits {
    /// Bytes that are copied at most.
    pub bytes: u64,
    /// Blocks that are moved at most.
    pub moves: usize,
}

impl Default for MoveLimits {
    /// No limit.
    fn default() -> Self {
        MoveLimits { bytes: u64::MAX, moves: usize::MAX }
    }
}

/// One move of a pass: `bytes` are to be copied from `from` to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The block.
    pub allocation: MovableId,
    /// Where it lies.
    pub from: u64,
    /// Where it is to lie: memory that is reserved for it until the move is committed or abandoned.
    pub to: u64,
    /// The bytes that its owner asked for.
    pub bytes: u64,
    /// The block's stream, on which the copy has its place: both addresses may be used in its
    /// order. A copy on another stream waits for this one before, lets it wait afterwards, and is
    /// recorded on both addresses ([`Allocator::record_stream`]).
    pub stream: StreamId,
}

/// What the allocator knows of a movable block.
struct Entry {
    /// 0 for one of no bytes.
    address: u64,
    request: Request,
    /// The place that is reserved for it by a pass.
    to: Option<u64>,
}

/// All movable blocks. Locked before the pages of a device and before heaps.
#[derive(Default)]
pub(super) struct Movables(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    made: u64,
    by_id: HashMap<MovableId, Entry>,
}

/// Moves that were planned; see [`Allocator::plan_moves`]. Dropping it abandons those that were not
/// committed.
#[must_use = "dropping a pass abandons its moves"]
pub struct MovePass<'a, D: Driver> {
    allocator: &'a Allocator<D>,
    moves: Vec<Move>,
    open: HashSet<MovableId>,
}

impl<D: Driver> Allocator<D> {
    /// Hands out memory that may be moved by a pass. Its address ([`Allocator::movable_address`])
    /// changes only when its owner commits a move of it. It is given back by its id, with
    /// [`Allocator::free_movable`]; [`Allocator::free`] refuses it.
    pub fn allocate_movable(&self, request: Request) -> Result<MovableId, AllocError> {
        let address = self.serve(request)?;
        // Nobody else knows the address yet.
        if let Ok((_, mut core, block)) = self.locate(address) {
            core.make_movable(&block);
        }
        let mut movables = self.movables.0.lock();
        movables.made += 1;
        let id = MovableId(movables.made);
        movables.by_id.insert(id, Entry { address, request, to: None });
        Ok(id)
    }

    /// Where a movable block lies now; 0 if it has no bytes, none if it is not known.
    pub fn movable_address(&self, id: MovableId) -> Option<u64> {
        Some(self.movables.0.lock().by_id.get(&id)?.address)
    }

    /// Takes a movable block back, as [`Allocator::free`] does. A move of it that is open ends: the
    /// place that was reserved for it is free too, in the order of the block's stream.
    pub fn free_movable(&self, id: MovableId) -> Result<(), MoveError> {
        let mut movables = self.movables.0.lock();
        let entry = movables.by_id.remove(&id).ok_or(MoveError::Unknown { id })?;
        self.give_movable(entry.address);
        entry.to.into_iter().for_each(|to| self.give_movable(to));
        Ok(())
    }

    /// Plans moves of movable blocks of a device, after which whole handles (with
    /// [`Backing::Malloc`] whole segments) are free: those with the fewest live bytes first, as far
    /// as the limits and the free space of others go. A block is left where it is if it is pinned,
    /// lent from another stream's memory, of a captured graph's pool, or in another pass, or if
    /// something that is not movable keeps its handle anyway. Gives no moves while a stream capture
    /// is underway.
    ///
    /// The reserved places count as allocated until the moves end. Looks at every block of the
    /// device. Memory that became free is usable at once, and goes back to the device with
    /// [`Allocator::empty_cache`].
    ///
    /// [`Backing::Malloc`]: crate::config::Backing::Malloc
    pub fn plan_moves(
        &self,
        device: DeviceId,
        limits: MoveLimits,
    ) -> Result<MovePass<'_, D>, InvalidDevice> {
        let device = self.device(device)?;
        let mut pass = MovePass { allocator: self, moves: Vec::new(), open: HashSet::new() };
        if device.is_capturing() {
            return Ok(pass);
        }
        self.settle_all(device);
        let mut movables = self.movables.0.lock();
        let store = device.pages.as_ref().map(|store| store.lock());
        let mut plan = self.survey_movables(device, store.as_deref(), &movables.by_id);
        let mut left = limits;
        while let Some(group) = plan.next(left) {
            let Some(places) = self.reserve_places(device, &group) else { continue };
            for (placed, to) in group.iter().zip(places) {
                let Some(entry) = movables.by_id.get_mut(&placed.id) else { continue };
                let Request { size: bytes, stream, .. } = entry.request;
                entry.to = Some(to);
                left = MoveLimits { bytes: left.bytes - bytes, moves: left.moves - 1 };
                let (allocation, from) = (placed.id, entry.address);
                pass.moves.push(Move { allocation, from, to, bytes, stream });
                pass.open.insert(allocation);
            }
        }
        Ok(pass)
    }

    /// What there is to move, and where to.
    fn survey_movables(
        &self,
        device: &Device,
        store: Option<&crate::pages::PageStore>,
        movables: &HashMap<MovableId, Entry>,
    ) -> Plan {
        let candidates = movables.iter().filter(|(_, entry)| {
            entry.to.is_none() && entry.address != 0 && entry.request.device == device.id
        });
        let candidates = candidates.map(|(&id, entry)| {
            let Request { size, align, stream, .. } = entry.request;
            (entry.address, (id, stream, self.fit(size, align)))
        });
        Plan::new(device, store, &candidates.collect())
    }

    /// Reserves all places of a group: their addresses. None, and nothing reserved, if another
    /// thread took one of them.
    fn reserve_places(&self, device: &Device, group: &[Placed]) -> Option<Vec<u64>> {
        let mut places = Vec::new();
        for placed in group {
            let Some(heap) = self.heaps.get(placed.heap) else { break };
            let mut core = heap.lock();
            if !core.is_term(placed.term) {
                break;
            }
            let fit = &placed.fit;
            let found = heap.hand_out_movable(&mut core, placed.segment, placed.start, fit);
            let Some(handed) = found else { break };
            device.totals.after_allocation(heap, &mut core.thresholds, fit.kind);
            self.note_allocation(device, &core, handed);
            places.push(handed.address);
        }
        if places.len() == group.len() {
            return Some(places);
        }
        places.into_iter().for_each(|place| self.give_movable(place));
        None
    }

    /// Takes the movable block at an address back. The address is known to be one's, or null.
    fn give_movable(&self, address: u64) {
        if let Ok((heap, mut core, block)) = self.locate_again(address, State::Movable) {
            self.give(heap, &mut core, block);
        }
    }
}

impl<D: Driver> MovePass<'_, D> {
    /// The moves, those that ended included.
    pub fn moves(&self) -> &[Move] {
        &self.moves
    }

    /// Ends a move whose copy was submitted: the block lies at its new address from now on, and the
    /// old place is free in the order of the block's stream, and once every stream recorded on it
    /// has passed.
    pub fn commit(&mut self, allocation: MovableId) -> Result<(), MoveError> {
        self.end(allocation, |entry, to| std::mem::replace(&mut entry.address, to))
    }

    /// Ends a move without effect: the block stays, and the reserved place is free in the order of
    /// the block's stream.
    pub fn abandon(&mut self, allocation: MovableId) -> Result<(), MoveError> {
        self.end(allocation, |_, to| to)
    }

    /// Ends a move, and takes the place back that `unused` names.
    fn end(
        &mut self,
        id: MovableId,
        unused: impl FnOnce(&mut Entry, u64) -> u64,
    ) -> Result<(), MoveError> {
        if !self.open.remove(&id) {
            return Err(MoveError::NotPlanned { id });
        }
        let mut movables = self.allocator.movables.0.lock();
        let entry = movables.by_id.get_mut(&id).ok_or(MoveError::Unknown { id })?;
        if let Some(to) = entry.to.take() {
            self.allocator.give_movable(unused(entry, to));
        }
        Ok(())
    }
}

impl<D: Driver> Drop for MovePass<'_, D> {
    fn drop(&mut self) {
        for id in std::mem::take(&mut self.open).into_iter().collect::<Vec<_>>() {
            self.open.insert(id);
            // One that was freed in the meantime has no place any more.
            let _ = self.abandon(id);
        }
    }
}

impl<D: Driver> std::fmt::Debug for MovePass<'_, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MovePass").field("moves", &self.moves).finish_non_exhaustive()
    }
}
