//! What is held of a device at a moment, and how much of it is free: together and in one piece.

use std::collections::BTreeMap;

use drystone_core::{DeviceId, HandleId};
use drystone_trace::{BlockState, Op, Segment, Trace};

use crate::journal::{Change, Journal};

/// Memory at a moment. Sizes are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) held: u64,
    pub(super) free: u64,
    pub(super) largest_free: u64,
    /// How many pieces the free part is in.
    pub(super) pieces: u64,
}

impl Memory {
    /// As the segments of a snapshot say. Blocks that wait for other streams are not free.
    pub(super) fn of_segments<'a>(segments: impl Iterator<Item = &'a Segment>) -> Self {
        let mut memory = Memory::default();
        for segment in segments {
            memory.held = memory.held.saturating_add(segment.total_size);
            for block in segment.blocks.iter().filter(|b| b.state == BlockState::Inactive) {
                memory.add(block.size);
            }
        }
        memory
    }

    /// As a replay had it when that many events were done; what changed at the next one, a request
    /// that may have failed, is counted in.
    pub(super) fn of_replay(trace: &Trace, journal: &Journal, events: usize) -> Self {
        let ground = ground(journal, events);
        let mut live = BTreeMap::new();
        for event in &trace.events[..events.min(journal.played)] {
            // Events without a block have a number that no block has.
            let Some(placed) = journal.blocks.get(event.id as usize) else { continue };
            match event.op {
                Op::Alloc if placed.address != 0 => {
                    live.insert(placed.address, placed.bytes);
                }
                Op::FreeCompleted => {
                    live.remove(&placed.address);
                }
                _ => {}
            }
        }
        let mut memory = Memory::default();
        for (start, bytes) in ground {
            memory.held += bytes;
            let (mut at, end) = (start, start + bytes);
            for (&address, &size) in live.range(start..end) {
                memory.add(address.saturating_sub(at));
                at = address.saturating_add(size).max(at);
            }
            memory.add(end.saturating_sub(at));
        }
        memory
    }

    fn add(&mut self, piece: u64) {
        if piece > 0 {
            self.free = self.free.saturating_add(piece);
            self.largest_free = self.largest_free.max(piece);
            self.pieces += 1;
        }
    }
}

/// Where memory is, by address: whole segments, and mapped ranges as long as they go.
fn ground(journal: &Journal, events: usize) -> Vec<(u64, u64)> {
    let (mut segments, mut mapped) = (BTreeMap::new(), BTreeMap::new());
    let mut handles: BTreeMap<(DeviceId, HandleId), u64> = BTreeMap::new();
    let changes = journal.changes.iter().take_while(|&&(event, _)| event as usize <= events);
    for &(_, change) in changes {
        match change {
            Change::Segment { address, bytes, .. } => {
                segments.insert(address, bytes);
            }
            Change::SegmentGone { address } => {
                segments.remove(&address);
            }
            Change::Handle { device, handle, bytes, .. } => {
                handles.insert((device, handle), bytes);
            }
            Change::HandleGone { device, handle } => {
                handles.remove(&(device, handle));
            }
            Change::Map { device, address, handle } => {
                mapped.insert(address, handles.get(&(device, handle)).copied().unwrap_or(0));
            }
            Change::Unmap { address, bytes } => {
                let gone = mapped.range(address..address + bytes).map(|(&at, _)| at);
                for at in gone.collect::<Vec<_>>() {
                    mapped.remove(&at);
                }
            }
        }
    }
    let mut ground: Vec<(u64, u64)> = Vec::new();
    for (address, bytes) in mapped {
        match ground.last_mut() {
            Some((start, length)) if *start + *length == address => *length += bytes,
            _ => ground.push((address, bytes)),
        }
    }
    ground.extend(segments);
    ground
}
