//! Defragmentation on demand: what is free comes together, or goes back.

use drystone_core::{BlockState, Defragment, DriverCall, DriverErrorKind, PoolId, Purpose};
use proptest::prelude::*;

use crate::common::ops::{Op, decode};
use crate::common::tap::Fault;
use crate::common::{BACKINGS, over_both};
use crate::{A, B, C, D0, KIB, MIB, World};

use Defragment::{Gather, GiveBack};

/// Blocks of which every other one was freed.
fn holey(config: &str) -> (World, Vec<u64>) {
    let mut world = World::plain(256 * MIB, config);
    let at: Vec<u64> = (0..20).map(|_| world.allocate(D0, A, 6 * MIB).unwrap()).collect();
    let kept = at.iter().step_by(2).copied().collect();
    at.iter().skip(1).step_by(2).for_each(|&at| world.free(at));
    (world, kept)
}

/// The free runs of a stream, from the largest.
fn runs(world: &World, stream: drystone_core::StreamId) -> Vec<u64> {
    let segments = world.allocator.snapshot().into_iter();
    let blocks = segments.filter(|segment| segment.stream == stream).flat_map(|s| s.blocks);
    let free = blocks.filter(|block| block.state == BlockState::Inactive).map(|block| block.size);
    let mut free: Vec<u64> = free.collect();
    free.sort_unstable_by(|a, b| b.cmp(a));
    free
}

#[test]
fn free_handles_come_together() {
    let (mut world, kept) = holey("backing:vmm");
    let waits = world.tap.count(DriverCall::EventSynchronize);
    let reserved = world.allocator.reserved_bytes(D0).unwrap();
    let done = world.allocator.defragment(D0, Gather).unwrap();
    assert_eq!((done.largest_before, done.largest_after), (6 * MIB, 60 * MIB), "{done:?}");
    assert_eq!(done.given_back, 0);
    assert!((54 * MIB..=60 * MIB).contains(&done.gathered), "{done:?}");
    assert_eq!(world.allocator.reserved_bytes(D0), Ok(reserved));
    assert_eq!(world.tap.count(DriverCall::EventSynchronize), waits, "nothing is waited for");
    world.check();
    // A second time there is nothing to do.
    let calls = world.tap.calls().len();
    let again = world.allocator.defragment(D0, Gather).unwrap();
    assert_eq!((again.gathered, again.largest_after), (0, 60 * MIB));
    // And what is asked for then needs no call.
    world.allocate(D0, A, 60 * MIB).unwrap();
    assert_eq!(world.tap.calls().len(), calls);
    kept.into_iter().for_each(|at| world.touch(at));
    world.finish();
}

#[test]
fn each_stream_keeps_its_own() {
    let mut world = World::plain(256 * MIB, "backing:vmm");
    let mut freed = Vec::new();
    for stream in [A, B, C] {
        let at = (0..10).map(|_| world.allocate(D0, stream, 4 * MIB).unwrap());
        freed.extend(at.skip(1).step_by(2));
    }
    freed.into_iter().for_each(|at| world.free(at));
    let done = world.allocator.defragment(D0, Gather).unwrap();
    assert_eq!((done.largest_before, done.largest_after), (4 * MIB, 20 * MIB));
    for stream in [A, B, C] {
        assert_eq!(runs(&world, stream)[0], 20 * MIB);
    }
    world.finish();
}

#[test]
fn free_pages_of_small_blocks_come_too() {
    let mut world = World::plain(256 * MIB, "backing:vmm");
    let large: Vec<u64> = (0..6).map(|_| world.allocate(D0, A, 4 * MIB).unwrap()).collect();
    let small: Vec<u64> = (0..40).map(|_| world.allocate(D0, A, 512 * KIB).unwrap()).collect();
    small.iter().for_each(|&at| world.free(at));
    large.iter().step_by(2).for_each(|&at| world.free(at));
    let done = world.allocator.defragment(D0, Gather).unwrap();
    assert_eq!(done.largest_after, 32 * MIB, "{done:?}");
    world.check();
    // They go back to small blocks where those need them.
    for _ in 0..40 {
        world.allocate(D0, A, 512 * KIB).unwrap();
    }
    world.finish();
}

#[test]
fn pins_and_graphs_stay() {
    let (mut world, _) = holey("backing:vmm");
    let pool = PoolId(1, 1);
    world.begin(D0, pool, Purpose::Capture, 0b0100);
    assert_eq!(world.allocator.defragment(D0, Gather).unwrap().gathered, 0, "in a capture");
    let graph: Vec<u64> = (0..6).map(|_| world.allocate(D0, B, 4 * MIB).unwrap()).collect();
    world.end(D0, pool);
    graph.iter().for_each(|&at| world.free(at));
    let pinned = world.allocate(D0, A, 6 * MIB).unwrap();
    world.allocator.pin(pinned).unwrap();
    world.free(pinned);
    let held = |world: &World| {
        let segments = world.allocator.snapshot();
        let holds = |at: u64, bytes: u64| {
            segments.iter().any(|s| s.address <= at && at + bytes <= s.address + s.size)
        };
        graph.iter().all(|&at| holds(at, 4 * MIB)) && holds(pinned, 6 * MIB)
    };
    assert!(held(&world));
    let done = world.allocator.defragment(D0, Gather).unwrap();
    assert!((54 * MIB..=60 * MIB).contains(&done.largest_after), "{done:?}");
    assert!(held(&world));
    world.allocator.defragment(D0, GiveBack).unwrap();
    assert!(held(&world));
    world.allocator.unpin(pinned).unwrap();
    world.finish();
}

#[test]
fn free_memory_goes_back_once_nothing_waits_for_it() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, backing);
        let kept = world.allocate(D0, A, 8 * MIB).unwrap();
        let at = world.allocate(D0, A, 20 * MIB).unwrap();
        world.touch_on(at, B);
        world.free(at);
        assert_eq!(world.allocator.empty_cache(D0), Ok(0), "it is pending");
        let done = world.allocator.defragment(D0, GiveBack).unwrap();
        assert_eq!((done.given_back, done.gathered, done.largest_after), (20 * MIB, 0, 0));
        assert_eq!(world.allocator.reserved_bytes(D0), Ok(8 * MIB));
        world.touch(kept);
        world.finish();
    });
}

#[test]
fn segments_cannot_come_together_and_go_back() {
    let mut world = World::plain(64 * MIB, "backing:malloc");
    for size in [6, 8] {
        let at = world.allocate(D0, A, size * MIB).unwrap();
        world.free(at);
    }
    let reserved = world.allocator.reserved_bytes(D0).unwrap();
    let done = world.allocator.defragment(D0, Gather).unwrap();
    assert_eq!((done.given_back, done.gathered), (reserved, 0));
    world.finish();
}

#[test]
fn every_fault_leaves_a_consistent_allocator() {
    for what in [Gather, GiveBack] {
        let mut struck = 0;
        for n in 1..200 {
            let (mut world, kept) = holey("backing:vmm");
            world.touch_on(kept[0], B);
            world.free(kept[0]);
            world.faulty = true;
            let failed = world.tap.failed();
            world.tap.set_fault(Some(Fault::Nth(n, DriverErrorKind::Other)));
            let result = world.allocator.defragment(D0, what);
            let fault = world.tap.failed() > failed;
            world.tap.set_fault(None);
            assert!(result.is_ok() || fault, "{result:?}");
            struck += u32::from(fault);
            world.check();
            kept[1..].iter().for_each(|&at| world.touch(at));
            world.finish();
            if !fault {
                break;
            }
        }
        assert!(struck > 10, "{struck}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// After any program: nothing that is live moves, nothing is lost, and nothing is left to do.
    #[test]
    fn random_programs_go_on_after_it(
        config in prop::sample::select(vec!["", "reserve:lean", "reserve:fast"]),
        words in prop::collection::vec(any::<[u8; 6]>(), 10..120),
        every in 5..30usize,
    ) {
        let mut world = World::plain(48 * MIB, config);
        for (n, word) in words.into_iter().enumerate() {
            let op = decode(word);
            if !matches!(op, Op::History { .. }) {
                world.run(op);
            }
            if n % every == 0 {
                let what = if n % 3 == 0 { GiveBack } else { Gather };
                let done = world.allocator.defragment(D0, what).unwrap();
                prop_assert!(what == GiveBack || done.largest_after >= done.largest_before);
                prop_assert!(what == GiveBack || done.given_back == 0);
                let again = world.allocator.defragment(D0, what).unwrap();
                prop_assert_eq!((again.gathered, again.given_back), (0, 0));
                prop_assert_eq!(again.largest_after, done.largest_after);
                world.check();
            }
        }
        world.finish();
    }
}

#[test]
fn it_needs_a_device_that_there_is() {
    for backing in BACKINGS {
        let world = World::plain(64 * MIB, backing);
        assert!(world.allocator.defragment(crate::D1, Gather).is_err());
        let done = world.allocator.defragment(D0, Gather).unwrap();
        assert_eq!(done, drystone_core::Defragmented::default());
        world.finish();
    }
}
