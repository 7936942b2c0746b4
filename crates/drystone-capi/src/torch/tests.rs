//! The entry points in a process without a C++ runtime, where nothing can be thrown: what they do, and
//! what they say as the last error. With torch around, `python/tests/sources/hooks.cpp` tests them.

use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};

use super::*;
use crate::config::{drystone_config_init, drystone_config_t};
use crate::process::drystone_process_configure;

fn last_error() -> String {
    // SAFETY: a text of this thread, which nothing changes before it is read.
    let text = unsafe { CStr::from_ptr(drystone_last_error()) };
    text.to_string_lossy().into_owned()
}

/// Lets the process have a simulated device. All tests of this file want the same.
fn on_a_simulated_device() {
    let mut config = drystone_config_t {
        struct_size: 0,
        settings: null(),
        device: null(),
        sim_capacity: 0,
        sim_devices: 0,
    };
    // SAFETY: a live struct, and texts that live as long as the call.
    unsafe {
        drystone_config_init(&mut config);
        config.settings = c"".as_ptr();
        config.device = c"sim".as_ptr();
        // Another test may have been first, with the same.
        drystone_process_configure(&config);
    }
    let made = process::allocator();
    assert!(made.is_ok(), "{made:?}", made = made.err());
}

fn alloc(size: usize) -> *mut c_void {
    // SAFETY: the default stream of the device.
    unsafe { drystone_torch_alloc(size, 0, null_mut()) }
}

fn free(pointer: *mut c_void) {
    // SAFETY: what is not live is refused.
    unsafe { drystone_torch_free(pointer, 0, 0, null_mut()) };
}

#[test]
fn a_failure_that_cannot_be_thrown_is_null_and_said() {
    on_a_simulated_device();
    assert!(alloc(1 << 45).is_null());
    let said = last_error();
    let beginning =
        "drystone_torch_alloc: CUDA out of memory. Tried to allocate 32768.00 GiB. GPU 0";
    assert!(said.starts_with(beginning), "{said}");
    assert!(alloc(1 << 62).is_null());
    assert!(last_error().contains("Tried to allocate more than 1EB memory."));
    assert_eq!(drystone_torch_exceptions(), DRYSTONE_NOT_SUPPORTED);
    assert!(last_error().contains("no C++ runtime"), "{}", last_error());
    assert!(alloc(0).is_null());
}

#[test]
fn a_device_that_is_not_there() {
    on_a_simulated_device();
    for device in [-1, 99] {
        // SAFETY: the default stream.
        assert!(unsafe { drystone_torch_alloc(512, device, null_mut()) }.is_null());
        assert!(last_error().contains("there is no device"), "{}", last_error());
        // SAFETY: numbers only.
        unsafe { drystone_torch_memory_fraction(0.5, device) };
        assert!(last_error().starts_with("drystone_torch_memory_fraction: there is no device"));
    }
}

#[test]
fn blocks_and_the_addresses_in_them() {
    on_a_simulated_device();
    let block = alloc(1000);
    let mut size = 0;
    // SAFETY: `size` is there to be written to; the addresses are looked up only.
    unsafe {
        assert_eq!(drystone_torch_base_alloc(block.byte_add(999), &mut size), block);
        assert_eq!(size, 1024);
        assert_eq!(drystone_torch_base_alloc(block, null_mut()), block);
        assert!(drystone_torch_base_alloc(null_mut(), &mut size).is_null());
        assert!(drystone_torch_base_alloc((&raw mut size).cast(), &mut size).is_null());
    }
    assert!(last_error().contains("not this allocator's"), "{}", last_error());
    free(block);
    free(null_mut());
    free(block);
    assert!(last_error().starts_with("drystone_torch_free: "), "{}", last_error());
}

#[test]
fn streams_of_others_memory_are_passed_over() {
    on_a_simulated_device();
    let block = alloc(1000);
    let mut elsewhere = 0;
    crate::status::set_last_error(String::new());
    // SAFETY: the default stream of the device.
    unsafe {
        drystone_torch_record_stream(null_mut(), null_mut());
        drystone_torch_record_stream((&raw mut elsewhere).cast::<c_void>(), null_mut());
        drystone_torch_record_stream(block, null_mut());
        drystone_torch_record_stream(block.byte_add(512), null_mut());
    }
    assert_eq!(last_error(), "");
    free(block);
}

#[test]
fn a_thread_s_pool_serves_that_thread() {
    on_a_simulated_device();
    let (a, b) = (0x7465_7374, 1);
    assert_eq!(drystone_torch_begin_thread_pool(0, a, b), DRYSTONE_OK);
    let inside = alloc(4096) as u64;
    let outside = std::thread::spawn(|| alloc(4096) as u64).join().expect("no panic");
    let core = process::existing().expect("made").snapshot();
    let pool_of = |address: u64| {
        let around = core
            .iter()
            .find(|segment| (segment.address..segment.address + segment.size).contains(&address));
        around.map(|segment| segment.pool)
    };
    assert_eq!(pool_of(inside), Some(PoolId(a, b)));
    assert_eq!(pool_of(outside), Some(PoolId::DEFAULT));
    free(inside as *mut c_void);
    free(outside as *mut c_void);
    crate::status::set_last_error(String::new());
    // SAFETY: numbers only.
    unsafe {
        drystone_torch_end_pool(0, a, b);
        drystone_torch_release_pool(0, a, b);
    }
    assert_eq!(last_error(), "");
    // SAFETY: numbers only.
    unsafe { drystone_torch_end_pool(0, a, b) };
    assert!(last_error().starts_with("drystone_torch_end_pool: "), "{}", last_error());
}

#[test]
fn a_pool_on_no_device_and_calls_that_find_nothing_to_do() {
    on_a_simulated_device();
    let (a, b) = (0x7465_7374, 2);
    crate::status::set_last_error(String::new());
    // SAFETY: no filter; numbers otherwise.
    unsafe {
        drystone_torch_begin_pool(7, a, b, null_mut());
        assert!(last_error().contains("there is no device 7"), "{}", last_error());
        crate::status::set_last_error(String::new());
        drystone_torch_init(1);
        drystone_torch_init(0);
        drystone_torch_reset();
    }
    assert_eq!(last_error(), "");
}
