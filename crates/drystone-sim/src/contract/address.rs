//! The rules of reserved addresses.

use drystone_core::driver::{DeviceId, Driver, DriverCall, DriverErrorKind};

use super::mapping::refused;
use super::memory::{SLACK, apart, legal, memory};
use super::{done, ensure, fails};

const GIB: u64 = 1 << 30;

pub(super) fn check<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
    page: u64,
) -> Result<(), String> {
    let before = memory(driver, device)?;
    wrong_sizes(driver, device, page)?;
    let (segments, ranges) = placement(driver, device, page)?;
    let during = memory(driver, device)?;
    let taken: u64 = segments.iter().map(|(_, bytes)| bytes).sum();
    ensure(during.free.saturating_add(taken + SLACK) >= before.free, || {
        format!("free went from {} to {} by reserving addresses", before.free, during.free)
    })?;
    wrong_frees(driver, device, page, &ranges)?;
    for (address, bytes) in segments {
        stays(driver, device, (address, bytes))?;
        done("segment_free", driver.segment_free(device, address))?;
    }
    for (address, bytes) in ranges {
        let freed = driver.segment_free(device, address);
        fails(DriverCall::SegmentFree, DriverErrorKind::InvalidValue, freed)?;
        done("address_free", driver.address_free(device, address, bytes))?;
        stays(driver, device, (address, bytes))?;
    }
    Ok(())
}

/// Sizes that are not pages, and more than there can be.
fn wrong_sizes<D: Driver + ?Sized>(driver: &D, device: DeviceId, page: u64) -> Result<(), String> {
    for (bytes, kind) in [
        (0, DriverErrorKind::InvalidValue),
        (page / 2, DriverErrorKind::InvalidValue),
        (page + 512, DriverErrorKind::InvalidValue),
        (1 << 48, DriverErrorKind::OutOfMemory),
    ] {
        fails(DriverCall::AddressReserve, kind, driver.address_reserve(device, bytes))
            .map_err(|error| format!("{error} ({bytes} bytes)"))?;
    }
    Ok(())
}

/// Address and bytes of each.
type Ranges = Vec<(u64, u64)>;

/// Segments and ranges of all sizes lie where they may, apart from one another.
fn placement<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
    page: u64,
) -> Result<(Ranges, Ranges), String> {
    let (mut segments, mut ranges, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for bytes in [page, page, 3 * page, 64 * page, GIB.max(page), 64 * GIB.max(page), page] {
        let address = done("address_reserve", driver.address_reserve(device, bytes))?;
        legal(address, bytes)?;
        ensure(address.is_multiple_of(page), || {
            format!("{bytes} addresses from {address:#x}, not a multiple of the page")
        })?;
        apart(&all, address, bytes)?;
        ranges.push((address, bytes));
        all.push((address, bytes));
        let bytes = bytes.min(4 * page);
        let address = done("segment_alloc", driver.segment_alloc(device, bytes))?;
        apart(&all, address, bytes)?;
        segments.push((address, bytes));
        all.push((address, bytes));
    }
    Ok((segments, ranges))
}

/// What is not a whole range of the device cannot be freed, and the attempt frees nothing.
fn wrong_frees<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
    page: u64,
    ranges: &[(u64, u64)],
) -> Result<(), String> {
    for &(address, bytes) in ranges {
        for (address, bytes) in [
            (0, bytes),
            (address, 0),
            (address, bytes - page),
            (address, bytes + page),
            (address + page / 2, bytes),
            (address + page, bytes - page),
        ] {
            stays(driver, device, (address, bytes))?;
        }
        for other in (0..driver.device_count()).map(DeviceId).filter(|other| *other != device) {
            stays(driver, other, (address, bytes))?;
        }
    }
    Ok(())
}

/// Freeing these addresses has to fail.
fn stays<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
    range: (u64, u64),
) -> Result<(), String> {
    refused(DriverCall::AddressFree, driver.address_free(device, range.0, range.1), range)
}
