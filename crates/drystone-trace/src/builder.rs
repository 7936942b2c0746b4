//! Turns recorded events into a [`Trace`]: numbers blocks and streams, repairs what makes no sense.
//!
//! All readers end here, so that the same run is treated alike in every format.

use std::collections::HashMap;

use crate::dropped::{Dropped, Finding, Oddity};
use crate::error::{Position, TraceError};
use crate::event::{Event, NO_BLOCK, Op, Trace};
use crate::limits::{Budget, Exceeded, LimitKind, Limits};

/// What the recording calls a block: a CSV's number (with 0), or the device plus 1 and an address.
pub(crate) type BlockKey = (u32, u64);

/// The size of a free that does not say one: its allocation's, without a note.
pub(crate) const SIZE_OF_BLOCK: u64 = u64::MAX;

/// An event as recorded, with the recording's own names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recorded {
    pub(crate) t_us: u64,
    pub(crate) op: Op,
    /// The block; `None` where the operation has none, and where the recorder did not know it.
    pub(crate) key: Option<BlockKey>,
    pub(crate) size: u64,
    pub(crate) stream: u64,
    pub(crate) device: u32,
    /// Of an allocation: its pool, 0 for the default one.
    pub(crate) pool: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Live,
    Requested,
    Completed,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    size: u64,
    id: u32,
    state: State,
}

/// What a hash map takes at most for each block or stream: 33 bytes for key, value and control byte,
/// up to 2.3 times that after it has doubled, and the old half while it does.
const MAP_ENTRY_BYTES: u64 = 112;

/// Collects the events of one trace.
#[derive(Debug)]
pub(crate) struct Builder {
    events: Vec<Event>,
    /// The last block of each key. std's keyed hash: input chooses the keys.
    blocks: HashMap<BlockKey, Block>,
    /// Where `blocks` is not needed: block `i` of a CSV that numbers its blocks 0, 1, 2, …
    dense: Vec<Block>,
    streams: HashMap<u64, u32>,
    pools: HashMap<u64, u32>,
    /// See [`Trace::block_pools`].
    block_pools: Vec<u32>,
    dropped: Dropped,
    devices: u32,
    next_id: u32,
    last_t: u64,
    max_events: u64,
    budget: Budget,
}

impl Builder {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self::within(limits, Budget::new(limits))
    }

    /// With an account that has other memory on it.
    pub(crate) fn within(limits: &Limits, budget: Budget) -> Self {
        Builder {
            events: Vec::new(),
            blocks: HashMap::new(),
            dense: Vec::new(),
            streams: HashMap::from([(0, 0)]),
            pools: HashMap::from([(0, 0)]),
            block_pools: Vec::new(),
            dropped: Dropped::default(),
            devices: 1,
            next_id: 0,
            last_t: 0,
            max_events: limits.max_events,
            budget,
        }
    }

    /// So many bytes of text were read so far.
    pub(crate) fn seen(&mut self, text: u64) {
        self.budget.seen(text);
    }

    /// Events so far.
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    pub(crate) fn note(&mut self, oddity: Oddity, at: Position) {
        self.dropped.note(oddity, at);
    }

    /// Counts what was found before.
    pub(crate) fn add(&mut self, found: Finding) {
        self.dropped.add(found);
    }

    /// Whether the last block of `key` is live: `None` if there never was one.
    pub(crate) fn is_live(&self, key: BlockKey) -> Option<bool> {
        self.find(key).map(|block| block.state != State::Completed)
    }

    /// The keys of all live blocks of a snapshot, in no order.
    pub(crate) fn live_keys(&self) -> impl Iterator<Item = BlockKey> {
        self.blocks.iter().filter(|(_, block)| block.state != State::Completed).map(|(key, _)| *key)
    }

    /// Takes the next event. Fails only where a limit is passed.
    pub(crate) fn push(&mut self, recorded: Recorded, at: Position) -> Result<(), TraceError> {
        self.take(recorded, at).map_err(|exceeded| exceeded.at(at))
    }

    fn take(&mut self, mut recorded: Recorded, at: Position) -> Result<(), Exceeded> {
        if recorded.t_us < self.last_t {
            self.dropped.note(Oddity::TimeWentBack, at);
            recorded.t_us = self.last_t;
        }
        if !recorded.op.has_block() {
            return self.emit(recorded, NO_BLOCK);
        }
        let Some(key) = recorded.key else {
            self.dropped.note(Oddity::UnknownBlock, at);
            return Ok(());
        };
        match recorded.op {
            Op::Alloc => self.alloc(recorded, key, at),
            Op::FreeRequested => self.free_requested(recorded, key, at),
            _ => self.free_completed(recorded, key, at),
        }
    }

    fn alloc(&mut self, recorded: Recorded, key: BlockKey, at: Position) -> Result<(), Exceeded> {
        if let Some(old) = self.find(key).copied().filter(|old| old.state != State::Completed) {
            self.dropped.note(Oddity::AllocOfLive, at);
            let freed = Recorded { size: old.size, ..recorded };
            if old.state == State::Live {
                self.emit(Recorded { op: Op::FreeRequested, ..freed }, old.id)?;
            }
            self.emit(Recorded { op: Op::FreeCompleted, ..freed }, old.id)?;
        }
        let id = self.next_id;
        if id == NO_BLOCK {
            return Err(Exceeded { kind: LimitKind::Events, allowed: u64::from(NO_BLOCK) });
        }
        let block = Block { size: recorded.size, id, state: State::Live };
        if key.0 == 0 && key.1 == self.dense.len() as u64 && !self.blocks.contains_key(&key) {
            self.budget.push(&mut self.dense, block)?;
        } else if let Some(old) = self.find_mut(key) {
            *old = block;
        } else {
            self.budget.charge(MAP_ENTRY_BYTES)?;
            self.blocks.insert(key, block);
        }
        self.emit(recorded, id)?;
        self.next_id += 1;
        self.note_pool(id, recorded.pool)
    }

    /// Notes the pool of the newest block.
    fn note_pool(&mut self, id: u32, pool: u64) -> Result<(), Exceeded> {
        if pool == 0 {
            return Ok(());
        }
        let number = number_of(&mut self.pools, pool, &mut self.budget)?;
        let missing = (id as usize).saturating_sub(self.block_pools.len());
        self.budget.reserve(&mut self.block_pools, missing + 1)?;
        self.block_pools.resize(id as usize, 0);
        self.block_pools.push(number);
        Ok(())
    }

    fn free_requested(
        &mut self,
        recorded: Recorded,
        key: BlockKey,
        at: Position,
    ) -> Result<(), Exceeded> {
        let Some(block) = self.find_mut(key) else {
            self.dropped.note(Oddity::UnknownBlock, at);
            return Ok(());
        };
        if block.state != State::Live {
            self.dropped.note(Oddity::RequestedTwice, at);
            return Ok(());
        }
        block.state = State::Requested;
        let block = *block;
        self.free(recorded, block, at)
    }

    fn free_completed(
        &mut self,
        recorded: Recorded,
        key: BlockKey,
        at: Position,
    ) -> Result<(), Exceeded> {
        let Some(block) = self.find_mut(key) else {
            self.dropped.note(Oddity::UnknownBlock, at);
            return Ok(());
        };
        let before = std::mem::replace(&mut block.state, State::Completed);
        let block = *block;
        match before {
            State::Completed => {
                self.dropped.note(Oddity::CompletedTwice, at);
                return Ok(());
            }
            State::Requested => {}
            State::Live => {
                self.dropped.note(Oddity::NotRequested, at);
                let request = Recorded { op: Op::FreeRequested, size: block.size, ..recorded };
                self.emit(request, block.id)?;
            }
        }
        self.free(recorded, block, at)
    }

    fn free(&mut self, recorded: Recorded, block: Block, at: Position) -> Result<(), Exceeded> {
        if recorded.size != block.size && recorded.size != SIZE_OF_BLOCK {
            self.dropped.note(Oddity::SizeMismatch, at);
        }
        self.emit(Recorded { size: block.size, ..recorded }, block.id)
    }

    fn emit(&mut self, recorded: Recorded, id: u32) -> Result<(), Exceeded> {
        if self.events.len() as u64 >= self.max_events {
            return Err(Exceeded { kind: LimitKind::Events, allowed: self.max_events });
        }
        let stream = number_of(&mut self.streams, recorded.stream, &mut self.budget)?;
        let Recorded { t_us, op, size, device, .. } = recorded;
        self.budget.push(&mut self.events, Event { t_us, size, id, stream, device, op })?;
        self.devices = self.devices.max(device + 1);
        self.last_t = t_us;
        Ok(())
    }

    fn find(&self, key: BlockKey) -> Option<&Block> {
        match self.dense.get(key.1 as usize) {
            Some(block) if key.0 == 0 => Some(block),
            _ => self.blocks.get(&key),
        }
    }

    fn find_mut(&mut self, key: BlockKey) -> Option<&mut Block> {
        match self.dense.get_mut(key.1 as usize) {
            Some(block) if key.0 == 0 => Some(block),
            _ => self.blocks.get_mut(&key),
        }
    }

    /// The trace; its first `prelude` events were reconstructed by the caller.
    pub(crate) fn finish(self, name: &str, prelude: usize) -> Trace {
        Trace {
            name: name.to_owned(),
            events: self.events,
            blocks: self.next_id,
            streams: self.streams.len() as u32,
            devices: self.devices,
            prelude,
            block_pools: self.block_pools,
            dropped: self.dropped,
        }
    }
}

/// The number of a stream or pool by its name in the recording, in order of appearance; 0 is 0.
fn number_of(
    numbers: &mut HashMap<u64, u32>,
    name: u64,
    budget: &mut Budget,
) -> Result<u32, Exceeded> {
    if name == 0 {
        return Ok(0);
    }
    if let Some(number) = numbers.get(&name) {
        return Ok(*number);
    }
    budget.charge(MAP_ENTRY_BYTES)?;
    let number = numbers.len() as u32;
    numbers.insert(name, number);
    Ok(number)
}
