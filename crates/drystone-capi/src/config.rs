//! How a program configures an allocator: `drystone_config_t`, read by its `struct_size`.

use std::ffi::{CStr, c_char};
use std::mem::offset_of;

use drystone_core::Config;
use drystone_sim::SimConfig;

use crate::allocator::{drystone_allocator_t, named};
use crate::backend::Choice;
use crate::status::{DRYSTONE_INVALID_CONFIG, Failure, call, drystone_status_t};

/// The largest `struct_size` that is believed: beyond it the struct was not initialized.
const MAX_STRUCT: usize = 4096;

/// How an allocator is made. Start from `DRYSTONE_CONFIG_INIT` or `drystone_config_init`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct drystone_config_t {
    /// `sizeof(drystone_config_t)` as the program was compiled. Smaller ones, of older headers, are
    /// accepted; larger ones if what this library does not know is 0.
    pub struct_size: usize,
    /// Settings as in `DRYSTONE_CONF`, such as "limit:12GiB,reserve:lean". NULL: those of the
    /// environment, the first of `DRYSTONE_CONF`, `PYTORCH_ALLOC_CONF` and `PYTORCH_CUDA_ALLOC_CONF`
    /// that is set.
    pub settings: *const c_char,
    /// "auto" or "cuda": the CUDA devices of this process; "sim": the simulated device, for tests. NULL:
    /// what `DRYSTONE_DEVICE` says, else "auto".
    pub device: *const c_char,
    /// Bytes of memory of each simulated device; 0: 80 GiB.
    pub sim_capacity: u64,
    /// How many simulated devices, at most 16; 0: one.
    pub sim_devices: u32,
}

const EMPTY: drystone_config_t = drystone_config_t {
    struct_size: size_of::<drystone_config_t>(),
    settings: std::ptr::null(),
    device: std::ptr::null(),
    sim_capacity: 0,
    sim_devices: 0,
};

/// What a `drystone_config_t` says, in Rust's types.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The settings.
    pub config: Config,
    /// Which device.
    pub choice: Choice,
    /// The simulated device, should it be that one.
    pub sim: SimConfig,
}

impl Setup {
    /// What the environment says.
    pub fn from_env() -> Result<Setup, Failure> {
        // SAFETY: it has no texts.
        unsafe { Setup::read(&EMPTY) }
    }

    /// What a program says; NULL is the environment.
    ///
    /// # Safety
    ///
    /// The pointer is NULL or to `struct_size` readable bytes, of which the texts are NULL or end
    /// with a 0.
    pub unsafe fn from_raw(config: *const drystone_config_t) -> Result<Setup, Failure> {
        if config.is_null() {
            return Setup::from_env();
        }
        // SAFETY: the caller vouches for both.
        unsafe { Setup::read(&sized(config)?) }
    }

    /// # Safety
    ///
    /// The texts are NULL or end with a 0.
    unsafe fn read(config: &drystone_config_t) -> Result<Setup, Failure> {
        // SAFETY: the caller's.
        let (settings, device) =
            unsafe { (text(config.settings, "settings")?, text(config.device, "device")?) };
        let config_of = match settings {
            None => Config::from_env()?,
            Some(settings) => Config::parse(&settings)?,
        };
        let choice = match device {
            None => Choice::from_env()?,
            Some(name) => Choice::parse(&name, "device")?,
        };
        let mut sim = SimConfig::default();
        if config.sim_capacity > 0 {
            sim = sim.capacity(config.sim_capacity);
        }
        if config.sim_devices > 0 {
            sim = sim.devices(config.sim_devices as usize);
        }
        Ok(Setup { config: config_of, choice, sim })
    }
}

/// The struct as this library knows it: what an older one lacks is 0, which is every field's default.
///
/// # Safety
///
/// As for [`Setup::from_raw`], and not NULL.
unsafe fn sized(config: *const drystone_config_t) -> Result<drystone_config_t, Failure> {
    // SAFETY: the caller's, and every version of the struct begins with its size.
    let given = unsafe { (&raw const (*config).struct_size).read() };
    // Sizes of structs are multiples of their alignment, so none ends within a field.
    let least = offset_of!(drystone_config_t, settings);
    if given < least || given > MAX_STRUCT || !given.is_multiple_of(align_of::<drystone_config_t>())
    {
        return Err(Failure::argument(format!(
            "struct_size is {given}, which no drystone_config_t has: begin with DRYSTONE_CONFIG_INIT"
        )));
    }
    let known = given.min(size_of::<drystone_config_t>());
    let mut copy = EMPTY;
    // SAFETY: the source has `given` bytes, the copy as many as `known` at least; fields are plain
    // numbers and pointers, for which any bytes are values.
    unsafe {
        std::ptr::copy_nonoverlapping(config.cast::<u8>(), (&raw mut copy).cast::<u8>(), known);
    }
    // SAFETY: likewise within `given` bytes.
    let tail = unsafe { std::slice::from_raw_parts(config.cast::<u8>().add(known), given - known) };
    if tail.iter().any(|&byte| byte != 0) {
        return Err(Failure::argument(format!(
            "config sets a field that this library, version {}, does not know: leave it 0 or take a \
             newer library",
            env!("CARGO_PKG_VERSION"),
        )));
    }
    Ok(copy)
}

/// A field's text, if it has one.
///
/// # Safety
///
/// The text is NULL or ends with a 0.
unsafe fn text(text: *const c_char, field: &str) -> Result<Option<String>, Failure> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's.
    let text = unsafe { CStr::from_ptr(text) };
    match text.to_str() {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(_) => Err(Failure::new(
            DRYSTONE_INVALID_CONFIG,
            format!("{field} is not UTF-8: \"{}\"", text.to_string_lossy()),
        )),
    }
}

/// Settings that a program wants from now on.
///
/// # Safety
///
/// The text is NULL or ends with a 0.
pub(crate) unsafe fn settings(settings: *const c_char) -> Result<Config, Failure> {
    // SAFETY: the caller's.
    let text = unsafe { text(settings, "settings") }?.ok_or_else(|| Failure::null("settings"))?;
    Ok(Config::parse(&text)?)
}

/// Takes `roundup_power2_divisions`, `max_split_size_mb`, `max_non_split_rounding_mb` and
/// `garbage_collection_threshold` of `settings` from now on: a text as in `drystone_config_t`, where keys
/// that are left out have their default. Other keys are checked and stay as they are; so do live blocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_retune(
    allocator: *mut drystone_allocator_t,
    settings: *const c_char,
) -> drystone_status_t {
    call("drystone_retune", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        // SAFETY: the header's rule for pointers.
        allocator.core().retune(&unsafe { self::settings(settings) }?);
        Ok(())
    })
}

/// Fills a struct with the defaults: everything from the environment. It sets the fields of the first
/// version of the struct, which every later one begins with, and `struct_size` to that; a program
/// that uses fields of later versions begins with `DRYSTONE_CONFIG_INIT` instead.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_config_init(config: *mut drystone_config_t) -> drystone_status_t {
    call("drystone_config_init", || {
        if config.is_null() {
            return Err(Failure::null("config"));
        }
        // SAFETY: not NULL, and of at least the first version's size.
        unsafe { config.write(EMPTY) };
        Ok(())
    })
}
