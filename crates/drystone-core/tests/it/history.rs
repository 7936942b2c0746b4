//! The history: order, what each entry says, the ring.

use drystone_core::Action::{
    self, Alloc, FreeCompleted, FreeRequested, Oom, SegmentAlloc, SegmentFree, SegmentMap,
    SegmentUnmap, Snapshot,
};

use crate::common::over_both;
use crate::{A, B, D0, KIB, MIB, World};

fn actions(world: &World) -> Vec<Action> {
    world.allocator.history().iter().map(|event| event.action).collect()
}

#[test]
fn each_operation_is_written_down_in_order() {
    let mut world = World::plain(8 * MIB, "backing:malloc,history:100");
    let at = world.allocate(D0, A, 3 * MIB).unwrap();
    world.touch_on(at, B);
    world.free(at);
    world.allocate(D0, A, 64 * MIB).unwrap_err();
    world.synchronize();
    world.allocator.empty_cache(D0).unwrap();
    let expected = [SegmentAlloc, Alloc, FreeRequested, FreeCompleted, SegmentFree, Oom];
    let events = world.allocator.history();
    let seen = events.iter().filter(|event| event.action != Snapshot);
    let seen: Vec<_> = seen.collect();
    assert_eq!(seen.iter().map(|event| event.action).collect::<Vec<_>>(), expected);
    let figures = |n: usize| (seen[n].address, seen[n].size);
    assert_eq!(figures(0), (at, 4 * MIB));
    assert_eq!(figures(1), (at, 3 * MIB));
    assert_eq!(figures(2), (at, 3 * MIB));
    assert_eq!(figures(4), (at, 4 * MIB));
    assert_eq!(figures(5), (8 * MIB, 64 * MIB), "the device's free bytes, and what was asked");
    assert!(events.windows(2).all(|pair| pair[0].time_ns <= pair[1].time_ns));
    assert!(seen.iter().all(|event| (event.device, event.stream) == (D0, A)));
    world.finish();
}

#[test]
fn pages_that_come_and_go_are_written_down() {
    let mut world = World::plain(8 * MIB, "history:100,reserve:lean");
    let at = world.allocate(D0, A, 4 * MIB).unwrap();
    world.free(at);
    let other = world.allocate(D0, B, 6 * MIB).unwrap();
    world.free(other);
    world.synchronize();
    world.allocator.empty_cache(D0).unwrap();
    let events = world.allocator.history();
    let seen: Vec<_> = events.iter().filter(|event| event.action != Snapshot).collect();
    let figures = |n: usize| (seen[n].action, seen[n].stream, seen[n].address, seen[n].size);
    // A's pages go to B, besides a new one; then all go back.
    assert_eq!(figures(0), (SegmentMap, A, at, 4 * MIB));
    assert_eq!(figures(1), (Alloc, A, at, 4 * MIB));
    assert_eq!((seen[2].action, seen[3].action), (FreeRequested, FreeCompleted));
    let bytes = |action: Action, stream| -> u64 {
        let of = seen.iter().filter(|event| (event.action, event.stream) == (action, stream));
        of.map(|event| event.size).sum()
    };
    assert_eq!((bytes(SegmentMap, A), bytes(SegmentUnmap, A)), (4 * MIB, 4 * MIB));
    assert_eq!((bytes(SegmentMap, B), bytes(SegmentUnmap, B)), (6 * MIB, 6 * MIB));
    world.finish();
}

#[test]
fn the_ring_keeps_the_latest() {
    over_both(|backing| {
        let mut world = World::plain(8 * MIB, &format!("{backing},history:5"));
        let at: Vec<u64> = (0..20).map(|_| world.allocate(D0, A, KIB).unwrap()).collect();
        let kept: Vec<u64> = world.allocator.history().iter().map(|event| event.address).collect();
        assert_eq!(kept, at[15..]);
        world.allocator.set_history(2);
        let kept: Vec<u64> = world.allocator.history().iter().map(|event| event.address).collect();
        assert_eq!(kept, at[18..]);
        world.allocator.set_history(3);
        world.free(at[0]);
        assert_eq!(actions(&world), [Alloc, FreeRequested, FreeCompleted]);
        world.allocator.set_history(0);
        world.free(at[1]);
        assert_eq!(actions(&world), []);
        world.allocator.set_history(1);
        assert_eq!(actions(&world), [], "what was kept before is forgotten");
        world.finish();
    });
}

#[test]
fn off_it_keeps_nothing() {
    over_both(|backing| {
        let mut world = World::plain(8 * MIB, backing);
        let at = world.allocate(D0, A, KIB).unwrap();
        world.free(at);
        assert_eq!(actions(&world), []);
        world.finish();
    });
}
