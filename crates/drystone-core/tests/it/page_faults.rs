//! Driver calls about pages that fail: whichever it is, nothing is lost, everything agrees, and
//! once calls succeed again so does the program.

use std::collections::BTreeSet;

use drystone_core::{AllocError, DriverCall, DriverErrorKind, PoolError};

use crate::common::ops::KINDS;
use crate::common::tap::Fault;
use crate::{A, B, C, D0, MIB, World};

const CAPACITY: u64 = 16 * MIB;

/// The calls that the program below makes, each at least once.
const MADE: [DriverCall; 13] = [
    DriverCall::DeviceMemory,
    DriverCall::AddressReserve,
    DriverCall::AddressFree,
    DriverCall::HandleCreate,
    DriverCall::HandleRelease,
    DriverCall::Map,
    DriverCall::SetAccess,
    DriverCall::Unmap,
    DriverCall::EventCreate,
    DriverCall::EventRecord,
    DriverCall::EventQuery,
    DriverCall::EventSynchronize,
    DriverCall::StreamWaitEvent,
];

/// Allocates where it may fail: then there is nothing at 0.
fn try_allocate(world: &mut World, stream: drystone_core::StreamId, mib: u64) -> u64 {
    let result = world.allocate(D0, stream, mib * MIB);
    if let Err(error) = &result {
        let typed = matches!(error, AllocError::OutOfMemory(_) | AllocError::Driver(_));
        assert!(typed && world.faulty, "{error}");
    }
    world.check();
    result.unwrap_or(0)
}

fn free(world: &mut World, at: u64) {
    if at != 0 {
        world.free(at);
    }
}

/// Fills the device, riddles it, and asks for more and more of it on other streams.
fn program(world: &mut World) {
    let small = [0; 8].map(|_| try_allocate(world, A, 2));
    small.iter().step_by(2).for_each(|&at| free(world, at));
    let joined = try_allocate(world, A, 8);
    small.iter().skip(1).step_by(2).for_each(|&at| free(world, at));
    let moved = try_allocate(world, B, 7);
    if joined != 0 {
        world.touch_on(joined, C);
        world.free(joined);
    }
    world.check();
    let waited = try_allocate(world, C, 8);
    free(world, moved);
    free(world, waited);
    // More than there is.
    assert!(world.allocate(D0, A, 17 * MIB).is_err());
    world.synchronize();
    let result = world.allocator.empty_cache(D0);
    assert!(result.is_ok() || world.faulty && matches!(result, Err(PoolError::Driver(_))));
    world.check();
    let again = try_allocate(world, B, 16);
    free(world, again);
    world.check();
}

/// Runs the program under a fault, and once more without one; how many calls it made.
fn run(config: &str, fault: Option<Fault>) -> (usize, u64) {
    let mut world = World::plain(CAPACITY, config);
    let before = world.tap.calls().len();
    world.faulty = fault.is_some();
    world.tap.set_fault(fault);
    program(&mut world);
    let made = world.tap.calls().len() - before;
    world.tap.set_fault(None);
    let failed = world.tap.failed();
    world.free_all();
    world.faulty = false;
    world.synchronize();
    world.allocator.empty_cache(D0).unwrap();
    assert_eq!(world.tap.held(D0).bytes, 0);
    program(&mut world);
    world.finish();
    (made, failed)
}

#[test]
fn the_program_makes_every_call() {
    let mut world = World::plain(CAPACITY, "");
    program(&mut world);
    let made: BTreeSet<_> = world.tap.calls().into_iter().collect();
    for call in MADE {
        assert!(made.contains(&call), "{call} is not among {made:?}");
    }
    world.finish();
}

#[test]
fn every_call_fails_once() {
    for config in ["", "reserve:lean"] {
        let (calls, _) = run(config, None);
        assert!(calls > 60, "{calls}");
        for n in 1..=calls as u64 {
            for kind in [DriverErrorKind::OutOfMemory, DriverErrorKind::Other] {
                assert_eq!(run(config, Some(Fault::Nth(n, kind))).1, 1, "call {n}");
            }
        }
    }
}

#[test]
fn all_calls_of_a_kind_fail() {
    for call in MADE {
        for kind in KINDS {
            for config in ["", "cross_stream:off"] {
                let (_, failed) = run(config, Some(Fault::Every(call, kind)));
                assert!(failed > 0 || !config.is_empty(), "{call}");
            }
        }
    }
}

#[test]
fn memory_that_cannot_be_given_back_is_still_there() {
    for call in [DriverCall::Unmap, DriverCall::HandleRelease, DriverCall::EventSynchronize] {
        let mut world = World::plain(64 * MIB, "");
        let at = [4, 8, 12].map(|mib| world.allocate(D0, A, mib * MIB).unwrap());
        at.iter().for_each(|&at| world.free(at));
        let held = world.tap.held(D0).bytes;
        world.faulty = true;
        world.tap.set_fault(Some(Fault::Every(call, DriverErrorKind::Other)));
        let error = world.allocator.empty_cache(D0).unwrap_err();
        assert!(matches!(&error, PoolError::Driver(error) if error.call == call), "{error}");
        assert_eq!(world.allocator.reserved_bytes(D0), Ok(held));
        world.check();
        world.tap.set_fault(None);
        if call != DriverCall::HandleRelease {
            // It is used again as if nobody had asked for it.
            let calls = world.tap.calls().len();
            let again = world.allocate(D0, A, 12 * MIB).unwrap();
            world.free(again);
            assert_eq!(world.tap.calls().len(), calls, "{call}");
        }
        world.synchronize();
        assert_eq!(world.allocator.empty_cache(D0), Ok(held), "{call}");
        assert_eq!(world.tap.held(D0).bytes, 0);
        world.finish();
    }
}

#[test]
fn a_fault_at_the_end_leaks_only_what_it_hits() {
    // What is left: handles, mappings, ranges of addresses, events.
    for (call, left) in [
        (DriverCall::Unmap, [1, 1, 1, 0]),
        (DriverCall::HandleRelease, [1, 0, 0, 0]),
        (DriverCall::AddressFree, [0, 0, 1, 0]),
        (DriverCall::EventDestroy, [0, 0, 0, 1]),
    ] {
        let mut world = World::plain(64 * MIB, "");
        let at = [A, B].map(|stream| world.allocate(D0, stream, 4 * MIB).unwrap());
        world.touch_on(at[0], C);
        world.free_all();
        world.synchronize();
        let World { allocator, sim, tap, .. } = world;
        let (mut seen, weak) = (0, std::sync::Arc::downgrade(&tap));
        tap.set_hook(Some(Box::new(move |this| {
            seen += u32::from(this == call);
            let tap = weak.upgrade().filter(|_| this == call && seen == 1);
            if let Some(tap) = tap {
                tap.set_fault(Some(Fault::Nth(1, DriverErrorKind::Other)));
            }
        })));
        drop(allocator);
        let report = sim.finish();
        assert_eq!(report.misuse_count, 0, "{report}");
        let leaks = [
            report.leaked_handles.len(),
            report.leaked_mappings.len(),
            report.leaked_ranges.len(),
            report.leaked_events.len(),
        ];
        assert_eq!(leaks, left, "{call}: {report}");
    }
}

/// The driver lets nobody use what it has mapped, and does not take the mapping away either.
#[test]
fn a_mapping_that_may_not_be_used_is_not_used() {
    let mut world = World::plain(CAPACITY, "reserve:lean");
    let small = [0; 8].map(|_| world.allocate(D0, A, 2 * MIB).unwrap());
    small.iter().step_by(2).for_each(|&at| world.free(at));
    let (mut left, tap) = (2, std::sync::Arc::downgrade(&world.tap));
    world.tap.set_hook(Some(Box::new(move |call| {
        let fails = matches!(call, DriverCall::SetAccess | DriverCall::Unmap) && left > 0;
        if let Some(tap) = tap.upgrade().filter(|_| fails) {
            left -= 1;
            tap.set_fault(Some(Fault::Nth(1, DriverErrorKind::Other)));
        }
    })));
    world.faulty = true;
    world.allocate(D0, A, 8 * MIB).unwrap_err();
    assert_eq!(world.tap.failed(), 2);
    world.tap.set_hook(None);
    world.check();
    for _ in 0..4 {
        let at = world.allocate(D0, A, 8 * MIB).unwrap();
        world.check();
        world.free(at);
    }
    world.finish();
}
