//! One device's addresses, handles and mappings: the rules of the contract, kept before the driver
//! is asked.
//!
//! What is alive is known by reference counts: a mapping keeps its range and its handle, a call
//! keeps what it works on, and only what nobody keeps is given back. No lock is held during a
//! driver call: what is to go is taken out first, and put back if the driver refuses.

use std::os::fd::RawFd;
use std::sync::OnceLock;

use drystone_core::{HandleId, HandleKind, ShareId};
use parking_lot::Mutex;

use crate::driver::DeviceState;
use crate::error::CudaError;
use crate::ffi::{Addresses, Device, Handle, Mapping, page_bytes};
use crate::registry::Registry;
use crate::spans::Spans;

/// What is alive in one device's virtual memory.
#[derive(Debug)]
pub(crate) struct Space {
    page: OnceLock<u64>,
    handles: Registry<Handle>,
    ranges: Mutex<Spans<Addresses>>,
    /// Locked during a call only by the calls of `work.rs`.
    pub(crate) mappings: Mutex<Spans<Mapping>>,
}

impl Default for Space {
    fn default() -> Space {
        Space {
            page: OnceLock::new(),
            handles: Registry::new("handle"),
            ranges: Mutex::new(Spans::new("reserved range")),
            mappings: Mutex::new(Spans::new("mapping")),
        }
    }
}

impl DeviceState {
    /// Bytes in a page; an error where the device cannot map memory.
    pub(crate) fn page_bytes(&self) -> Result<u64, CudaError> {
        if let Some(&page) = self.space.page.get() {
            return Ok(page);
        }
        let page = page_bytes(self.device, self.context()?)?;
        Ok(*self.space.page.get_or_init(|| page))
    }

    /// The page, if `bytes` are whole pages.
    fn page_of(&self, bytes: u64) -> Result<u64, CudaError> {
        let page = self.page_bytes()?;
        if bytes == 0 || !bytes.is_multiple_of(page) {
            let detail = format!("{bytes} bytes are not whole pages of {page}");
            return Err(CudaError::InvalidValue(detail));
        }
        Ok(page)
    }

    pub(crate) fn address_reserve(&self, bytes: u64) -> Result<u64, CudaError> {
        let page = self.page_of(bytes)?;
        let range = Addresses::reserve(self.context()?, bytes, page)?;
        let address = range.address();
        self.space.ranges.lock().insert(address, bytes, range);
        Ok(address)
    }

    pub(crate) fn address_free(&self, address: u64, bytes: u64) -> Result<(), CudaError> {
        self.page_bytes()?;
        let range = self.space.ranges.lock().take_one(address, bytes)?;
        range.free().map_err(|(range, error)| {
            self.space.ranges.lock().insert(address, bytes, range);
            error
        })
    }

    pub(crate) fn handle_create(
        &self,
        bytes: u64,
        kind: HandleKind,
    ) -> Result<HandleId, CudaError> {
        self.page_of(bytes)?;
        Ok(self.keep(Handle::create(self.context()?, self.device, bytes, kind)?))
    }

    pub(crate) fn handle_release(&self, handle: HandleId) -> Result<(), CudaError> {
        self.page_bytes()?;
        self.space.handles.take(handle.0)?.release().map_err(|(kept, error)| {
            self.keep(kept);
            error
        })
    }

    fn keep(&self, handle: Handle) -> HandleId {
        HandleId(self.space.handles.insert(handle.id().0, handle))
    }

    pub(crate) fn handle_export(&self, handle: HandleId) -> Result<ShareId, CudaError> {
        self.page_bytes()?;
        let descriptor = self.space.handles.require(handle.0)?.export()?;
        Ok(ShareId(descriptor.unsigned_abs().into()))
    }

    pub(crate) fn handle_import(&self, share: ShareId, bytes: u64) -> Result<HandleId, CudaError> {
        self.page_of(bytes)?;
        let descriptor = RawFd::try_from(share.0)
            .map_err(|_| CudaError::InvalidValue(format!("{} is no file descriptor", share.0)))?;
        let handle = self.keep(Handle::import(self.context()?, descriptor, bytes)?);
        self.try_out(handle, bytes).inspect_err(|_| {
            // What the driver refuses to take back stays until the process ends.
            let _ = self.handle_release(handle);
        })?;
        Ok(handle)
    }

    /// Maps the handle once: the driver tells nobody how many bytes it has.
    fn try_out(&self, handle: HandleId, bytes: u64) -> Result<(), CudaError> {
        let address = self.address_reserve(bytes)?;
        let tried = self.map(address, handle).and_then(|()| self.unmap(address, bytes));
        tried.and(self.address_free(address, bytes))
    }

    pub(crate) fn map(&self, address: u64, handle: HandleId) -> Result<(), CudaError> {
        let page = self.page_bytes()?;
        let handle = self.space.handles.require(handle.0)?;
        let bytes = handle.bytes();
        if !address.is_multiple_of(page) {
            let detail = format!("{address:#x} is no multiple of the page, {page}");
            return Err(CudaError::InvalidValue(detail));
        }
        let range = self.space.ranges.lock().around(address, bytes)?;
        if self.space.mappings.lock().overlap(address, bytes) {
            let detail = format!("something is mapped in the {bytes} bytes at {address:#x}");
            return Err(CudaError::InvalidValue(detail));
        }
        // Of two threads at the same addresses the driver refuses one.
        let mapping = Mapping::map(range, handle, address)?;
        self.space.mappings.lock().insert(address, bytes, mapping);
        Ok(())
    }

    pub(crate) fn set_access(
        &self,
        address: u64,
        bytes: u64,
        accessors: &[Device],
    ) -> Result<(), CudaError> {
        self.page_bytes()?;
        if accessors.is_empty() {
            return Err(CudaError::InvalidValue("access for nobody".to_owned()));
        }
        self.space.ranges.lock().around(address, bytes)?;
        let mappings = self.space.mappings.lock().exactly(address, bytes)?;
        Mapping::set_access(&mappings, self.device, accessors)
    }

    pub(crate) fn unmap(&self, address: u64, bytes: u64) -> Result<(), CudaError> {
        self.page_bytes()?;
        self.space.ranges.lock().around(address, bytes)?;
        let taken = self.space.mappings.lock().take(address, bytes)?;
        Mapping::unmap(taken).map_err(|(kept, error)| {
            let mut mappings = self.space.mappings.lock();
            for mapping in kept {
                mappings.insert(mapping.address(), mapping.bytes(), mapping);
            }
            error
        })
    }
}
