//! The rules of virtual memory, of which a driver has all or nothing.

use drystone_core::driver::{
    DeviceId, Driver, DriverCall, DriverErrorKind, HandleId, HandleKind, ShareId,
};

use super::{address, done, ensure, fails, handle, mapping};

pub(super) fn check<D: Driver + ?Sized>(driver: &D, device: DeviceId) -> Result<(), String> {
    let Some(bytes) = page(driver, device)? else { return nothing_works(driver, device) };
    ensure(bytes >= 512 && bytes.is_power_of_two(), || {
        format!("a page of {bytes} bytes is no power of two, or below 512")
    })?;
    address::check(driver, device, bytes)?;
    handle::check(driver, device, bytes)?;
    mapping::check(driver, device, bytes)?;
    let again = page(driver, device)?;
    ensure(again == Some(bytes), || format!("the page of {bytes} bytes is now {again:?}"))
}

/// Bytes in a page; none where the device cannot map memory.
pub(super) fn page<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
) -> Result<Option<u64>, String> {
    match driver.page_bytes(device) {
        Err(error) if error.kind == DriverErrorKind::NotSupported => Ok(None),
        result => done("page_bytes", result).map(Some),
    }
}

/// Without pages no call works.
fn nothing_works<D: Driver + ?Sized>(driver: &D, device: DeviceId) -> Result<(), String> {
    const BYTES: u64 = 2 << 20;
    let (not_supported, handle) = (DriverErrorKind::NotSupported, HandleId(1));
    let reserved = driver.address_reserve(device, BYTES);
    fails(DriverCall::AddressReserve, not_supported, reserved)?;
    let freed = driver.address_free(device, BYTES, BYTES);
    fails(DriverCall::AddressFree, not_supported, freed)?;
    let created = driver.handle_create(device, BYTES, HandleKind::Device);
    fails(DriverCall::HandleCreate, not_supported, created)?;
    let released = driver.handle_release(device, handle);
    fails(DriverCall::HandleRelease, not_supported, released)?;
    fails(DriverCall::HandleExport, not_supported, driver.handle_export(device, handle))?;
    let imported = driver.handle_import(device, ShareId(1), BYTES);
    fails(DriverCall::HandleImport, not_supported, imported)?;
    fails(DriverCall::Map, not_supported, driver.map(device, BYTES, handle))?;
    let allowed = driver.set_access(device, BYTES, BYTES, &[device]);
    fails(DriverCall::SetAccess, not_supported, allowed)?;
    fails(DriverCall::Unmap, not_supported, driver.unmap(device, BYTES, BYTES))
}

/// Every call refuses a device that does not exist, also where the others cannot map memory.
pub(super) fn invalid_devices<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
    bad: DeviceId,
) -> Result<(), String> {
    use DriverErrorKind::InvalidDevice;
    let bytes = page(driver, device)?.unwrap_or(2 << 20);
    fails(DriverCall::PageBytes, InvalidDevice, driver.page_bytes(bad))?;
    fails(DriverCall::AddressReserve, InvalidDevice, driver.address_reserve(bad, bytes))?;
    fails(DriverCall::AddressFree, InvalidDevice, driver.address_free(bad, bytes, bytes))?;
    let created = driver.handle_create(bad, bytes, HandleKind::Device);
    fails(DriverCall::HandleCreate, InvalidDevice, created)?;
    let (handle, share) = (HandleId(1), ShareId(1));
    fails(DriverCall::HandleRelease, InvalidDevice, driver.handle_release(bad, handle))?;
    fails(DriverCall::HandleExport, InvalidDevice, driver.handle_export(bad, handle))?;
    fails(DriverCall::HandleImport, InvalidDevice, driver.handle_import(bad, share, bytes))?;
    fails(DriverCall::Map, InvalidDevice, driver.map(bad, bytes, handle))?;
    let allowed = driver.set_access(bad, bytes, bytes, &[device]);
    fails(DriverCall::SetAccess, InvalidDevice, allowed)?;
    fails(DriverCall::Unmap, InvalidDevice, driver.unmap(bad, bytes, bytes))
}
