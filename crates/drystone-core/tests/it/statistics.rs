//! Statistics: torch's meanings, peaks, resets, per pool and kind.

use drystone_core::{Kind, Metric, PoolId, Purpose, Stat};

use crate::common::over_both;
use crate::{A, B, D0, KIB, MIB, World};

fn all(world: &World, metric: Metric) -> Stat {
    world.allocator.stats(D0).unwrap().memory.all(metric)
}

fn now(world: &World, metric: Metric) -> u64 {
    all(world, metric).current
}

#[test]
fn a_free_part_of_a_segment_is_split_and_a_whole_one_is_not() {
    let mut world = World::plain(64 * MIB, "backing:malloc");
    let split =
        |world: &World| (now(world, Metric::InactiveSplit), now(world, Metric::InactiveSplitBytes));
    let a = world.allocate(D0, A, 512 * KIB).unwrap();
    assert_eq!(split(&world), (1, 1536 * KIB));
    let b = world.allocate(D0, A, 512 * KIB).unwrap();
    let c = world.allocate(D0, A, 512 * KIB).unwrap();
    let d = world.allocate(D0, A, 512 * KIB).unwrap();
    assert_eq!(split(&world), (0, 0));
    world.free(a);
    assert_eq!(split(&world), (1, 512 * KIB));
    world.free(c);
    assert_eq!(split(&world), (2, MIB));
    world.free(b);
    assert_eq!(split(&world), (1, 1536 * KIB));
    world.free(d);
    assert_eq!(split(&world), (0, 0), "the segment is one free block");
    assert_eq!((now(&world, Metric::Segment), now(&world, Metric::ReservedBytes)), (1, 2 * MIB));
    assert_eq!(all(&world, Metric::InactiveSplit).peak, 2);
    assert_eq!(all(&world, Metric::InactiveSplitBytes).peak, 1536 * KIB);
    world.finish();
}

#[test]
fn a_block_freed_again_is_counted_with_the_neighbours_of_now() {
    let mut world = World::plain(64 * MIB, "backing:malloc");
    let split =
        |world: &World| (now(world, Metric::InactiveSplit), now(world, Metric::InactiveSplitBytes));
    let sizes = [256, 512, 256, 512, 504].map(|kib| kib * KIB);
    let [b, c, _, h, _] = sizes.map(|size| world.allocate(D0, A, size).unwrap());
    assert_eq!(split(&world), (1, 8 * KIB));
    // Twice, so that it is kept as it is for the next request of its size.
    for _ in 0..2 {
        world.free(b);
        assert_eq!(split(&world), (2, 264 * KIB));
        assert_eq!(world.allocate(D0, A, 256 * KIB), Ok(b));
    }
    world.allocate(D0, A, 8 * KIB).unwrap();
    world.free(c);
    world.free(h);
    assert_eq!(world.allocate(D0, A, 512 * KIB), Ok(h));
    assert_eq!(split(&world), (1, 512 * KIB));
    world.free(b);
    assert_eq!(split(&world), (1, 768 * KIB), "one with what was freed behind it");
    world.finish();
}

#[test]
fn a_pending_block_is_active_but_not_allocated() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, backing);
        let at = world.allocate(D0, A, 700).unwrap();
        world.touch_on(at, B);
        world.free(at);
        let figures = [
            (Metric::Allocation, 0),
            (Metric::AllocatedBytes, 0),
            (Metric::Active, 1),
            (Metric::ActiveBytes, 1024),
            (Metric::RequestedBytes, 700),
        ];
        for (metric, value) in figures {
            assert_eq!(now(&world, metric), value, "{}", metric.name());
        }
        let active = all(&world, Metric::Active);
        assert_eq!((active.allocated, active.freed), (1, 0));
        world.sim.advance(2_000_000);
        // The second finds out that B has passed the first.
        for _ in 0..9 {
            world.allocate(D0, A, 512).unwrap();
        }
        assert_eq!(now(&world, Metric::Active), 9);
        assert_eq!(all(&world, Metric::Active).freed, 1);
        world.finish();
    });
}

#[test]
fn small_and_large_are_counted_apart() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, backing);
        world.allocate(D0, A, MIB).unwrap();
        world.allocate(D0, A, MIB + 1).unwrap();
        let stats = world.allocator.stats(D0).unwrap().memory;
        assert_eq!(stats.of(Kind::Small, Metric::AllocatedBytes).current, MIB);
        assert_eq!(stats.of(Kind::Large, Metric::AllocatedBytes).current, MIB + 512);
        assert_eq!(stats.of(Kind::Large, Metric::RequestedBytes).current, MIB + 1);
        assert_eq!(stats.all(Metric::Segment).current, 2);
        world.finish();
    });
}

#[test]
fn the_peak_of_a_sum_is_not_the_sum_of_peaks() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, backing);
        for stream in [A, B] {
            for _ in 0..3 {
                let at = world.allocate(D0, stream, 4 * KIB).unwrap();
                world.free(at);
            }
        }
        assert_eq!(all(&world, Metric::Allocation).peak, 1);
        let at = [A, B].map(|stream| world.allocate(D0, stream, 4 * KIB).unwrap());
        at.iter().for_each(|&at| world.free(at));
        assert_eq!(all(&world, Metric::AllocatedBytes).peak, 8 * KIB);
        assert_eq!(all(&world, Metric::ActiveBytes).peak, 8 * KIB);
        assert_eq!(all(&world, Metric::RequestedBytes).peak, 8 * KIB);
        world.finish();
    });
}

#[test]
fn resets_start_again_from_now() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, backing);
        let at = [0; 4].map(|_| world.allocate(D0, A, 3 * MIB).unwrap());
        world.free(at[0]);
        world.free(at[1]);
        let before = all(&world, Metric::Allocation);
        assert_eq!(before, Stat { current: 2, peak: 4, allocated: 4, freed: 2 });
        world.allocator.reset_peak_stats(D0).unwrap();
        assert_eq!(all(&world, Metric::Allocation), Stat { peak: 2, ..before });
        world.allocator.reset_accumulated_stats(D0).unwrap();
        let reset = Stat { current: 2, peak: 2, allocated: 0, freed: 0 };
        assert_eq!(all(&world, Metric::Allocation), reset);
        assert_eq!(world.allocator.stats(D0).unwrap().num_device_alloc, 0);
        let again = world.allocator.allocate(3 * MIB, D0, A).unwrap();
        world.allocator.free(again).unwrap();
        let after = Stat { current: 2, peak: 3, allocated: 1, freed: 1 };
        assert_eq!(all(&world, Metric::Allocation), after);
    });
}

#[test]
fn pools_are_counted_apart_and_in_the_total() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, backing);
        let pool = PoolId(4, 2);
        world.allocate(D0, A, KIB).unwrap();
        world.begin(D0, pool, Purpose::User, 0b0010);
        world.allocate(D0, A, 2 * KIB).unwrap();
        world.allocate(D0, B, 4 * KIB).unwrap();
        world.end(D0, pool);
        let bytes = |pool| {
            let stats = world.allocator.pool_stats(D0, pool).unwrap();
            stats.all(Metric::AllocatedBytes).current
        };
        assert_eq!((bytes(PoolId::DEFAULT), bytes(pool)), (5 * KIB, 2 * KIB));
        assert_eq!(now(&world, Metric::AllocatedBytes), 7 * KIB);
        world.finish();
    });
}

#[test]
fn a_segment_that_leaves_a_pool_is_freed_there_and_kept_by_the_device() {
    let mut world = World::plain(64 * MIB, "backing:malloc");
    let pool = PoolId(4, 2);
    world.begin(D0, pool, Purpose::User, 0b0010);
    let at = world.allocate(D0, A, 4 * MIB).unwrap();
    world.end(D0, pool);
    world.free(at);
    world.allocator.reset_accumulated_stats(D0).unwrap();
    world.tap.reset_accumulated(D0);
    for sums in world.shadow.devices.values_mut().chain(world.shadow.pools.values_mut()) {
        sums.reset_accumulated();
    }
    world.allocator.release_pool(D0, pool).unwrap();
    assert_eq!(world.allocate(D0, A, 4 * MIB), Ok(at));
    let segment = |pool| world.allocator.pool_stats(D0, pool).unwrap().all(Metric::Segment);
    assert_eq!(segment(pool), Stat { current: 0, peak: 1, allocated: 0, freed: 1 });
    let device = all(&world, Metric::Segment);
    assert_eq!((device.current, device.allocated, device.freed), (1, 0, 0));
    world.finish();
}

#[test]
fn pages_that_leave_a_kind_are_freed_there_and_kept_by_the_device() {
    let mut world = World::plain(8 * MIB, "reserve:lean");
    let small = [0; 8].map(|_| world.allocate(D0, A, MIB).unwrap());
    small.iter().for_each(|&at| world.free(at));
    world.allocator.reset_accumulated_stats(D0).unwrap();
    world.tap.reset_accumulated(D0);
    for sums in world.shadow.devices.values_mut().chain(world.shadow.pools.values_mut()) {
        sums.reset_accumulated();
    }
    world.allocate(D0, A, 6 * MIB).unwrap();
    let stats = world.allocator.stats(D0).unwrap().memory;
    let figures = |stat: Stat| (stat.current, stat.allocated, stat.freed);
    let reserved = |kind| figures(stats.of(kind, Metric::ReservedBytes));
    assert_eq!(reserved(Kind::Small), (2 * MIB, 0, 6 * MIB));
    assert_eq!(reserved(Kind::Large), (6 * MIB, 6 * MIB, 0));
    assert_eq!(figures(stats.all(Metric::ReservedBytes)), (8 * MIB, 0, 0));
    world.finish();
}

#[test]
fn pages_that_leave_a_pool_are_freed_there_and_kept_by_the_device() {
    let mut world = World::plain(8 * MIB, "");
    let pool = PoolId(4, 2);
    world.begin(D0, pool, Purpose::User, 0b0010);
    let at = world.allocate(D0, A, 8 * MIB).unwrap();
    world.end(D0, pool);
    world.free(at);
    world.allocator.release_pool(D0, pool).unwrap();
    world.allocate(D0, A, 8 * MIB).unwrap();
    let reserved = |stats: drystone_core::MemoryStats| stats.all(Metric::ReservedBytes);
    let of_device = reserved(world.allocator.stats(D0).unwrap().memory);
    assert_eq!(of_device, Stat { current: 8 * MIB, peak: 8 * MIB, allocated: 8 * MIB, freed: 0 });
    let of_pool = reserved(world.allocator.pool_stats(D0, pool).unwrap());
    assert_eq!((of_pool.current, of_pool.allocated, of_pool.freed), (0, 8 * MIB, 8 * MIB));
    world.finish();
}

#[test]
fn oversize_is_what_may_not_be_split() {
    let mut world = World::plain(256 * MIB, "backing:malloc,max_split_size_mb:20,slack:100");
    let small = world.allocate(D0, A, 17 * MIB).unwrap();
    let large = world.allocate(D0, A, 20 * MIB).unwrap();
    let stats = || world.allocator.stats(D0).unwrap();
    let one = Stat { current: 1, peak: 1, allocated: 1, freed: 0 };
    assert_eq!((stats().oversize_allocations, stats().oversize_segments), (one, one));
    assert_eq!(stats().max_split_size, Some(20 * MIB));
    world.free(large);
    world.free(small);
    let none = Stat { current: 0, freed: 1, ..one };
    let stats = || world.allocator.stats(D0).unwrap();
    assert_eq!((stats().oversize_allocations, stats().oversize_segments), (none, one));
    // A request below the limit leaves the oversize segment alone.
    let next = world.allocate(D0, A, 10 * MIB).unwrap();
    assert_eq!(next, small);
    world.finish();
}

#[test]
fn driver_calls_are_counted_by_kind() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, backing);
        let at = world.allocate(D0, A, 4 * MIB).unwrap();
        world.touch_on(at, B);
        world.free(at);
        world.allocate(D0, A, 4 * MIB).unwrap();
        world.allocator.empty_cache(D0).unwrap();
        let stats = world.allocator.driver_stats();
        for call in drystone_core::DriverCall::ALL {
            assert_eq!(stats.calls_of(call) as usize, world.tap.count(call), "{call}");
        }
        assert!(stats.driver_ns >= 2 * 33_000, "two segments");
        world.finish();
    });
}
