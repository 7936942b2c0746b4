//! Host spill: once the device has no more, large blocks lie in memory of the host, counted apart,
//! and it goes back as soon as they are free.

use drystone_core::{AllocError, Config, DriverCall, DriverErrorKind, PoolId, Purpose, Stat};
use drystone_sim::{Costs, SimConfig};
use proptest::prelude::*;

use crate::common::ops::{Op, decode};
use crate::common::tap::Fault;
use crate::{A, B, D0, KIB, MIB, World};

/// Bytes of the host that the device has given out; the allocator must know the same.
fn host(world: &World) -> u64 {
    let taken = world.sim.usage(D0).unwrap().host_taken;
    assert_eq!(world.allocator.stats(D0).unwrap().spilled_bytes.current, taken);
    taken
}

/// Whether an address lies in memory of the host.
fn is_spilled(world: &World, address: u64) -> bool {
    let segments = world.allocator.snapshot();
    let around = |at: u64, size: u64| at <= address && address < at + size;
    segments.iter().any(|segment| around(segment.address, segment.size) && segment.spilled)
}

fn is_out_of_memory(result: Result<u64, AllocError>) -> bool {
    matches!(result, Err(AllocError::OutOfMemory(_)))
}

/// A device of 16 MiB that is full, and its blocks.
fn full(config: &str) -> (World, Vec<u64>) {
    let mut world = World::plain(16 * MIB, config);
    world.faulty = true; // out of memory is checked here
    let at = (0..4).map(|_| world.allocate(D0, A, 4 * MIB).unwrap()).collect();
    (world, at)
}

#[test]
fn a_full_device_spills_up_to_the_limit() {
    let (mut world, at) = full("spill_limit:20MiB");
    let one = world.allocate(D0, A, 7 * MIB).unwrap();
    assert_eq!(host(&world), 8 * MIB);
    assert!(is_spilled(&world, one) && at.iter().all(|&at| !is_spilled(&world, at)));
    world.check();
    let two = world.allocate(D0, B, 11 * MIB).unwrap();
    assert_eq!(host(&world), 20 * MIB);
    assert!(is_spilled(&world, two));
    let error = match world.allocate(D0, A, 2 * MIB) {
        Err(AllocError::OutOfMemory(error)) => *error,
        other => panic!("{other:?}"),
    };
    assert_eq!((error.reserved, error.spilled, error.live), (16 * MIB, 18 * MIB, 34 * MIB));
    assert!(error.to_string().contains("live in memory of the host 18.00 MiB"), "{error}");
    assert_eq!(error.reserved_but_free(), 0);
    let stats = world.allocator.stats(D0).unwrap();
    let bytes = Stat { current: 20 * MIB, peak: 20 * MIB, allocated: 20 * MIB, freed: 0 };
    assert_eq!((stats.spilled_bytes, stats.num_spills), (bytes, 2));
    assert_eq!(world.allocator.reserved_bytes(D0), Ok(16 * MIB));
    world.check();
    world.touch(one);
    world.touch_on(two, A);
    world.finish();
}

#[test]
fn a_limit_on_the_device_s_memory_does_not_count_it() {
    let mut world = World::plain(64 * MIB, "limit:8MiB,spill_limit:1GiB");
    world.allocate(D0, A, 8 * MIB).unwrap();
    let spilled = world.allocate(D0, A, 30 * MIB).unwrap();
    assert!(is_spilled(&world, spilled));
    assert_eq!((host(&world), world.allocator.reserved_bytes(D0)), (30 * MIB, Ok(8 * MIB)));
    world.finish();
}

#[test]
fn only_large_requests_spill_and_only_where_it_is_configured() {
    for (config, size, spills) in [
        ("spill_limit:1GiB", MIB, false),
        ("spill_limit:1GiB", MIB + 1, true),
        ("spill_limit:2MiB", 3 * MIB, false),
        ("", 3 * MIB, false),
        ("backing:malloc,spill_limit:1GiB", 3 * MIB, false),
    ] {
        let (mut world, _) = full(config);
        let result = world.allocate(D0, A, size);
        assert_eq!(result.is_ok(), spills, "{config}: {size}");
        assert!(spills || is_out_of_memory(result));
        assert_eq!(host(&world) > 0, spills);
        world.finish();
    }
}

#[test]
fn what_the_device_has_comes_first() {
    // Free pages apart, pending blocks, and memory of another stream.
    let (mut world, at) = full("spill_limit:1GiB,reserve:lean");
    world.touch_on(at[2], B);
    [at[0], at[2]].into_iter().for_each(|at| world.free(at));
    let found = world.allocate(D0, A, 8 * MIB).unwrap();
    world.free(found);
    let found = world.allocate(D0, B, 8 * MIB).unwrap();
    assert_eq!((host(&world), is_spilled(&world, found)), (0, false));
    world.finish();
}

#[test]
fn it_goes_back_once_its_stream_has_passed() {
    let (mut world, _) = full("spill_limit:1GiB");
    let at = world.allocate(D0, A, 6 * MIB).unwrap();
    world.free(at);
    let slow_path = |world: &mut World| assert!(is_out_of_memory(world.allocate(D0, B, 512)));
    let waits = world.tap.count(DriverCall::EventSynchronize);
    slow_path(&mut world);
    assert_eq!(host(&world), 6 * MIB, "its stream has not passed");
    // Work that comes later keeps nothing.
    world.sim.advance(500_000);
    let other = *world.shadow.live.keys().next().unwrap();
    world.touch(other);
    world.sim.advance(600_000);
    slow_path(&mut world);
    assert_eq!(host(&world), 0);
    assert_eq!(world.tap.count(DriverCall::EventSynchronize), waits, "nobody waits for it");
    let stats = world.allocator.stats(D0).unwrap().spilled_bytes;
    assert_eq!((stats.peak, stats.freed), (6 * MIB, 6 * MIB));
    world.check();
    world.finish();
}

#[test]
fn recorded_streams_are_waited_for_too() {
    let (mut world, _) = full("spill_limit:1GiB");
    let at = world.allocate(D0, A, 6 * MIB).unwrap();
    world.touch_on(at, B);
    world.free(at);
    for ns in [0, 900_000, 300_000, 1_100_000] {
        world.sim.advance(ns);
        let _ = world.allocate(D0, B, 512);
        world.check();
    }
    assert_eq!(host(&world), 0);
    world.finish();
}

#[test]
fn used_again_it_is_waited_for_again() {
    let (mut world, _) = full("spill_limit:6MiB");
    let at = world.allocate(D0, A, 6 * MIB).unwrap();
    world.free(at);
    let _ = world.allocate(D0, B, 512); // it is seen to be free
    let again = world.allocate(D0, A, 6 * MIB).unwrap();
    assert_eq!(again, at, "in the order of its stream, without more of the host");
    world.sim.advance(1_100_000);
    world.touch(again);
    world.free(again);
    let _ = world.allocate(D0, B, 512);
    assert_eq!(host(&world), 6 * MIB, "its second use is still under way");
    world.sim.advance(1_100_000);
    let _ = world.allocate(D0, B, 512);
    assert_eq!(host(&world), 0);
    world.finish();
}

#[test]
fn emptying_the_cache_gives_it_back() {
    let (mut world, at) = full("spill_limit:1GiB");
    let spilled = world.allocate(D0, A, 6 * MIB).unwrap();
    world.free(spilled);
    world.free(at[0]);
    let before = world.allocator.reserved_bytes(D0).unwrap();
    let given = world.allocator.empty_cache(D0).unwrap();
    assert_eq!(world.allocator.reserved_bytes(D0), Ok(before - given));
    assert_eq!(host(&world), 0);
    world.check();
    world.finish();
}

#[test]
fn free_host_memory_serves_nothing_that_the_device_could() {
    let (mut world, at) = full("spill_limit:1GiB,reserve:lean");
    let spilled = world.allocate(D0, A, 6 * MIB).unwrap();
    world.free(spilled);
    world.free(at[1]);
    for size in [300 * KIB, 2 * MIB] {
        let at = world.allocate(D0, A, size).unwrap();
        assert!(!is_spilled(&world, at), "{size}");
    }
    world.check();
    world.finish();
}

#[test]
fn a_freed_block_moves_back_to_the_device() {
    let (mut world, at) = full("spill_limit:1GiB");
    let spilled = world.allocate(D0, A, 4 * MIB).unwrap();
    world.free(spilled);
    world.free(at[0]);
    let again = world.allocate(D0, A, 4 * MIB).unwrap();
    assert!(!is_spilled(&world, again));
    world.finish();
}

#[test]
fn captures_and_graphs_do_not_spill() {
    let pool = PoolId(1, 1);
    let (mut world, _) = full("spill_limit:1GiB");
    world.begin(D0, pool, Purpose::Capture, 0b0010);
    for stream in [A, B] {
        assert!(is_out_of_memory(world.allocate(D0, stream, 4 * MIB)));
    }
    world.end(D0, pool);
    // The pool belongs to the graph now.
    world.begin(D0, pool, Purpose::User, 0b0010);
    assert!(is_out_of_memory(world.allocate(D0, A, 4 * MIB)));
    world.allocate(D0, B, 4 * MIB).unwrap();
    world.end(D0, pool);
    world.finish();
}

#[test]
fn pools_spill_on_their_own() {
    let pool = PoolId(1, 1);
    let (mut world, _) = full("spill_limit:1GiB");
    world.begin(D0, pool, Purpose::User, 0b0010);
    let at = world.allocate(D0, A, 4 * MIB).unwrap();
    assert!(is_spilled(&world, at));
    world.free(at);
    world.end(D0, pool);
    let at = world.allocate(D0, A, 4 * MIB).unwrap();
    assert!(is_spilled(&world, at));
    world.check();
    world.finish();
}

#[test]
fn a_host_without_room_is_out_of_memory() {
    let config = || Config::parse("spill_limit:1GiB").unwrap();
    let sim = SimConfig::default().capacity(8 * MIB).host_capacity(4 * MIB);
    let mut world = World::new(sim, config());
    world.faulty = true;
    world.allocate(D0, A, 8 * MIB).unwrap();
    assert!(is_out_of_memory(world.allocate(D0, A, 6 * MIB)));
    world.check();
    assert_eq!(host(&world), 0);
    world.allocate(D0, A, 4 * MIB).unwrap();
    assert_eq!(host(&world), 4 * MIB);
    world.finish();
}

#[test]
fn pinned_host_memory_stays() {
    let (mut world, _) = full("spill_limit:1GiB");
    let at = world.allocate(D0, A, 4 * MIB).unwrap();
    world.allocator.pin(at).unwrap();
    world.free(at);
    world.synchronize();
    world.allocator.empty_cache(D0).unwrap();
    assert_eq!(host(&world), 4 * MIB);
    world.allocator.unpin(at).unwrap();
    world.allocator.empty_cache(D0).unwrap();
    assert_eq!(host(&world), 0);
    world.finish();
}

/// Spills, frees, and lets memory go back on both ways.
fn program(world: &mut World) -> Result<(), AllocError> {
    let spilled = [world.allocate(D0, A, 5 * MIB)?, world.allocate(D0, B, 7 * MIB)?];
    world.free(spilled[0]);
    let _ = world.allocate(D0, B, 512);
    world.sim.advance(1_100_000);
    let _ = world.allocate(D0, B, 512);
    let again = world.allocate(D0, A, 3 * MIB)?;
    world.touch_on(again, B);
    world.free(again);
    world.free(spilled[1]);
    world.allocator.empty_cache(D0).map(drop).or(Ok(()))
}

#[test]
fn every_fault_leaves_a_consistent_allocator() {
    for kind in
        [DriverErrorKind::Other, DriverErrorKind::OutOfMemory, DriverErrorKind::NotSupported]
    {
        let mut struck = 0;
        for n in 1..300 {
            let (mut world, _) = full("spill_limit:16MiB");
            let failed = world.tap.failed();
            world.tap.set_fault(Some(Fault::Nth(n, kind)));
            let result = program(&mut world);
            let fault = world.tap.failed() > failed;
            world.tap.set_fault(None);
            assert!(result.is_ok() || fault, "{result:?}");
            world.check();
            host(&world);
            struck += u32::from(fault);
            world.finish();
            if !fault {
                break;
            }
        }
        assert!(struck > 20, "{kind:?}: {struck}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Programs that need more than the device has, with faults or without.
    #[test]
    fn random_programs_spill_and_go_on(
        words in prop::collection::vec(any::<[u8; 6]>(), 1..150),
        spill in 1..16u64,
        one_in in prop::option::of(2..20u64),
        seed in any::<u64>(),
    ) {
        let sim = SimConfig::default().capacity(12 * MIB).host_capacity(24 * MIB).devices(2);
        let config = Config::parse(&format!("spill_limit:{}MiB", 2 * spill)).unwrap();
        let mut world = World::new(sim.costs(Costs::zero()), config);
        world.faulty = true;
        if let Some(one_in) = one_in {
            world.tap.set_fault(Some(Fault::OneIn(one_in, seed, DriverErrorKind::OutOfMemory)));
        }
        for (n, word) in words.into_iter().enumerate() {
            let op = decode(word);
            if !matches!(op, Op::OthersHold { .. }) {
                world.run(op);
            }
            if n % 4 == 0 {
                world.check();
                prop_assert!(host(&world) <= 2 * spill * MIB);
            }
        }
        world.finish();
    }
}
