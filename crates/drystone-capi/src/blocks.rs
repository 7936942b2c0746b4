//! What a program says of a block beside allocate and free: who uses it, that it stays, what it is.

use std::ffi::c_void;

use drystone_core::{BlockInfo, DeviceId, PointerError, StreamId};

use crate::allocator::{drystone_allocator_t, drystone_stream_t, named};
use crate::status::{DRYSTONE_INVALID_POINTER, Failure, call, drystone_status_t};

/// A block that is live.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct drystone_block_t {
    /// Where it starts: what allocate gave.
    pub address: u64,
    /// Its bytes, a multiple of 512.
    pub size: u64,
    /// The bytes that were asked for.
    pub requested: u64,
}

/// Says that work on `stream` uses the block too: after its free the bytes are not reused before that
/// stream has passed the free. The block's own stream needs no saying. NULL is accepted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_record_stream(
    allocator: *mut drystone_allocator_t,
    pointer: *mut c_void,
    stream: drystone_stream_t,
) -> drystone_status_t {
    call("drystone_record_stream", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        Ok(allocator.core().record_stream(pointer as u64, StreamId(stream))?)
    })
}

/// To be called before a stream that the allocator was given is destroyed: it waits until the stream's
/// work is done, and what was cached for it serves others. Fails while a stream is captured.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_stream_ends(
    allocator: *mut drystone_allocator_t,
    device: i32,
    stream: drystone_stream_t,
) -> drystone_status_t {
    call("drystone_stream_ends", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        Ok(allocator.core().stream_ends(DeviceId(device as u32), StreamId(stream))?)
    })
}

/// The live block around an address, which may be any in it. Fails for other addresses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_block(
    allocator: *mut drystone_allocator_t,
    inside: *const c_void,
    out: *mut drystone_block_t,
) -> drystone_status_t {
    call("drystone_block", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        if inside.is_null() {
            return Err(Failure::new(DRYSTONE_INVALID_POINTER, "NULL is in no block"));
        }
        let BlockInfo { address, size, requested, .. } = allocator.block_around(inside as u64)?;
        // SAFETY: not NULL, and the caller's to be written to.
        unsafe { out.write(drystone_block_t { address, size, requested }) };
        Ok(())
    })
}

impl drystone_allocator_t {
    /// The live block around an address.
    pub fn block_around(&self, inside: u64) -> Result<BlockInfo, PointerError> {
        match self.core().block_info(inside) {
            Err(PointerError::Interior { block, .. }) => self.core().block_info(block),
            other => other,
        }
    }
}

/// Keeps the memory of a live block as it is until `drystone_unpin`: for ranges that are registered or
/// exported (NCCL, RDMA, IPC). Pins are counted. NULL is accepted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_pin(
    allocator: *mut drystone_allocator_t,
    pointer: *mut c_void,
) -> drystone_status_t {
    call("drystone_pin", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        Ok(allocator.core().pin(pointer as u64)?)
    })
}

/// Takes one pin away, by the address that was pinned, whether or not the block is still live. NULL is
/// accepted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_unpin(
    allocator: *mut drystone_allocator_t,
    pointer: *mut c_void,
) -> drystone_status_t {
    call("drystone_unpin", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        Ok(allocator.core().unpin(pointer as u64)?)
    })
}
