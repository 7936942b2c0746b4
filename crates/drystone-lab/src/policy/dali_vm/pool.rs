//! The memory of a device: blocks, where they are mapped, and which addresses are free.

use std::collections::BTreeMap;
use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverError, HandleId, StreamId};

use super::stream_list::{Freed, StreamList};
use super::{Config, GRAIN};
use crate::policy::parts::{Event, FreeList, Mapped, Span};

/// The largest block by default.
const LARGEST_BLOCK: u64 = 64 << 20;

/// The memory of a device.
pub(super) struct Pool {
    block: u64,
    /// Reserved ranges: start, as a multiple of the block, and bytes.
    ranges: Vec<(u64, u64)>,
    free_mapped: FreeList,
    free_addresses: FreeList,
    pub(super) streams: BTreeMap<StreamId, StreamList>,
    /// Handles that could not be mapped.
    loose: Vec<HandleId>,
    /// Addresses of blocks that could neither be used nor unmapped.
    stuck: Vec<u64>,
    pub(super) spare_events: Vec<Event>,
    pub(super) remaps: u64,
    mapped: Mapped,
}

impl Pool {
    pub(super) fn new(
        driver: &Arc<dyn Driver>,
        config: &Config,
        device: DeviceId,
    ) -> Result<Self, DriverError> {
        let page = driver.page_bytes(device)?;
        let block = match config.block {
            Some(block) => block,
            None => {
                let part = driver.device_memory(device)?.total >> 8;
                part.next_power_of_two().min(LARGEST_BLOCK).max(page)
            }
        };
        Ok(Pool {
            block,
            ranges: Vec::new(),
            free_mapped: FreeList::default(),
            free_addresses: FreeList::default(),
            streams: BTreeMap::new(),
            loose: Vec::new(),
            stuck: Vec::new(),
            spare_events: Vec::new(),
            remaps: 0,
            mapped: Mapped::new(Arc::clone(driver), device),
        })
    }

    /// What a request takes of the pool, and at which multiples.
    pub(super) fn adjust(&self, bytes: u64) -> (u64, u64) {
        let align = (bytes >> 11).next_power_of_two().clamp(GRAIN, self.block);
        (bytes.next_multiple_of(align), align)
    }

    /// Takes memory that is free and mapped.
    pub(super) fn take_mapped(&mut self, bytes: u64, align: u64) -> Option<u64> {
        let address = self.free_mapped.fit_aligned(bytes, align)?;
        self.free_addresses.carve(address, bytes);
        Some(address)
    }

    pub(super) fn has_mapped(&mut self, bytes: u64, align: u64) -> bool {
        let taken = self.take_mapped(bytes, align);
        if let Some(address) = taken {
            self.give(address, bytes);
        }
        taken.is_some()
    }

    fn give(&mut self, address: u64, bytes: u64) {
        let span = Span { address, bytes, head: false };
        self.free_mapped.insert(span);
        self.free_addresses.insert(span);
    }

    /// Moves what streams have passed to what is free.
    pub(super) fn give_done(&mut self) -> Result<(), DriverError> {
        let streams: Vec<StreamId> = self.streams.keys().copied().collect();
        for stream in streams {
            let Some(list) = self.streams.get_mut(&stream) else { continue };
            let Some(last) = list.last_done()? else { continue };
            let keys: Vec<u64> = list.freed.range(..=last).map(|(&key, _)| key).collect();
            let all: Vec<Freed> = keys.into_iter().filter_map(|key| list.remove(key)).collect();
            for freed in all {
                self.give(freed.address, freed.bytes);
                self.spare_events.push(freed.event);
            }
        }
        Ok(())
    }

    /// Waits for all frees.
    pub(super) fn wait(&self) -> Result<(), DriverError> {
        let last = self.streams.values().filter_map(|list| list.freed.values().next_back());
        for freed in last {
            freed.event.wait()?;
        }
        Ok(())
    }

    /// Takes memory where there is none that is free and mapped.
    pub(super) fn grow(
        &mut self,
        config: &Config,
        bytes: u64,
        align: u64,
    ) -> Result<u64, DriverError> {
        let address = match self.free_addresses.fit_aligned(bytes, align) {
            Some(address) => address,
            None => {
                self.reserve(config, bytes)?;
                // The new range is larger than the request and starts at a block.
                self.free_addresses.fit_aligned(bytes, align).unwrap_or_default()
            }
        };
        let backed = self.back(address, bytes);
        if backed.is_err() {
            self.free_addresses.insert(Span { address, bytes, head: false });
            for &at in &self.stuck {
                self.free_addresses.carve(at, self.block);
            }
            return backed.map(|()| address);
        }
        self.free_mapped.carve(address, bytes);
        Ok(address)
    }

    /// Reserves addresses for at least `bytes`.
    fn reserve(&mut self, config: &Config, bytes: u64) -> Result<(), DriverError> {
        let last = self.ranges.last().map_or(0, |range| 2 * range.1);
        let wanted = bytes.next_power_of_two().max(config.addresses).max(last);
        let wanted = wanted.next_multiple_of(self.block);
        // A block more, as the driver promises no more than pages.
        let start = self.mapped.reserve(wanted + self.block)?.next_multiple_of(self.block);
        self.ranges.push((start, wanted));
        self.free_addresses.insert(Span { address: start, bytes: wanted, head: true });
        Ok(())
    }

    /// Sees to it that blocks are mapped in all of a range of free addresses.
    fn back(&mut self, address: u64, bytes: u64) -> Result<(), DriverError> {
        let first = address / self.block * self.block;
        let end = (address + bytes).next_multiple_of(self.block);
        let blocks = (first..end).step_by(self.block as usize);
        let bare: Vec<u64> = blocks.filter(|&at| self.mapped.handle_at(at).is_none()).collect();
        for at in bare {
            let handle = self.handle(first, end)?;
            let mapped = self.mapped.map(at, handle);
            if let Err(error) = mapped {
                self.loose.push(handle);
                return Err(error);
            }
            if let Err(error) = self.mapped.access(at, self.block) {
                match self.mapped.unmap(at, self.block) {
                    Ok(()) => self.loose.push(handle),
                    Err(_) => self.stuck.push(at),
                }
                return Err(error);
            }
            self.free_mapped.insert(Span { address: at, bytes: self.block, head: false });
        }
        Ok(())
    }

    /// A block that is mapped nowhere, not from this range: a free one, or a new one.
    fn handle(&mut self, first: u64, end: u64) -> Result<HandleId, DriverError> {
        if let Some(handle) = self.loose.pop() {
            return Ok(handle);
        }
        let whole = self.free_mapped.iter().find_map(|span| {
            let start = span.address.next_multiple_of(self.block);
            let mut all = (start..span.address + span.bytes).step_by(self.block as usize);
            let fits = |at: &u64| at + self.block <= span.address + span.bytes;
            all.find(|at| fits(at) && !(first..end).contains(at))
        });
        if let Some(at) = whole
            && let Some(handle) = self.mapped.handle_at(at)
        {
            self.mapped.unmap(at, self.block)?;
            self.free_mapped.carve(at, self.block);
            self.remaps += 1;
            return Ok(handle);
        }
        self.mapped.create(self.block)
    }
}
