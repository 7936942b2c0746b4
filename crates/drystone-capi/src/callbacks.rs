//! The program's functions that the library calls: when much is reserved, and before a request fails.

use std::ffi::{CString, c_char, c_void};

use drystone_core::{OutOfMemory, Pressure, Watermark};

use crate::allocator::{drystone_allocator_t, drystone_stream_t, named};
use crate::limits::give;
use crate::pools::{User, drystone_pool_t};
use crate::status::{Failure, call, drystone_status_t};

/// What a pressure callback is told. Sizes are in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct drystone_pressure_t {
    /// The bytes of this struct that the library has filled: it may have more fields than a program
    /// knows, or fewer.
    pub struct_size: usize,
    /// The device.
    pub device: i32,
    /// Reserved now.
    pub reserved: u64,
    /// The watermark that was passed.
    pub watermark: u64,
    /// The limit, or the device's memory where there is none.
    pub limit: u64,
}

/// What an out-of-memory callback is told. Sizes are in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct drystone_out_of_memory_t {
    /// The bytes of this struct that the library has filled: it may have more fields than a program
    /// knows, or fewer.
    pub struct_size: usize,
    /// The device asked.
    pub device: i32,
    /// Whether a stream capture is underway, in which nothing can be given back or waited for.
    pub capturing: bool,
    /// The stream that asked.
    pub stream: drystone_stream_t,
    /// The pool that was to serve the request.
    pub pool: drystone_pool_t,
    /// Asked for.
    pub asked: u64,
    /// What a new segment would have needed.
    pub segment: u64,
    /// In blocks that are live or wait for a recorded stream.
    pub live: u64,
    /// Held of the device, `live` among them.
    pub reserved: u64,
    /// Held by nobody; 0 if the driver could not say.
    pub device_free: u64,
    /// What the device has; 0 if the driver could not say.
    pub device_total: u64,
    /// Of `live`, in memory of the host.
    pub spilled: u64,
    /// The most that may be reserved; 0 if there is no limit.
    pub limit: u64,
    /// The largest run of free bytes that the allocator holds, of any stream or pool.
    pub largest_free: u64,
    /// All this in words, with what would help. Valid during the call.
    pub message: *const c_char,
}

/// Called when a watermark was passed upwards, by the thread that allocates. It may call the library.
pub type drystone_on_pressure_t =
    Option<unsafe extern "C" fn(pressure: *const drystone_pressure_t, user: *mut c_void)>;

/// Called when a request is about to fail, by the thread that allocates. It may call the library.
/// True: something was freed, try again.
pub type drystone_on_out_of_memory_t =
    Option<unsafe extern "C" fn(error: *const drystone_out_of_memory_t, user: *mut c_void) -> bool>;

/// Registers a callback for when the bytes reserved of a device pass a watermark on the way up: either
/// `fraction` (above 0, at most 1) of the limit or of the device's memory, or `bytes`; the other is 0.
/// It is called once each time. `*id` names it for `drystone_remove_callback`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_on_pressure(
    allocator: *mut drystone_allocator_t,
    device: i32,
    fraction: f64,
    bytes: u64,
    callback: drystone_on_pressure_t,
    user: *mut c_void,
    id: *mut u64,
) -> drystone_status_t {
    call("drystone_on_pressure", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        let callback = callback.ok_or_else(|| Failure::null("callback"))?;
        if id.is_null() {
            return Err(Failure::null("id"));
        }
        let watermark = match (fraction, bytes) {
            (0.0, 1..) => Watermark::Bytes(bytes),
            (_, 0) if fraction > 0.0 && fraction <= 1.0 => Watermark::Fraction(fraction),
            _ => {
                return Err(Failure::argument(format!(
                    "fraction is {fraction} and bytes is {bytes}: one of them is 0, and a fraction \
                     is at most 1"
                )));
            }
        };
        let device = allocator.device(device)?;
        let user = User(user);
        let tell = move |pressure: &Pressure| {
            let told = drystone_pressure_t {
                struct_size: size_of::<drystone_pressure_t>(),
                device: pressure.device.0 as i32,
                reserved: pressure.reserved,
                watermark: pressure.watermark,
                limit: pressure.limit,
            };
            // SAFETY: the program's function, which it keeps valid while it is registered.
            unsafe { callback(&raw const told, user.get()) };
        };
        let known = allocator.core().on_pressure(device, watermark, tell)?;
        // SAFETY: the header's rule for pointers.
        unsafe { give(id, "id", allocator.callbacks.add(known)) }
    })
}

/// Registers a callback for when a request is about to fail for lack of memory, on any device. If it
/// answers true the request is tried again, at most `oom_retries` times. `*id` names it for
/// `drystone_remove_callback`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_on_out_of_memory(
    allocator: *mut drystone_allocator_t,
    callback: drystone_on_out_of_memory_t,
    user: *mut c_void,
    id: *mut u64,
) -> drystone_status_t {
    call("drystone_on_out_of_memory", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        let callback = callback.ok_or_else(|| Failure::null("callback"))?;
        if id.is_null() {
            return Err(Failure::null("id"));
        }
        let user = User(user);
        let known = allocator.core().on_out_of_memory(move |error| {
            let message = CString::new(error.to_string()).unwrap_or_default();
            let told = told(error, &message);
            // SAFETY: the program's function, which it keeps valid while it is registered.
            unsafe { callback(&raw const told, user.get()) }
        });
        // SAFETY: the header's rule for pointers.
        unsafe { give(id, "id", allocator.callbacks.add(known)) }
    })
}

fn told(error: &OutOfMemory, message: &CString) -> drystone_out_of_memory_t {
    drystone_out_of_memory_t {
        struct_size: size_of::<drystone_out_of_memory_t>(),
        device: error.device.0 as i32,
        capturing: error.capturing,
        stream: error.stream.0,
        pool: error.pool.into(),
        asked: error.asked,
        segment: error.segment,
        live: error.live,
        reserved: error.reserved,
        device_free: error.device_free,
        device_total: error.device_total,
        spilled: error.spilled,
        limit: error.limit.unwrap_or(0),
        largest_free: error.largest_free,
        message: message.as_ptr(),
    }
}

/// Forgets a callback, by the number that its registration gave. A call that is under way on another
/// thread may still be running afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_remove_callback(
    allocator: *mut drystone_allocator_t,
    id: u64,
) -> drystone_status_t {
    call("drystone_remove_callback", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        match allocator.callbacks.take(id) {
            Some(known) if allocator.core().remove_callback(known) => Ok(()),
            _ => Err(Failure::argument(format!(
                "there is no callback {id}: it was removed before, or never registered"
            ))),
        }
    })
}
