//! One device: a request in PyTorch's order of attempts, and a free.

use std::ops::Bound::{Included, Unbounded};
use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverError, DriverErrorKind, EventId, StreamId};
use slab::Slab;

use super::Failed;
use super::blocks::{Block, Blocks, NONE, State};
use super::expandable::Segment;
use super::refusal;
use super::settings::{SMALL, Settings};

/// From here on PyTorch refuses a request without a try.
const EXABYTE: u64 = 1 << 60;

/// What PyTorch counts, by its own names: `num_alloc_retries` and so on.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) retries: u64,
    pub(super) ooms: u64,
    pub(super) syncs: u64,
    pub(super) device_allocs: u64,
    pub(super) device_frees: u64,
}

/// A request.
#[derive(Clone, Copy)]
pub(super) struct Request {
    /// The size of the block.
    pub(super) size: u64,
    pub(super) stream: u64,
    /// 0 for the default pool.
    pub(super) pool: u32,
    pub(super) small: bool,
    /// The size of a new segment for it.
    pub(super) segment: u64,
}

pub(super) struct Device {
    pub(super) driver: Arc<dyn Driver>,
    pub(super) id: DeviceId,
    pub(super) settings: Settings,
    pub(super) blocks: Blocks,
    /// Segments that grow.
    pub(super) segments: Slab<Segment>,
    /// Such segments without blocks, of which the driver would not take everything back.
    pub(super) given_up: Vec<Segment>,
    /// The bytes that the device has, once they were asked for.
    pub(super) total: Option<u64>,
    /// Bytes in segments, or mapped.
    pub(super) reserved: u64,
    /// Bytes in blocks that were handed out.
    pub(super) allocated: u64,
    pub(super) counts: Counts,
    /// Marks how far a stream has come before its memory is unmapped; made when it is needed.
    pub(super) event: Option<EventId>,
}

impl Device {
    pub(super) fn new(driver: Arc<dyn Driver>, id: DeviceId, settings: Settings) -> Self {
        Device {
            driver,
            id,
            settings,
            blocks: Blocks::default(),
            segments: Slab::new(),
            given_up: Vec::new(),
            total: None,
            reserved: 0,
            allocated: 0,
            counts: Counts::default(),
            event: None,
        }
    }

    /// The address of a block for a request from a pool, and its number.
    pub(super) fn allocate(
        &mut self,
        pool: u32,
        size: u64,
        stream: StreamId,
    ) -> Result<(u64, u32), Failed> {
        if size >= EXABYTE {
            return Err(Failed::OutOfMemory(refusal::MORE_THAN_AN_EXABYTE.into()));
        }
        let size = self.settings.block_size(size);
        let small = size <= SMALL;
        self.blocks.know(pool);
        let request = Request { size, stream: stream.0, pool, small, segment: 0 };
        let block = match self.find(&request) {
            Some(block) => block,
            None => self.obtain(&request)?,
        };
        Ok((self.hand_out(block, &request), block))
    }

    /// The best fit among the free blocks of the stream, taken off their list.
    fn find(&mut self, request: &Request) -> Option<u32> {
        let &Request { size, stream, pool, small, .. } = request;
        if self.collects() {
            self.blocks.pool_mut(pool, small).searches += 1;
        }
        let free = &self.blocks.pool(pool, small).free;
        let mut from = free.range((Included((stream, size, 0, 0)), Unbounded));
        let mut found = *from.next().filter(|key| key.0 == stream)?;
        if self.settings.expandable {
            // What counts is how far a block could grow.
            while let Some(&next) = from.next()
                && next.0 == stream
                && self.reach(next.3) < self.reach(found.3)
            {
                found = next;
            }
        }
        let max_split = self.settings.max_split;
        let oversize = match size < max_split {
            true => found.1 >= max_split,
            false => found.1 >= size.saturating_add(self.settings.max_rounding),
        };
        if oversize {
            return None;
        }
        self.blocks.pool_mut(pool, small).free.remove(&found);
        Some(found.3)
    }

    /// A block's size with the addresses after it that it could grow into.
    fn reach(&self, block: u32) -> u64 {
        let &Block { size, next, .. } = self.blocks.get(block);
        let next = if next == NONE { None } else { Some(self.blocks.get(next)) };
        size + next.filter(|next| next.state == State::Unmapped).map_or(0, |next| next.size)
    }

    /// A block of new memory, for which cached memory may have to go.
    #[cold]
    fn obtain(&mut self, request: &Request) -> Result<u32, Failed> {
        let request = Request { segment: self.settings.segment_size(request.size), ..*request };
        if self.collects() {
            self.collect_garbage()?;
        }
        if let Some(block) = self.extend(&request)? {
            return Ok(block);
        }
        if self.release_oversize(&request)?
            && let Some(block) = self.extend(&request)?
        {
            return Ok(block);
        }
        // Nothing is given back while a graph is captured.
        if request.pool == 0 {
            self.release_all()?;
            self.counts.retries += 1;
            if let Some(block) = self.extend(&request)? {
                return Ok(block);
            }
        }
        self.counts.ooms += 1;
        Err(self.out_of_memory(&request)?)
    }

    /// A block of memory that the device gives; none if it has no more, or no more is allowed.
    fn extend(&mut self, request: &Request) -> Result<Option<u32>, DriverError> {
        let more = self.reserved.saturating_add(request.segment);
        if self.allowed()?.is_some_and(|allowed| more > allowed) {
            return Ok(None);
        }
        if self.settings.expandable {
            return self.grow(request);
        }
        let &Request { stream, pool, small, segment: size, .. } = request;
        let address = match self.driver.segment_alloc(self.id, size) {
            Ok(address) => address,
            Err(error) if error.kind == DriverErrorKind::OutOfMemory => return Ok(None),
            Err(error) => return Err(error),
        };
        self.reserved += size;
        self.counts.device_allocs += 1;
        Ok(Some(self.blocks.add(Block {
            address,
            size,
            stream,
            searches: 0,
            prev: NONE,
            next: NONE,
            segment: NONE,
            pool,
            small,
            state: State::Free,
        })))
    }

    /// Hands out the low part of a block that is not listed.
    fn hand_out(&mut self, block: u32, request: &Request) -> u64 {
        let &Request { size, small, .. } = request;
        let left = self.blocks.get(block).size - size;
        if self.settings.splits(small, size, left) {
            let rest = self.blocks.cut(block, size);
            self.blocks.list(rest);
        }
        let used = self.blocks.get_mut(block);
        used.state = State::Used;
        self.allocated += used.size;
        used.address
    }

    pub(super) fn free(&mut self, block: u32) {
        let freed = self.blocks.get_mut(block);
        freed.state = State::Free;
        self.allocated -= freed.size;
        self.blocks.merge(block);
        self.blocks.list(block);
    }

    /// The size of a block, with what rounding added and what was not worth splitting off.
    pub(super) fn block_bytes(&self, block: u32) -> u64 {
        self.blocks.get(block).size
    }

    /// Whether old segments are collected, and so the age of blocks is kept.
    fn collects(&self) -> bool {
        self.settings.gc_threshold > 0.0 && self.settings.fraction.is_some()
    }

    /// The most bytes that may be reserved, if there is a limit.
    pub(super) fn allowed(&mut self) -> Result<Option<u64>, DriverError> {
        let Some(fraction) = self.settings.fraction else { return Ok(None) };
        let total = self.total()?;
        Ok(Some((fraction * total as f64) as u64))
    }

    pub(super) fn total(&mut self) -> Result<u64, DriverError> {
        if let Some(total) = self.total {
            return Ok(total);
        }
        let total = self.driver.device_memory(self.id)?.total;
        self.total = Some(total);
        Ok(total)
    }

    /// Segments held now: from cudaMalloc, or ranges of addresses that grow.
    pub(super) fn segments(&self) -> u64 {
        let whole = |block: &Block| block.prev == NONE && block.segment == NONE;
        let held = self.blocks.all.iter().filter(|(_, block)| whole(block)).count();
        (held + self.segments.len()) as u64
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.give_everything_back();
    }
}
