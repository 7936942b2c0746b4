//! The allocator of the process, which torch's entry points and the Python package share: made on first
//! use, never destroyed.

use std::ffi::c_char;
use std::sync::OnceLock;

use drystone_core::{Allocator, Config};
use parking_lot::Mutex;

use crate::allocator::drystone_allocator_t;
use crate::backend::Backend;
use crate::config::{self, Setup, drystone_config_t};
use crate::status::{Failure, call, drystone_status_t};

/// Set once; read at every allocation of torch.
static ALLOCATOR: OnceLock<drystone_allocator_t> = OnceLock::new();
/// What the program wants it to be, until it is made. Held while it is made.
static WANTED: Mutex<Wanted> = Mutex::new(Wanted { setup: None, settings: None });

struct Wanted {
    setup: Option<Setup>,
    /// Settings that were changed before there was anything that they could be changed of.
    settings: Option<Config>,
}

/// The allocator of the process, made on first use: as [`drystone_process_configure`] said, else from
/// the environment. What failed is tried again at the next call.
#[inline]
pub fn allocator() -> Result<&'static drystone_allocator_t, Failure> {
    match ALLOCATOR.get() {
        Some(allocator) => Ok(allocator),
        None => make(),
    }
}

/// The same as Rust's allocator, if it has been made.
pub fn existing() -> Option<&'static Allocator<Backend>> {
    ALLOCATOR.get().map(drystone_allocator_t::core)
}

#[cold]
fn make() -> Result<&'static drystone_allocator_t, Failure> {
    let wanted = WANTED.lock();
    if let Some(allocator) = ALLOCATOR.get() {
        return Ok(allocator);
    }
    let setup = wanted.setup.clone().map_or_else(Setup::from_env, Ok)?;
    let made = drystone_allocator_t::new(setup)?;
    if let Some(settings) = &wanted.settings {
        made.core().retune(settings);
    }
    Ok(ALLOCATOR.get_or_init(|| made))
}

/// Gives the allocator of the process: one for all libraries that want to share memory. It is made on
/// first use and lives until the process ends; `drystone_destroy` refuses it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_process_allocator(
    out: *mut *mut drystone_allocator_t,
) -> drystone_status_t {
    call("drystone_process_allocator", || {
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        let made = allocator();
        let handle = made.as_ref().map_or(std::ptr::null_mut(), |handle| {
            std::ptr::from_ref::<drystone_allocator_t>(handle).cast_mut()
        });
        // SAFETY: not NULL, and the caller's to be written to.
        unsafe { out.write(handle) };
        made.map(|_| ())
    })
}

/// Says how the allocator of the process is to be made: before its first use. NULL is the environment.
/// The settings are checked now; the device is opened on first use.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_process_configure(
    config: *const drystone_config_t,
) -> drystone_status_t {
    call("drystone_process_configure", || {
        // SAFETY: the header's rule for pointers.
        let setup = unsafe { Setup::from_raw(config) }?;
        let mut wanted = WANTED.lock();
        if ALLOCATOR.get().is_some() {
            return Err(Failure::argument(
                "the allocator of the process is in use already: configure it before the first \
                 allocation, or make another one with drystone_create",
            ));
        }
        wanted.setup = Some(setup);
        Ok(())
    })
}

/// `drystone_retune` for the allocator of the process, which need not have been made: then it is made
/// with these settings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_process_retune(settings: *const c_char) -> drystone_status_t {
    call("drystone_process_retune", || {
        // SAFETY: the header's rule for pointers.
        let settings = unsafe { config::settings(settings) }?;
        let mut wanted = WANTED.lock();
        match ALLOCATOR.get() {
            Some(allocator) => allocator.core().retune(&settings),
            None => wanted.settings = Some(settings),
        }
        Ok(())
    })
}

/// Whether this is the allocator of the process.
pub(crate) fn is_it(handle: *const drystone_allocator_t) -> bool {
    ALLOCATOR.get().is_some_and(|known| std::ptr::eq(known, handle))
}
