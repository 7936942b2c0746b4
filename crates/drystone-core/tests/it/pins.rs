//! Pinned memory stays where it is, whatever else happens, until it is unpinned; and so does the
//! memory of captured graphs.

use std::collections::BTreeMap;

use drystone_core::{Allocator, Config, PointerError, PoolId, Purpose};
use drystone_sim::{SimConfig, SimDriver};
use proptest::prelude::*;

use crate::common::{BACKINGS, STREAMS, over_both};
use crate::{A, B, D0, KIB, MIB, World};

/// Whether all of a range is memory that the allocator holds, at these addresses.
fn is_held(world: &World, address: u64, bytes: u64) -> bool {
    let mut at = address;
    for segment in world.allocator.snapshot() {
        if segment.address <= at && at < segment.address + segment.size {
            at = segment.address + segment.size;
        }
    }
    at >= address + bytes
}

/// A full device in which two blocks apart are free, pinned or not.
fn squeezed(config: &str, pinned: bool) -> (World, [u64; 2]) {
    let mut world = World::plain(16 * MIB, config);
    let mut at = [4, 4, 4, 4].map(|size| world.allocate(D0, A, size * MIB).unwrap());
    at.sort_unstable();
    let freed = [at[0], at[2]];
    for at in freed {
        if pinned {
            world.allocator.pin(at).unwrap();
        }
        world.free(at);
    }
    world.faulty = true; // out of memory is checked here
    (world, freed)
}

#[test]
fn what_is_pinned_is_not_moved() {
    for (pinned, served) in [(false, true), (true, false)] {
        let (mut world, at) = squeezed("backing:vmm", pinned);
        let held = |world: &World| at.iter().all(|&at| is_held(world, at, 4 * MIB));
        let found = world.allocate(D0, A, 8 * MIB);
        assert_eq!(found.is_ok(), served);
        assert_eq!(held(&world), !served);
        // Nor by other streams, nor to the driver.
        assert!(world.allocate(D0, B, 8 * MIB).is_err());
        world.synchronize();
        assert_eq!(world.allocator.empty_cache(D0), Ok(0));
        assert_eq!(held(&world), !served);
        if pinned {
            at.iter().for_each(|&at| world.allocator.unpin(at).unwrap());
            world.allocate(D0, A, 8 * MIB).unwrap();
            assert!(!held(&world));
        }
        world.finish();
    }
}

#[test]
fn what_is_pinned_is_not_given_back() {
    for config in BACKINGS {
        let mut world = World::plain(16 * MIB, config);
        let at = world.allocate(D0, A, 4 * MIB).unwrap();
        world.allocator.pin(at).unwrap();
        world.free(at);
        world.synchronize();
        assert_eq!(world.allocator.empty_cache(D0), Ok(0), "{config}");
        assert!(is_held(&world, at, 4 * MIB));
        world.allocator.unpin(at).unwrap();
        assert_eq!(world.allocator.empty_cache(D0), Ok(4 * MIB), "{config}");
        assert!(!is_held(&world, at, 4 * MIB));
        world.finish();
    }
}

#[test]
fn what_is_free_under_a_pin_is_used_in_place() {
    over_both(|backing| {
        let (mut world, at) = squeezed(backing, true);
        let again = world.allocate(D0, A, 4 * MIB).unwrap();
        assert!(at.contains(&again));
        world.free(again);
        let part = world.allocate(D0, A, 3 * MIB).unwrap();
        assert!(at.iter().any(|&at| (at..at + 4 * MIB).contains(&part)));
        at.iter().for_each(|&at| world.allocator.unpin(at).unwrap());
        world.finish();
    });
}

#[test]
fn a_pinned_segment_stays_with_its_heap() {
    for (pinned, adopted) in [(false, 1), (true, 0)] {
        let mut world = World::plain(8 * MIB, "backing:malloc");
        let at = world.allocate(D0, A, 8 * MIB).unwrap();
        if pinned {
            world.allocator.pin(at).unwrap();
        }
        world.free(at);
        world.synchronize();
        world.faulty = true;
        // To another stream it is lent at most.
        let other = world.allocate(D0, B, 7 * MIB).unwrap();
        let stats = world.allocator.stats(D0).unwrap();
        assert_eq!((stats.num_adopted, stats.num_borrowed), (adopted, 1 - adopted));
        world.free(other);
        if pinned {
            world.allocator.unpin(at).unwrap();
        }
        world.finish();
    }
}

#[test]
fn a_page_is_pinned_by_all_that_lies_on_it() {
    let mut world = World::plain(16 * MIB, "backing:vmm");
    let small = [0; 4].map(|_| world.allocate(D0, A, 512 * KIB).unwrap());
    small.iter().for_each(|&at| world.allocator.pin(at).unwrap());
    small.iter().for_each(|&at| world.free(at));
    for at in small {
        world.synchronize();
        assert_eq!(world.allocator.empty_cache(D0), Ok(0));
        assert!(is_held(&world, small[0], 2 * MIB));
        world.allocator.unpin(at).unwrap();
    }
    assert!(world.allocator.empty_cache(D0).unwrap() >= 2 * MIB);
    world.finish();
}

#[test]
fn pins_are_counted_and_unknown_ones_are_errors() {
    for config in BACKINGS {
        let mut world = World::plain(16 * MIB, config);
        let at = world.allocate(D0, A, 3 * MIB).unwrap();
        let not_pinned = |pointer| Err(PointerError::NotPinned { pointer });
        assert_eq!(world.allocator.unpin(at), not_pinned(at));
        world.allocator.pin(at).unwrap();
        world.allocator.pin(at).unwrap();
        let inside = at + 512;
        assert_eq!(world.allocator.pin(inside), {
            Err(PointerError::Interior { pointer: inside, block: at })
        });
        assert_eq!(world.allocator.unpin(inside), not_pinned(inside));
        assert_eq!(world.allocator.unpin(at + 1), not_pinned(at + 1));
        world.allocator.unpin(at).unwrap();
        world.free(at);
        world.synchronize();
        assert_eq!(world.allocator.pin(at), Err(PointerError::DoubleFree { pointer: at }));
        assert_eq!(world.allocator.empty_cache(D0), Ok(0));
        world.allocator.unpin(at).unwrap();
        assert_eq!(world.allocator.unpin(at), not_pinned(at));
        for pointer in [1, u64::MAX, 1 << 47] {
            let foreign = Err(PointerError::Foreign { pointer });
            assert_eq!(world.allocator.pin(pointer), foreign);
            assert_eq!(world.allocator.unpin(pointer), foreign);
        }
        assert_eq!((world.allocator.pin(0), world.allocator.unpin(0)), (Ok(()), Ok(())));
        world.finish();
    }
}

#[test]
fn a_larger_block_at_a_pinned_address_is_pinned_as_a_whole() {
    let mut world = World::plain(16 * MIB, "backing:vmm");
    let whole = world.allocate(D0, A, 8 * MIB).unwrap();
    world.free(whole);
    let part = world.allocate(D0, A, 2 * MIB).unwrap();
    world.allocator.pin(part).unwrap();
    world.free(part);
    let again = world.allocate(D0, A, 8 * MIB).unwrap();
    assert_eq!((whole, part), (again, again));
    world.allocator.pin(again).unwrap();
    world.free(again);
    world.allocator.unpin(again).unwrap();
    world.synchronize();
    assert_eq!(world.allocator.empty_cache(D0), Ok(0));
    world.allocator.unpin(again).unwrap();
    assert_eq!(world.allocator.empty_cache(D0), Ok(8 * MIB));
    world.finish();
}

#[test]
fn what_is_pinned_at_the_end_stays_with_the_device() {
    for config in BACKINGS {
        let sim = std::sync::Arc::new(SimDriver::new(SimConfig::default()).unwrap());
        let config = Config::parse(config).unwrap();
        let allocator = Allocator::new(std::sync::Arc::clone(&sim), config).unwrap();
        let at = [4, 32].map(|size| allocator.allocate(size * MIB, D0, A).unwrap());
        allocator.pin(at[0]).unwrap();
        at.iter().for_each(|&at| allocator.free(at).unwrap());
        drop(allocator);
        let taken = sim.usage(D0).unwrap().taken;
        assert!((4 * MIB..36 * MIB).contains(&taken), "{taken}");
        assert_eq!(sim.finish().misuse_count, 0);
    }
}

/// The memory that a graph was captured over, with a live block beside it.
fn captured(pool: PoolId) -> (World, Vec<(u64, u64)>) {
    let mut world = World::plain(32 * MIB, "backing:vmm");
    world.faulty = true; // out of memory is what it is about
    // The pool has memory, and ghosts, from before the capture.
    world.begin(D0, pool, Purpose::User, 0b0010);
    let early = [2, 2, 2].map(|size| world.allocate(D0, A, size * MIB).unwrap());
    world.free(early[0]);
    world.free(early[2]);
    let moved = world.allocate(D0, A, 4 * MIB).unwrap();
    world.free(moved);
    world.end(D0, pool);
    world.begin(D0, pool, Purpose::Capture, 0b0010);
    world.sim.begin_capture(D0, A).unwrap();
    let at = [(3, MIB), (5, MIB), (300, KIB)].map(|(count, unit)| {
        let bytes = count * unit;
        (world.allocate(D0, A, bytes).unwrap(), bytes)
    });
    world.sim.end_capture(D0, A).unwrap();
    world.end(D0, pool);
    // What was written in the capture was only noted down in the graph.
    for (at, bytes) in at {
        world.sim.stamp_write(D0, A, at, bytes, world.shadow.live[&at].tag).unwrap();
        world.free(at);
    }
    (world, at.to_vec())
}

#[test]
fn no_path_takes_the_memory_of_a_graph() {
    let pool = PoolId(1, 1);
    let (mut world, graph) = captured(pool);
    let stays = |world: &World, what: &str| {
        world.allocator.check_invariants().unwrap();
        for &(at, bytes) in &graph {
            assert!(is_held(world, at, bytes), "{what}: {at:#x} of the graph is gone");
        }
    };
    stays(&world, "frees");
    // Windows for this stream and for others, with and without pressure, in the pool and outside.
    for size in [1, 3, 6, 7, 12, 20, 31] {
        for stream in [A, B] {
            let _ = world.allocate(D0, stream, size * MIB);
            stays(&world, "a request");
        }
        world.begin(D0, pool, Purpose::User, 0b0110);
        for stream in [A, B] {
            let _ = world.allocate(D0, stream, size * MIB);
            stays(&world, "a request in the pool");
        }
        world.end(D0, pool);
        world.free_all();
        world.synchronize();
        stays(&world, "waiting");
    }
    world.allocator.empty_cache(D0).unwrap();
    stays(&world, "emptying the cache");
    // The pool was begun eight times, and the last hold keeps all.
    while world.allocator.pool_use_count(D0, pool) != Some(1) {
        world.allocator.release_pool(D0, pool).unwrap();
    }
    world.allocator.empty_cache(D0).unwrap();
    stays(&world, "all holds but one");
    world.allocator.release_pool(D0, pool).unwrap();
    assert!(world.allocator.empty_cache(D0).unwrap() > 0);
    world.finish();
}

/// A step of a random program; numbers pick among what there is.
#[derive(Clone, Copy, Debug)]
enum Step {
    Allocate { stream: usize, size: u64 },
    Free(usize),
    Record { which: usize, stream: usize },
    Pin(usize),
    Unpin(usize),
    Empty,
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![
        2 => 1..600 * KIB,
        4 => MIB..6 * MIB,
        1 => 6 * MIB..14 * MIB,
    ];
    prop_oneof![
        8 => (0..4usize, size).prop_map(|(stream, size)| Step::Allocate { stream, size }),
        5 => any::<usize>().prop_map(Step::Free),
        1 => (any::<usize>(), 0..4usize).prop_map(|(which, stream)| Step::Record { which, stream }),
        3 => any::<usize>().prop_map(Step::Pin),
        2 => any::<usize>().prop_map(Step::Unpin),
        1 => Just(Step::Empty),
        1 => (0..3_000_000u64).prop_map(Step::Advance),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever a program does under pressure, what it pinned stays where it is.
    #[test]
    fn random_programs_leave_what_is_pinned(
        config in prop::sample::select(vec!["", "reserve:lean", "reserve:fast", "backing:malloc"]),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut world = World::plain(24 * MIB, config);
        world.faulty = true; // with pins, out of memory is not held to be exact
        let mut pins: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let pick = |world: &World, which: usize| {
            let count = world.shadow.live.len();
            (count > 0).then(|| *world.shadow.live.keys().nth(which % count).unwrap())
        };
        for step in steps {
            match step {
                Step::Allocate { stream, size } => {
                    let _ = world.allocate(D0, STREAMS[stream], size);
                }
                Step::Free(which) => {
                    pick(&world, which).into_iter().for_each(|at| world.free(at));
                }
                Step::Record { which, stream } => {
                    let at = pick(&world, which);
                    at.into_iter().for_each(|at| world.touch_on(at, STREAMS[stream]));
                }
                Step::Pin(which) => {
                    if let Some(at) = pick(&world, which) {
                        world.allocator.pin(at).unwrap();
                        pins.entry(at).or_default().push(world.shadow.live[&at].size);
                    }
                }
                Step::Unpin(which) => {
                    if !pins.is_empty() {
                        let at = *pins.keys().nth(which % pins.len()).unwrap();
                        world.allocator.unpin(at).unwrap();
                        let sizes = pins.get_mut(&at).unwrap();
                        // The largest of an address stays to the last.
                        sizes.sort_unstable_by(|a, b| b.cmp(a));
                        sizes.pop();
                        pins.retain(|_, sizes| !sizes.is_empty());
                    }
                }
                Step::Empty => drop(world.allocator.empty_cache(D0).unwrap()),
                Step::Advance(ns) => world.sim.advance(ns),
            }
            for (&at, sizes) in &pins {
                prop_assert!(is_held(&world, at, sizes.iter().copied().max().unwrap()), "{:#x}", at);
            }
            world.allocator.check_invariants().unwrap();
        }
        for (at, sizes) in pins {
            sizes.iter().for_each(|_| world.allocator.unpin(at).unwrap());
        }
        world.finish();
    }
}
