//! The rules of handles: physical memory, and its names in other processes.

use drystone_core::driver::{
    DeviceId, Driver, DriverCall, DriverErrorKind, HandleId, HandleKind, ShareId,
};

use super::memory::{SLACK, memory};
use super::{NEEDS_FREE, done, ensure, fails};

use DriverErrorKind::InvalidValue;

pub(super) fn check<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
    page: u64,
) -> Result<(), String> {
    wrong_sizes(driver, device, page)?;
    names(driver, device, page)?;
    let bytes = (NEEDS_FREE / 2 / page * page).max(page);
    information(driver, device, bytes, HandleKind::Device)?;
    host(driver, device, bytes)?;
    let plain = made(driver, device, page, HandleKind::Device)?;
    fails(DriverCall::HandleExport, InvalidValue, driver.handle_export(device, plain))?;
    done("handle_release", driver.handle_release(device, plain))?;
    sharing(driver, device, page)
}

pub(super) fn made<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
    bytes: u64,
    kind: HandleKind,
) -> Result<HandleId, String> {
    done("handle_create", driver.handle_create(device, bytes, kind))
}

/// Sizes that are not pages, and more than the device has: refused, and nothing is lost by it.
fn wrong_sizes<D: Driver + ?Sized>(driver: &D, device: DeviceId, page: u64) -> Result<(), String> {
    let before = memory(driver, device)?;
    let all = before.total / page * page;
    for (bytes, kind) in [
        (0, InvalidValue),
        (page / 2, InvalidValue),
        (page + 512, InvalidValue),
        (all.saturating_add(page), DriverErrorKind::OutOfMemory),
        (all.saturating_mul(2).max(page), DriverErrorKind::OutOfMemory),
    ] {
        let result = driver.handle_create(device, bytes, HandleKind::Device);
        fails(DriverCall::HandleCreate, kind, result)
            .map_err(|error| format!("{error} ({bytes} bytes)"))?;
    }
    let after = memory(driver, device)?;
    ensure(after.free.saturating_add(SLACK) >= before.free, || {
        format!("free went from {} to {} by failing", before.free, after.free)
    })
}

/// Handles have names of their own, which nobody else has, and which end.
fn names<D: Driver + ?Sized>(driver: &D, device: DeviceId, page: u64) -> Result<(), String> {
    let mut handles: Vec<HandleId> = Vec::new();
    for pages in 1..=8 {
        let handle = made(driver, device, pages * page, HandleKind::Device)?;
        ensure(!handles.contains(&handle), || format!("{handle:?} was made twice"))?;
        handles.push(handle);
    }
    for handle in handles {
        for other in (0..driver.device_count()).map(DeviceId).filter(|other| *other != device) {
            let result = driver.handle_release(other, handle);
            fails(DriverCall::HandleRelease, InvalidValue, result)?;
        }
        done("handle_release", driver.handle_release(device, handle))?;
        let again = driver.handle_release(device, handle);
        fails(DriverCall::HandleRelease, InvalidValue, again)?;
    }
    Ok(())
}

/// Free memory goes down with a handle and up again when it is given back.
fn information<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
    bytes: u64,
    kind: HandleKind,
) -> Result<(), String> {
    let before = memory(driver, device)?;
    let handle = made(driver, device, bytes, kind)?;
    let during = memory(driver, device)?;
    done("handle_release", driver.handle_release(device, handle))?;
    let after = memory(driver, device)?;
    ensure(during.free <= before.free.saturating_sub(bytes).saturating_add(SLACK), || {
        format!("free went from {} to {} with a handle of {bytes}", before.free, during.free)
    })?;
    ensure(after.free.saturating_add(SLACK) >= during.free.saturating_add(bytes), || {
        format!("free went from {} to {} when {bytes} were released", during.free, after.free)
    })
}

/// Memory of the host is not the device's. There need be none.
fn host<D: Driver + ?Sized>(driver: &D, device: DeviceId, bytes: u64) -> Result<(), String> {
    let before = memory(driver, device)?;
    let handle = match driver.handle_create(device, bytes, HandleKind::Host) {
        Err(error) if error.kind == DriverErrorKind::NotSupported => return Ok(()),
        result => done("handle_create of host memory", result)?,
    };
    let during = memory(driver, device)?;
    ensure(during.free.saturating_add(SLACK) >= before.free, || {
        format!("free went from {} to {} with host memory", before.free, during.free)
    })?;
    done("handle_release", driver.handle_release(device, handle))
}

/// An import is a second handle to the same memory, which outlives the first.
fn sharing<D: Driver + ?Sized>(driver: &D, device: DeviceId, page: u64) -> Result<(), String> {
    let bytes = (NEEDS_FREE / 4 / page * page).max(page);
    let first = match driver.handle_create(device, bytes, HandleKind::Exportable) {
        Err(error) if error.kind == DriverErrorKind::NotSupported => return Ok(()),
        result => done("handle_create for export", result)?,
    };
    let share = done("handle_export", driver.handle_export(device, first))?;
    let before = memory(driver, device)?;
    let second = done("handle_import", driver.handle_import(device, share, bytes))?;
    ensure(first != second, || format!("{first:?} was imported as itself"))?;
    let after = memory(driver, device)?;
    ensure(after.free.saturating_add(SLACK) >= before.free, || {
        format!("free went from {} to {} by an import", before.free, after.free)
    })?;
    for (share, bytes) in [(share, bytes + page), (ShareId(u64::MAX), bytes)] {
        let result = driver.handle_import(device, share, bytes);
        fails(DriverCall::HandleImport, InvalidValue, result)?;
    }

    let base = done("address_reserve", driver.address_reserve(device, 2 * bytes))?;
    for (handle, at) in [(first, base), (second, base + bytes)] {
        done("map of shared memory", driver.map(device, at, handle))?;
        done("set_access", driver.set_access(device, at, bytes, &[device]))?;
    }
    done("unmap", driver.unmap(device, base, bytes))?;
    done("handle_release", driver.handle_release(device, first))?;
    fails(DriverCall::HandleExport, InvalidValue, driver.handle_export(device, first))?;
    done("unmap", driver.unmap(device, base + bytes, bytes))?;
    done("handle_release", driver.handle_release(device, second))?;
    done("address_free", driver.address_free(device, base, 2 * bytes))
}
