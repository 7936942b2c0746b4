//! Limits and what is held: how much of a device may be reserved, how much is, and giving it back.

use drystone_core::config::format_bytes;
use drystone_core::{Defragment, DeviceId, Driver};

use crate::allocator::{drystone_allocator_t, named};
use crate::status::{DRYSTONE_OUT_OF_MEMORY, Failure, call, drystone_status_t};

/// Free memory comes together, so that the next large request finds it without a driver call.
pub const DRYSTONE_DEFRAGMENT_GATHER: i32 = 0;
/// Free memory goes back to the device.
pub const DRYSTONE_DEFRAGMENT_GIVE_BACK: i32 = 1;

/// For functions that take it: all devices.
pub const DRYSTONE_ALL_DEVICES: i32 = -1;

/// What a defragmentation did, in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct drystone_defragmented_t {
    /// Free memory that was mapped elsewhere.
    pub gathered: u64,
    /// The largest run of free bytes of any stream and pool before.
    pub largest_before: u64,
    /// And after.
    pub largest_after: u64,
    /// Memory that went back to the device.
    pub given_back: u64,
}

/// How many devices the allocator serves; their indices are below.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_device_count(
    allocator: *mut drystone_allocator_t,
    out: *mut u32,
) -> drystone_status_t {
    call("drystone_device_count", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        // SAFETY: the header's rule for pointers.
        unsafe { give(out, "out", allocator.core().device_count()) }
    })
}

/// Gives memory without a live byte back to the device: the bytes in `*released`, which may be NULL.
/// `device` may be `DRYSTONE_ALL_DEVICES`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_empty_cache(
    allocator: *mut drystone_allocator_t,
    device: i32,
    released: *mut u64,
) -> drystone_status_t {
    call("drystone_empty_cache", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        let devices = match device {
            DRYSTONE_ALL_DEVICES => 0..allocator.core().device_count(),
            _ => {
                let DeviceId(index) = allocator.device(device)?;
                index..index + 1
            }
        };
        let mut bytes = 0;
        for device in devices {
            bytes += allocator.core().empty_cache(DeviceId(device))?;
        }
        if !released.is_null() {
            // SAFETY: not NULL, and the caller's to be written to.
            unsafe { released.write(bytes) };
        }
        Ok(())
    })
}

/// Brings what is free on a device into order, as `what` says: `DRYSTONE_DEFRAGMENT_GATHER` or
/// `DRYSTONE_DEFRAGMENT_GIVE_BACK`. No live byte moves. `out` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_defragment(
    allocator: *mut drystone_allocator_t,
    device: i32,
    what: i32,
    out: *mut drystone_defragmented_t,
) -> drystone_status_t {
    call("drystone_defragment", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        let what = match what {
            DRYSTONE_DEFRAGMENT_GATHER => Defragment::Gather,
            DRYSTONE_DEFRAGMENT_GIVE_BACK => Defragment::GiveBack,
            _ => {
                return Err(Failure::argument(format!(
                    "what is {what}: allowed are {DRYSTONE_DEFRAGMENT_GATHER} (gather) and \
                     {DRYSTONE_DEFRAGMENT_GIVE_BACK} (give back)"
                )));
            }
        };
        let done = allocator.core().defragment(DeviceId(device as u32), what)?;
        if !out.is_null() {
            let drystone_core::Defragmented { gathered, largest_before, largest_after, given_back } =
                done;
            let done =
                drystone_defragmented_t { gathered, largest_before, largest_after, given_back };
            // SAFETY: not NULL, and the caller's to be written to.
            unsafe { out.write(done) };
        }
        Ok(())
    })
}

/// Counts bytes of a device that the program took from it by other ways as reserved, so that the limit
/// holds for both together. `DRYSTONE_OUT_OF_MEMORY`, and nothing counted, if the limit forbids them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_account(
    allocator: *mut drystone_allocator_t,
    device: i32,
    bytes: u64,
) -> drystone_status_t {
    call("drystone_account", || {
        // SAFETY: the header's rule for allocators.
        let core = unsafe { named(allocator) }?.core();
        let device = DeviceId(device as u32);
        if core.account(device, bytes)? {
            return Ok(());
        }
        let (held, limit) = (core.reserved_bytes(device)?, core.limit(device)?.unwrap_or(u64::MAX));
        let [bytes, held, limit] = [bytes, held, limit].map(format_bytes);
        Err(Failure::new(
            DRYSTONE_OUT_OF_MEMORY,
            format!("{bytes} beside {held} that are reserved are above the limit, {limit}"),
        ))
    })
}

/// Counts bytes as reserved no more that were counted by `drystone_account`; not more than those.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_unaccount(
    allocator: *mut drystone_allocator_t,
    device: i32,
    bytes: u64,
) -> drystone_status_t {
    call("drystone_unaccount", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        Ok(allocator.core().unaccount(DeviceId(device as u32), bytes)?)
    })
}

/// Lets at most `bytes` of a device be reserved from now on; 0 is no limit. What is held above it stays
/// held, but nothing is added.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_set_limit(
    allocator: *mut drystone_allocator_t,
    device: i32,
    bytes: u64,
) -> drystone_status_t {
    call("drystone_set_limit", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        Ok(allocator.core().set_limit(DeviceId(device as u32), (bytes > 0).then_some(bytes))?)
    })
}

/// Likewise a part of the device's memory, 0 to 1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_set_memory_fraction(
    allocator: *mut drystone_allocator_t,
    device: i32,
    fraction: f64,
) -> drystone_status_t {
    call("drystone_set_memory_fraction", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        if !(0.0..=1.0).contains(&fraction) {
            return Err(Failure::argument(format!("fraction is {fraction}: allowed are 0 to 1")));
        }
        Ok(allocator.core().set_memory_fraction(DeviceId(device as u32), fraction)?)
    })
}

/// The limit of a device in bytes; 0 if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_limit(
    allocator: *mut drystone_allocator_t,
    device: i32,
    out: *mut u64,
) -> drystone_status_t {
    call("drystone_limit", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        let limit = allocator.core().limit(DeviceId(device as u32))?;
        // SAFETY: the header's rule for pointers.
        unsafe { give(out, "out", limit.unwrap_or(0)) }
    })
}

/// Bytes that the allocator holds of a device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_reserved(
    allocator: *mut drystone_allocator_t,
    device: i32,
    out: *mut u64,
) -> drystone_status_t {
    call("drystone_reserved", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        let reserved = allocator.core().reserved_bytes(DeviceId(device as u32))?;
        // SAFETY: the header's rule for pointers.
        unsafe { give(out, "out", reserved) }
    })
}

/// Bytes of a device that nobody holds, and that it has, as its driver says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_memory_info(
    allocator: *mut drystone_allocator_t,
    device: i32,
    free: *mut u64,
    total: *mut u64,
) -> drystone_status_t {
    call("drystone_memory_info", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        let memory = allocator.core().driver().device_memory(allocator.device(device)?)?;
        if total.is_null() {
            return Err(Failure::null("total"));
        }
        // SAFETY: the header's rule for pointers.
        unsafe { give(free, "free", memory.free) }?;
        // SAFETY: likewise.
        unsafe { give(total, "total", memory.total) }
    })
}

/// Writes what a function answers to where the program wants it, by the name of the argument.
///
/// # Safety
///
/// `out` is NULL or can be written to.
pub(crate) unsafe fn give<T>(out: *mut T, argument: &str, value: T) -> Result<(), Failure> {
    if out.is_null() {
        return Err(Failure::null(argument));
    }
    // SAFETY: the caller's.
    unsafe { out.write(value) };
    Ok(())
}
