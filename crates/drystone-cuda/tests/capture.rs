//! The driver inside a stream capture; skipped where there is no device.
//!
//! One test: a capture concerns the whole context, so other tests of the process would disturb it.

mod common;

use std::thread;

use common::{DEVICE, driver};
use cudarc::driver::sys::{self, CUstreamCaptureMode};
use drystone_core::{Driver, DriverErrorKind, HandleId, HandleKind};
use drystone_cuda::{CaptureMode, CudaDriver, Pattern};

const WORDS: u64 = 1 << 16;

/// This thread's capture mode.
fn thread_mode() -> CUstreamCaptureMode {
    let mut mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    exchange_thread_mode(&mut mode);
    let found = mode;
    exchange_thread_mode(&mut mode);
    found
}

fn exchange_thread_mode(mode: &mut CUstreamCaptureMode) {
    // SAFETY: the driver reads and writes one mode at the address of a live one.
    let result = unsafe { sys::cuThreadExchangeStreamCaptureMode(mode) };
    assert_eq!(result, sys::CUresult::CUDA_SUCCESS);
}

/// What an allocator may do while somebody captures.
fn allocate(driver: &CudaDriver) -> u64 {
    let address = driver.segment_alloc(DEVICE, WORDS * 8).expect("memory inside a capture");
    let event = driver.event_create(DEVICE).expect("event inside a capture");
    let other = driver.create_stream(DEVICE).expect("stream inside a capture");
    driver.event_record(DEVICE, event, other).expect("record on a stream that is not captured");
    driver.event_synchronize(DEVICE, event).expect("wait inside a capture");
    assert_eq!(driver.event_query(DEVICE, event), Ok(true));
    driver.event_destroy(DEVICE, event).expect("it is live");
    driver.destroy_stream(DEVICE, other).expect("it is live");
    driver.device_memory(DEVICE).expect("memory information inside a capture");
    address
}

/// Memory mapped at an address of its own, where the device can: address and handle.
fn map(driver: &CudaDriver) -> Option<(u64, HandleId)> {
    let page = driver.page_bytes(DEVICE).ok()?;
    let handle = driver.handle_create(DEVICE, page, HandleKind::Device).expect("memory");
    let address = driver.address_reserve(DEVICE, page).expect("addresses");
    driver.map(DEVICE, address, handle).expect("mapping");
    driver.set_access(DEVICE, address, page, &[DEVICE]).expect("access");
    Some((address, handle))
}

/// Undoes [`map`].
fn unmap(driver: &CudaDriver, (address, handle): (u64, HandleId)) {
    let page = driver.page_bytes(DEVICE).expect("it can map memory");
    driver.unmap(DEVICE, address, page).expect("it is mapped");
    driver.handle_release(DEVICE, handle).expect("it is mapped nowhere");
    driver.address_free(DEVICE, address, page).expect("nothing is mapped");
}

fn capture_in(driver: &CudaDriver, pattern: &Pattern<'_>, mode: CaptureMode) {
    let stream = driver.create_stream(DEVICE).expect("stream");
    let event = driver.event_create(DEVICE).expect("event");
    let errors = driver.segment_alloc(DEVICE, 512).expect("memory");
    driver.fill_u8(DEVICE, errors, 512, 0, stream).expect("fill");
    // Once outside, since the driver may load a kernel only when it is first launched.
    pattern.stamp(stream, errors, 1, 0, 0).expect("launch");
    pattern.check(stream, errors, 1, 0, errors).expect("launch");
    driver.synchronize_stream(DEVICE, stream).expect("wait");
    let mode_before = thread_mode();

    driver.begin_capture(DEVICE, stream, mode).expect("capture");
    let block = allocate(driver);
    let mapped = map(driver);
    let elsewhere = thread::scope(|scope| {
        scope.spawn(|| allocate(driver)).join().expect("another thread allocates")
    });
    let refused = driver.event_record(DEVICE, event, stream).expect_err("a captured stream");
    assert_eq!(refused.kind, DriverErrorKind::NotPermitted);
    let refused = driver.stream_wait_event(DEVICE, stream, event).expect_err("a captured stream");
    assert_eq!(refused.kind, DriverErrorKind::NotPermitted);
    pattern.stamp(stream, block, WORDS, 0xabc, 0).expect("launch");
    pattern.check(stream, block, WORDS, 0xabc, errors).expect("launch");
    if let Some((address, _)) = mapped {
        pattern.stamp(stream, address, WORDS, 0xdef, 0).expect("launch");
        pattern.check(stream, address, WORDS, 0xdef, errors).expect("launch");
    }
    let graph = driver.end_capture(DEVICE, stream).expect("nothing spoilt the capture");
    assert_eq!(thread_mode(), mode_before);

    // SAFETY: `pattern` keeps the kernels loaded.
    let exec = unsafe { graph.instantiate() }.expect("graph");
    drop(graph);
    for _ in 0..2 {
        // SAFETY: block and counter are live until the stream has passed the launches.
        unsafe { driver.launch_graph(DEVICE, stream, &exec) }.expect("launch");
    }
    driver.synchronize_stream(DEVICE, stream).expect("wait");
    let mut wrong = [0xff; 8];
    driver.copy_to_host(DEVICE, errors, &mut wrong).expect("copy");
    assert_eq!(u64::from_le_bytes(wrong), 0, "the graph stamped before it checked");

    if let Some(mapped) = mapped {
        unmap(driver, mapped);
    }
    for address in [block, elsewhere, errors] {
        driver.segment_free(DEVICE, address).expect("it is live");
    }
    driver.event_destroy(DEVICE, event).expect("it is live");
    driver.destroy_stream(DEVICE, stream).expect("it is live");
}

#[test]
fn allocation_works_in_every_capture_mode() {
    let Some(driver) = driver() else { return };
    let pattern = Pattern::load(&driver, DEVICE).expect("kernels");
    for mode in [CaptureMode::Global, CaptureMode::ThreadLocal, CaptureMode::Relaxed] {
        capture_in(&driver, &pattern, mode);
    }
}
