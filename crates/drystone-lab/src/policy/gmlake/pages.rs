//! Pages, which of them are in use, and primitive blocks: runs of free pages where they were made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use drystone_core::{
    DeviceId, Driver, DriverCall, DriverError, DriverErrorKind, HandleId, StreamId,
};
use rustc_hash::FxHashMap;
use slab::Slab;

use super::{Config, segment_bytes};
use crate::policy::parts::{Event, FreeList, Mapped, Span};

/// Bytes of a page: of a handle, and the unit of stitching.
pub(super) const PAGE: u64 = 2 << 20;

/// The name of a stitched block while it exists.
pub(super) type StitchedId = usize;

/// A page, by the address at which it was made.
pub(super) struct Page {
    pub(super) handle: HandleId,
    in_use: bool,
    /// The stitched blocks in which it is mapped too.
    pub(super) stitched: Vec<StitchedId>,
}

/// A stitched block.
pub(super) struct Stitched {
    pub(super) address: u64,
    pub(super) stream: StreamId,
    /// In the order of its addresses.
    pub(super) pages: Vec<u64>,
    /// How many of them are free.
    pub(super) free: usize,
    /// A live block lies in it.
    pub(super) active: bool,
    /// When it was last freed, or stitched.
    pub(super) since: u64,
    /// Recorded when it is freed.
    pub(super) event: Event,
}

impl Stitched {
    pub(super) fn bytes(&self) -> u64 {
        self.pages.len() as u64 * PAGE
    }

    /// All its pages are free, and so it can be handed out.
    pub(super) fn is_free(&self) -> bool {
        !self.active && self.free == self.pages.len()
    }
}

/// Memory that was handed out.
#[derive(Clone, Copy)]
pub(super) struct Used {
    pub(super) address: u64,
    pub(super) bytes: u64,
    stream: StreamId,
    /// The stitched block that it is the start of; none for a primitive block.
    stitched: Option<StitchedId>,
}

/// The pages of a device.
pub(super) struct Pages {
    pub(super) driver: Arc<dyn Driver>,
    pub(super) device: DeviceId,
    pages: FxHashMap<u64, Page>,
    /// Bytes and streams of segments, which were taken at once, by their start.
    segments: BTreeMap<u64, (u64, StreamId)>,
    /// Free primitive blocks.
    free: BTreeMap<StreamId, FreeList>,
    pub(super) stitched: Slab<Stitched>,
    /// (stream, bytes, address) of free stitched blocks.
    pub(super) free_stitched: BTreeSet<(StreamId, u64, u64, StitchedId)>,
    /// Bytes of the stitched blocks that there are.
    pub(super) stitched_bytes: u64,
    /// For [`Stitched::since`].
    pub(super) clock: u64,
    /// Recorded at every free of a primitive block, by stream.
    last_free: BTreeMap<StreamId, Event>,
    pub(super) stitches: u64,
    pub(super) reuses: u64,
    pub(super) dissolved: u64,
    pub(super) mapped: Mapped,
}

impl Pages {
    pub(super) fn new(driver: Arc<dyn Driver>, device: DeviceId) -> Self {
        Pages {
            mapped: Mapped::new(Arc::clone(&driver), device),
            driver,
            device,
            pages: FxHashMap::default(),
            segments: BTreeMap::new(),
            free: BTreeMap::new(),
            stitched: Slab::new(),
            free_stitched: BTreeSet::new(),
            stitched_bytes: 0,
            clock: 0,
            last_free: BTreeMap::new(),
            stitches: 0,
            reuses: 0,
            dissolved: 0,
        }
    }

    pub(super) fn page(&mut self, address: u64) -> Option<&mut Page> {
        self.pages.get_mut(&address)
    }

    /// The free primitive blocks of a stream.
    pub(super) fn free_of(&mut self, stream: StreamId) -> &mut FreeList {
        self.free.entry(stream).or_default()
    }

    /// A page is in use from now on, or free: the stitched blocks that have it too take note.
    fn mark(&mut self, address: u64, in_use: bool) {
        let Some(page) = self.pages.get_mut(&address) else { return };
        page.in_use = in_use;
        for &id in &page.stitched {
            let Some(block) = self.stitched.get_mut(id) else { continue };
            let key = (block.stream, block.bytes(), block.address, id);
            if in_use {
                block.free -= 1;
                self.free_stitched.remove(&key);
            } else {
                block.free += 1;
                if block.is_free() {
                    self.free_stitched.insert(key);
                }
            }
        }
    }

    /// Pages, of one stream, are in use from now on, or free.
    pub(super) fn mark_all(&mut self, stream: StreamId, pages: &[u64], in_use: bool) {
        for &address in pages {
            self.mark(address, in_use);
            // Where a segment starts, so does a block.
            let head = self.segments.contains_key(&address);
            let free = self.free.entry(stream).or_default();
            if in_use {
                free.carve(address, PAGE);
            } else {
                free.insert(Span { address, bytes: PAGE, head });
            }
        }
    }

    fn mark_run(&mut self, address: u64, bytes: u64, in_use: bool) {
        for at in (address..address + bytes).step_by(PAGE as usize) {
            self.mark(at, in_use);
        }
    }

    /// Takes the smallest free primitive block that fits, cut.
    pub(super) fn take_primitive(&mut self, bytes: u64, stream: StreamId) -> Option<Used> {
        let free = self.free.get_mut(&stream)?;
        let mut span = free.best_fit(bytes)?;
        if let Some(rest) = span.cut(bytes) {
            free.insert(rest);
        }
        self.mark_run(span.address, bytes, true);
        Some(Used { address: span.address, bytes, stream, stitched: None })
    }

    /// Takes the smallest free stitched block that fits and has at most `most` bytes; only the
    /// pages that the request needs are in use then.
    pub(super) fn take_stitched(
        &mut self,
        bytes: u64,
        most: u64,
        stream: StreamId,
    ) -> Option<Used> {
        let key = *self.free_stitched.range((stream, bytes, 0, 0)..).next()?;
        if key.0 != stream || key.1 > most {
            return None;
        }
        self.reuses += 1;
        Some(self.use_stitched(key.3, bytes))
    }

    /// Hands out the start of a free stitched block.
    pub(super) fn use_stitched(&mut self, id: StitchedId, bytes: u64) -> Used {
        let block = &mut self.stitched[id];
        block.active = true;
        let (address, stream, size) = (block.address, block.stream, block.bytes());
        let pages = block.pages[..(bytes / PAGE) as usize].to_vec();
        self.free_stitched.remove(&(stream, size, address, id));
        self.mark_all(stream, &pages, true);
        Used { address, bytes, stream, stitched: Some(id) }
    }

    /// Frees a block, for its own stream at once.
    pub(super) fn give(&mut self, used: Used) -> Result<(), DriverError> {
        let Used { address, bytes, stream, stitched } = used;
        let Some(id) = stitched else {
            if let Some(event) = self.last_free.get(&stream) {
                event.record(stream)?;
            } else {
                let event = Event::new(&self.driver, self.device)?;
                event.record(stream)?;
                self.last_free.insert(stream, event);
            }
            self.mark_run(address, bytes, false);
            let head = self.segments.contains_key(&address);
            self.free_of(stream).insert(Span { address, bytes, head });
            return Ok(());
        };
        self.stitched[id].event.record(stream)?;
        self.clock += 1;
        let block = &mut self.stitched[id];
        block.active = false;
        block.since = self.clock;
        let pages = block.pages[..(bytes / PAGE) as usize].to_vec();
        self.mark_all(stream, &pages, false);
        Ok(())
    }

    /// Takes new pages: for all of the request, or for what is missing, stitched to what is free.
    pub(super) fn take_new(
        &mut self,
        config: &Config,
        bytes: u64,
        stream: StreamId,
    ) -> Result<Used, DriverError> {
        let free: u64 = self.free_of(stream).iter().map(|span| span.bytes).sum();
        let missing = if config.only_missing { bytes.saturating_sub(free) } else { bytes };
        let all = segment_bytes(missing.max(PAGE));
        let address = self.reserve(all)?;
        if let Err(error) = self.mapped.back(address, all, PAGE) {
            // If a mapping stays behind, so do its addresses.
            let _ = self.mapped.unreserve(address);
            return Err(error);
        }
        for at in (address..address + all).step_by(PAGE as usize) {
            if let Some(handle) = self.mapped.handle_at(at) {
                self.pages.insert(at, Page { handle, in_use: false, stitched: Vec::new() });
            }
        }
        self.segments.insert(address, (all, stream));
        self.free_of(stream).insert(Span { address, bytes: all, head: true });
        if all < bytes {
            let stitched = self.stitch(config, bytes, stream)?;
            return stitched.ok_or_else(out_of_memory);
        }
        self.take_primitive(bytes, stream).ok_or_else(out_of_memory)
    }

    /// Gives segments back of which no page is in use, and the stitched blocks that have pages of
    /// them.
    pub(super) fn release(&mut self) -> Result<(), DriverError> {
        let whole: Vec<_> = self.segments.iter().map(|(&start, &of)| (start, of)).collect();
        let mut waited = false;
        for (start, (bytes, stream)) in whole {
            let pages: Vec<u64> = (start..start + bytes).step_by(PAGE as usize).collect();
            let of_page = |at: &u64| self.pages.get(at).map_or(&[][..], |page| &page.stitched);
            let blocks: BTreeSet<_> = pages.iter().flat_map(of_page).copied().collect();
            let in_use = pages.iter().any(|at| self.pages.get(at).is_some_and(|page| page.in_use));
            if in_use || blocks.iter().any(|&id| self.stitched[id].active) {
                continue;
            }
            if !waited {
                self.driver.device_synchronize(self.device)?;
                waited = true;
            }
            for id in blocks {
                self.dissolve(id)?;
            }
            self.mapped.unmap(start, bytes)?;
            self.free_of(stream).carve(start, bytes);
            self.segments.remove(&start);
            for at in pages {
                self.pages.remove(&at);
            }
            // What the driver keeps now is offered to it again the next time, and at the end.
            self.mapped.release_loose();
            let _ = self.mapped.unreserve(start);
        }
        Ok(())
    }
}

/// What was just made free is not there: never, but it is no reason to stop the program.
fn out_of_memory() -> DriverError {
    DriverError {
        call: DriverCall::HandleCreate,
        kind: DriverErrorKind::OutOfMemory,
        code: 0,
        detail: "the free blocks are too few to stitch".to_owned(),
    }
}
