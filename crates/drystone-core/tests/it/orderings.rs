//! Interleavings and stream orders that a random program hardly meets: memory that changes owners
//! while a driver call is underway, and work of graphs that no ticket knows.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use drystone_core::{Allocator, Config, Driver, DriverCall, PoolId, Purpose};
use drystone_sim::{Costs, SimConfig, SimDriver};

use crate::common::over_both;
use crate::common::tap::Tap;
use crate::common::world::Tapped;
use crate::races::within;
use crate::{A, B, C, D0, MIB};

const POOL: PoolId = PoolId(1, 1);

fn allocator(config: &str, capacity: u64) -> (Arc<SimDriver>, Arc<Tap>, Arc<Tapped>) {
    let sim = SimConfig::default().capacity(capacity).devices(2).costs(Costs::zero());
    let sim = Arc::new(SimDriver::new(sim).unwrap());
    let tap = Arc::new(Tap::new(Arc::clone(&sim)));
    let config = Config::parse(config).unwrap();
    let allocator = Arc::new(Allocator::new(Arc::clone(&tap), config).unwrap());
    (sim, tap, allocator)
}

/// Runs something in the next call of a kind, once.
fn in_next(tap: &Tap, call: DriverCall, run: impl FnOnce() + Send + 'static) {
    let mut run = Some(run);
    tap.set_hook(Some(Box::new(move |this| {
        if this == call
            && let Some(run) = run.take()
        {
            run();
        }
    })));
}

/// What was idle in a heap is looked for in it after the heap went to another stream, whose
/// segment has the same address.
#[test]
fn an_offer_of_a_heap_that_is_anothers_by_now_is_not_taken() {
    let (sim, tap, allocator) = allocator("backing:malloc", 64 * MIB);
    allocator.begin_pool(D0, POOL, Purpose::User, |_| true).unwrap();
    let at = allocator.allocate(4 * MIB, D0, A).unwrap();
    allocator.free(at).unwrap();
    allocator.end_pool(D0, POOL).unwrap();
    allocator.release_pool(D0, POOL).unwrap();
    let (other, busy) = (Arc::downgrade(&allocator), Arc::clone(&sim));
    in_next(&tap, DriverCall::EventQuery, move || {
        let other = other.upgrade().unwrap();
        assert_eq!(other.empty_cache(D0), Ok(4 * MIB));
        let again = other.allocate(4 * MIB, D0, C).unwrap();
        assert_eq!(again, at, "the driver gives the same address again");
        busy.stamp_write(D0, C, again, 4 * MIB, 1).unwrap();
        other.free(again).unwrap();
    });
    let mine = allocator.allocate(4 * MIB, D0, B).unwrap();
    tap.set_hook(None);
    sim.stamp_write(D0, B, mine, 4 * MIB, 2).unwrap();
    allocator.check_invariants().unwrap();
}

/// Likewise, and the other stream's segment is smaller than what is asked for.
#[test]
fn an_offer_that_shrank_is_not_taken() {
    let (sim, tap, allocator) = allocator("backing:malloc", 64 * MIB);
    allocator.begin_pool(D0, POOL, Purpose::User, |_| true).unwrap();
    let at = allocator.allocate(8 * MIB, D0, A).unwrap();
    allocator.free(at).unwrap();
    allocator.end_pool(D0, POOL).unwrap();
    allocator.release_pool(D0, POOL).unwrap();
    let other = Arc::downgrade(&allocator);
    in_next(&tap, DriverCall::EventQuery, move || {
        let other = other.upgrade().unwrap();
        other.empty_cache(D0).unwrap();
        let again = other.allocate(2 * MIB, D0, C).unwrap();
        assert_eq!(again, at, "the driver gives the same address again");
        other.free(again).unwrap();
    });
    let mine = allocator.allocate(8 * MIB, D0, B).unwrap();
    tap.set_hook(None);
    sim.stamp_write(D0, B, mine, 8 * MIB, 2).unwrap();
    allocator.check_invariants().unwrap();
}

/// A graph is launched on any stream; when it is destroyed, the launch may still be running.
#[test]
fn memory_of_a_released_capture_is_not_reused_under_the_last_launch() {
    over_both(|backing| {
        for stream in [A, B] {
            for capacity in [64 * MIB, 6 * MIB] {
                let (sim, _tap, allocator) = allocator(backing, capacity);
                allocator.begin_pool(D0, POOL, Purpose::Capture, |s| s == A).unwrap();
                let at = allocator.allocate(4 * MIB, D0, A).unwrap();
                allocator.free(at).unwrap();
                allocator.end_pool(D0, POOL).unwrap();
                sim.stamp_write(D0, C, at, 4 * MIB, 1).unwrap();
                allocator.release_pool(D0, POOL).unwrap();
                let mine = allocator.allocate(4 * MIB, D0, stream).unwrap();
                sim.stamp_write(D0, stream, mine, 4 * MIB, 2).unwrap();
                allocator.check_invariants().unwrap();
            }
        }
    });
}

/// Likewise, where the pool is held again: by retaining it, or by beginning it.
#[test]
fn a_pool_held_again_waits_for_the_launches_of_its_former_graphs() {
    over_both(|backing| {
        for retains in [false, true] {
            let (sim, _tap, allocator) = allocator(backing, 64 * MIB);
            allocator.begin_pool(D0, POOL, Purpose::Capture, |s| s == A).unwrap();
            let at = allocator.allocate(4 * MIB, D0, A).unwrap();
            allocator.free(at).unwrap();
            allocator.end_pool(D0, POOL).unwrap();
            sim.stamp_write(D0, C, at, 4 * MIB, 1).unwrap();
            allocator.release_pool(D0, POOL).unwrap();
            if retains {
                allocator.retain_pool(D0, POOL).unwrap();
            }
            allocator.begin_pool(D0, POOL, Purpose::User, |_| true).unwrap();
            let mine = allocator.allocate(4 * MIB, D0, A).unwrap();
            sim.stamp_write(D0, A, mine, 4 * MIB, 2).unwrap();
            allocator.check_invariants().unwrap();
        }
    });
}

/// Idle when it was looked at, idle again when it is to be taken: but in between a graph was
/// captured that will use it.
#[test]
fn an_offer_that_a_capture_has_used_in_the_meantime_is_not_taken() {
    within(60, || {
        for _ in 0..50 {
            let (_sim, tap, allocator) = allocator("backing:malloc", 64 * MIB);
            allocator.begin_pool(D0, POOL, Purpose::User, |s| s == A).unwrap();
            let blocks = [A, C].map(|stream| allocator.allocate(4 * MIB, D0, stream).unwrap());
            blocks.into_iter().for_each(|at| allocator.free(at).unwrap());
            allocator.end_pool(D0, POOL).unwrap();
            allocator.release_pool(D0, POOL).unwrap();
            let (other, (tell, thread)) = (Arc::clone(&allocator), mpsc::channel());
            // It asks about C; the pool's segment needs no asking, since the stream is the same.
            in_next(&tap, DriverCall::EventQuery, move || {
                let (other, (done, wait)) = (Arc::clone(&other), mpsc::channel());
                let thread = std::thread::spawn(move || {
                    other.begin_pool(D0, POOL, Purpose::Capture, |s| s == A).unwrap();
                    let captured = other.allocate(4 * MIB, D0, A).unwrap();
                    other.free(captured).unwrap();
                    done.send(()).unwrap_or_default();
                    captured
                });
                tell.send(thread).unwrap();
                // It begins now, or when the asking is over.
                let _ = wait.recv_timeout(Duration::from_millis(2));
            });
            let mine = allocator.allocate(4 * MIB, D0, A).unwrap();
            tap.set_hook(None);
            let captured = thread.recv().unwrap().join().unwrap();
            assert_ne!(mine, captured, "replays write to it");
            allocator.end_pool(D0, POOL).unwrap();
            allocator.check_invariants().unwrap();
        }
    });
}

/// A capture that begins while another thread waits for the device begins after the wait.
#[test]
fn a_capture_does_not_begin_inside_a_wait_for_the_device() {
    within(20, || {
        let (sim, tap, allocator) = allocator("backing:malloc", 64 * MIB);
        let at = allocator.allocate(4 * MIB, D0, B).unwrap();
        allocator.free(at).unwrap();
        let (other, device) = (Arc::clone(&allocator), Arc::clone(&sim));
        let (tell, thread) = mpsc::channel();
        in_next(&tap, DriverCall::DeviceSynchronize, move || {
            let (done, wait) = mpsc::channel();
            let thread = std::thread::spawn(move || {
                other.begin_pool(D0, POOL, Purpose::Capture, |s| s == A).unwrap();
                device.begin_capture(D0, A).unwrap();
                done.send(()).unwrap_or_default();
            });
            tell.send(thread).unwrap();
            let _ = wait.recv_timeout(Duration::from_millis(50));
        });
        assert_eq!(allocator.empty_cache(D0), Ok(4 * MIB));
        tap.set_hook(None);
        thread.recv().unwrap().join().unwrap();
        sim.end_capture(D0, A).unwrap();
        allocator.end_pool(D0, POOL).unwrap();
        assert_eq!(sim.misuses(), []);
        allocator.check_invariants().unwrap();
    });
}

/// Threads that hold and release a pool of one name: its heap becomes nobody's once each time.
#[test]
fn a_heap_is_retired_once() {
    over_both(|backing| {
        let (_sim, _tap, allocator) = allocator(backing, 256 * MIB);
        within(60, move || {
            std::thread::scope(|scope| {
                for thread in 0..4u64 {
                    let allocator = &allocator;
                    scope.spawn(move || {
                        for _ in 0..2000 {
                            let stream = drystone_core::StreamId(0x10 + thread);
                            let begun = allocator.begin_pool(D0, POOL, Purpose::User, |_| true);
                            let at = allocator.allocate(MIB, D0, stream).unwrap();
                            allocator.free(at).unwrap();
                            if begun.is_ok() {
                                allocator.end_pool(D0, POOL).unwrap();
                                let _ = allocator.release_pool(D0, POOL);
                            }
                            if thread == 0 {
                                allocator.empty_cache(D0).unwrap();
                            }
                        }
                    });
                }
            });
            allocator.driver().device_synchronize(D0).unwrap();
            allocator.empty_cache(D0).unwrap();
            allocator.check_invariants().unwrap();
            assert_eq!(allocator.reserved_bytes(D0), Ok(0));
        });
    });
}

/// What a pool's filter owns is dropped with it, and may call the allocator.
#[test]
fn what_callers_hand_over_is_dropped_without_a_lock() {
    over_both(|backing| {
        struct Caller(Arc<Tapped>);
        impl Drop for Caller {
            fn drop(&mut self) {
                let at = self.0.allocate(4 * MIB, D0, A).unwrap();
                self.0.free(at).unwrap();
                self.0.empty_cache(D0).unwrap();
            }
        }
        within(20, || {
            let (_sim, _tap, allocator) = allocator(backing, 64 * MIB);
            let caller = Caller(Arc::clone(&allocator));
            allocator
                .begin_pool(D0, POOL, Purpose::User, move |_| caller.0.device_count() > 9)
                .unwrap();
            allocator.end_pool(D0, POOL).unwrap();
            let caller = Caller(Arc::clone(&allocator));
            let half = drystone_core::Watermark::Fraction(0.5);
            let id = allocator
                .on_pressure(D0, half, move |_| assert!(caller.0.device_count() > 9))
                .unwrap();
            assert!(allocator.remove_callback(id));
            let caller = Caller(Arc::clone(&allocator));
            let id = allocator.on_out_of_memory(move |_| caller.0.device_count() > 9);
            assert!(allocator.remove_callback(id));
        });
    });
}
