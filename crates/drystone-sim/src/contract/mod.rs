//! A conformance suite of the [`Driver`] contract, for any driver: the simulated one here, the
//! real one in the tests of its crate.
//!
//! It asks only what every driver can answer. What CUDA cannot detect (a destroyed event named
//! again, memory used after free) is not in it; the simulated device's own tests have that.

use std::fmt::Debug;

use drystone_core::driver::{DeviceId, Driver, DriverCall, DriverError, DriverErrorKind, StreamId};

mod address;
mod event;
mod handle;
mod mapping;
mod memory;
mod threads;
mod vmm;

/// The free memory that [`check`] needs, in bytes.
pub const NEEDS_FREE: u64 = 256 << 20;

/// Checks the driver against its contract; an error says which rule is broken, and how.
///
/// `streams` are streams of the device that have no work, at best two or more; with fewer the
/// rules between streams are not checked. The driver needs [`NEEDS_FREE`] bytes and no capture
/// underway. Other processes may use the device, but if they take or give back more than 32 MiB
/// at the wrong moment the suite takes it for an error. It leaves no segment, event, handle,
/// mapping or reserved address behind, but one name of exported memory, which on CUDA is an open
/// file descriptor that keeps 64 MiB until the process ends. It commits on purpose what a simulated
/// device logs as misuse: freeing twice, freeing what is not there or mapped, naming parts of
/// mappings, handles that are gone and devices that do not exist.
pub fn check<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
    streams: &[StreamId],
) -> Result<(), String> {
    let count = driver.device_count();
    ensure(count >= 1, || "device_count is 0".to_owned())?;
    ensure(device.0 < count, || format!("{device} asked for, but there are {count} devices"))?;
    invalid_devices(driver, device, DeviceId(count), streams)?;
    invalid_devices(driver, device, DeviceId(u32::MAX), streams)?;
    vmm::invalid_devices(driver, device, DeviceId(count))?;
    vmm::invalid_devices(driver, device, DeviceId(u32::MAX))?;
    clock(driver, device)?;
    memory::check(driver, device)?;
    vmm::check(driver, device)?;
    event::check(driver, device, streams)?;
    threads::check(driver, device, streams)?;
    ensure(driver.device_count() == count, || "device_count has changed".to_owned())
}

/// Every call refuses a device that does not exist.
fn invalid_devices<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
    bad: DeviceId,
    streams: &[StreamId],
) -> Result<(), String> {
    use DriverErrorKind::InvalidDevice;
    let stream = streams.first().copied().unwrap_or_default();
    let event = done("event_create", driver.event_create(device))?;
    let address = done("segment_alloc", driver.segment_alloc(device, 512))?;

    fails(DriverCall::DeviceMemory, InvalidDevice, driver.device_memory(bad))?;
    fails(DriverCall::SegmentAlloc, InvalidDevice, driver.segment_alloc(bad, 512))?;
    fails(DriverCall::SegmentFree, InvalidDevice, driver.segment_free(bad, address))?;
    fails(DriverCall::EventCreate, InvalidDevice, driver.event_create(bad))?;
    fails(DriverCall::EventRecord, InvalidDevice, driver.event_record(bad, event, stream))?;
    fails(DriverCall::EventQuery, InvalidDevice, driver.event_query(bad, event))?;
    fails(DriverCall::EventSynchronize, InvalidDevice, driver.event_synchronize(bad, event))?;
    let waited = driver.stream_wait_event(bad, stream, event);
    fails(DriverCall::StreamWaitEvent, InvalidDevice, waited)?;
    fails(DriverCall::DeviceSynchronize, InvalidDevice, driver.device_synchronize(bad))?;
    fails(DriverCall::EventDestroy, InvalidDevice, driver.event_destroy(bad, event))?;

    // Both still exist.
    done("event_destroy", driver.event_destroy(device, event))?;
    done("segment_free", driver.segment_free(device, address))
}

/// The clock never goes back, whatever is called in between.
fn clock<D: Driver + ?Sized>(driver: &D, device: DeviceId) -> Result<(), String> {
    let mut last = driver.now_ns();
    for _ in 0..100 {
        done("device_memory", driver.device_memory(device))?;
        let now = driver.now_ns();
        ensure(now >= last, || format!("now_ns went back from {last} to {now}"))?;
        last = now;
    }
    Ok(())
}

/// The suite's assertion.
fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message()) }
}

/// The value of a call that has to succeed.
fn done<T>(what: &str, result: Result<T, DriverError>) -> Result<T, String> {
    result.map_err(|error| format!("{what} was to succeed: {error}"))
}

/// A call that has to fail in this way.
fn fails<T: Debug>(
    call: DriverCall,
    kind: DriverErrorKind,
    result: Result<T, DriverError>,
) -> Result<(), String> {
    match result {
        Ok(value) => Err(format!("{call} was to fail with {kind:?} but gave {value:?}")),
        Err(error) if error.kind != kind => {
            Err(format!("{call} was to fail with {kind:?} but failed with {:?}", error.kind))
        }
        Err(error) if error.call != call => {
            Err(format!("the error of {call} says that {} failed", error.call))
        }
        Err(_) => Ok(()),
    }
}
