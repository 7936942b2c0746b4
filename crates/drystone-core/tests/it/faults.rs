//! A driver call that fails at any point leaves a consistent allocator that can go on.

use drystone_core::{AllocError, Config, DriverCall, DriverErrorKind, PoolError};
use drystone_sim::{Costs, SimConfig};
use proptest::prelude::*;

use crate::common::ops::{Op, decode};
use crate::common::tap::Fault;
use crate::common::{BACKINGS, over_both};
use crate::{A, B, C, D0, MIB, World};

/// A fixed random program for two small devices.
fn program(seed: u64) -> Vec<Op> {
    let mut state = seed;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (state >> 33) as u32
    };
    (0..90)
        .map(|_| {
            let ([a, b, c, d], [e, f, ..]) = (word().to_le_bytes(), word().to_le_bytes());
            decode([a, b, c, d, e, f])
        })
        .collect()
}

fn world(config: &str) -> World {
    let sim = SimConfig::default().capacity(24 * MIB).devices(2).costs(Costs::zero());
    World::new(sim.scatter(3), Config::parse(config).unwrap())
}

/// Runs a program with one fault; how many calls the allocator made, and whether the fault struck.
fn run(config: &str, ops: &[Op], fault: Option<Fault>) -> (usize, bool) {
    let mut world = world(config);
    let before = world.tap.calls().len();
    world.faulty = fault.is_some();
    world.tap.set_fault(fault);
    let mut struck = false;
    for &op in ops {
        world.run(op);
        if !struck && world.tap.failed() > 0 {
            struck = true;
            world.allocator.check_invariants().unwrap();
        }
    }
    let calls = world.tap.calls().len() - before;
    world.finish();
    (calls, struck)
}

fn every_call_fails_once(config: &str, seed: u64) {
    let ops = program(seed);
    let (calls, _) = run(config, &ops, None);
    assert!(calls > 50, "a program that asks the driver only {calls} times");
    for n in 1..=calls as u64 {
        for kind in [DriverErrorKind::OutOfMemory, DriverErrorKind::Other] {
            let (_, struck) = run(config, &ops, Some(Fault::Nth(n, kind)));
            assert!(struck, "call {n} of {calls} was not made");
        }
    }
}

#[test]
fn every_call_of_a_plain_program_fails_once() {
    over_both(|backing| every_call_fails_once(backing, 1));
}

#[test]
fn every_call_of_a_program_with_split_limit_and_collection_fails_once() {
    let config = "max_split_size_mb:20,garbage_collection_threshold:0.4,limit:22MiB";
    over_both(|backing| every_call_fails_once(&format!("{backing},{config}"), 4));
}

#[test]
fn every_call_without_cross_stream_fails_once() {
    let config = "cross_stream:off,history:16";
    over_both(|backing| every_call_fails_once(&format!("{backing},{config}"), 3));
}

/// A program in which each step of the slow path is taken, with what it costs in calls.
fn tight(world: &mut World) -> Result<(), AllocError> {
    let a = world.allocate(D0, A, 8 * MIB)?;
    let b = world.allocate(D0, B, 8 * MIB)?;
    world.touch_on(a, C);
    world.free(a);
    world.allocate(D0, B, 6 * MIB)?;
    world.free(b);
    world.allocate(D0, C, 7 * MIB)?;
    world.allocate(D0, A, 3 * MIB / 2)?;
    Ok(())
}

#[test]
fn a_tight_program_survives_every_fault() {
    let mut calls = 0;
    let mut kinds_seen = std::collections::BTreeSet::new();
    for n in 0..60 {
        let mut world = World::plain(17 * MIB, "backing:malloc");
        if n > 0 {
            world.faulty = true;
            world.tap.set_fault(Some(Fault::Nth(n, DriverErrorKind::Other)));
        }
        let before = world.tap.calls().len();
        let result = tight(&mut world);
        if n == 0 {
            result.unwrap();
            calls = world.tap.calls().len() - before;
            kinds_seen.extend(world.tap.calls());
        } else if let Err(error) = result {
            assert!(matches!(error, AllocError::Driver(_) | AllocError::OutOfMemory(_)), "{error}");
        }
        world.check();
        world.finish();
    }
    assert!(calls > 6, "{calls}");
    assert!(kinds_seen.contains(&DriverCall::StreamWaitEvent), "{kinds_seen:?}");
}

#[test]
fn a_refused_release_puts_everything_back() {
    for call in [DriverCall::DeviceSynchronize, DriverCall::SegmentFree] {
        let mut world = World::plain(64 * MIB, "backing:malloc");
        for size in [4, 8, 12] {
            let at = world.allocate(D0, A, size * MIB).unwrap();
            world.free(at);
        }
        let held = world.tap.held(D0).bytes;
        world.tap.set_fault(Some(Fault::Every(call, DriverErrorKind::Other)));
        let error = world.allocator.empty_cache(D0).unwrap_err();
        assert!(matches!(&error, PoolError::Driver(error) if error.call == call), "{error}");
        assert_eq!(world.allocator.reserved_bytes(D0), Ok(held));
        world.check();
        // The memory is usable again without a call.
        let before = world.tap.calls().len();
        world.allocate(D0, A, 4 * MIB).unwrap();
        assert_eq!(world.tap.calls().len(), before);
        world.finish();
    }
}

#[test]
fn without_figures_out_of_memory_is_still_that() {
    over_both(|backing| {
        let mut world = World::plain(8 * MIB, backing);
        world.faulty = true;
        let fault = Fault::Every(DriverCall::DeviceMemory, DriverErrorKind::Other);
        world.tap.set_fault(Some(fault));
        let error = world.allocate(D0, A, 16 * MIB).unwrap_err();
        let AllocError::OutOfMemory(error) = error else { panic!("{error}") };
        assert_eq!((error.device_free, error.device_total, error.asked), (0, 0, 16 * MIB));
        world.finish();
    });
}

#[test]
fn a_fault_at_the_end_leaks_only_what_it_hits() {
    let leaks = |call| {
        let mut world = World::plain(64 * MIB, "backing:malloc");
        let at = [A, B].map(|stream| world.allocate(D0, stream, 4 * MIB).unwrap());
        // Outstanding events of two streams.
        world.touch_on(at[0], C);
        world.touch_on(at[1], A);
        world.free_all();
        world.allocate(D0, A, 512).unwrap();
        world.allocate(D0, B, 512).unwrap();
        world.free_all();
        let World { allocator, sim, tap, .. } = world;
        let nth = |wanted: DriverCall| {
            let mut seen = 0;
            let tap = std::sync::Arc::downgrade(&tap);
            move |call: DriverCall| {
                seen += u32::from(call == wanted);
                if call == wanted
                    && seen == 1
                    && let Some(tap) = tap.upgrade()
                {
                    tap.set_fault(Some(Fault::Nth(1, DriverErrorKind::Other)));
                }
            }
        };
        tap.set_hook(Some(Box::new(nth(call))));
        drop(allocator);
        let report = sim.finish();
        assert_eq!(report.misuse_count, 0, "{report}");
        (report.leaked_segments.len(), report.leaked_events.len())
    };
    assert_eq!(leaks(DriverCall::EventDestroy), (0, 1));
    let (_, events) = leaks(DriverCall::EventSynchronize);
    assert_eq!(events, 0);
    let (segments, events) = leaks(DriverCall::DeviceSynchronize);
    assert!(segments > 0, "nothing may be given back that was not waited for");
    assert_eq!(events, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Faults of all kinds at random, often.
    #[test]
    fn random_faults_leave_a_consistent_allocator(
        backing in prop::sample::select(&BACKINGS),
        words in prop::collection::vec(any::<[u8; 6]>(), 1..120),
        one_in in 1..12u64,
        seed in any::<u64>(),
        kind in prop::sample::select(&crate::common::ops::KINDS),
        every in prop::option::of(prop::sample::select(&DriverCall::ALL)),
    ) {
        let mut world = world(backing);
        world.faulty = true;
        world.tap.set_fault(Some(match every {
            Some(call) => Fault::Every(call, kind),
            None => Fault::OneIn(one_in, seed, kind),
        }));
        for (n, word) in words.into_iter().enumerate() {
            world.run(decode(word));
            if n % 8 == 0 {
                world.allocator.check_invariants().unwrap();
            }
        }
        world.finish();
    }
}
