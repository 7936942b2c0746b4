//! Frees and recorded streams: finding the block that a pointer names, and giving it back.

use super::Allocator;
use crate::block::State;
use crate::driver::{DeviceId, Driver, StreamId};
use crate::error::PointerError;
use crate::heap::{Given, Heap, HeapCore, Located, Locked};
use crate::history::Action;

impl<D: Driver> Allocator<D> {
    /// Takes a block back, by the address that it was handed out with. Its bytes are reusable in
    /// the order of its stream at once, elsewhere when the stream has passed this point, and when
    /// every stream recorded on it has. The null address is accepted and means nothing.
    #[inline]
    pub fn free(&self, pointer: u64) -> Result<(), PointerError> {
        if pointer == 0 {
            return Ok(());
        }
        if let Some(place) = self.table.find(pointer)
            && let Some(heap) = self.heaps.get(place.heap)
        {
            let mut core = heap.lock();
            if let Some(block) = core.live(place.segment, pointer, State::Used) {
                self.give(heap, &mut core, block);
                return Ok(());
            }
        }
        self.free_or_refuse(pointer)
    }

    /// Frees a block that a first look did not find, or says why it cannot be freed.
    #[cold]
    fn free_or_refuse(&self, pointer: u64) -> Result<(), PointerError> {
        let (heap, mut core, block) = self.locate(pointer)?;
        self.give(heap, &mut core, block);
        Ok(())
    }

    /// Like [`Allocator::free`], but refuses a block of another device or stream than the caller
    /// believes.
    pub fn free_on(
        &self,
        pointer: u64,
        device: DeviceId,
        stream: StreamId,
    ) -> Result<(), PointerError> {
        if pointer == 0 {
            return Ok(());
        }
        let (heap, mut core, block) = self.locate(pointer)?;
        let key = core.key();
        if key.device != device {
            let (actual, given) = (key.device, device);
            return Err(PointerError::WrongDevice { pointer, actual, given });
        }
        // A block lent to another stream carries that stream as a recorded one.
        if key.stream != stream && !core.is_used_by(block.index, stream) {
            let (actual, given) = (key.stream, stream);
            return Err(PointerError::WrongStream { pointer, actual, given });
        }
        self.give(heap, &mut core, block);
        Ok(())
    }

    #[inline(always)]
    pub(super) fn give(&self, heap: &Heap, core: &mut HeapCore, block: Located) {
        let device = &self.devices[core.key().device.0 as usize];
        let notes = self.takes_notes();
        if notes {
            self.write_down(Action::FreeRequested, device, core, block);
        }
        let given = heap.give(core, block);
        if notes && given == Given::Free {
            self.write_down(Action::FreeCompleted, device, core, block);
        }
        device.totals.after_free(heap, &mut core.thresholds, block.kind);
    }

    /// Says that work on `stream` uses the block at `pointer` too: after its free the bytes are
    /// not reused before that stream has passed the free. The block's own stream needs no saying.
    pub fn record_stream(&self, pointer: u64, stream: StreamId) -> Result<(), PointerError> {
        if pointer == 0 {
            return Ok(());
        }
        let (_, mut core, block) = self.locate_any(pointer)?;
        let key = core.key();
        let device = &self.devices[key.device.0 as usize];
        // Also its own stream, which may have ended while the block was lent to another.
        device.stream_is_used(stream);
        if key.stream != stream {
            let ticker = device.tickers.of(stream);
            core.add_use(block.index, ticker);
        }
        Ok(())
    }

    /// The used block that starts at `pointer`, with its heap, locked.
    pub(super) fn locate(
        &self,
        pointer: u64,
    ) -> Result<(&Heap, Locked<'_>, Located), PointerError> {
        if let Some(place) = self.table.find(pointer)
            && let Some(heap) = self.heaps.get(place.heap)
        {
            let core = heap.lock();
            // A segment around the pointer is the pointer's, whatever happened since the table
            // was asked: segments do not overlap.
            if let Some(found) = core.locate(place.segment, pointer, State::Used) {
                return Ok((heap, core, found?));
            }
        }
        self.locate_again(pointer, State::Used)
    }

    /// The used or movable block that starts at `pointer`, with its heap, locked.
    pub(super) fn locate_any(
        &self,
        pointer: u64,
    ) -> Result<(&Heap, Locked<'_>, Located), PointerError> {
        match self.locate(pointer) {
            Err(PointerError::Movable { .. }) => self.locate_again(pointer, State::Movable),
            other => other,
        }
    }

    /// Likewise one of this state, if the segment went to another heap or to the driver between look
    /// and lock, or has only a part of the pointer's page.
    #[cold]
    pub(super) fn locate_again(
        &self,
        pointer: u64,
        state: State,
    ) -> Result<(&Heap, Locked<'_>, Located), PointerError> {
        let foreign = PointerError::Foreign { pointer };
        loop {
            let place = self.table.find(pointer).ok_or(foreign)?;
            let heap = self.heaps.get(place.heap).ok_or(foreign)?;
            let core = heap.lock();
            if let Some(found) = core.locate(place.segment, pointer, state) {
                return Ok((heap, core, found?));
            }
            // The table changes under the heap's lock: what it still says holds.
            if self.table.find(pointer) == Some(place) {
                return Err(foreign);
            }
        }
    }
}
