//! Allocators of the C interface: made and destroyed, and what every program calls most: allocate and
//! free.

use std::collections::BTreeMap;
use std::ffi::c_void;

use drystone_core::{Allocator, CallbackId, Config, DeviceId, InvalidDevice, Request, StreamId};

use parking_lot::Mutex;

use crate::backend::Backend;
use crate::config::{Setup, drystone_config_t};
use crate::pools::drystone_pool_t;
use crate::process;
use crate::status::{DRYSTONE_OK, Failure, call, drystone_status_t, guarded, report};

/// A stream: a `CUstream` or `cudaStream_t` as a number; 0 is the default stream.
pub type drystone_stream_t = u64;

/// A caching allocator for the devices of a process. Any number of threads may use it at once.
pub struct drystone_allocator_t {
    core: Allocator<Backend>,
    /// The program's callbacks by the numbers that it knows.
    pub(crate) callbacks: Callbacks,
}

/// Callbacks by number.
#[derive(Default)]
pub(crate) struct Callbacks(Mutex<(u64, BTreeMap<u64, CallbackId>)>);

impl Callbacks {
    /// The number of a callback that was registered. Numbers start at 1 and do not repeat.
    pub(crate) fn add(&self, id: CallbackId) -> u64 {
        let (last, known) = &mut *self.0.lock();
        *last += 1;
        known.insert(*last, id);
        *last
    }

    /// Forgets a number.
    pub(crate) fn take(&self, number: u64) -> Option<CallbackId> {
        self.0.lock().1.remove(&number)
    }
}

impl drystone_allocator_t {
    /// An allocator over the device that was chosen.
    pub fn new(setup: Setup) -> Result<drystone_allocator_t, Failure> {
        Self::over(Backend::open(setup.choice, setup.sim)?, setup.config)
    }

    /// An allocator over a device that is open already.
    pub fn over(backend: Backend, config: Config) -> Result<drystone_allocator_t, Failure> {
        let core = Allocator::new(backend, config)?;
        Ok(drystone_allocator_t { core, callbacks: Callbacks::default() })
    }

    /// Rust's allocator below.
    #[inline]
    pub fn core(&self) -> &Allocator<Backend> {
        &self.core
    }

    /// The device of that index.
    pub fn device(&self, index: i32) -> Result<DeviceId, Failure> {
        let (device, count) = (DeviceId(index as u32), self.core.device_count());
        if device.0 < count { Ok(device) } else { Err(InvalidDevice { device, count }.into()) }
    }
}

/// The allocator that a program names.
///
/// # Safety
///
/// The pointer is NULL, or an allocator that is not destroyed while the result is in use.
#[inline(always)]
pub unsafe fn named<'a>(
    allocator: *const drystone_allocator_t,
) -> Result<&'a drystone_allocator_t, Failure> {
    // SAFETY: the caller's.
    unsafe { allocator.as_ref() }.ok_or_else(|| Failure::null("allocator"))
}

/// Makes an allocator. `config` NULL: everything from the environment. On failure `*out` is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_create(
    config: *const drystone_config_t,
    out: *mut *mut drystone_allocator_t,
) -> drystone_status_t {
    call("drystone_create", || {
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        // SAFETY: not NULL, and the caller's to be written to.
        unsafe { out.write(std::ptr::null_mut()) };
        // SAFETY: the header's rule for pointers.
        let made = drystone_allocator_t::new(unsafe { Setup::from_raw(config) }?)?;
        // SAFETY: as above.
        unsafe { out.write(Box::into_raw(Box::new(made))) };
        Ok(())
    })
}

/// Destroys an allocator and gives its cached memory back. NULL is accepted. No thread may be using
/// it, and blocks that are still live may not be used any more: free them first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_destroy(
    allocator: *mut drystone_allocator_t,
) -> drystone_status_t {
    call("drystone_destroy", || {
        if process::is_it(allocator) {
            return Err(Failure::argument(
                "the allocator of the process lives until the process ends: do not destroy it",
            ));
        }
        if !allocator.is_null() {
            // SAFETY: made by `drystone_create`, and by the header's rules in nobody's use.
            drop(unsafe { Box::from_raw(allocator) });
        }
        Ok(())
    })
}

/// Hands out `size` bytes of a device, aligned to 512, to be used on `stream` first. 0 bytes give NULL,
/// which `drystone_free` accepts. On failure `*out` is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_allocate(
    allocator: *mut drystone_allocator_t,
    size: usize,
    device: i32,
    stream: drystone_stream_t,
    out: *mut *mut c_void,
) -> drystone_status_t {
    const NAME: &str = "drystone_allocate";
    if out.is_null() {
        return report(NAME, Failure::null("out"));
    }
    // SAFETY: NULL, or alive by the header's rules.
    let Some(allocator) = (unsafe { allocator.as_ref() }) else {
        // SAFETY: not NULL, and the caller's to be written to.
        unsafe { out.write(std::ptr::null_mut()) };
        return report(NAME, Failure::null("allocator"));
    };
    guarded(NAME, || {
        // A negative index becomes one that no driver has.
        let device = DeviceId(device as u32);
        let (address, status) = match allocator.core.allocate(size as u64, device, StreamId(stream))
        {
            Ok(address) => (address, DRYSTONE_OK),
            Err(error) => (0, report(NAME, error)),
        };
        // SAFETY: as above.
        unsafe { out.write(address as *mut c_void) };
        status
    })
}

/// Like `drystone_allocate`, with an alignment: a power of two, at most 1 GiB. Never less than 512 is
/// given.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_allocate_aligned(
    allocator: *mut drystone_allocator_t,
    size: usize,
    align: usize,
    device: i32,
    stream: drystone_stream_t,
    out: *mut *mut c_void,
) -> drystone_status_t {
    call("drystone_allocate_aligned", || {
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        // SAFETY: not NULL, and the caller's to be written to.
        unsafe { out.write(std::ptr::null_mut()) };
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        let address = allocator.core.allocate_request(Request {
            size: size as u64,
            align: align as u64,
            device: DeviceId(device as u32),
            stream: StreamId(stream),
        })?;
        // SAFETY: as above.
        unsafe { out.write(address as *mut c_void) };
        Ok(())
    })
}

/// Takes a block back, by the address that it was handed out with. NULL is accepted. Its bytes are
/// reused at once by work of its stream, elsewhere only when its stream, and every stream recorded on
/// it, has passed this point.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_free(
    allocator: *mut drystone_allocator_t,
    pointer: *mut c_void,
) -> drystone_status_t {
    const NAME: &str = "drystone_free";
    // SAFETY: NULL, or alive by the header's rules.
    let Some(allocator) = (unsafe { allocator.as_ref() }) else {
        return report(NAME, Failure::null("allocator"));
    };
    guarded(NAME, || match allocator.core.free(pointer as u64) {
        Ok(()) => DRYSTONE_OK,
        Err(error) => report(NAME, error),
    })
}

/// Like `drystone_free`, but refuses a block of another device or stream than the caller believes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_free_on(
    allocator: *mut drystone_allocator_t,
    pointer: *mut c_void,
    device: i32,
    stream: drystone_stream_t,
) -> drystone_status_t {
    call("drystone_free_on", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        let device = DeviceId(device as u32);
        Ok(allocator.core.free_on(pointer as u64, device, StreamId(stream))?)
    })
}

/// Hands out exactly the `size` bytes at `address`, which are to be free memory of this pool, as after
/// every block of a captured graph's pool was freed. Fails if they are used, have no memory behind them or
/// are another pool's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_allocate_at(
    allocator: *mut drystone_allocator_t,
    address: *mut c_void,
    size: usize,
    device: i32,
    pool: drystone_pool_t,
) -> drystone_status_t {
    call("drystone_allocate_at", || {
        // SAFETY: the header's rule for allocators.
        let core = unsafe { named(allocator) }?.core();
        let (address, device) = (address as u64, DeviceId(device as u32));
        Ok(core.allocate_at(address, size as u64, device, pool.into())?)
    })
}
