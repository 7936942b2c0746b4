//! Blocks and segments: best fit, cutting, merging, alignment, snapshots, the end.

use drystone_core::{BlockState, Kind};

use crate::common::over_both;
use crate::{A, D0, KIB, MIB, World};

/// The sizes and states of the blocks of the only segment.
fn tiles(world: &World) -> Vec<(u64, BlockState)> {
    let segments = world.allocator.snapshot();
    assert_eq!(segments.len(), 1);
    segments[0].blocks.iter().map(|block| (block.size, block.state)).collect()
}

#[test]
fn the_smallest_block_that_fits_is_taken() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, backing);
        let sizes = [64, 8, 32, 8, 16, 8, 48, 8].map(|kib| kib * KIB);
        let at = sizes.map(|size| world.allocate(D0, A, size).unwrap());
        for hole in [0, 2, 4, 6] {
            world.free(at[hole]);
        }
        // Holes of 64, 32, 16 and 48 KiB.
        assert_eq!(world.allocate(D0, A, 20 * KIB), Ok(at[2]));
        assert_eq!(world.allocate(D0, A, 33 * KIB), Ok(at[6]));
        assert_eq!(world.allocate(D0, A, 16 * KIB), Ok(at[4]));
        assert_eq!(world.allocate(D0, A, 12 * KIB), Ok(at[2] + 20 * KIB));
        assert_eq!(world.allocate(D0, A, 64 * KIB), Ok(at[0]));
        assert_eq!(world.tap.held(D0).taken, [1, 2 * MIB]);
        world.finish();
    });
}

#[test]
fn neighbours_merge_in_any_order_until_the_segment_is_whole() {
    over_both(|backing| {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut world = World::plain(64 * MIB, backing);
            let at = [0; 3].map(|_| world.allocate(D0, A, 100 * KIB).unwrap());
            let free = BlockState::Inactive;
            assert_eq!(tiles(&world).last(), Some(&(2 * MIB - 300 * KIB, free)));
            for block in order {
                world.free(at[block]);
                world.check();
            }
            assert_eq!(tiles(&world), [(2 * MIB, free)], "{order:?}");
            assert_eq!(world.allocator.empty_cache(D0), Ok(2 * MIB));
            assert!(world.allocator.snapshot().is_empty());
            world.finish();
        }
    });
}

#[test]
fn small_and_large_requests_do_not_share_segments() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, backing);
        for size in [1, MIB, MIB + 1, 3 * MIB] {
            world.allocate(D0, A, size).unwrap();
        }
        let segments = world.allocator.snapshot();
        for segment in segments {
            for block in segment.blocks.iter().filter(|block| block.requested > 0) {
                let kind = if block.requested > MIB { Kind::Large } else { Kind::Small };
                assert_eq!(segment.kind, kind);
            }
        }
        world.finish();
    });
}

#[test]
fn every_alignment_is_kept_and_wastes_nothing_for_good() {
    over_both(|backing| {
        let mut world = World::plain(1 << 30, backing);
        world.allocate(D0, A, 512).unwrap();
        for align_log2 in 0..=22 {
            for size in [1, 513, MIB - 512, MIB, MIB + 1] {
                world.allocate_aligned(D0, A, size, 1 << align_log2).unwrap();
            }
            world.check();
        }
        world.finish();
    });
}

#[test]
fn a_size_freed_and_asked_for_again_costs_no_call() {
    over_both(|backing| {
        let mut world = World::plain(1 << 30, backing);
        let sizes = [1, 512, 4000, MIB, 5 * MIB, 100 * MIB];
        let at = sizes.map(|size| world.allocate(D0, A, size).unwrap());
        let calls = world.tap.calls().len();
        for _ in 0..10 {
            at.iter().for_each(|&at| world.free(at));
            let again = sizes.map(|size| world.allocate(D0, A, size).unwrap());
            assert_eq!(again, at, "the same places");
        }
        assert_eq!(world.tap.calls().len(), calls);
        world.finish();
    });
}

#[test]
fn segments_under_a_split_limit_serve_their_own_size_again() {
    let mut world = World::plain(8 << 30, "backing:malloc,max_split_size_mb:20,slack:100");
    // So much is held that segments are large; none may grow past the limit for it.
    world.allocate(D0, A, 4 << 30).unwrap();
    let at = [0; 3].map(|_| world.allocate(D0, A, 9 * MIB).unwrap());
    let held = world.tap.held(D0).bytes - (4 << 30);
    assert!(held <= 40 * MIB, "{held} bytes for 27 MiB");
    at.iter().for_each(|&at| world.free(at));
    let calls = world.tap.calls().len();
    for _ in 0..3 {
        world.allocate(D0, A, 9 * MIB).unwrap();
    }
    assert_eq!(world.tap.calls().len(), calls, "the cache has them");
    world.finish();
}

#[test]
fn blocks_know_their_size_and_what_was_asked_for() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, backing);
        for (size, rounded) in [(1, 512), (512, 512), (513, 1024), (MIB + 1, MIB + 512)] {
            let at = world.allocate(D0, A, size).unwrap();
            let info = world.allocator.block_info(at).unwrap();
            assert_eq!((info.size, info.requested), (rounded, size));
            assert_eq!(info.state, BlockState::ActiveAllocated);
        }
        world.finish();
    });
}

#[test]
fn what_is_live_at_the_end_stays_with_the_device() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, backing);
        let live = world.allocate(D0, A, 3 * MIB).unwrap();
        let freed = world.allocate(D0, A, 512).unwrap();
        world.free(freed);
        let World { allocator, sim, .. } = world;
        drop(allocator);
        let report = sim.finish();
        assert_eq!(report.misuse_count, 0, "{report}");
        let segments = report.leaked_segments.iter().map(|segment| segment.address);
        let mappings = report.leaked_mappings.iter().map(|mapping| mapping.address);
        let left: Vec<u64> = segments.chain(mappings).collect();
        assert_eq!(left, [live], "the idle memory went back, the other did not");
        let (handles, ranges) = (report.leaked_handles.len(), report.leaked_ranges.len());
        assert_eq!(handles, ranges);
        assert!(report.leaked_events.is_empty());
    });
}

#[test]
fn a_drop_inside_a_capture_asks_the_device_nothing() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, backing);
        let at = world.allocate(D0, A, 512).unwrap();
        world.touch_on(at, crate::B);
        world.free(at);
        let pool = drystone_core::PoolId(1, 1);
        world.allocator.begin_pool(D0, pool, drystone_core::Purpose::Capture, |_| true).unwrap();
        world.sim.begin_capture(D0, A).unwrap();
        let World { allocator, sim, .. } = world;
        drop(allocator);
        let report = sim.finish();
        assert_eq!(report.misuse_count, 0, "{report}");
        assert_eq!(report.leaked_segments.len() + report.leaked_handles.len(), 1);
    });
}
