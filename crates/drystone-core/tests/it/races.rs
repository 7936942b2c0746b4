//! What another thread may do while a driver call is underway, done inside the call: races at
//! every point where the allocator holds no lock, without luck.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use drystone_core::{Allocator, Config, DriverCall, PoolId, Purpose, StreamId};
use drystone_sim::{Costs, SimConfig, SimDriver};
use proptest::prelude::*;

use crate::common::tap::Tap;
use crate::common::world::Tapped;
use crate::common::{BACKINGS, STREAMS, over_both};
use crate::{A, B, C, D0, D1, MIB};

/// Runs in a thread of its own; a panic if it takes too long, as an endless loop would.
pub(crate) fn within<T: Send + 'static>(
    seconds: u64,
    run: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || done.send(run()));
    match wait.recv_timeout(Duration::from_secs(seconds)) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("still at it after {seconds} s"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().expect_err("it gave no result"))
        }
    }
}

fn allocator(config: &str, capacity: u64) -> (Arc<SimDriver>, Arc<Tap>, Arc<Tapped>) {
    let sim = SimConfig::default().capacity(capacity).devices(2).costs(Costs::zero());
    let sim = Arc::new(SimDriver::new(sim).unwrap());
    let tap = Arc::new(Tap::new(Arc::clone(&sim)));
    let config = Config::parse(config).unwrap();
    let allocator = Arc::new(Allocator::new(Arc::clone(&tap), config).unwrap());
    (sim, tap, allocator)
}

/// Runs something in the n-th call of a kind from now, once.
fn in_call(tap: &Tap, call: DriverCall, n: u32, run: impl FnOnce() + Send + 'static) {
    let (mut run, mut seen) = (Some(run), 0);
    tap.set_hook(Some(Box::new(move |this| {
        seen += u32::from(this == call);
        if this == call && seen == n {
            run.take().expect("it runs once")();
        }
    })));
}

#[test]
fn a_segment_used_again_between_look_and_take_is_not_adopted() {
    let (sim, tap, allocator) = allocator("backing:malloc", 64 * MIB);
    let blocks = [A, C].map(|stream| {
        let at = allocator.allocate(4 * MIB, D0, stream).unwrap();
        sim.stamp_write(D0, stream, at, 4 * MIB, 1).unwrap();
        at
    });
    for at in blocks {
        allocator.free(at).unwrap();
    }
    drystone_core::Driver::device_synchronize(&*sim, D0).unwrap();
    // B finds out that A has passed; while it asks about C, A uses its segment once more.
    let (other, busy) = (Arc::downgrade(&allocator), Arc::clone(&sim));
    in_call(&tap, DriverCall::EventQuery, 2, move || {
        let other = other.upgrade().unwrap();
        let at = other.allocate(4 * MIB, D0, A).unwrap();
        busy.stamp_write(D0, A, at, 4 * MIB, 2).unwrap();
        other.free(at).unwrap();
        // Whoever looks at the heap sees an idle segment again, not a block freed last.
        other.snapshot();
    });
    let at = allocator.allocate(4 * MIB, D0, B).unwrap();
    sim.stamp_write(D0, B, at, 4 * MIB, 3).unwrap();
    tap.set_hook(None);
    assert_eq!(allocator.stats(D0).unwrap().num_adopted, 1, "C's segment was there");
    allocator.check_invariants().unwrap();
    assert_eq!(sim.misuses(), []);
}

#[test]
fn a_block_freed_while_its_heap_takes_a_segment() {
    let (_sim, tap, allocator) = allocator("backing:malloc", 64 * MIB);
    let at = [0; 3].map(|_| allocator.allocate(512, D0, A).unwrap());
    // The same size again and again: then what is freed is kept for the next request.
    let same = allocator.allocate(MIB, D0, A).unwrap();
    allocator.free(same).unwrap();
    assert_eq!(allocator.allocate(MIB, D0, A), Ok(same));
    let other = Arc::downgrade(&allocator);
    in_call(&tap, DriverCall::SegmentAlloc, 1, move || {
        other.upgrade().unwrap().free(at[0]).unwrap();
    });
    allocator.allocate(MIB, D0, A).unwrap();
    tap.set_hook(None);
    allocator.check_invariants().unwrap();
    let stats = allocator.stats(D0).unwrap().memory;
    let split = stats.all(drystone_core::Metric::InactiveSplit).current;
    let free = allocator.snapshot().into_iter().flat_map(|segment| segment.blocks);
    let free = free.filter(|block| block.state == drystone_core::BlockState::Inactive);
    assert_eq!(free.count() as u64, split);
}

#[test]
fn a_pool_released_while_its_request_asks_for_memory() {
    within(20, || {
        let (sim, tap, allocator) = allocator("backing:malloc", 64 * MIB);
        let pool = PoolId(1, 1);
        allocator.begin_pool(D0, pool, Purpose::User, |_| true).unwrap();
        let other = Arc::downgrade(&allocator);
        in_call(&tap, DriverCall::SegmentAlloc, 1, move || {
            let other = other.upgrade().unwrap();
            other.end_pool(D0, pool).unwrap();
            other.release_pool(D0, pool).unwrap();
        });
        let at = allocator.allocate(MIB, D0, A).unwrap();
        tap.set_hook(None);
        sim.stamp_write(D0, A, at, MIB, 1).unwrap();
        allocator.check_invariants().unwrap();
        allocator.free(at).unwrap();
        drystone_core::Driver::device_synchronize(&*sim, D0).unwrap();
        allocator.empty_cache(D0).unwrap();
        assert_eq!(allocator.reserved_bytes(D0), Ok(0));
        drop(allocator);
        assert!(sim.finish().is_clean(), "{}", sim.finish());
    });
}

#[test]
fn a_pool_released_by_the_callback_of_its_own_request() {
    over_both(|backing| {
        within(20, || {
            let (_sim, _tap, allocator) = allocator(backing, 8 * MIB);
            let pool = PoolId(1, 1);
            allocator.begin_pool(D0, pool, Purpose::User, |_| true).unwrap();
            let other = Arc::downgrade(&allocator);
            allocator.on_out_of_memory(move |_| {
                let other = other.upgrade().unwrap();
                other.end_pool(D0, pool).and_then(|()| other.release_pool(D0, pool)).is_ok()
            });
            allocator.allocate(16 * MIB, D0, A).unwrap_err();
            assert_eq!(allocator.pool_use_count(D0, pool), None);
            allocator.check_invariants().unwrap();
        });
    });
}

#[test]
fn a_begun_pool_without_holds_goes_on_serving() {
    over_both(|backing| {
        within(20, || {
            let (sim, _tap, allocator) = allocator(backing, 64 * MIB);
            let pool = PoolId(1, 1);
            allocator.begin_pool(D0, pool, Purpose::User, |_| true).unwrap();
            let at = allocator.allocate(MIB, D0, A).unwrap();
            allocator.free(at).unwrap();
            allocator.empty_pool_cache(D0, pool).unwrap();
            allocator.release_pool(D0, pool).unwrap();
            // The heap that the pool had is free for others now, on any device.
            allocator.begin_pool(D1, pool, Purpose::User, |_| true).unwrap();
            let on_1 = allocator.allocate(MIB, D1, A).unwrap();
            let on_0 = allocator.allocate(MIB, D0, A).unwrap();
            sim.stamp_write(D0, A, on_0, MIB, 1).unwrap();
            sim.stamp_write(D1, A, on_1, MIB, 1).unwrap();
            assert_eq!(
                allocator
                    .pool_stats(D0, pool)
                    .unwrap()
                    .all(drystone_core::Metric::Allocation)
                    .current,
                1
            );
            allocator.check_invariants().unwrap();
            assert_eq!(allocator.free_on(on_0, D0, A), Ok(()));
            assert_eq!(allocator.free_on(on_1, D1, A), Ok(()));
        });
    });
}

/// A block of the random races.
#[derive(Clone, Copy)]
struct Block {
    at: u64,
    bytes: u64,
    stream: StreamId,
    tag: u64,
}

/// A program that runs in the main thread and inside driver calls alike.
struct Racer {
    sim: Arc<SimDriver>,
    blocks: Mutex<Vec<Block>>,
    tags: std::sync::atomic::AtomicU64,
}

impl Racer {
    fn take(&self, which: u8) -> Option<Block> {
        let mut blocks = self.blocks.lock().unwrap();
        let count = blocks.len();
        (count > 0).then(|| blocks.swap_remove(usize::from(which) % count))
    }

    fn step(&self, allocator: &Tapped, [what, size, stream, which]: [u8; 4]) {
        let stream = STREAMS[usize::from(stream) % 4];
        let pool = PoolId(1, u64::from(which % 2));
        match what % 16 {
            0..=6 => {
                // A few sizes, so that they come again.
                let bytes = (u64::from(size % 16) << 18) + 1;
                let Ok(at) = allocator.allocate(bytes, D0, stream) else { return };
                let tag = self.tags.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                self.sim.stamp_write(D0, stream, at, bytes, tag).unwrap();
                self.blocks.lock().unwrap().push(Block { at, bytes, stream, tag });
            }
            7..=11 => {
                let Some(Block { at, bytes, stream, tag }) = self.take(which) else { return };
                self.sim.stamp_check(D0, stream, at, bytes, tag).unwrap();
                if what % 16 == 7 {
                    allocator.record_stream(at, STREAMS[usize::from(size) % 4]).unwrap();
                }
                allocator.free(at).unwrap();
            }
            12 => drop(allocator.empty_cache(D0)),
            13 => drop(allocator.begin_pool(D0, pool, Purpose::User, move |s| s == stream)),
            14 => drop(allocator.end_pool(D0, pool)),
            15 if size % 2 == 0 => drop(allocator.release_pool(D0, pool)),
            _ => self.sim.advance(u64::from(size) << 14),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Operations of other threads fall into driver calls.
    #[test]
    fn operations_inside_calls(
        steps in prop::collection::vec(any::<[u8; 4]>(), 1..80),
        inside in prop::collection::vec((0..4u8, any::<[u8; 4]>()), 1..80),
        backing in prop::sample::select(&BACKINGS),
        config in prop::sample::select(
            &[
                "reserve:lean",
                "cross_stream:passed",
                "garbage_collection_threshold:0.3,limit:20MiB",
                "slack:0",
            ],
        ),
    ) {
        let (sim, tap, allocator) = allocator(&format!("{backing},{config}"), 24 * MIB);
        let racer = Arc::new(Racer {
            sim: Arc::clone(&sim),
            blocks: Mutex::default(),
            tags: std::sync::atomic::AtomicU64::new(1),
        });
        let others = Arc::new(Mutex::new(Vec::new()));
        let (other, in_it) = (Arc::clone(&allocator), Arc::clone(&racer));
        let (mut script, threads) = (inside.into_iter(), Arc::clone(&others));
        tap.set_hook(Some(Box::new(move |_| {
            if let Some((0, step)) = script.next() {
                let (other, in_it) = (Arc::clone(&other), Arc::clone(&in_it));
                let (done, wait) = mpsc::channel();
                threads.lock().unwrap().push(std::thread::spawn(move || {
                    in_it.step(&other, step);
                    done.send(())
                }));
                // If it needs what this call holds up, an event, it goes on after the call.
                let _ = wait.recv_timeout(Duration::from_millis(1));
            }
        })));
        for step in steps {
            racer.step(&allocator, step);
            loop {
                let Some(thread) = others.lock().unwrap().pop() else { break };
                thread.join().unwrap().unwrap_or_default();
            }
            allocator.check_invariants().unwrap();
        }
        tap.set_hook(None);
        for block in racer.blocks.lock().unwrap().drain(..) {
            sim.stamp_check(D0, block.stream, block.at, block.bytes, block.tag).unwrap();
            allocator.free(block.at).unwrap();
        }
        for pool in [PoolId(1, 0), PoolId(1, 1)] {
            let _ = allocator.end_pool(D0, pool);
            while allocator.release_pool(D0, pool).is_ok() {}
        }
        drystone_core::Driver::device_synchronize(&*sim, D0).unwrap();
        allocator.empty_cache(D0).unwrap();
        prop_assert_eq!(allocator.reserved_bytes(D0), Ok(0));
        allocator.check_invariants().unwrap();
        drop(allocator);
        let report = sim.finish();
        prop_assert!(report.is_clean(), "{}", report);
    }
}
