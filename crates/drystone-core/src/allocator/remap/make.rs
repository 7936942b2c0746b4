//! Making the handles of new memory: all that a window needs, or none.

use std::sync::atomic::Ordering;

use super::carry::Part;
use crate::allocator::Allocator;
use crate::allocator::slow::{NoSegment, Quest};
use crate::device::Device;
use crate::driver::{DeviceId, Driver, DriverError, DriverErrorKind, HandleId, HandleKind};
use crate::pages::PageStore;
use crate::units::PAGE;

/// Handles that are made without asking the device first how much is free: that takes about as long
/// as making one in vain.
const SURE_HANDLES: usize = 4;

impl<D: Driver> Allocator<D> {
    /// Makes the new handles of a part, as far as there are none that could not be given back.
    pub(super) fn create(
        &self,
        store: &mut PageStore,
        quest: &Quest<'_>,
        part: &mut Part,
    ) -> Result<(), NoSegment> {
        let device = quest.device;
        let spills = quest.heap.lock().spills();
        let kind = self.kind_of_new(spills);
        let mut left = part.filling.new;
        while let Some(spare) = store.take_spare(kind, left) {
            left -= store.handle(spare).pages();
            part.made.push(spare);
        }
        if left == 0 {
            return Ok(());
        }
        // All of it or nothing: to find out at the last handle that the limit or the device refuses it
        // would cost the making of all others, and their way back.
        let mut unmade = u64::from(left) * PAGE;
        if !device.hold(kind, unmade) {
            return Err(NoSegment::Full);
        }
        let sizes: Vec<u32> = self.policy.handles(left, part.handle_pages).collect();
        if sizes.len() > SURE_HANDLES && !spills && !self.has_room(device, unmade) {
            device.unhold(kind, unmade);
            return Err(NoSegment::Full);
        }
        for count in sizes {
            let bytes = u64::from(count) * PAGE;
            match self.make_handle(device.id, bytes, kind) {
                Ok((id, kind)) => part.made.push(store.add_handle(id, kind, count)),
                Err(error) => {
                    device.unhold(kind, unmade);
                    return Err(match error.kind {
                        DriverErrorKind::OutOfMemory => NoSegment::Full,
                        // Not every device reaches memory of the host.
                        DriverErrorKind::NotSupported if spills => NoSegment::Full,
                        _ => NoSegment::Failed(error),
                    });
                }
            }
            unmade -= bytes;
            if !spills {
                device.counters.device_alloc.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Whether the device may have so many bytes; true where it cannot be asked.
    fn has_room(&self, device: &Device, bytes: u64) -> bool {
        device.is_capturing()
            || self.driver.device_memory(device.id).map_or(true, |memory| memory.free >= bytes)
    }

    fn kind_of_new(&self, spills: bool) -> HandleKind {
        match (spills, self.exportable.load(Ordering::Relaxed)) {
            (true, _) => HandleKind::Host,
            (false, true) => HandleKind::Exportable,
            (false, false) => HandleKind::Device,
        }
    }

    /// Makes a handle of this kind, or of memory that cannot be shared where the driver shares none.
    fn make_handle(
        &self,
        device: DeviceId,
        bytes: u64,
        kind: HandleKind,
    ) -> Result<(HandleId, HandleKind), DriverError> {
        match self.driver.handle_create(device, bytes, kind) {
            Err(error)
                if kind == HandleKind::Exportable
                    && error.kind == DriverErrorKind::NotSupported =>
            {
                self.exportable.store(false, Ordering::Relaxed);
                self.make_handle(device, bytes, HandleKind::Device)
            }
            made => made.map(|id| (id, kind)),
        }
    }
}
