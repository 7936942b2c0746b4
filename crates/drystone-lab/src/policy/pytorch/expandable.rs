//! Expandable segments: addresses for more than the device has, behind which memory comes in
//! handles of one size, lowest address first, and goes only when all that is cached goes.

use drystone_core::{DeviceId, Driver, DriverError, DriverErrorKind, HandleId, HandleKind};

use super::blocks::{Block, NONE, State};
use super::device::{Device, Request};

/// The addresses of a segment, and the handles behind them.
pub(super) struct Segment {
    address: u64,
    bytes: u64,
    handle_bytes: u64,
    /// By place; none where nothing is mapped.
    handles: Vec<Option<HandleId>>,
    /// Handles that are in no place, but that the driver would not take back; and where they are
    /// still mapped.
    stray: Vec<(HandleId, Option<u64>)>,
}

impl Segment {
    /// Maps new handles behind the places `from..to`, or none if a call fails.
    fn map(
        &mut self,
        driver: &dyn Driver,
        device: DeviceId,
        from: usize,
        to: usize,
    ) -> Result<(), DriverError> {
        self.give_strays_back(driver, device);
        if to > self.handles.len() {
            self.handles.resize(to, None);
        }
        let mut made = Ok(());
        for place in from..to {
            match driver.handle_create(device, self.handle_bytes, HandleKind::Exportable) {
                Ok(handle) => self.handles[place] = Some(handle),
                Err(error) => {
                    made = Err(error);
                    break;
                }
            }
        }
        let mut mapped = from;
        let done = made.and_then(|()| {
            for place in from..to {
                if let Some(handle) = self.handles[place] {
                    driver.map(device, self.at(place), handle)?;
                }
                mapped = place + 1;
            }
            let bytes = (to - from) as u64 * self.handle_bytes;
            driver.set_access(device, self.at(from), bytes, &[device])
        });
        if done.is_err() {
            for place in from..to {
                if let Some(handle) = self.handles[place].take() {
                    let at = (place < mapped).then(|| self.at(place));
                    self.stray.push((handle, at));
                }
            }
            self.give_strays_back(driver, device);
        }
        done
    }

    fn give_strays_back(&mut self, driver: &dyn Driver, device: DeviceId) {
        let bytes = self.handle_bytes;
        self.stray.retain_mut(|(handle, at)| {
            let mapped = at.is_some_and(|at| driver.unmap(device, at, bytes).is_err());
            if !mapped {
                *at = None;
            }
            mapped || driver.handle_release(device, *handle).is_err()
        });
    }

    /// Takes the handle of a place, which is mapped nowhere, and gives it back.
    fn release(
        &mut self,
        driver: &dyn Driver,
        device: DeviceId,
        place: usize,
    ) -> Result<(), DriverError> {
        let Some(handle) = self.handles[place].take() else { return Ok(()) };
        driver.handle_release(device, handle).inspect_err(|_| self.stray.push((handle, None)))
    }

    /// Unmaps the places `from..to` and gives their handles back: up to which one, and the error
    /// that ended it there, if one did.
    fn unmap(
        &mut self,
        driver: &dyn Driver,
        device: DeviceId,
        from: usize,
        to: usize,
    ) -> (usize, Result<(), DriverError>) {
        for place in from..to {
            if let Err(error) = driver.unmap(device, self.at(place), self.handle_bytes) {
                return (place, Err(error));
            }
            if let Err(error) = self.release(driver, device, place) {
                return (place + 1, Err(error));
            }
        }
        (to, Ok(()))
    }

    /// Gives all back, as far as the driver takes it; nothing uses it any more.
    pub(super) fn give_back(
        &mut self,
        driver: &dyn Driver,
        device: DeviceId,
    ) -> Result<(), DriverError> {
        for place in 0..self.handles.len() {
            if let Some(handle) = self.handles[place].take() {
                self.stray.push((handle, Some(self.at(place))));
            }
        }
        self.give_strays_back(driver, device);
        driver.address_free(device, self.address, self.bytes)
    }

    fn at(&self, place: usize) -> u64 {
        self.address + place as u64 * self.handle_bytes
    }
}

impl Device {
    /// A block for the request at the lowest address where free and unmapped blocks make room,
    /// with memory mapped there; none if the device has no more.
    pub(super) fn grow(&mut self, request: &Request) -> Result<Option<u32>, DriverError> {
        let mut block = match self.room(request) {
            Some(block) => block,
            None => self.reserve(request)?,
        };
        if self.blocks.get(block).state == State::Unmapped && !self.map(block, request.size)? {
            return Ok(None);
        }
        loop {
            let &Block { size, next, .. } = self.blocks.get(block);
            if size >= request.size {
                self.blocks.unlist(block);
                return Ok(Some(block));
            }
            // It merges with the block that it continues.
            block = next;
            if !self.map(block, request.size - size)? {
                return Ok(None);
            }
        }
    }

    /// The first of the blocks, free or unmapped, that are large enough together.
    fn room(&self, request: &Request) -> Option<u32> {
        let usable = |block: u32| block != NONE && self.blocks.get(block).state != State::Used;
        let unmapped = &self.blocks.pool(request.pool, request.small).unmapped;
        let of_stream = unmapped.range((request.stream, 0, 0)..);
        for &(_, _, found) in of_stream.take_while(|key| key.0 == request.stream) {
            let before = self.blocks.get(found).prev;
            let first = if usable(before) { before } else { found };
            let (mut bytes, mut block) = (0, first);
            while bytes < request.size && usable(block) {
                bytes += self.blocks.get(block).size;
                block = self.blocks.get(block).next;
            }
            if bytes >= request.size {
                return Some(first);
            }
        }
        None
    }

    /// New addresses, an eighth more than the device has memory, as one unmapped block.
    fn reserve(&mut self, request: &Request) -> Result<u32, DriverError> {
        let &Request { stream, pool, small, .. } = request;
        let total = self.total()?;
        let handle_bytes = self.settings.handle_bytes(small);
        let bytes = (total + total / 8).next_multiple_of(handle_bytes);
        let address = self.driver.address_reserve(self.id, bytes)?;
        let (handles, stray) = (Vec::new(), Vec::new());
        let segment = Segment { address, bytes, handle_bytes, handles, stray };
        let block = self.blocks.add(Block {
            address,
            size: bytes,
            stream,
            searches: 0,
            prev: NONE,
            next: NONE,
            segment: self.segments.insert(segment) as u32,
            pool,
            small,
            state: State::Unmapped,
        });
        self.blocks.list(block);
        Ok(block)
    }

    /// Maps the first `size` bytes of an unmapped block, up to a whole handle, and merges them with
    /// the free blocks beside them. Whether the device had so much.
    fn map(&mut self, block: u32, size: u64) -> Result<bool, DriverError> {
        let &Block { address, size: room, segment, .. } = self.blocks.get(block);
        let segment = &mut self.segments[segment as usize];
        let size = size.min(room).next_multiple_of(segment.handle_bytes);
        let from = ((address - segment.address) / segment.handle_bytes) as usize;
        let to = from + (size / segment.handle_bytes) as usize;
        match segment.map(&*self.driver, self.id, from, to) {
            Ok(()) => {}
            Err(error) if error.kind == DriverErrorKind::OutOfMemory => return Ok(false),
            Err(error) => return Err(error),
        }
        self.blocks.unlist(block);
        if size < room {
            let rest = self.blocks.cut(block, size);
            self.blocks.list(rest);
        }
        self.blocks.get_mut(block).state = State::Free;
        self.blocks.merge(block);
        self.blocks.list(block);
        self.reserved += size;
        self.counts.device_allocs += 1;
        Ok(true)
    }

    /// Gives the handles inside a free block back, once its stream is done with them, and the
    /// segment's addresses if nothing is left there.
    pub(super) fn unmap(&mut self, block: u32) -> Result<(), DriverError> {
        let &Block { address, size, stream, segment: number, .. } = self.blocks.get(block);
        let segment = &self.segments[number as usize];
        let unit = segment.handle_bytes;
        let from = (address - segment.address).div_ceil(unit) as usize;
        let to = ((address + size - segment.address) / unit) as usize;
        if from >= to {
            return Ok(());
        }
        self.wait_for(stream)?;
        let segment = &mut self.segments[number as usize];
        let start = segment.at(from);
        let (to, result) = segment.unmap(&*self.driver, self.id, from, to);
        let bytes = (to - from) as u64 * unit;
        if bytes == 0 {
            return result;
        }
        self.blocks.unlist(block);
        let mut gone = block;
        if start > address {
            gone = self.blocks.cut(block, start - address);
            self.blocks.list(block);
        }
        if bytes < self.blocks.get(gone).size {
            let rest = self.blocks.cut(gone, bytes);
            self.blocks.list(rest);
        }
        self.blocks.get_mut(gone).state = State::Unmapped;
        self.blocks.merge(gone);
        self.blocks.list(gone);
        self.reserved -= bytes;
        self.counts.device_frees += 1;
        if self.blocks.is_whole(gone) {
            self.blocks.unlist(gone);
            self.blocks.all.remove(gone as usize);
            let mut segment = self.segments.remove(number as usize);
            let given = segment.give_back(&*self.driver, self.id);
            return result.and(given.inspect_err(|_| self.given_up.push(segment)));
        }
        result
    }

    /// Waits for the stream: unmapping does not wait by itself.
    fn wait_for(&mut self, stream: u64) -> Result<(), DriverError> {
        let event = match self.event {
            Some(event) => event,
            None => *self.event.insert(self.driver.event_create(self.id)?),
        };
        self.driver.event_record(self.id, event, drystone_core::StreamId(stream))?;
        self.driver.event_synchronize(self.id, event)
    }
}
