//! Blocks that other processes use too: the handles under a block by names that can be sent, and such
//! names as addresses.

use std::sync::atomic::Ordering;

use super::Allocator;
use crate::driver::{DeviceId, Driver, DriverError, HandleId, HandleKind, ShareId};
use crate::error::{PointerError, ShareError};
use crate::pages::Slot;
use crate::units::PAGE;

/// A block as another process can get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The names of the handles in order of address, and the bytes of each. On CUDA the names are file
    /// descriptors, which the caller owns and closes.
    pub handles: Vec<(ShareId, u64)>,
    /// Where the block begins, in bytes from the start of the first handle.
    pub offset: u64,
    /// The device that the memory lies on.
    pub device: DeviceId,
}

/// Handles of another process, mapped one after the other.
pub(crate) struct Imported {
    device: DeviceId,
    address: u64,
    bytes: u64,
    /// Those that are made, and how many of the bytes from the start are mapped.
    handles: Vec<HandleId>,
    mapped: u64,
}

impl<D: Driver> Allocator<D> {
    /// From now on memory is taken from the driver in such a way that [`Allocator::export`] can share
    /// it, as far as the driver can do that. To be called before the first request.
    pub fn allow_export(&self) {
        self.exportable.store(true, Ordering::Relaxed);
    }

    /// Names for the memory under the live block at `pointer`, under which other processes can import it.
    /// They get whole handles, in which other blocks may lie. The block must stay live until they have
    /// imported it and are done with it. Errors: the block is unknown, or lies in memory that cannot be
    /// exported ([`ShareError::NotExportable`]).
    pub fn export(&self, pointer: u64) -> Result<Exported, ShareError> {
        let foreign = PointerError::Foreign { pointer };
        let place = self.table.find(pointer).ok_or(foreign)?;
        let (heap, core, block) = self.locate_any(pointer)?;
        let (id, last) = (core.key().device, pointer + block.bytes - 1);
        let heap = heap.id;
        // The pages are locked before heaps. A live block stays where it is.
        drop(core);
        let not_exportable = ShareError::NotExportable { pointer };
        let store = self.device(id)?.pages.as_ref().ok_or(not_exportable.clone())?.lock();
        let arena = store.arena_of(heap, place.segment).ok_or(not_exportable.clone())?;
        let base = store.arena(arena).base;
        let mut page = ((pointer - base) / PAGE) as u32;
        let mut start = None;
        let mut found = Vec::new();
        while base + u64::from(page) * PAGE <= last {
            let Slot::Home(mapping) = store.slot(arena, page) else { return Err(foreign.into()) };
            let mapping = store.mapping(mapping);
            let handle = store.handle(mapping.handle);
            if handle.kind != HandleKind::Exportable {
                return Err(not_exportable);
            }
            start.get_or_insert(store.arena(arena).address(mapping.first));
            found.push((handle.id, handle.bytes()));
            page = mapping.first + handle.pages();
        }
        let offset = pointer - start.unwrap_or(pointer);
        let mut handles = Vec::with_capacity(found.len());
        for (handle, bytes) in found {
            handles.push((self.driver.handle_export(id, handle)?, bytes));
        }
        Ok(Exported { handles, offset, device: id })
    }

    /// Maps handles that another process exported, in the order in which it named them: the address of
    /// the first. Given back with [`Allocator::end_import`]. They are not among what is reserved here.
    pub fn import(&self, device: DeviceId, handles: &[(ShareId, u64)]) -> Result<u64, ShareError> {
        self.device(device)?;
        self.end_imports_that_wait();
        let bytes = handles.iter().map(|&(_, bytes)| bytes).sum();
        let address = self.driver.address_reserve(device, bytes)?;
        let mut imported = Imported { device, address, bytes, handles: Vec::new(), mapped: 0 };
        match self.map_import(&mut imported, handles) {
            Ok(()) => {
                self.imports.lock().live.push(imported);
                Ok(address)
            }
            Err(error) => {
                // Nothing has used it, so there is nothing to wait for.
                let _ = self.unmap_import(&mut imported);
                Err(error.into())
            }
        }
    }

    /// Takes the mapping away that [`Allocator::import`] made. It waits for the device, or in a capture
    /// leaves that for later. Errors: nothing was imported at this address.
    pub fn end_import(&self, address: u64) -> Result<(), ShareError> {
        let mut imports = self.imports.lock();
        let at = imports.live.iter().position(|imported| imported.address == address);
        let at = at.ok_or(PointerError::Foreign { pointer: address })?;
        let ended = imports.live.swap_remove(at);
        imports.ended.push(ended);
        drop(imports);
        self.end_imports_that_wait();
        Ok(())
    }

    fn map_import(
        &self,
        imported: &mut Imported,
        handles: &[(ShareId, u64)],
    ) -> Result<(), DriverError> {
        let device = imported.device;
        for &(share, bytes) in handles {
            let handle = self.driver.handle_import(device, share, bytes)?;
            imported.handles.push(handle);
            self.driver.map(device, imported.address + imported.mapped, handle)?;
            imported.mapped += bytes;
        }
        self.driver.set_access(device, imported.address, imported.bytes, &[device])
    }

    fn end_imports_that_wait(&self) {
        let ended = std::mem::take(&mut self.imports.lock().ended);
        for mut imported in ended {
            if let Err(error) = self.end_one(&mut imported) {
                tracing::debug!(?error, "an imported mapping stays for now");
                self.imports.lock().ended.push(imported);
            }
        }
    }

    /// Waits for the device and unmaps; none as the error if a capture forbids it.
    fn end_one(&self, imported: &mut Imported) -> Result<(), Option<DriverError>> {
        let Ok(device) = self.device(imported.device) else { return Ok(()) };
        let _awake = device.outside_captures().ok_or(None)?;
        self.driver.device_synchronize(imported.device)?;
        Ok(self.unmap_import(imported)?)
    }

    /// Gives back what an import has, as far as it got. What fails is tried again with the next call.
    fn unmap_import(&self, imported: &mut Imported) -> Result<(), DriverError> {
        let device = imported.device;
        if imported.mapped > 0 {
            self.driver.unmap(device, imported.address, imported.mapped)?;
            imported.mapped = 0;
        }
        while let Some(&handle) = imported.handles.last() {
            self.driver.handle_release(device, handle)?;
            imported.handles.pop();
        }
        self.driver.address_free(device, imported.address, imported.bytes)
    }
}

/// What was imported: in use, and not any more.
#[derive(Default)]
pub(crate) struct Imports {
    live: Vec<Imported>,
    ended: Vec<Imported>,
}
