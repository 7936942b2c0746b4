//! Arenas and pages: free memory goes where it is needed, without a wait and without a copy, and
//! what must stay where it is stays.

use std::sync::Arc;

use drystone_core::{
    AllocError, Allocator, Config, DriverCall, DriverErrorKind, NewError, PoolId, Purpose,
};
use drystone_sim::{SimConfig, SimDriver};

use crate::common::physical::behind;
use crate::common::tap::{Fault, Tap};
use crate::{A, B, C, D0, MIB, World};

const P: PoolId = PoolId(1, 1);

const RESERVES: [&str; 3] = ["reserve:lean", "reserve:balanced", "reserve:fast"];

/// What a capture forbids, of the calls that a request may make.
const FORBIDDEN: [DriverCall; 7] = [
    DriverCall::Unmap,
    DriverCall::HandleRelease,
    DriverCall::AddressFree,
    DriverCall::EventQuery,
    DriverCall::EventSynchronize,
    DriverCall::DeviceSynchronize,
    DriverCall::SegmentFree,
];

fn counts(world: &World, calls: &[DriverCall]) -> usize {
    calls.iter().map(|&call| world.tap.count(call)).sum()
}

/// A source of numbers that is the same each time.
fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (state >> 33) % below
    }
}

/// Two megabytes at a time until the device is full; every second block is freed.
fn riddled(capacity: u64, config: &str) -> World {
    let mut world = World::plain(capacity, config);
    let at: Vec<u64> =
        (0..capacity / (2 * MIB)).map(|_| world.allocate(D0, A, 2 * MIB).unwrap()).collect();
    at.iter().step_by(2).for_each(|&at| world.free(at));
    world
}

#[test]
fn scattered_free_pages_make_one_block() {
    for reserve in RESERVES {
        let mut world = riddled(32 * MIB, reserve);
        world.allocate(D0, A, 16 * MIB).unwrap();
        world.check();
        assert_eq!(world.tap.held(D0).bytes, 32 * MIB, "{reserve}");
        // Nothing was waited for, neither on the host nor on the device.
        use DriverCall::{DeviceSynchronize, EventSynchronize, StreamWaitEvent};
        assert_eq!(counts(&world, &[DeviceSynchronize, EventSynchronize, StreamWaitEvent]), 0);
        world.finish();
    }
}

/// Fills a device of 32 MiB with blocks of a page, frees some that `random` chooses, takes a larger
/// block out of what is free, and frees all.
fn scatter(world: &mut World, mut random: impl FnMut(u64) -> u64) {
    let at = [0; 16].map(|_| world.allocate(D0, A, 2 * MIB).unwrap());
    let free: Vec<u64> = at.into_iter().filter(|_| random(2) == 0).collect();
    free.iter().for_each(|&at| world.free(at));
    world.allocate(D0, A, free.len() as u64 * 2 * MIB).unwrap();
    world.free_all();
}

#[test]
fn the_same_again_takes_no_call_from_the_third_time_on() {
    for reserve in RESERVES {
        let mut world = World::plain(32 * MIB, reserve);
        (0..2).for_each(|_| scatter(&mut world, numbers(1)));
        let before = counts(&world, &DriverCall::ALL);
        (0..50).for_each(|_| scatter(&mut world, numbers(1)));
        assert_eq!(counts(&world, &DriverCall::ALL), before, "{reserve}");
        world.finish();
    }
}

#[test]
fn mappings_stay_few_while_layouts_come_again_and_again() {
    for reserve in RESERVES {
        let mut world = World::plain(32 * MIB, reserve);
        let (mut most, mut random) = (0, numbers(1));
        for _ in 0..200 {
            scatter(&mut world, &mut random);
            most = most.max(world.sim.usage(D0).unwrap().mappings);
        }
        assert!(most < 400, "{most} mappings of 16 pages");
        assert_eq!(world.tap.held(D0).most_bytes, 32 * MIB);
        world.finish();
    }
}

#[test]
fn ghosts_of_a_stream_that_lags_stay() {
    let mut world = World::plain(64 * MIB, "reserve:lean");
    // Nothing that is submitted is done before the host waits for it.
    world.sim.set_host_lead_ns(1 << 50);
    let mut random = numbers(1);
    (0..100).for_each(|_| scatter(&mut world, &mut random));
    assert!(world.sim.usage(D0).unwrap().mappings > 350, "enough to want fewer");
    assert_eq!(world.tap.count(DriverCall::Unmap), 0);
    assert_eq!(world.tap.count(DriverCall::EventSynchronize), 0);
    // Nor do they go while another stream is captured, though nothing uses them any more.
    world.synchronize();
    world.begin(D0, P, Purpose::Capture, 0b1000);
    world.sim.begin_capture(D0, C).unwrap();
    let before = counts(&world, &FORBIDDEN);
    world.allocate(D0, A, 20 * MIB).unwrap();
    assert_eq!(counts(&world, &FORBIDDEN), before);
    world.sim.end_capture(D0, C).unwrap();
    world.end(D0, P);
    world.finish();
}

#[test]
fn a_device_that_cannot_map_is_served_in_segments() {
    let sim = SimConfig::default().capacity(32 * MIB).vmm(false);
    let mut world = World::new(sim, Config::default());
    for size in [1, MIB, 3 * MIB] {
        world.allocate(D0, A, size).unwrap();
    }
    assert_eq!(world.tap.count(DriverCall::AddressReserve), 0);
    assert!(world.tap.count(DriverCall::SegmentAlloc) > 0);
    world.finish();
}

#[test]
fn a_driver_that_cannot_say_whether_it_maps_makes_no_allocator() {
    let sim = Arc::new(SimDriver::new(SimConfig::default()).unwrap());
    let tap = Arc::new(Tap::new(sim));
    let lost = DriverErrorKind::DeviceLost;
    tap.set_fault(Some(Fault::Every(DriverCall::PageBytes, lost)));
    let error = Allocator::new(tap, Config::default()).err();
    assert!(matches!(&error, Some(NewError::Driver(error)) if error.kind == lost), "{error:?}");
}

#[test]
fn pages_of_another_stream_make_the_device_wait_and_not_the_host() {
    use DriverCall::{DeviceSynchronize, EventSynchronize, HandleCreate};
    let mut world = riddled(32 * MIB, "");
    let made = world.tap.count(HandleCreate);
    world.allocate(D0, B, 16 * MIB).unwrap();
    world.check();
    assert_eq!(world.tap.count(DriverCall::StreamWaitEvent), 1);
    assert_eq!(counts(&world, &[DeviceSynchronize, EventSynchronize]), 0);
    // The device refuses one, then free pages do.
    assert!(world.tap.count(HandleCreate) <= made + 1);
    assert_eq!(world.allocator.stats(D0).unwrap().num_adopted, 1);
    world.finish();
}

#[test]
fn all_that_is_free_can_be_joined_however_scattered_it_is() {
    for private in [false, true] {
        let mut world = World::plain(1240 * MIB, "reserve:lean");
        if private {
            world.begin(D0, P, Purpose::User, 0b0010);
        }
        let at: Vec<u64> = (0..620).map(|_| world.allocate(D0, A, 2 * MIB).unwrap()).collect();
        at.iter().step_by(2).for_each(|&at| world.free(at));
        world.allocate(D0, A, 620 * MIB).unwrap();
        world.check();
        world.finish();
    }
}

#[test]
fn what_may_not_change_streams_goes_back_to_the_device() {
    for cross_stream in ["cross_stream:off", "cross_stream:passed"] {
        let mut world = riddled(32 * MIB, cross_stream);
        world.allocate(D0, B, 16 * MIB).unwrap();
        world.check();
        assert_eq!(world.tap.count(DriverCall::StreamWaitEvent), 0);
        assert_eq!(world.tap.count(DriverCall::HandleRelease), 8, "{cross_stream}");
        world.finish();
    }
}

#[test]
fn pools_get_what_others_have_cached() {
    // From the default pool to a private one, and from one that nobody holds to the default one.
    for from_default in [true, false] {
        let mut world = World::plain(32 * MIB, "");
        let fill = |world: &mut World| {
            let at = [0; 16].map(|_| world.allocate(D0, A, 2 * MIB).unwrap());
            at.iter().step_by(2).for_each(|&at| world.free(at));
        };
        if from_default {
            fill(&mut world);
            world.begin(D0, P, Purpose::User, 0b0010);
            world.allocate(D0, A, 16 * MIB).unwrap();
        } else {
            world.begin(D0, P, Purpose::User, 0b0010);
            fill(&mut world);
            world.end(D0, P);
            // Held, its memory is its own.
            let result = world.allocate(D0, A, 16 * MIB);
            assert!(matches!(result, Err(AllocError::OutOfMemory(_))), "{result:?}");
            world.allocator.release_pool(D0, P).unwrap();
            world.allocate(D0, A, 16 * MIB).unwrap();
        }
        world.check();
        assert_eq!(world.tap.held(D0).bytes, 32 * MIB);
        world.finish();
    }
}

#[test]
fn a_pool_does_not_take_back_what_it_once_had() {
    let q = PoolId(2, 2);
    let mut world = World::plain(8 * MIB, "");
    world.begin(D0, q, Purpose::User, 0b0010);
    let at = world.allocate(D0, A, 8 * MIB).unwrap();
    world.end(D0, q);
    world.free(at);
    world.allocator.release_pool(D0, q).unwrap();
    // Another pool gets its pages, and keeps them while it is held.
    world.begin(D0, P, Purpose::User, 0b0010);
    let at = world.allocate(D0, A, 8 * MIB).unwrap();
    world.end(D0, P);
    world.free(at);
    world.begin(D0, q, Purpose::User, 0b0010);
    assert!(world.allocate(D0, A, 8 * MIB).is_err());
    world.end(D0, q);
    world.check();
    world.finish();
}

#[test]
fn the_pool_of_a_graph_grows_by_what_others_give_back() {
    let mut world = World::plain(20 * MIB, "reserve:lean");
    world.begin(D0, P, Purpose::Capture, 0b0010);
    let graph = [4, 2, 4].map(|size| (world.allocate(D0, A, size * MIB).unwrap(), size * MIB));
    world.end(D0, P);
    world.free(graph[0].0);
    world.free(graph[2].0);
    let other = world.allocate(D0, A, 10 * MIB).unwrap();
    world.free(other);
    world.begin(D0, P, Purpose::User, 0b0010);
    let pages = |world: &World| graph.map(|(at, bytes)| behind(&world.tap, D0, at, bytes));
    let before = pages(&world);
    world.allocate(D0, A, 10 * MIB).unwrap();
    assert_eq!(pages(&world), before, "a graph replays over it");
    world.finish();
}

#[test]
fn a_window_that_is_refused_in_a_capture_gives_nothing_back_inside_it() {
    for config in RESERVES {
        let mut world = World::plain(100 * MIB, config);
        world.begin(D0, P, Purpose::Capture, 0b0010);
        world.sim.begin_capture(D0, A).unwrap();
        let before = counts(&world, &FORBIDDEN);
        for size in [150, 101, 2] {
            let result = world.allocate(D0, A, size * MIB);
            assert_eq!(result.is_ok(), size == 2, "{size}: {result:?}");
            world.check();
        }
        assert_eq!(counts(&world, &FORBIDDEN), before);
        world.sim.end_capture(D0, A).unwrap();
        world.end(D0, P);
        // What was made in vain is there for others.
        world.allocate(D0, B, 90 * MIB).unwrap();
        world.check();
        // What was written in the capture was only noted down in the graph.
        for (at, block) in world.shadow.live.clone() {
            world.sim.stamp_write(D0, block.stream, at, block.size, block.tag).unwrap();
        }
        world.finish();
    }
}

/// A stream that allocates as it likes while another one is captured.
#[test]
fn nothing_is_unmapped_or_asked_while_another_stream_is_captured() {
    for seed in 0..20 {
        let mut random = numbers(seed);
        let mut world = World::plain(48 * MIB, RESERVES[seed as usize % 3]);
        let mut churn = |world: &mut World, steps| {
            for _ in 0..steps {
                let count = world.shadow.live.len() as u64;
                if count > 0 && random(2) == 0 {
                    let at = *world.shadow.live.keys().nth(random(count) as usize).unwrap();
                    world.free(at);
                } else {
                    let _ = world.allocate(D0, B, MIB + random(10) * MIB);
                }
            }
        };
        churn(&mut world, 60);
        // B has passed all of it: its ghosts could be taken away.
        world.allocator.stream_ends(D0, B).unwrap();
        world.begin(D0, P, Purpose::Capture, 0b0010);
        world.sim.begin_capture(D0, A).unwrap();
        let before = counts(&world, &FORBIDDEN);
        churn(&mut world, 60);
        assert_eq!(counts(&world, &FORBIDDEN), before, "seed {seed}");
        world.sim.end_capture(D0, A).unwrap();
        world.end(D0, P);
        churn(&mut world, 20);
        world.finish();
    }
}

#[test]
fn the_pages_of_a_graph_stay_where_they_are() {
    for seed in 0..10 {
        let mut random = numbers(seed);
        let mut world = World::plain(48 * MIB, RESERVES[seed as usize % 3]);
        world.begin(D0, P, Purpose::Capture, 0b0010);
        world.sim.begin_capture(D0, A).unwrap();
        let captured = [3, 5, 2].map(|size| {
            let at = world.allocate(D0, A, size * MIB).unwrap();
            (at, size * MIB)
        });
        captured.iter().for_each(|&(at, _)| world.free(at));
        world.sim.end_capture(D0, A).unwrap();
        world.end(D0, P);
        let pages = |world: &World| captured.map(|(at, bytes)| behind(&world.tap, D0, at, bytes));
        let before = pages(&world);
        for _ in 0..150 {
            let count = world.shadow.live.len() as u64;
            match random(16) {
                0 => drop(world.allocator.empty_cache(D0)),
                1 => world.synchronize(),
                2..=8 if count > 0 => {
                    let at = *world.shadow.live.keys().nth(random(count) as usize).unwrap();
                    world.free(at);
                }
                _ => {
                    let stream = [A, B, C][random(3) as usize];
                    let _ = world.allocate(D0, stream, 512 << random(16));
                }
            }
            assert_eq!(pages(&world), before, "seed {seed}");
            // A replay.
            for (at, bytes) in captured {
                world.sim.stamp_write(D0, C, at, bytes, 77).unwrap();
            }
        }
        world.free_all();
        world.allocator.release_pool(D0, P).unwrap();
        world.allocate(D0, B, 44 * MIB).unwrap();
        world.finish();
    }
}

#[test]
fn streams_share_the_addresses_that_there_are() {
    let sim = SimConfig::default().capacity(256 * MIB).addresses(4 << 30);
    let mut world = World::new(sim, Config::parse("reserve:lean").unwrap());
    for stream in 0..64 {
        world.allocate(D0, drystone_core::StreamId(0x100 + stream), 3 * MIB).unwrap();
    }
    world.check();
    world.finish();
}
