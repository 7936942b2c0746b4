//! What an allocate and free through the C interface costs beside Rust's own, on the simulated device:
//! `cargo run --release -p drystone-capi --example pair -- target/release/libdrystone.so`, after the
//! library was built. One thread, one size, served from the cache; medians of alternating rounds.

use std::error::Error;
use std::ffi::{CStr, CString, c_char, c_void};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use drystone_core::{Allocator, Config, DeviceId, StreamId};
use drystone_sim::{SimConfig, SimDriver};

const PAIRS: u32 = 2_000_000;
const ROUNDS: usize = 21;
const SIZES: [u64; 2] = [64 << 10, 4 << 20];

type Allocate = unsafe extern "C" fn(*mut c_void, usize, i32, u64, *mut *mut c_void) -> i32;
type Free = unsafe extern "C" fn(*mut c_void, *mut c_void) -> i32;
type Create = unsafe extern "C" fn(*const c_void, *mut *mut c_void) -> i32;

/// The library's functions, and an allocator of it.
struct Library {
    allocator: *mut c_void,
    allocate: Allocate,
    free: Free,
}

impl Library {
    fn open(path: &str) -> Result<Library, Box<dyn Error>> {
        let path = CString::new(path)?;
        // SAFETY: a path that ends with a 0; what is loaded is this project's library.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        if handle.is_null() {
            // SAFETY: after a failure it is a text.
            return Err(unsafe { CStr::from_ptr(libc::dlerror()) }.to_str()?.into());
        }
        let symbol = |name: &CStr| {
            // SAFETY: a live handle and a name that ends with a 0.
            let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
            if found.is_null() { Err(format!("the library has no {name:?}")) } else { Ok(found) }
        };
        // SAFETY: the types are those of include/drystone.h.
        let (create, allocate, free) = unsafe {
            (
                std::mem::transmute::<*mut c_void, Create>(symbol(c"drystone_create")?),
                std::mem::transmute::<*mut c_void, Allocate>(symbol(c"drystone_allocate")?),
                std::mem::transmute::<*mut c_void, Free>(symbol(c"drystone_free")?),
            )
        };
        let config = Settings { device: c"sim".as_ptr(), ..Settings::default() };
        let mut allocator = std::ptr::null_mut();
        // SAFETY: a configuration of the size that it says, and somewhere to write to.
        match unsafe { create((&raw const config).cast(), &raw mut allocator) } {
            0 => Ok(Library { allocator, allocate, free }),
            status => Err(format!("drystone_create answered {status}").into()),
        }
    }

    #[inline(never)]
    fn pair(&self, size: u64) {
        let mut block = std::ptr::null_mut();
        // SAFETY: a live allocator, somewhere to write to, and the block that was given.
        let statuses = unsafe {
            let status = (self.allocate)(self.allocator, size as usize, 0, 0, &raw mut block);
            (status, (self.free)(self.allocator, block))
        };
        assert_eq!(statuses, (0, 0));
    }
}

/// `drystone_config_t`.
#[repr(C)]
struct Settings {
    struct_size: usize,
    settings: *const c_char,
    device: *const c_char,
    sim_capacity: u64,
    sim_devices: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            struct_size: size_of::<Settings>(),
            settings: c"".as_ptr(),
            device: std::ptr::null(),
            sim_capacity: 0,
            sim_devices: 0,
        }
    }
}

#[inline(never)]
fn pair_in_rust(allocator: &Allocator<Arc<SimDriver>>, size: u64) {
    let block = allocator.allocate(size, DeviceId(0), StreamId(0)).expect("memory enough");
    allocator.free(block).expect("a live block");
}

/// Nanoseconds for one call.
fn time(mut pair: impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..PAIRS).for_each(|_| pair());
    start.elapsed().as_nanos() as f64 / f64::from(PAIRS)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("say where libdrystone.so is")?;
    let library = Library::open(&path)?;
    let driver = Arc::new(SimDriver::new(SimConfig::default())?);
    let rust = Allocator::new(driver, Config::default())?;
    for size in SIZES {
        let (mut in_rust, mut in_c) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            in_rust.push(time(|| pair_in_rust(&rust, black_box(size))));
            in_c.push(time(|| library.pair(black_box(size))));
        }
        let (in_rust, in_c) = (median(in_rust), median(in_c));
        let more = in_c - in_rust;
        println!("{size:>8} bytes: Rust {in_rust:.1} ns, C {in_c:.1} ns, {more:+.1} ns a pair");
    }
    Ok(())
}
