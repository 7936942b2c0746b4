//! Memory that other devices and other processes use: access for peers, blocks exported and imported.

use std::ffi::c_void;

use drystone_core::{DeviceId, ShareError, ShareId};

use crate::allocator::{drystone_allocator_t, named};
use crate::status::{DRYSTONE_NOT_SUPPORTED, Failure, call, drystone_status_t};

/// Physical memory under a name that another process can import.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct drystone_shared_handle_t {
    /// Its bytes.
    pub bytes: u64,
    /// On CUDA a file descriptor of this process. Who gets it from `drystone_export` owns it and closes it.
    pub fd: i32,
}

/// Shown one handle, in order of address.
pub type drystone_visit_handle_t =
    Option<unsafe extern "C" fn(handle: *const drystone_shared_handle_t, user: *mut c_void)>;

impl From<ShareError> for Failure {
    fn from(error: ShareError) -> Failure {
        match error {
            ShareError::Pointer(error) => error.into(),
            ShareError::Device(error) => error.into(),
            ShareError::Driver(error) => error.into(),
            _ => Failure::new(DRYSTONE_NOT_SUPPORTED, error.to_string()),
        }
    }
}

/// Lets work of the device `peer` use the memory of `device`: what is mapped now and what will be. With
/// `backing:malloc` it does nothing: there the access between the devices' contexts is what counts
/// (`cudaDeviceEnablePeerAccess`). Fails if the devices cannot reach each other.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_enable_peer_access(
    allocator: *mut drystone_allocator_t,
    device: i32,
    peer: i32,
) -> drystone_status_t {
    call("drystone_enable_peer_access", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        Ok(allocator.core().enable_peer_access(DeviceId(device as u32), DeviceId(peer as u32))?)
    })
}

/// From now on memory is taken from the driver in such a way that `drystone_export` can share it, as far
/// as the driver can do that. To be called before the first request.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_allow_export(
    allocator: *mut drystone_allocator_t,
) -> drystone_status_t {
    call("drystone_allow_export", || {
        // SAFETY: the header's rule for allocators.
        unsafe { named(allocator) }?.core().allow_export();
        Ok(())
    })
}

/// Shows the handles under the live block around an address, for another process to import; `*offset` is
/// where the address lies, in bytes from the start of the first. Other blocks may lie in the handles too.
/// The block must stay live until others are done with it. Fails with `DRYSTONE_NOT_SUPPORTED` if the
/// memory cannot be shared: `drystone_allow_export` came too late, or `backing:malloc`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_export(
    allocator: *mut drystone_allocator_t,
    inside: *const c_void,
    visit: drystone_visit_handle_t,
    user: *mut c_void,
    offset: *mut u64,
) -> drystone_status_t {
    call("drystone_export", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        let visit = visit.ok_or_else(|| Failure::null("visit"))?;
        if offset.is_null() {
            return Err(Failure::null("offset"));
        }
        let block = allocator.block_around(inside as u64)?.address;
        let exported = allocator.core().export(block)?;
        let named = |&(ShareId(name), bytes): &(ShareId, u64)| {
            let fd = i32::try_from(name).map_err(|_| {
                let text = format!("the device shares memory by a name, {name:#x}, that is no fd");
                Failure::new(DRYSTONE_NOT_SUPPORTED, text)
            })?;
            Ok(drystone_shared_handle_t { bytes, fd })
        };
        for handle in exported.handles.iter().map(named).collect::<Result<Vec<_>, Failure>>()? {
            // SAFETY: the program's function, as the header describes it.
            unsafe { visit(&raw const handle, user) };
        }
        // SAFETY: not NULL, and the caller's to be written to.
        unsafe { offset.write(exported.offset + (inside as u64 - block)) };
        Ok(())
    })
}

/// Maps handles that another process exported, one after the other: the address of the first in `*out`,
/// which is NULL on failure. File descriptors that were sent are this process's, and may be closed
/// afterwards. The memory does not count as reserved. Given back with `drystone_end_import`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_import(
    allocator: *mut drystone_allocator_t,
    device: i32,
    handles: *const drystone_shared_handle_t,
    count: usize,
    out: *mut *mut c_void,
) -> drystone_status_t {
    call("drystone_import", || {
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        // SAFETY: not NULL, and the caller's to be written to.
        unsafe { out.write(std::ptr::null_mut()) };
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        if handles.is_null() {
            return Err(Failure::null("handles"));
        }
        if count == 0 {
            return Err(Failure::argument("count is 0: there is nothing to import"));
        }
        // SAFETY: not NULL, and by the header `count` of them.
        let handles = unsafe { std::slice::from_raw_parts(handles, count) };
        let handles: Vec<_> =
            handles.iter().map(|handle| (ShareId(handle.fd as u64), handle.bytes)).collect();
        let address = allocator.core().import(DeviceId(device as u32), &handles)?;
        // SAFETY: as above.
        unsafe { out.write(address as *mut c_void) };
        Ok(())
    })
}

/// Takes the mapping away that `drystone_import` made: it waits for the device first, or inside a stream
/// capture leaves it for later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_end_import(
    allocator: *mut drystone_allocator_t,
    address: *mut c_void,
) -> drystone_status_t {
    call("drystone_end_import", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        Ok(allocator.core().end_import(address as u64)?)
    })
}
