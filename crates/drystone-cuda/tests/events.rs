//! Events, streams and the pattern kernels on a real device; skipped where there is none.
//!
//! One test: it must see a kernel that is still running, and other tests of the process could
//! block its queries until the kernel is done.

mod common;

use common::{DEVICE, driver};
use drystone_core::Driver;
use drystone_cuda::{CudaDriver, Pattern};

/// 8-byte words of the memory that is marked.
const WORDS: u64 = 1 << 19;
/// Clock cycles that take 30 to 100 ms, at 1 to 3 GHz.
const LONG_SPIN: u64 = 100_000_000;

/// Reads the 8-byte word at `address`.
fn word(driver: &CudaDriver, address: u64) -> u64 {
    let mut bytes = [0; 8];
    driver.copy_to_host(DEVICE, address, &mut bytes).expect("the word is in a segment");
    u64::from_le_bytes(bytes)
}

#[test]
fn events_follow_the_stream() {
    let Some(driver) = driver() else { return };
    let pattern = Pattern::load(&driver, DEVICE).expect("kernels");
    let (first, second) = (driver.create_stream(DEVICE), driver.create_stream(DEVICE));
    let (first, second) = (first.expect("stream"), second.expect("stream"));
    let block = driver.segment_alloc(DEVICE, WORDS * 8).expect("memory");
    let errors = driver.segment_alloc(DEVICE, 512).expect("memory");
    driver.fill_u8(DEVICE, errors, 512, 0, second).expect("fill");

    let event = driver.event_create(DEVICE).expect("event");
    assert_eq!(driver.event_query(DEVICE, event), Ok(true), "never recorded is done");
    pattern.stamp(first, block, WORDS, 0xfeed, LONG_SPIN).expect("launch");
    driver.event_record(DEVICE, event, first).expect("record");
    assert_eq!(driver.event_query(DEVICE, event), Ok(false), "the kernel still spins");
    driver.stream_wait_event(DEVICE, second, event).expect("wait");
    pattern.check(second, block, WORDS, 0xfeed, errors).expect("launch");
    driver.event_synchronize(DEVICE, event).expect("wait");
    assert_eq!(driver.event_query(DEVICE, event), Ok(true));
    driver.synchronize_stream(DEVICE, second).expect("wait");
    assert_eq!(word(&driver, errors), 0, "the check ran after the stamp");

    pattern.check(second, block, WORDS, 0xfeed ^ 1, errors).expect("launch");
    driver.synchronize_stream(DEVICE, second).expect("wait");
    assert_eq!(word(&driver, errors), WORDS, "every word differs from another mark");

    // A pending event may be destroyed.
    let pending = driver.event_create(DEVICE).expect("event");
    pattern.stamp(first, block, 1, 0, LONG_SPIN).expect("launch");
    driver.event_record(DEVICE, pending, first).expect("record");
    driver.event_destroy(DEVICE, pending).expect("it is live");
    driver.device_synchronize(DEVICE).expect("wait");
    driver.event_destroy(DEVICE, event).expect("it is live");
    for address in [block, errors] {
        driver.segment_free(DEVICE, address).expect("it is live");
    }
    for stream in [first, second] {
        driver.destroy_stream(DEVICE, stream).expect("it is live");
        assert!(driver.destroy_stream(DEVICE, stream).is_err());
    }
}
