//! Requests of at most 1 MiB: PyTorch's small pool over segments of 2 MiB.

use std::collections::BTreeSet;
use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverError, StreamId};
use rustc_hash::FxHashMap;

use crate::policy::parts::{ChunkId, Chunks, Segments};

/// The largest small request.
pub(super) const SMALL: u64 = 1 << 20;
/// Bytes of a segment.
const SEGMENT: u64 = 2 << 20;

/// A block's stream, and whether it is live.
struct Of {
    stream: StreamId,
    live: bool,
}

/// The small pool of a device.
pub(super) struct Small {
    device: DeviceId,
    chunks: Chunks<Of>,
    free: BTreeSet<(StreamId, u64, u64, ChunkId)>,
    live: FxHashMap<u64, ChunkId>,
    segments: Segments,
}

impl Small {
    pub(super) fn new(driver: Arc<dyn Driver>, device: DeviceId) -> Self {
        Small {
            device,
            chunks: Chunks::default(),
            free: BTreeSet::new(),
            live: FxHashMap::default(),
            segments: Segments::new(driver),
        }
    }

    /// Takes the smallest free block of the stream that fits, or a new segment, cut.
    pub(super) fn take(&mut self, bytes: u64, stream: StreamId) -> Result<u64, DriverError> {
        let fitting = self.free.range((stream, bytes, 0, 0)..).next().copied();
        let id = match fitting.filter(|entry| entry.0 == stream) {
            Some(entry) => {
                self.free.remove(&entry);
                entry.3
            }
            None => {
                let address = self.segments.take(self.device, SEGMENT)?;
                self.chunks.add(address, SEGMENT, Of { stream, live: false })
            }
        };
        self.chunks[id].data.live = true;
        if self.chunks[id].bytes > bytes {
            let rest = self.chunks.split(id, bytes, Of { stream, live: false });
            self.insert(rest);
        }
        let address = self.chunks[id].address;
        self.live.insert(address, id);
        Ok(address)
    }

    fn key(&self, id: ChunkId) -> (StreamId, u64, u64, ChunkId) {
        let chunk = &self.chunks[id];
        (chunk.data.stream, chunk.bytes, chunk.address, id)
    }

    fn insert(&mut self, id: ChunkId) {
        self.free.insert(self.key(id));
    }

    /// Frees the block at an address and joins it with its neighbours.
    pub(super) fn give(&mut self, address: u64) {
        let Some(mut id) = self.live.remove(&address) else { return };
        self.chunks[id].data.live = false;
        if let Some(next) = self.chunks[id].next.filter(|&next| !self.chunks[next].data.live) {
            self.free.remove(&self.key(next));
            self.chunks.absorb_next(id);
        }
        if let Some(before) = self.chunks[id].previous.filter(|&b| !self.chunks[b].data.live) {
            self.free.remove(&self.key(before));
            self.chunks.absorb_next(before);
            id = before;
        }
        self.insert(id);
    }

    /// Gives segments back in which nothing is live.
    pub(super) fn release(&mut self) -> Result<(), DriverError> {
        let whole = self.free.iter().filter(|entry| self.chunks[entry.3].is_whole());
        for entry in whole.copied().collect::<Vec<_>>() {
            self.segments.give(entry.2)?;
            self.free.remove(&entry);
            self.chunks.remove(entry.3);
        }
        Ok(())
    }

    /// Bytes of the block at an address.
    pub(super) fn bytes(&self, address: u64) -> Option<u64> {
        self.live.get(&address).map(|&id| self.chunks[id].bytes)
    }
}
