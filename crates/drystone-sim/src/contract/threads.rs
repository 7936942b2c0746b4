//! All calls can be made from several threads at once.

use std::thread;

use drystone_core::driver::{DeviceId, Driver, HandleId, HandleKind, StreamId};

use super::handle::made;
use super::memory::{apart, legal};
use super::vmm::page;
use super::{done, ensure};

const THREADS: usize = 4;
const ROUNDS: u64 = 8;

pub(super) fn check<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
    streams: &[StreamId],
) -> Result<(), String> {
    let results: Vec<_> = thread::scope(|scope| {
        let spawn = |index: usize| {
            let stream = streams.get(index % streams.len().max(1)).copied();
            scope.spawn(move || one_thread(driver, device, stream))
        };
        let threads: Vec<_> = (0..THREADS).map(spawn).collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let (mut all, mut handles) = (Vec::new(), Vec::new());
    for result in results {
        let kept = result.map_err(|_| "a call panicked in one of several threads")??;
        for &(address, bytes) in kept.segments.iter().chain(&kept.ranges) {
            apart(&all, address, bytes)?;
            all.push((address, bytes));
        }
        for (address, _) in kept.segments {
            done("segment_free by another thread", driver.segment_free(device, address))?;
        }
        for (address, bytes) in kept.ranges {
            done("unmap by another thread", driver.unmap(device, address, bytes))?;
            let freed = driver.address_free(device, address, bytes);
            done("address_free by another thread", freed)?;
        }
        for handle in kept.handles {
            ensure(!handles.contains(&handle), || format!("{handle:?} was made twice"))?;
            handles.push(handle);
        }
    }
    for handle in handles {
        done("handle_release by another thread", driver.handle_release(device, handle))?;
    }
    Ok(())
}

/// What a thread leaves for the others to compare with.
#[derive(Default)]
struct Kept {
    /// Address and bytes.
    segments: Vec<(u64, u64)>,
    /// Reserved addresses and bytes, mapped with as many handles.
    ranges: Vec<(u64, u64)>,
    handles: Vec<HandleId>,
}

fn one_thread<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
    stream: Option<StreamId>,
) -> Result<Kept, String> {
    let mut left = Kept::default();
    let event = done("event_create", driver.event_create(device))?;
    for round in 0..ROUNDS {
        let start = driver.now_ns();
        let bytes = 512 << round;
        let passing = done("segment_alloc", driver.segment_alloc(device, bytes))?;
        let kept = done("segment_alloc", driver.segment_alloc(device, bytes))?;
        legal(kept, bytes)?;
        left.segments.push((kept, bytes));
        if let Some(stream) = stream {
            done("event_record", driver.event_record(device, event, stream))?;
        }
        done("event_synchronize", driver.event_synchronize(device, event))?;
        done("segment_free", driver.segment_free(device, passing))?;
        if let Some(page) = page(driver, device)? {
            mapped(driver, device, page, &mut left)?;
        }
        ensure(driver.now_ns() >= start, || "now_ns went back in a thread".to_owned())?;
    }
    done("event_destroy", driver.event_destroy(device, event))?;
    Ok(left)
}

/// One round of mapping; the last mapping stays.
fn mapped<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
    page: u64,
    left: &mut Kept,
) -> Result<(), String> {
    let address = done("address_reserve", driver.address_reserve(device, page))?;
    let handle = made(driver, device, page, HandleKind::Device)?;
    done("map", driver.map(device, address, handle))?;
    done("set_access", driver.set_access(device, address, page, &[device]))?;
    done("unmap", driver.unmap(device, address, page))?;
    done("map", driver.map(device, address, handle))?;
    left.ranges.push((address, page));
    left.handles.push(handle);
    Ok(())
}
