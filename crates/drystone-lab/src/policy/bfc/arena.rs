//! The allocator of one device: its regions, cut into chunks, and the chunks that other streams still
//! use.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverError, DriverErrorKind, StreamId};

use super::{Config, GRAIN};
use crate::policy::parts::Share;
use crate::policy::parts::{ChunkId, Chunks, Event, Segments};

/// The first region.
const FIRST_REGION: u64 = 2 << 20;
/// A chunk that is so much larger than the request is cut.
const SPARE: u64 = 128 << 20;

/// A chunk's use: live, or held by the runtime for another stream, or free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Busy(bool);

/// The allocator of one device.
pub(super) struct Arena {
    pub(super) chunks: Chunks<Busy>,
    /// (bytes, address) of free chunks: within bins, and from bin to bin, sizes ascend.
    free: BTreeSet<(u64, u64, ChunkId)>,
    limit: u64,
    spare: u64,
    held: u64,
    next_region: u64,
    pub(super) compute: StreamId,
    /// By stream: chunks that were freed, in order, and when the stream has passed them.
    pub(super) pending: BTreeMap<StreamId, VecDeque<(Event, ChunkId)>>,
    /// Events that are not in use.
    spare_events: Vec<Event>,
}

impl Arena {
    pub(super) fn new(
        driver: &dyn Driver,
        config: &Config,
        device: DeviceId,
        first: StreamId,
    ) -> Result<Self, DriverError> {
        let memory = driver.device_memory(device)?;
        let limit = config.limit.map_or(memory.free, |share| share.of(memory.total));
        let limit = limit / GRAIN * GRAIN;
        let part = Share::Percent(config.spare_percent).of(limit);
        Ok(Arena {
            chunks: Chunks::default(),
            free: BTreeSet::new(),
            limit,
            spare: if config.spare_percent > 0.0 { part } else { SPARE },
            held: 0,
            next_region: if config.growth { limit.min(FIRST_REGION) } else { limit },
            compute: config.compute.unwrap_or(first),
            pending: BTreeMap::new(),
            spare_events: Vec::new(),
        })
    }

    /// Takes the smallest free chunk of at least `bytes`, without what it has more than is spared.
    pub(super) fn find(&mut self, bytes: u64) -> Option<ChunkId> {
        let &entry = self.free.range((bytes, 0, 0)..).next()?;
        self.free.remove(&entry);
        let (size, _, chunk) = entry;
        self.chunks[chunk].data = Busy(true);
        if size >= 2 * bytes || size - bytes >= self.spare {
            let rest = self.chunks.split(chunk, bytes, Busy(false));
            self.insert(rest);
        }
        Some(chunk)
    }

    fn insert(&mut self, id: ChunkId) {
        let chunk = &self.chunks[id];
        self.free.insert((chunk.bytes, chunk.address, id));
    }

    fn remove(&mut self, id: ChunkId) {
        let chunk = &self.chunks[id];
        self.free.remove(&(chunk.bytes, chunk.address, id));
    }

    /// Frees a chunk: it is joined with its free neighbours.
    pub(super) fn give(&mut self, mut id: ChunkId) {
        self.chunks[id].data = Busy(false);
        if let Some(next) = self.chunks[id].next.filter(|&next| !self.chunks[next].data.0) {
            self.remove(next);
            self.chunks.absorb_next(id);
        }
        if let Some(before) = self.chunks[id].previous.filter(|&b| !self.chunks[b].data.0) {
            self.remove(before);
            self.chunks.absorb_next(before);
            id = before;
        }
        self.insert(id);
    }

    /// Takes a region in which `bytes` fit; whether there was one.
    pub(super) fn extend(
        &mut self,
        segments: &mut Segments,
        device: DeviceId,
        bytes: u64,
    ) -> Result<bool, DriverError> {
        let available = self.limit - self.held;
        if bytes > available {
            return Ok(false);
        }
        let doubled = self.next_region < bytes;
        while self.next_region < bytes {
            self.next_region = self.next_region.max(GRAIN) * 2;
        }
        let mut size = self.next_region.min(available);
        let address = loop {
            match segments.take(device, size) {
                Ok(address) => break address,
                Err(error) if error.kind != DriverErrorKind::OutOfMemory => return Err(error),
                Err(_) => {
                    let less = (size / 10 * 9 + size % 10).next_multiple_of(GRAIN);
                    size = if less < size { less } else { size - GRAIN };
                    if size < bytes {
                        return Ok(false);
                    }
                }
            }
        };
        if !doubled {
            self.next_region = self.next_region.saturating_mul(2);
        }
        self.held += size;
        let chunk = self.chunks.add(address, size, Busy(false));
        self.insert(chunk);
        Ok(true)
    }

    /// Gives regions without a live chunk back, if that can help; whether it did.
    pub(super) fn collect(
        &mut self,
        segments: &mut Segments,
        bytes: u64,
    ) -> Result<bool, DriverError> {
        let whole = self.free.iter().filter(|entry| self.chunks[entry.2].is_whole());
        let whole: Vec<_> = whole.copied().collect();
        let free: u64 = whole.iter().map(|entry| entry.0).sum();
        if free == 0 || bytes > self.limit - self.held + free {
            return Ok(false);
        }
        for entry in whole {
            segments.give(entry.1)?;
            self.free.remove(&entry);
            self.chunks.remove(entry.2);
            self.held -= entry.0;
        }
        Ok(true)
    }

    /// Frees what other streams have passed.
    pub(super) fn poll(&mut self) -> Result<(), DriverError> {
        let streams: Vec<StreamId> = self.pending.keys().copied().collect();
        for stream in streams {
            while let Some((event, _)) = self.first_pending(stream)
                && event.is_done()?
            {
                self.give_first(stream);
            }
        }
        Ok(())
    }

    fn first_pending(&self, stream: StreamId) -> Option<&(Event, ChunkId)> {
        self.pending.get(&stream)?.front()
    }

    /// Frees the first chunk that waits for a stream.
    fn give_first(&mut self, stream: StreamId) {
        let first = self.pending.get_mut(&stream).and_then(VecDeque::pop_front);
        if let Some((event, chunk)) = first {
            self.spare_events.push(event);
            self.give(chunk);
        }
    }

    /// Waits for the first chunk that another stream still uses; whether there was one.
    pub(super) fn wait(&mut self) -> Result<bool, DriverError> {
        let mut queues = self.pending.iter();
        let first = queues.find_map(|(&stream, queue)| Some((stream, queue.front()?)));
        let Some((stream, (event, _))) = first else { return Ok(false) };
        event.wait()?;
        self.give_first(stream);
        Ok(true)
    }

    pub(super) fn event(
        &mut self,
        driver: &Arc<dyn Driver>,
        device: DeviceId,
    ) -> Result<Event, DriverError> {
        self.spare_events.pop().map_or_else(|| Event::new(driver, device), Ok)
    }

    /// Makes a stream wait for what the compute stream does with memory that is free.
    pub(super) fn order(
        &mut self,
        driver: &Arc<dyn Driver>,
        device: DeviceId,
        stream: StreamId,
    ) -> Result<(), DriverError> {
        if stream == self.compute {
            return Ok(());
        }
        let event = self.event(driver, device)?;
        let ordered = event.record(self.compute).and_then(|()| event.hold(stream));
        self.spare_events.push(event);
        ordered
    }
}
