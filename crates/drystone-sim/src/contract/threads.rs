//! All calls can be made from several threads at once.

use std::thread;

use drystone_core::driver::{DeviceId, Driver, StreamId};

use super::memory::{apart, legal};
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
    let mut all: Vec<(u64, u64)> = Vec::new();
    for result in results {
        let segments = result.map_err(|_| "a call panicked in one of several threads")??;
        for (address, bytes) in segments {
            apart(&all, address, bytes)?;
            all.push((address, bytes));
        }
    }
    for (address, _) in all {
        done("segment_free by another thread", driver.segment_free(device, address))?;
    }
    Ok(())
}

/// The segments that are left for the others to compare with.
fn one_thread<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
    stream: Option<StreamId>,
) -> Result<Vec<(u64, u64)>, String> {
    let mut segments = Vec::new();
    let event = done("event_create", driver.event_create(device))?;
    for round in 0..ROUNDS {
        let start = driver.now_ns();
        let bytes = 512 << round;
        let passing = done("segment_alloc", driver.segment_alloc(device, bytes))?;
        let kept = done("segment_alloc", driver.segment_alloc(device, bytes))?;
        legal(kept, bytes)?;
        segments.push((kept, bytes));
        if let Some(stream) = stream {
            done("event_record", driver.event_record(device, event, stream))?;
        }
        done("event_synchronize", driver.event_synchronize(device, event))?;
        done("segment_free", driver.segment_free(device, passing))?;
        ensure(driver.now_ns() >= start, || "now_ns went back in a thread".to_owned())?;
    }
    done("event_destroy", driver.event_destroy(device, event))?;
    Ok(segments)
}
