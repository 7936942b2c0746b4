//! Streams: what another stream still uses is not reused, and finding out costs little.

use drystone_core::{BlockState, DriverCall, StreamId};

use crate::common::over_both;
use crate::{A, B, C, D0, KIB, MIB, World};

fn calls(world: &World, call: DriverCall) -> usize {
    world.tap.count(call)
}

#[test]
fn a_recorded_block_waits_for_the_other_stream() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, backing);
        let at = world.allocate(D0, A, 2 * MIB).unwrap();
        world.touch_on(at, B);
        world.free(at);
        let other = world.allocate(D0, A, 2 * MIB).unwrap();
        assert_ne!(other, at, "B may still be using it");
        let state = |world: &World| {
            let segments = world.allocator.snapshot();
            let mut blocks = segments.iter().flat_map(|segment| &segment.blocks);
            blocks.find(|block| block.address == at).unwrap().state
        };
        assert_eq!(state(&world), BlockState::ActivePendingFree);
        // B's work takes a millisecond.
        world.sim.advance(2_000_000);
        assert_eq!(world.allocate(D0, A, 2 * MIB), Ok(at));
        assert_eq!(calls(&world, DriverCall::EventSynchronize), 0, "the host has not waited");
        world.finish();
    });
}

#[test]
fn a_block_comes_back_at_the_first_request_after_its_stream() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, backing);
        for _ in 0..20 {
            let at = world.allocate(D0, A, KIB).unwrap();
            world.touch_on(at, B);
            world.free(at);
            let early = world.allocate(D0, A, KIB).unwrap();
            assert_ne!(early, at, "B may still be using it");
            world.sim.advance(2_000_000);
            assert_eq!(world.allocate(D0, A, KIB), Ok(at));
            world.free(early);
            world.free(at);
        }
        world.finish();
    });
}

#[test]
fn a_thousand_recorded_blocks_cost_one_event_per_stream() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, backing);
        let at: Vec<u64> = (0..1000).map(|_| world.allocate(D0, A, KIB).unwrap()).collect();
        for &at in &at {
            world.touch_on(at, B);
            world.allocator.record_stream(at, C).unwrap();
        }
        let before = world.tap.calls().len();
        at.iter().for_each(|&at| world.free(at));
        assert_eq!(world.tap.calls().len(), before, "a free calls nobody");
        // While B lags it is asked now and then, about the same event.
        for _ in 0..40 {
            world.allocate(D0, A, KIB).unwrap();
        }
        assert_eq!(calls(&world, DriverCall::EventRecord), 2);
        world.sim.advance(2_000_000);
        for _ in 0..20 {
            world.allocate(D0, A, KIB).unwrap();
        }
        assert_eq!(calls(&world, DriverCall::EventRecord), 2);
        assert!(calls(&world, DriverCall::EventQuery) <= 18);
        world.finish();
    });
}

#[test]
fn while_streams_lag_events_stay_few() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, backing);
        for _ in 0..400 {
            let at = world.allocate(D0, A, KIB).unwrap();
            world.touch_on(at, B);
            world.free(at);
        }
        let records = calls(&world, DriverCall::EventRecord);
        assert!(records <= 400 / 4, "{records} events for 400 frees");
        world.finish();
    });
}

#[test]
fn a_program_on_one_stream_needs_no_event() {
    over_both(|backing| {
        let mut world = World::plain(16 * MIB, backing);
        for round in 0..50u64 {
            let at = [1, 700 * KIB, 3 * MIB, 9 * MIB - round % 3 * MIB]
                .map(|size| world.allocate(D0, A, size).unwrap());
            world.allocator.record_stream(at[0], A).unwrap();
            at.iter().for_each(|&at| world.free(at));
        }
        for call in [
            DriverCall::EventCreate,
            DriverCall::EventRecord,
            DriverCall::EventQuery,
            DriverCall::StreamWaitEvent,
            DriverCall::EventSynchronize,
        ] {
            assert_eq!(calls(&world, call), 0, "{call}");
        }
        world.finish();
    });
}

#[test]
fn a_stream_that_has_passed_hands_its_segment_on_without_a_wait() {
    let mut world = World::plain(64 * MIB, "backing:malloc");
    let at = world.allocate(D0, A, 4 * MIB).unwrap();
    world.free(at);
    world.sim.advance(2_000_000);
    assert_eq!(world.allocate(D0, B, 4 * MIB), Ok(at));
    for call in
        [DriverCall::StreamWaitEvent, DriverCall::EventSynchronize, DriverCall::DeviceSynchronize]
    {
        assert_eq!(calls(&world, call), 0, "{call}");
    }
    assert_eq!(world.allocator.stats(D0).unwrap().num_adopted, 1);
    assert_eq!(calls(&world, DriverCall::SegmentAlloc), 1);
    world.finish();
}

#[test]
fn a_stream_that_lags_keeps_its_segment_while_there_is_room() {
    let mut world = World::plain(64 * MIB, "backing:malloc,slack:100");
    let at = world.allocate(D0, A, 4 * MIB).unwrap();
    world.free(at);
    assert_ne!(world.allocate(D0, B, 4 * MIB), Ok(at));
    assert_eq!(calls(&world, DriverCall::SegmentAlloc), 2);
    world.finish();
}

#[test]
fn under_pressure_the_gpu_waits_and_not_the_host() {
    let mut world = World::plain(8 * MIB, "backing:malloc,slack:100");
    let whole = world.allocate(D0, A, 8 * MIB).unwrap();
    world.free(whole);
    // The whole segment changes hands,
    assert_eq!(world.allocate(D0, B, 8 * MIB), Ok(whole));
    assert_eq!(calls(&world, DriverCall::StreamWaitEvent), 1);
    world.free(whole);
    let kept = world.allocate(D0, B, 2 * MIB).unwrap();
    // and here a part of it is lent.
    let lent = world.allocate(D0, C, 4 * MIB).unwrap();
    assert_eq!(calls(&world, DriverCall::StreamWaitEvent), 2);
    assert!(kept < lent && lent < kept + 8 * MIB);
    let stats = world.allocator.stats(D0).unwrap();
    assert_eq!((stats.num_adopted, stats.num_borrowed), (1, 1));
    // It comes back to B when C has passed, and only then.
    world.free(lent);
    world.allocator.block_info(lent).unwrap_err();
    for call in [DriverCall::EventSynchronize, DriverCall::DeviceSynchronize] {
        assert_eq!(calls(&world, call), 0, "{call}");
    }
    let again = world.allocate(D0, B, 5 * MIB).unwrap();
    assert_eq!(again, lent);
    assert_eq!(calls(&world, DriverCall::EventSynchronize), 1, "C lagged, so the host waited");
    world.finish();
}

#[test]
fn what_waiting_frees_in_another_heap_can_be_lent() {
    let mut world = World::plain(8 * MIB, "backing:malloc");
    let kept = world.allocate(D0, A, 2 * MIB).unwrap();
    let at = world.allocate(D0, A, 6 * MIB);
    assert!(at.is_err() || at.is_ok_and(|at| at != kept));
    world.free_all();
    let whole = world.allocate(D0, A, 8 * MIB).unwrap();
    world.free(whole);
    let parts = [2 * MIB, 5 * MIB].map(|size| world.allocate(D0, A, size).unwrap());
    world.touch_on(parts[1], C);
    world.free(parts[1]);
    // Pending in A's segment, which is not idle: B must get it all the same.
    assert_eq!(world.allocate(D0, B, 5 * MIB), Ok(parts[1]));
    world.finish();
}

#[test]
fn cross_stream_settings_are_kept() {
    // Off: never; passed: only what the host knows to have passed.
    for (config, lags, handed_on) in [
        ("cross_stream:off", false, false),
        ("cross_stream:passed", false, true),
        ("cross_stream:passed", true, false),
    ] {
        let mut world = World::plain(8 * MIB, &format!("backing:malloc,{config}"));
        let at = world.allocate(D0, A, 6 * MIB).unwrap();
        world.free(at);
        world.sim.advance(if lags { 0 } else { 2_000_000 });
        // If it is not handed on, it goes back to the device and is taken anew.
        world.allocate(D0, B, 6 * MIB).unwrap();
        let frees = calls(&world, DriverCall::SegmentFree);
        assert_eq!(frees == 0, handed_on, "{config}, lags: {lags}");
        assert_eq!(calls(&world, DriverCall::StreamWaitEvent), 0);
        world.finish();
    }
}

#[test]
fn a_borrowed_block_is_freed_by_its_borrower() {
    let mut world = World::plain(4 * MIB, "backing:malloc");
    let whole = world.allocate(D0, A, 4 * MIB).unwrap();
    world.free(whole);
    world.allocate(D0, A, 3 * MIB / 2).unwrap();
    let lent = world.allocate(D0, B, 3 * MIB / 2).unwrap();
    assert_eq!(world.allocator.stats(D0).unwrap().num_borrowed, 1);
    world.allocator.free_on(lent, D0, C).unwrap_err();
    world.free(lent);
    world.finish();
}

#[test]
fn hundreds_of_streams_have_heaps_of_their_own() {
    over_both(|backing| {
        let mut world = World::plain(1 << 30, &format!("{backing},cross_stream:off"));
        let streams: Vec<StreamId> = (0..300).map(|n| StreamId(0x5000 + n * 0x40)).collect();
        let at: Vec<u64> =
            streams.iter().map(|&stream| world.allocate(D0, stream, KIB).unwrap()).collect();
        assert_eq!(world.allocator.snapshot().len(), 300);
        at.iter().for_each(|&at| world.free(at));
        let again: Vec<u64> =
            streams.iter().map(|&stream| world.allocate(D0, stream, KIB).unwrap()).collect();
        assert_eq!(at, again);
        world.finish();
    });
}

#[test]
fn a_stream_that_ends_leaves_its_memory_to_others() {
    let mut world = World::plain(8 * MIB, "backing:malloc,cross_stream:passed");
    let at = world.allocate(D0, A, 6 * MIB).unwrap();
    world.free(at);
    // Work is in flight on the stream; the end of it is waited for, and known.
    world.allocator.stream_ends(D0, A).unwrap();
    assert_eq!(calls(&world, DriverCall::EventSynchronize), 1);
    world.allocate(D0, B, 6 * MIB).unwrap();
    assert_eq!(calls(&world, DriverCall::SegmentAlloc), 1);
    assert_eq!(calls(&world, DriverCall::StreamWaitEvent), 0);
    world.finish();
}

#[test]
fn the_driver_is_not_asked_about_a_stream_that_has_ended() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, backing);
        let at = [20 * MIB, 20 * MIB, MIB].map(|size| world.allocate(D0, A, size).unwrap());
        at.iter().for_each(|&at| world.free(at));
        world.allocator.stream_ends(D0, A).unwrap();
        let before =
            [DriverCall::EventRecord, DriverCall::StreamWaitEvent].map(|c| calls(&world, c));
        // Others get its memory, and the rest goes back.
        let other = world.allocate(D0, B, 50 * MIB).unwrap();
        world.allocator.empty_cache(D0).unwrap();
        let after =
            [DriverCall::EventRecord, DriverCall::StreamWaitEvent].map(|c| calls(&world, c));
        assert_eq!(before, after);
        // Another stream of the name: it is followed like any, which the device watches.
        let again = world.allocate(D0, A, 10 * MIB).unwrap();
        world.touch(again);
        world.free(again);
        world.touch_on(other, A);
        world.free(other);
        for stream in [B, A, B] {
            let at = world.allocate(D0, stream, 60 * MIB).unwrap();
            world.free(at);
        }
        world.finish();
    });
}

#[test]
fn a_stream_that_is_used_again_on_a_block_that_it_had_lent_is_followed() {
    // One page.
    let mut world = World::plain(3 * MIB, "");
    let own = world.allocate(D0, A, KIB).unwrap();
    let lent = world.allocate(D0, B, 600 * KIB).unwrap();
    world.allocate(D0, B, 800 * KIB).unwrap();
    assert!(lent > own && lent - own < 2 * MIB, "it lies in the first stream's page");
    world.end_stream(D0, A);
    world.touch_on(lent, A);
    world.free(lent);
    // Too much, so that everything pending is waited for; then lent to the other stream again, which has
    // to wait: the device watches.
    assert!(world.allocate(D0, B, MIB).is_err());
    world.allocate(D0, B, 57 * KIB).unwrap();
    world.finish();
}

#[test]
fn a_stream_that_the_driver_refuses_gets_no_memory() {
    let devices = vec![drystone_sim::DeviceConfig {
        streams: Some(vec![A]),
        ..drystone_sim::DeviceConfig::default()
    }];
    let config = drystone_sim::SimConfig { devices, ..drystone_sim::SimConfig::default() };
    let sim = drystone_sim::SimDriver::new(config).unwrap();
    let allocator = drystone_core::Allocator::new(sim, drystone_core::Config::default()).unwrap();
    let error = allocator.allocate(KIB, D0, B).unwrap_err();
    assert!(error.to_string().contains("there is no stream"), "{error}");
    allocator.check_invariants().unwrap();
    let at = allocator.allocate(KIB, D0, A).unwrap();
    allocator.free(at).unwrap();
}
