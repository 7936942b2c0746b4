//! What other threads do while a window is built: they take its free block, free beside it, release
//! its pool, begin a capture. All of it inside the driver calls, without luck.

use std::sync::{Arc, Mutex};

use drystone_core::{AllocError, Driver, DriverCall, DriverErrorKind, PoolId, Purpose};
use drystone_sim::Costs;

use crate::common::tap::{Fault, Tap};
use crate::common::world::Tapped;
use crate::races::within;
use crate::{A, B, C, D0, MIB};

const POOL: PoolId = PoolId(1, 1);

/// A device of so many bytes, a tap on it, and the allocator.
fn allocator(capacity: u64) -> (Arc<drystone_sim::SimDriver>, Arc<Tap>, Arc<Tapped>) {
    let sim = drystone_sim::SimConfig::default().capacity(capacity).costs(Costs::zero());
    let sim = Arc::new(drystone_sim::SimDriver::new(sim).unwrap());
    let tap = Arc::new(Tap::new(Arc::clone(&sim)));
    let config = drystone_core::Config::parse("reserve:lean").unwrap();
    let allocator = drystone_core::Allocator::new(Arc::clone(&tap), config).unwrap();
    (sim, tap, Arc::new(allocator))
}

/// Runs something in the next call of a kind, once; whether it ran is told by the flag.
fn in_next(tap: &Tap, call: DriverCall, run: impl FnOnce() + Send + 'static) -> Arc<Mutex<bool>> {
    let ran = Arc::new(Mutex::new(false));
    let (mut run, flag) = (Some(run), Arc::clone(&ran));
    tap.set_hook(Some(Box::new(move |this| {
        if this == call
            && let Some(run) = run.take()
        {
            *flag.lock().unwrap() = true;
            run();
        }
    })));
    ran
}

fn end(sim: &drystone_sim::SimDriver, tap: &Tap, allocator: Arc<Tapped>) {
    tap.set_hook(None);
    tap.set_fault(None);
    allocator.check_invariants().unwrap();
    sim.device_synchronize(D0).unwrap();
    allocator.empty_cache(D0).unwrap();
    assert_eq!(allocator.reserved_bytes(D0), Ok(0));
    allocator.check_invariants().unwrap();
    drop(allocator);
    assert!(sim.finish().is_clean(), "{}", sim.finish());
}

/// The free block that a window was to begin with is handed out while new memory is made for it.
#[test]
fn the_free_block_of_a_window_is_taken_while_the_window_is_built() {
    for call in [DriverCall::HandleCreate, DriverCall::Map, DriverCall::SetAccess] {
        within(20, move || {
            let (sim, tap, allocator) = allocator(64 * MIB);
            let kept = allocator.allocate(2 * MIB, D0, A).unwrap();
            let front = allocator.allocate(4 * MIB, D0, A).unwrap();
            allocator.free(front).unwrap();
            let (other, taken) = (Arc::downgrade(&allocator), Arc::new(Mutex::new(0)));
            let told = Arc::clone(&taken);
            let ran = in_next(&tap, call, move || {
                *told.lock().unwrap() = other.upgrade().unwrap().allocate(3 * MIB, D0, A).unwrap();
            });
            let mine = allocator.allocate(8 * MIB, D0, A).unwrap();
            assert!(*ran.lock().unwrap(), "{call}");
            let taken = *taken.lock().unwrap();
            assert!(taken + 3 * MIB <= mine || mine + 8 * MIB <= taken, "{taken:#x}, {mine:#x}");
            for (tag, (at, bytes)) in
                [(kept, 2 * MIB), (taken, 3 * MIB), (mine, 8 * MIB)].into_iter().enumerate()
            {
                sim.stamp_write(D0, A, at, bytes, tag as u64).unwrap();
            }
            for (tag, (at, bytes)) in
                [(kept, 2 * MIB), (taken, 3 * MIB), (mine, 8 * MIB)].into_iter().enumerate()
            {
                sim.stamp_check(D0, A, at, bytes, tag as u64).unwrap();
                allocator.free(at).unwrap();
            }
            end(&sim, &tap, allocator);
        });
    }
}

/// Blocks around the window are freed, and others looked at, while it is built.
#[test]
fn frees_and_reports_go_on_while_a_window_is_built() {
    for call in [DriverCall::HandleCreate, DriverCall::Map, DriverCall::SetAccess] {
        within(20, move || {
            let (sim, tap, allocator) = allocator(24 * MIB);
            let at = [0; 10].map(|_| allocator.allocate(2 * MIB, D0, A).unwrap());
            at.iter().step_by(2).for_each(|&at| allocator.free(at).unwrap());
            let other = Arc::downgrade(&allocator);
            let ran = in_next(&tap, call, move || {
                let other = other.upgrade().unwrap();
                other.record_stream(at[1], B).unwrap();
                [1, 3, 5].iter().for_each(|&n| other.free(at[n]).unwrap());
                let held: u64 = other.snapshot().iter().map(|segment| segment.size).sum();
                assert!(held <= other.reserved_bytes(D0).unwrap());
                other.stats(D0).unwrap();
            });
            let mine = allocator.allocate(12 * MIB, D0, A).unwrap();
            assert!(*ran.lock().unwrap(), "{call}");
            sim.stamp_write(D0, A, mine, 12 * MIB, 1).unwrap();
            allocator.check_invariants().unwrap();
            [at[7], at[9], mine].iter().for_each(|&at| allocator.free(at).unwrap());
            end(&sim, &tap, allocator);
        });
    }
}

/// The request's pool is released while its window is built.
#[test]
fn a_pool_released_while_its_window_is_built() {
    use DriverCall::{AddressReserve, HandleCreate, Map, SetAccess};
    for call in [AddressReserve, HandleCreate, Map, SetAccess] {
        within(20, move || {
            let (sim, tap, allocator) = allocator(64 * MIB);
            allocator.begin_pool(D0, POOL, Purpose::User, |_| true).unwrap();
            let other = Arc::downgrade(&allocator);
            let ran = in_next(&tap, call, move || {
                let other = other.upgrade().unwrap();
                other.end_pool(D0, POOL).unwrap();
                other.release_pool(D0, POOL).unwrap();
            });
            let at = allocator.allocate(4 * MIB, D0, A).unwrap();
            assert!(*ran.lock().unwrap(), "{call}");
            sim.stamp_write(D0, A, at, 4 * MIB, 1).unwrap();
            allocator.check_invariants().unwrap();
            allocator.free(at).unwrap();
            end(&sim, &tap, allocator);
        });
    }
}

/// A capture begins while a window is built, and then the window fails: nothing is given back,
/// unmapped or asked before the capture is over.
#[test]
fn a_capture_begins_while_a_window_is_built_that_fails() {
    use DriverCall::{HandleCreate, Map, SetAccess};
    for call in [HandleCreate, Map, SetAccess] {
        for fails in [HandleCreate, Map, SetAccess] {
            for kind in [DriverErrorKind::OutOfMemory, DriverErrorKind::Other] {
                within(20, move || {
                    let (sim, tap, allocator) = allocator(40 * MIB);
                    // Free pages of another stream, and ghosts.
                    let at = [0; 16].map(|_| allocator.allocate(2 * MIB, D0, B).unwrap());
                    at.iter().step_by(2).for_each(|&at| allocator.free(at).unwrap());
                    let (other, device) = (Arc::downgrade(&allocator), Arc::clone(&sim));
                    let faults = Arc::downgrade(&tap);
                    in_next(&tap, call, move || {
                        let other = other.upgrade().unwrap();
                        other.begin_pool(D0, POOL, Purpose::Capture, |s| s == C).unwrap();
                        device.begin_capture(D0, C).unwrap();
                        faults.upgrade().unwrap().set_fault(Some(Fault::Every(fails, kind)));
                    });
                    let result = allocator.allocate(20 * MIB, D0, A);
                    if let Err(error) = &result {
                        let typed =
                            matches!(error, AllocError::OutOfMemory(_) | AllocError::Driver(_));
                        assert!(typed, "{error}");
                    }
                    assert_eq!(sim.misuses(), [], "{call}, {fails}");
                    allocator.check_invariants().unwrap();
                    tap.set_hook(None);
                    tap.set_fault(None);
                    if allocator.pool_use_count(D0, POOL).is_some() {
                        sim.end_capture(D0, C).unwrap();
                        allocator.end_pool(D0, POOL).unwrap();
                        allocator.release_pool(D0, POOL).unwrap();
                    }
                    result.into_iter().for_each(|at| allocator.free(at).unwrap());
                    // Afterwards it works.
                    let again = allocator.allocate(20 * MIB, D0, A).unwrap();
                    sim.stamp_write(D0, A, again, 20 * MIB, 5).unwrap();
                    allocator.free(again).unwrap();
                    at.iter().skip(1).step_by(2).for_each(|&at| allocator.free(at).unwrap());
                    end(&sim, &tap, allocator);
                });
            }
        }
    }
}

/// Another thread allocates from what is about to be given back.
#[test]
fn memory_is_used_again_while_its_neighbours_go_back() {
    for call in [DriverCall::EventSynchronize, DriverCall::Unmap, DriverCall::HandleRelease] {
        within(20, move || {
            let (sim, tap, allocator) = allocator(64 * MIB);
            let at = [0; 8].map(|_| allocator.allocate(4 * MIB, D0, A).unwrap());
            at.iter().for_each(|&at| sim.stamp_write(D0, A, at, 4 * MIB, 1).unwrap());
            at.iter().for_each(|&at| allocator.free(at).unwrap());
            let (other, taken) = (Arc::downgrade(&allocator), Arc::new(Mutex::new(0)));
            let (told, busy) = (Arc::clone(&taken), Arc::clone(&sim));
            let ran = in_next(&tap, call, move || {
                let at = other.upgrade().unwrap().allocate(3 * MIB, D0, A).unwrap();
                busy.stamp_write(D0, A, at, 3 * MIB, 2).unwrap();
                *told.lock().unwrap() = at;
            });
            let given = allocator.empty_cache(D0).unwrap();
            assert!(*ran.lock().unwrap(), "{call}");
            assert!((24 * MIB..32 * MIB).contains(&given), "{given}");
            allocator.check_invariants().unwrap();
            let taken = *taken.lock().unwrap();
            sim.stamp_check(D0, A, taken, 3 * MIB, 2).unwrap();
            allocator.free(taken).unwrap();
            end(&sim, &tap, allocator);
        });
    }
}
