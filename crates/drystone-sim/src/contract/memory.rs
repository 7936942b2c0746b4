//! The rules of segments and of the memory information.

use drystone_core::driver::{DeviceId, DeviceMemory, Driver, DriverCall, DriverErrorKind};

use super::{NEEDS_FREE, done, ensure, fails};

const MIB: u64 = 1 << 20;
/// What other processes and the driver's own tables may move in the meantime.
pub(super) const SLACK: u64 = 32 * MIB;

/// Sizes around the places where drivers change their ways; some 100 MiB together.
const SIZES: [u64; 14] = [
    1,
    511,
    512,
    513,
    4096,
    MIB,
    MIB + 1,
    2 * MIB - 1,
    2 * MIB,
    2 * MIB + 1,
    3 * MIB,
    20 * MIB,
    64 * MIB,
    512,
];

pub(super) fn check<D: Driver + ?Sized>(driver: &D, device: DeviceId) -> Result<(), String> {
    let before = memory(driver, device)?;
    ensure(before.free >= NEEDS_FREE, || {
        format!("the suite needs {NEEDS_FREE} free bytes, there are {}", before.free)
    })?;
    let segments = placement(driver, device)?;
    wrong_frees(driver, device, &segments)?;
    for (address, _) in segments {
        done("segment_free", driver.segment_free(device, address))?;
        fails(
            DriverCall::SegmentFree,
            DriverErrorKind::InvalidValue,
            driver.segment_free(device, address),
        )?;
    }
    information(driver, device)?;
    out_of_memory(driver, device)
}

/// The memory information, which has to make sense.
pub(super) fn memory<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
) -> Result<DeviceMemory, String> {
    let memory = done("device_memory", driver.device_memory(device))?;
    ensure(memory.total > 0 && memory.free <= memory.total, || {
        format!("{} free of {} bytes", memory.free, memory.total)
    })?;
    Ok(memory)
}

/// Segments of all sizes lie where they may, apart from one another.
fn placement<D: Driver + ?Sized>(driver: &D, device: DeviceId) -> Result<Vec<(u64, u64)>, String> {
    let mut segments: Vec<(u64, u64)> = Vec::new();
    for bytes in SIZES {
        let address = done("segment_alloc", driver.segment_alloc(device, bytes))?;
        legal(address, bytes)?;
        apart(&segments, address, bytes)?;
        segments.push((address, bytes));
    }
    Ok(segments)
}

/// The address is not 0, aligned, and the segment within the address space.
pub(super) fn legal(address: u64, bytes: u64) -> Result<(), String> {
    ensure(address != 0, || format!("{bytes} bytes at address 0"))?;
    ensure(address.is_multiple_of(512), || {
        format!("{bytes} bytes at {address:#x}, not a multiple of 512")
    })?;
    let fits = address.checked_add(bytes).is_some_and(|end| end <= 1 << 48);
    ensure(fits, || format!("{bytes} bytes at {address:#x} pass 2^48"))
}

/// The bytes overlap none of the others.
pub(super) fn apart(others: &[(u64, u64)], address: u64, bytes: u64) -> Result<(), String> {
    let overlaps = |(at, len): &&(u64, u64)| *at < address + bytes && address < at + len;
    match others.iter().find(overlaps) {
        None => Ok(()),
        Some((at, len)) => {
            Err(format!("{bytes} bytes at {address:#x} overlap the {len} bytes at {at:#x}"))
        }
    }
}

/// What is not a segment of the device cannot be freed, and the attempt frees nothing.
fn wrong_frees<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
    segments: &[(u64, u64)],
) -> Result<(), String> {
    let refused = |device, address| {
        let result = driver.segment_free(device, address);
        fails(DriverCall::SegmentFree, DriverErrorKind::InvalidValue, result)
            .map_err(|error| format!("{error} (address {address:#x})"))
    };
    refused(device, 0)?;
    for (address, _) in segments.iter().filter(|segment| segment.1 > 512) {
        refused(device, address + 512)?;
    }
    for other in (0..driver.device_count()).map(DeviceId).filter(|other| *other != device) {
        for (address, _) in segments {
            refused(other, *address)?;
        }
    }
    Ok(())
}

/// Free memory goes down with a segment and up again when it is given back.
fn information<D: Driver + ?Sized>(driver: &D, device: DeviceId) -> Result<(), String> {
    let bytes = NEEDS_FREE / 2;
    let before = memory(driver, device)?;
    let address = done("segment_alloc", driver.segment_alloc(device, bytes))?;
    let during = memory(driver, device)?;
    done("segment_free", driver.segment_free(device, address))?;
    let after = memory(driver, device)?;
    ensure(during.free <= before.free - bytes + SLACK, || {
        format!("free went from {} to {} with a segment of {bytes}", before.free, during.free)
    })?;
    ensure(after.free.saturating_add(SLACK) >= during.free + bytes, || {
        format!("free went from {} to {} when {bytes} were given back", during.free, after.free)
    })?;
    let totals = [before.total, during.total, after.total];
    ensure(totals == [before.total; 3], || format!("the total changes: {totals:?}"))
}

/// Impossible sizes are refused, and nothing is lost by it.
fn out_of_memory<D: Driver + ?Sized>(driver: &D, device: DeviceId) -> Result<(), String> {
    let before = memory(driver, device)?;
    let zero = driver.segment_alloc(device, 0);
    fails(DriverCall::SegmentAlloc, DriverErrorKind::InvalidValue, zero)?;
    for bytes in [before.total.saturating_add(1), before.total.saturating_mul(2)] {
        let result = driver.segment_alloc(device, bytes);
        fails(DriverCall::SegmentAlloc, DriverErrorKind::OutOfMemory, result)?;
    }
    let after = memory(driver, device)?;
    ensure(after.free.saturating_add(SLACK) >= before.free, || {
        format!("free went from {} to {} by failing", before.free, after.free)
    })?;
    let address = done("segment_alloc after one failed", driver.segment_alloc(device, MIB))?;
    done("segment_free", driver.segment_free(device, address))
}
