//! The driver contract on a real device, call by call; skipped where there is none.

mod common;

use std::ptr;
use std::thread;

use common::{DEVICE, driver};
use cudarc::driver::sys;
use drystone_core::{
    DeviceId, Driver, DriverError, DriverErrorKind, EventId, HandleKind, StreamId,
};
use drystone_cuda::{CudaDriver, CudaError};

const MIB: u64 = 1 << 20;
fn kind<T: std::fmt::Debug>(result: Result<T, DriverError>) -> DriverErrorKind {
    result.expect_err("the call must be refused").kind
}

/// Reads the 8-byte word at `address`.
fn word(driver: &CudaDriver, address: u64) -> u64 {
    let mut bytes = [0; 8];
    driver.copy_to_host(DEVICE, address, &mut bytes).expect("the word is in a segment");
    u64::from_le_bytes(bytes)
}

#[test]
fn the_device_says_what_it_is() {
    let Some(driver) = driver() else { return };
    let name = driver.device_name(DEVICE).expect("name");
    let capability = driver.compute_capability(DEVICE).expect("capability");
    let version = driver.cuda_version().expect("version");
    assert!(!name.is_empty() && capability.major >= 3 && version >= (11, 4));
    let memory = driver.device_memory(DEVICE).expect("memory");
    assert!(memory.total > 0 && memory.free <= memory.total);
}

#[test]
fn segments_come_and_go_once() {
    let Some(driver) = driver() else { return };
    let sizes = [1, 512, 513, MIB, 2 * MIB, 20 * MIB, 128 * MIB + 1];
    let mut held: Vec<(u64, u64)> = Vec::new();
    for bytes in sizes {
        let address = driver.segment_alloc(DEVICE, bytes).expect("memory");
        assert!(address != 0 && address.is_multiple_of(512) && address + bytes <= 1 << 48);
        for &(other, length) in &held {
            assert!(address + bytes <= other || other + length <= address, "segments overlap");
        }
        held.push((address, bytes));
    }
    for (address, bytes) in held {
        let inside = driver.segment_free(DEVICE, address + bytes.min(512) / 2 + 1);
        assert_eq!(kind(inside), DriverErrorKind::InvalidValue);
        driver.segment_free(DEVICE, address).expect("it is live");
        assert_eq!(kind(driver.segment_free(DEVICE, address)), DriverErrorKind::InvalidValue);
    }
}

#[test]
fn the_per_thread_stream_is_no_order_of_work() {
    let Some(driver) = driver() else { return };
    let per_thread = StreamId(2);
    driver.check_stream(DEVICE, StreamId(0)).expect("the default stream");
    driver.check_stream(DEVICE, StreamId(1)).expect("the default stream by its name");
    assert_eq!(kind(driver.check_stream(DEVICE, per_thread)), DriverErrorKind::InvalidValue);
    let event = driver.event_create(DEVICE).expect("an event");
    assert_eq!(kind(driver.event_record(DEVICE, event, per_thread)), DriverErrorKind::InvalidValue);
    driver.event_destroy(DEVICE, event).expect("the event");
}

#[test]
fn wrong_arguments_are_refused() {
    let Some(driver) = driver() else { return };
    assert_eq!(kind(driver.segment_alloc(DEVICE, 0)), DriverErrorKind::InvalidValue);
    assert_eq!(kind(driver.segment_alloc(DEVICE, 1 << 42)), DriverErrorKind::OutOfMemory);
    assert_eq!(kind(driver.segment_free(DEVICE, 0)), DriverErrorKind::InvalidValue);

    let nowhere = DeviceId(driver.device_count());
    assert_eq!(kind(driver.segment_alloc(nowhere, MIB)), DriverErrorKind::InvalidDevice);
    assert_eq!(kind(driver.device_memory(nowhere)), DriverErrorKind::InvalidDevice);
    assert_eq!(kind(driver.device_synchronize(nowhere)), DriverErrorKind::InvalidDevice);

    let foreign = EventId(0x1234);
    assert_eq!(kind(driver.event_query(DEVICE, foreign)), DriverErrorKind::InvalidValue);
    assert_eq!(kind(driver.event_destroy(DEVICE, foreign)), DriverErrorKind::InvalidValue);
    let event = driver.event_create(DEVICE).expect("event");
    let stream = StreamId(0xdead_beef);
    let recorded = driver.event_record(DEVICE, event, stream);
    assert_eq!(kind(recorded), DriverErrorKind::InvalidValue);
    driver.event_destroy(DEVICE, event).expect("it is live");
    assert_eq!(kind(driver.event_destroy(DEVICE, event)), DriverErrorKind::InvalidValue);

    assert!(matches!(CudaDriver::with_devices(&[]), Err(CudaError::InvalidValue(_))));
    assert!(matches!(CudaDriver::with_devices(&[0, 0]), Err(CudaError::InvalidValue(_))));
    let absent = CudaDriver::with_devices(&[nowhere.0]);
    assert!(matches!(absent, Err(CudaError::InvalidDevice { .. })));
}

#[test]
fn fills_and_copies_stay_within_a_segment() {
    let Some(driver) = driver() else { return };
    let stream = driver.create_stream(DEVICE).expect("stream");
    let segment = driver.segment_alloc(DEVICE, 1024).expect("memory");
    driver.fill_u32(DEVICE, segment, 1024, 0x0102_0304, stream).expect("fill");
    driver.fill_u8(DEVICE, segment + 8, 8, 0xff, stream).expect("fill");
    driver.synchronize_stream(DEVICE, stream).expect("wait");
    assert_eq!(word(&driver, segment), 0x0102_0304_0102_0304);
    assert_eq!(word(&driver, segment + 8), u64::MAX);
    driver.copy_to_device(DEVICE, segment + 1016, &7_u64.to_le_bytes()).expect("copy");
    assert_eq!(word(&driver, segment + 1016), 7);

    let refused = |result: Result<(), CudaError>| {
        assert!(matches!(result, Err(CudaError::InvalidValue(_))), "{result:?}");
    };
    refused(driver.fill_u8(DEVICE, segment, 1025, 0, stream));
    refused(driver.fill_u32(DEVICE, segment + 2, 4, 0, stream));
    refused(driver.fill_u8(DEVICE, segment - 1, 1, 0, stream));
    refused(driver.copy_to_device(DEVICE, segment + 1017, &[0; 8]));
    refused(driver.copy_to_host(DEVICE, u64::MAX, &mut [0; 8]));
    driver.segment_free(DEVICE, segment).expect("it is live");
    refused(driver.fill_u8(DEVICE, segment, 1, 0, stream));
    driver.destroy_stream(DEVICE, stream).expect("it is live");
}

/// The context that is current on this thread.
fn current_context() -> sys::CUcontext {
    let mut current = ptr::null_mut();
    // SAFETY: the driver writes one handle to the address of a live one.
    let result = unsafe { sys::cuCtxGetCurrent(&mut current) };
    assert_eq!(result, sys::CUresult::CUDA_SUCCESS);
    current
}

/// Maps a page twice and takes both mappings away, where the device can.
fn map_everything(driver: &CudaDriver) {
    let Ok(page) = driver.page_bytes(DEVICE) else { return };
    let handle = driver.handle_create(DEVICE, page, HandleKind::Device).expect("memory");
    let base = driver.address_reserve(DEVICE, 2 * page).expect("addresses");
    for address in [base, base + page] {
        driver.map(DEVICE, address, handle).expect("mapping");
        driver.map(DEVICE, address, handle).expect_err("it is mapped there already");
    }
    driver.set_access(DEVICE, base, 2 * page, &[DEVICE]).expect("access");
    driver.fill_u8(DEVICE, base, 2 * page, 1, StreamId(0)).expect("fill");
    driver.device_synchronize(DEVICE).expect("wait");
    driver.handle_release(DEVICE, handle).expect_err("it is mapped");
    driver.unmap(DEVICE, base, 2 * page).expect("two mappings");
    driver.handle_release(DEVICE, handle).expect("it is mapped nowhere");
    driver.address_free(DEVICE, base, 2 * page).expect("nothing is mapped");
}

/// Calls the functions of the contract, some of them in vain.
fn call_everything(driver: &CudaDriver) {
    map_everything(driver);
    let address = driver.segment_alloc(DEVICE, MIB).expect("memory");
    driver.segment_alloc(DEVICE, 1 << 42).expect_err("too much");
    let event = driver.event_create(DEVICE).expect("event");
    driver.event_record(DEVICE, event, StreamId(0)).expect("record");
    driver.event_synchronize(DEVICE, event).expect("wait");
    driver.stream_wait_event(DEVICE, StreamId(0), event).expect("wait");
    assert_eq!(driver.event_query(DEVICE, event), Ok(true));
    driver.event_destroy(DEVICE, event).expect("it is live");
    driver.device_memory(DEVICE).expect("memory");
    driver.device_synchronize(DEVICE).expect("wait");
    driver.segment_free(DEVICE, address).expect("it is live");
}

#[test]
fn the_callers_context_stays() {
    let Some(driver) = driver() else { return };
    thread::scope(|scope| {
        scope.spawn(|| {
            assert!(current_context().is_null(), "a new thread has none");
            call_everything(&driver);
            assert!(current_context().is_null(), "and has none afterwards");

            let mut foreign = ptr::null_mut();
            // SAFETY: the driver writes one handle to the address of a live one; no parameters.
            let result = unsafe { sys::cuCtxCreate_v4(&mut foreign, ptr::null_mut(), 0, 0) };
            assert_eq!(result, sys::CUresult::CUDA_SUCCESS);
            call_everything(&driver);
            assert_eq!(current_context(), foreign);
            // SAFETY: the context is this test's own.
            let result = unsafe { sys::cuCtxDestroy_v2(foreign) };
            assert_eq!(result, sys::CUresult::CUDA_SUCCESS);
        });
    });
}

#[test]
fn foreign_streams_are_accepted_when_trusted() {
    let Some(maker) = driver() else { return };
    let Some(user) = driver() else { return };
    let stream = maker.create_stream(DEVICE).expect("stream");
    let event = user.event_create(DEVICE).expect("event");
    let refused = user.event_record(DEVICE, event, stream);
    assert_eq!(kind(refused), DriverErrorKind::InvalidValue);
    // SAFETY: the streams named from here on are those of `maker`, which lives longer.
    unsafe { user.trust_streams() };
    user.event_record(DEVICE, event, stream).expect("record");
    user.event_synchronize(DEVICE, event).expect("wait");
    user.event_destroy(DEVICE, event).expect("it is live");
    maker.destroy_stream(DEVICE, stream).expect("it is live");
}

#[test]
fn threads_share_the_driver() {
    let Some(driver) = driver() else { return };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..20).for_each(|_| call_everything(&driver)));
        }
    });
}

#[test]
fn the_clock_does_not_go_back() {
    let Some(driver) = driver() else { return };
    let times: Vec<u64> = (0..1000).map(|_| driver.now_ns()).collect();
    assert!(times.is_sorted());
}
