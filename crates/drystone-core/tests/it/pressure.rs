//! When memory is short: limits, watermarks, callbacks, collection, captures, giving back.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use drystone_core::{
    AllocError, Allocator, Config, DriverCall, OutOfMemory, PoolError, PoolId, Purpose, Watermark,
};
use drystone_sim::{SimConfig, SimDriver};

use crate::common::over_both;
use crate::races::within;
use crate::{A, B, C, D0, KIB, MIB, World};

fn out_of_memory(result: Result<u64, AllocError>) -> OutOfMemory {
    match result {
        Err(AllocError::OutOfMemory(error)) => *error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_limit_holds_and_can_be_moved() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, &format!("{backing},limit:10MiB"));
        world.allocate(D0, A, 6 * MIB).unwrap();
        let error = out_of_memory(world.allocate(D0, A, 6 * MIB));
        assert_eq!(
            (error.limit, error.reserved, error.segment),
            (Some(10 * MIB), 6 * MIB, 6 * MIB)
        );
        assert_eq!((error.live, error.device_free), (6 * MIB, 58 * MIB));
        assert!(error.advice().contains("limit"), "{}", error.advice());
        world.allocate(D0, A, 4 * MIB).unwrap();
        world.set_limit(D0, Some(4 * MIB));
        world.check();
        out_of_memory(world.allocate(D0, A, 2 * MIB));
        world.allocator.set_memory_fraction(D0, 0.5).unwrap();
        world.limit_is_set(D0);
        assert_eq!(world.allocator.limit(D0), Ok(Some(32 * MIB)));
        world.allocate(D0, A, 22 * MIB).unwrap();
        out_of_memory(world.allocate(D0, A, 512));
        world.set_limit(D0, None);
        world.allocate(D0, A, 512).unwrap();
        for (fraction, limit) in [(-1.0, 0), (f64::NAN, 0), (0.0, 0), (1.0, 64), (7.0, 64)] {
            world.allocator.set_memory_fraction(D0, fraction).unwrap();
            assert_eq!(world.allocator.limit(D0), Ok(Some(limit * MIB)), "{fraction}");
        }
        world.finish();
    });
}

#[test]
fn what_the_program_took_itself_counts_against_the_limit() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, &format!("{backing},limit:10MiB"));
        assert_eq!(world.allocator.account(D0, 4 * MIB), Ok(true));
        assert_eq!(world.allocator.reserved_bytes(D0), Ok(4 * MIB));
        let block = world.allocate(D0, A, 6 * MIB).unwrap();
        assert_eq!(world.allocator.account(D0, 1), Ok(false));
        out_of_memory(world.allocate(D0, A, 2 * MIB));
        world.free(block);
        // Not more than was counted, or the allocator's own would be forgotten.
        world.allocator.unaccount(D0, 64 * MIB).unwrap();
        world.finish();
    });
}

#[test]
fn a_request_that_no_device_could_serve_is_told_too() {
    let world = World::plain(64 * MIB, "");
    let heard = Arc::new(AtomicU32::new(0));
    let counts = Arc::clone(&heard);
    world.allocator.on_out_of_memory(move |error| {
        assert_eq!((error.asked, error.device_total), (1 << 42, 64 * MIB));
        counts.fetch_add(1, Relaxed);
        true
    });
    let refused = world.allocator.allocate(1 << 42, D0, A);
    assert_eq!(refused, Err(AllocError::TooLarge { size: 1 << 42 }));
    assert_eq!((heard.load(Relaxed), world.allocator.stats(D0).unwrap().num_ooms), (1, 1));
}

#[test]
fn an_emptying_counts_as_one_wait() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, backing);
        let waits = |world: &World| world.allocator.stats(D0).unwrap().num_sync_all_streams;
        for streams in [&[A, B, C][..], &[]] {
            let blocks: Vec<_> = streams
                .iter()
                .map(|&stream| world.allocate(D0, stream, 2 * MIB).unwrap())
                .collect();
            for block in blocks {
                world.free(block);
            }
            let before = waits(&world);
            world.allocator.empty_cache(D0).unwrap();
            assert_eq!(waits(&world), before + 1, "{} streams", streams.len());
        }
        world.finish();
    });
}

#[test]
fn of_two_limits_the_lower_holds() {
    over_both(|backing| {
        for config in ["limit:48MiB,memory_fraction:0.5", "limit:32MiB,memory_fraction:0.75"] {
            let world = World::plain(64 * MIB, &format!("{backing},{config}"));
            assert_eq!(world.allocator.limit(D0), Ok(Some(32 * MIB)), "{config}");
        }
    });
}

#[test]
fn out_of_memory_changes_nothing_that_is_live() {
    over_both(|backing| {
        let mut world = World::plain(16 * MIB, backing);
        for size in [100, 3 * MIB, 5 * MIB] {
            world.allocate(D0, A, size).unwrap();
        }
        let blocks = |world: &World| {
            let segments = world.allocator.snapshot();
            let live = segments.into_iter().flat_map(|segment| segment.blocks);
            live.filter(|block| block.requested > 0).collect::<Vec<_>>()
        };
        let before = blocks(&world);
        let error = out_of_memory(world.allocate(D0, B, 9 * MIB));
        assert_eq!((error.device_total, error.held_by_others()), (16 * MIB, 0));
        assert_eq!(blocks(&world), before);
        assert_eq!(world.allocator.stats(D0).unwrap().num_ooms, 1);
        world.finish();
    });
}

#[test]
fn what_another_heap_found_out_counts_under_pressure() {
    let mut world = World::plain(10 * MIB, "backing:malloc,slack:100");
    let whole = world.allocate(D0, A, 8 * MIB).unwrap();
    world.free(whole);
    let parts = [2 * MIB, 5 * MIB].map(|size| world.allocate(D0, A, size).unwrap());
    let small = world.allocate(D0, B, 512).unwrap();
    for at in [parts[1], small] {
        world.touch_on(at, C);
        world.free(at);
    }
    world.sim.advance(2_000_000);
    // B's heap asks how far C has come; nobody has told A's, whose block B needs.
    world.allocate(D0, B, 512).unwrap();
    assert_eq!(world.tap.count(DriverCall::EventQuery), 1);
    assert_eq!(world.allocate(D0, B, 5 * MIB), Ok(parts[1]));
    assert_eq!(world.tap.count(DriverCall::EventSynchronize), 0);
    world.finish();
}

#[test]
fn a_watermark_is_told_once_per_passing() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, &format!("{backing},slack:100"));
        let told = Arc::new(Mutex::new(Vec::new()));
        for watermark in [Watermark::Bytes(10 * MIB), Watermark::Fraction(0.5)] {
            let told = Arc::clone(&told);
            let call = move |pressure: &drystone_core::Pressure| {
                told.lock().unwrap().push((pressure.watermark, pressure.reserved));
            };
            world.allocator.on_pressure(D0, watermark, call).unwrap();
        }
        let take = || std::mem::take(&mut *told.lock().unwrap());
        let allocate = |world: &mut World, size| world.allocate(D0, A, size).unwrap();
        let first = allocate(&mut world, 8 * MIB);
        assert_eq!(take(), []);
        allocate(&mut world, 2 * MIB);
        assert_eq!(take(), [(10 * MIB, 10 * MIB)]);
        allocate(&mut world, 12 * MIB);
        assert_eq!(take(), []);
        allocate(&mut world, 20 * MIB);
        assert_eq!(take(), [(32 * MIB, 42 * MIB)]);
        world.free(first);
        world.allocator.empty_cache(D0).unwrap();
        assert_eq!(take(), [], "34 MiB are still above both");
        world.free_all();
        world.synchronize();
        world.allocator.empty_cache(D0).unwrap();
        assert_eq!(take(), []);
        allocate(&mut world, 40 * MIB);
        assert_eq!(take(), [(10 * MIB, 40 * MIB), (32 * MIB, 40 * MIB)], "passed once more");
        world.finish();
    });
}

#[test]
fn a_watermark_below_what_is_held_is_not_told_on_the_way_down() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, backing);
        let at = [8, 4].map(|size| world.allocate(D0, A, size * MIB).unwrap());
        let told = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&told);
        let call = move |_: &drystone_core::Pressure| {
            count.fetch_add(1, Relaxed);
        };
        world.allocator.on_pressure(D0, Watermark::Bytes(2 * MIB), call).unwrap();
        world.free(at[0]);
        world.allocator.empty_cache(D0).unwrap();
        assert_eq!(told.load(Relaxed), 0);
        world.finish();
    });
}

#[test]
fn callbacks_are_asked_at_most_as_often_as_configured() {
    over_both(|backing| {
        for (config, retries) in [("oom_retries:3", 3), ("oom_retries:0", 0), ("", 8)] {
            let mut world = World::plain(8 * MIB, &format!("{backing},{config}"));
            let asked = Arc::new(AtomicU32::new(0));
            let count = Arc::clone(&asked);
            world.allocator.on_out_of_memory(move |error| {
                assert_eq!(error.asked, 9 * MIB);
                count.fetch_add(1, Relaxed);
                true
            });
            out_of_memory(world.allocate(D0, A, 9 * MIB));
            assert_eq!(asked.load(Relaxed), retries, "{config}");
            assert_eq!(world.allocator.stats(D0).unwrap().num_ooms, 1);
            world.finish();
        }
    });
}

#[test]
fn one_refusal_ends_it() {
    over_both(|backing| {
        let mut world = World::plain(8 * MIB, backing);
        let asked = Arc::new(AtomicU32::new(0));
        for _ in 0..2 {
            let count = Arc::clone(&asked);
            world.allocator.on_out_of_memory(move |_| {
                count.fetch_add(1, Relaxed);
                false
            });
        }
        out_of_memory(world.allocate(D0, A, 9 * MIB));
        assert_eq!(asked.load(Relaxed), 2, "both are asked, once");
        world.finish();
    });
}

#[test]
fn a_callback_may_free_and_look_and_allocate() {
    over_both(|backing| {
        within(20, || {
            let sim = Arc::new(SimDriver::new(SimConfig::default().capacity(8 * MIB)).unwrap());
            let allocator =
                Allocator::new(Arc::clone(&sim), Config::parse(backing).unwrap()).unwrap();
            let allocator = Arc::new(allocator);
            let hoard = allocator.allocate(5 * MIB, D0, A).unwrap();
            let other = Arc::downgrade(&allocator);
            let on_pressure = other.clone();
            let id = allocator.on_out_of_memory(move |_| {
                let other = other.upgrade().unwrap();
                other.check_invariants().unwrap();
                other.snapshot();
                assert!(other.allocate(512, D0, B).is_ok());
                other.free(hoard).is_ok()
            });
            allocator
                .on_pressure(D0, Watermark::Bytes(1), move |pressure| {
                    let other = on_pressure.upgrade().unwrap();
                    assert!(pressure.reserved <= other.reserved_bytes(D0).unwrap());
                })
                .unwrap();
            let at = allocator.allocate(4 * MIB, D0, A).unwrap();
            assert!(allocator.remove_callback(id));
            allocator.free(at).unwrap();
            allocator.check_invariants().unwrap();
        });
    });
}

#[test]
fn collection_keeps_what_is_young_and_stops_at_the_threshold() {
    let config = "garbage_collection_threshold:0.5,limit:60MiB,slack:100";
    let mut world = World::plain(1 << 30, &format!("backing:malloc,{config}"));
    let at: Vec<u64> = (0..4).map(|_| world.allocate(D0, A, 10 * MIB).unwrap()).collect();
    // 40 MiB are reserved; 30 are allowed before collection.
    at.iter().for_each(|&at| world.free(at));
    let taken = world.allocate(D0, A, 10 * MIB).unwrap();
    assert_eq!(world.tap.held(D0).bytes, 40 * MIB, "what the cache serves collects nothing");
    world.allocate(D0, A, 11 * MIB).unwrap();
    // 10 MiB too much: one of the idle ones went, and 12 MiB came.
    assert_eq!(world.tap.held(D0).bytes, 42 * MIB);
    assert_eq!(world.tap.held(D0).given[0], 1);
    world.free(taken);
    world.finish();
}

#[test]
fn without_a_limit_nothing_is_collected() {
    let mut world =
        World::plain(64 * MIB, "backing:malloc,garbage_collection_threshold:0.1,slack:100");
    for size in [8, 10, 12] {
        let at = world.allocate(D0, A, size * MIB).unwrap();
        world.free(at);
    }
    assert_eq!(world.tap.held(D0).given[0], 0);
    world.finish();
}

#[test]
fn idle_segments_that_are_too_small_pay_for_a_larger_one() {
    for (config, held) in [("slack:0", 12), ("slack:100", 30)] {
        let mut world = World::plain(64 * MIB, &format!("backing:malloc,{config}"));
        for size in [8, 10, 12] {
            let at = world.allocate(D0, A, size * MIB).unwrap();
            world.free(at);
        }
        assert_eq!(world.tap.held(D0).bytes, held * MIB, "{config}");
        world.finish();
    }
}

#[test]
fn a_capture_grows_without_waiting_or_asking() {
    over_both(|backing| {
        let mut world = World::plain(8 * MIB, backing);
        let warm = world.allocate(D0, B, 4 * MIB).unwrap();
        world.touch_on(warm, A);
        world.free(warm);
        let pool = PoolId(1, 1);
        world.begin(D0, pool, Purpose::Capture, 0b0010);
        world.sim.begin_capture(D0, A).unwrap();
        let before = world.tap.calls().len();
        let at = world.allocate(D0, A, 3 * MIB).unwrap();
        // The next does not fit, although 4 MiB could be given back or lent outside a capture.
        let error = out_of_memory(world.allocate(D0, A, 3 * MIB));
        assert!(error.capturing && error.advice().contains("capture"));
        assert_eq!(error.pool, pool);
        assert_eq!(world.allocator.empty_cache(D0), Ok(0));
        let calls = world.tap.calls();
        use DriverCall::{
            AddressReserve, DeviceMemory, HandleCreate, Map, SegmentAlloc, SetAccess,
        };
        let expected = match backing {
            "backing:vmm" => {
                vec![AddressReserve, HandleCreate, Map, SetAccess, HandleCreate, DeviceMemory]
            }
            _ => vec![SegmentAlloc, SegmentAlloc, DeviceMemory],
        };
        assert_eq!(calls[before..], expected);
        world.sim.end_capture(D0, A).unwrap();
        world.end(D0, pool);
        let block = &world.shadow.live[&at];
        world.sim.stamp_write(D0, A, at, block.size, block.tag).unwrap();
        world.finish();
    });
}

#[test]
fn the_memory_of_a_graph_stays_until_it_is_released() {
    over_both(|backing| {
        let mut world = World::plain(8 * MIB, backing);
        let pool = PoolId(1, 1);
        world.begin(D0, pool, Purpose::Capture, 0b0010);
        let at = world.allocate(D0, A, 6 * MIB).unwrap();
        world.end(D0, pool);
        world.free(at);
        world.synchronize();
        assert_eq!(world.allocator.empty_cache(D0), Ok(0));
        let captured = PoolError::Captured { device: D0, pool };
        assert_eq!(world.allocator.empty_pool_cache(D0, pool), Err(captured));
        out_of_memory(world.allocate(D0, A, 6 * MIB));
        out_of_memory(world.allocate(D0, B, 6 * MIB));
        world.allocator.release_pool(D0, pool).unwrap();
        world.allocate(D0, B, 6 * MIB).unwrap();
        assert_eq!(world.allocator.stats(D0).unwrap().num_adopted, 1);
        world.check();
        world.finish();
    });
}

#[test]
fn the_memory_of_a_user_s_pool_is_kept_from_others_while_it_is_held() {
    over_both(|backing| {
        let mut world = World::plain(8 * MIB, backing);
        let pool = PoolId(2, 2);
        world.begin(D0, pool, Purpose::User, 0b0010);
        let at = world.allocate(D0, A, 6 * MIB).unwrap();
        world.end(D0, pool);
        world.free(at);
        world.synchronize();
        out_of_memory(world.allocate(D0, A, 6 * MIB));
        assert_eq!(world.allocator.empty_cache(D0), Ok(0));
        assert_eq!(world.allocator.empty_pool_cache(D0, pool), Ok(6 * MIB));
        world.allocate(D0, A, 6 * MIB).unwrap();
        world.finish();
    });
}

#[test]
fn empty_cache_gives_all_that_is_idle_back() {
    over_both(|backing| {
        let mut world = World::plain(256 * MIB, backing);
        for stream in crate::common::STREAMS {
            for size in [KIB, MIB, 3 * MIB, 20 * MIB] {
                world.allocate(D0, stream, size).unwrap();
            }
        }
        let kept = *world.shadow.live.keys().next().unwrap();
        let others: Vec<u64> = world.shadow.live.keys().copied().filter(|&at| at != kept).collect();
        world.touch_on(others[3], B);
        others.iter().for_each(|&at| world.free(at));
        world.synchronize();
        let held = world.tap.held(D0).bytes;
        let given = world.allocator.empty_cache(D0).unwrap();
        let left = world.allocator.snapshot();
        assert_eq!(left.len(), 1, "the segment of the block that is live");
        assert_eq!(given, held - left[0].size);
        assert_eq!(world.allocator.empty_cache(D0), Ok(0));
        let device_waits = if backing == "backing:malloc" { 1 } else { 0 };
        assert_eq!(world.tap.count(DriverCall::DeviceSynchronize), device_waits);
        world.finish();
    });
}

/// A request that the limit or the device surely refuses is refused at once: making most of the memory
/// and giving it back again takes the driver a second for some dozen gigabytes.
#[test]
fn what_cannot_be_had_is_not_begun() {
    for config in ["limit:64MiB", "reserve:lean", ""] {
        let mut world = World::plain(1024 * MIB, config);
        if !config.starts_with("limit") {
            world.sim.set_held_by_others(D0, 900 * MIB);
        }
        let at = world.allocate(D0, A, 8 * MIB).unwrap();
        let before = world.tap.count(DriverCall::HandleCreate);
        for _ in 0..3 {
            assert!(world.allocate(D0, A, 512 * MIB).is_err());
        }
        assert_eq!(world.tap.count(DriverCall::HandleCreate), before, "{config}");
        world.free(at);
        world.finish();
    }
}

#[test]
fn what_comes_free_in_a_valley_serves_the_last_try() {
    let mut world = World::plain(32 * MIB, "backing:vmm");
    let sizes = [3 * MIB, 3584 * KIB, 1536 * KIB, 3 * MIB];
    let at = sizes.map(|size| world.allocate(D0, A, size).unwrap());
    // All other memory is in use.
    while world.allocate(D0, B, 2 * MIB).is_ok() {}
    world.touch_on(at[1], B);
    world.free(at[1]);
    // It comes free when B has been waited for, and then much less is live than was. It has one whole
    // page, so that no pages could be brought together in its place.
    let again = world.allocate(D0, A, 3328 * KIB).unwrap();
    assert_eq!(again, at[1]);
    world.finish();
}
