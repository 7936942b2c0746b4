//! Pools that serve others before those fail, and pools whose blocks have memory of their own.

use drystone_core::{Metric, PoolError, PoolId, Purpose};

use crate::common::over_both;
use crate::{A, B, C, D0, MIB, World};

#[test]
fn a_pool_serves_others_before_they_fail_if_it_is_to() {
    over_both(|backing| {
        // Not through the world, which believes that blocks are of the default pool.
        let World { allocator, sim, .. } = &World::plain(16 * MIB, backing);
        let pool = PoolId(0, 7);
        allocator.begin_pool(D0, pool, Purpose::User, |stream| stream == A).unwrap();
        let block = allocator.allocate(12 * MIB, D0, A).unwrap();
        allocator.end_pool(D0, pool).unwrap();
        allocator.free(block).unwrap();
        let refused = |stream| allocator.allocate(10 * MIB, D0, stream).is_err();
        assert!(refused(A));
        allocator.set_use_on_oom(D0, pool, true).unwrap();
        for stream in [A, B] {
            let lent = allocator.allocate(10 * MIB, D0, stream).unwrap();
            assert_eq!(lent, block, "{stream}");
            assert!(refused(C));
            let stats = allocator.pool_stats(D0, pool).unwrap();
            assert_eq!(stats.all(Metric::AllocatedBytes).current, 10 * MIB);
            allocator.free(lent).unwrap();
            sim.advance(2_000_000);
        }
        // It went back to its pool.
        allocator.set_use_on_oom(D0, pool, false).unwrap();
        assert!(refused(A));
        allocator.release_pool(D0, pool).unwrap();
        let again = allocator.allocate(16 * MIB, D0, A).unwrap();
        allocator.free(again).unwrap();
        allocator.empty_cache(D0).unwrap();
        assert_eq!(allocator.reserved_bytes(D0), Ok(0));
    });
}

#[test]
fn an_unsplit_pool_lends_no_more_pages_than_are_asked_for() {
    let World { allocator, .. } = &World::plain(16 * MIB, "backing:vmm");
    let pool = PoolId(0, 7);
    allocator.begin_pool(D0, pool, Purpose::User, |stream| stream == A).unwrap();
    allocator.set_unsplit(D0, pool).unwrap();
    allocator.set_use_on_oom(D0, pool, true).unwrap();
    let block = allocator.allocate(12 * MIB, D0, A).unwrap();
    allocator.end_pool(D0, pool).unwrap();
    allocator.free(block).unwrap();
    let lent = [0, 1].map(|_| allocator.allocate(5 * MIB, D0, A).unwrap());
    lent.into_iter().for_each(|block| allocator.free(block).unwrap());
    allocator.release_pool(D0, pool).unwrap();
    allocator.empty_cache(D0).unwrap();
    assert_eq!(allocator.reserved_bytes(D0), Ok(0));
}

#[test]
fn blocks_of_an_unsplit_pool_have_memory_of_their_own() {
    over_both(|backing| {
        let world = World::plain(64 * MIB, backing);
        let pool = PoolId(0, 7);
        world.allocator.begin_pool(D0, pool, Purpose::User, |_| true).unwrap();
        world.allocator.set_unsplit(D0, pool).unwrap();
        let blocks = [512, 3 * MIB, 4 * MIB, 9 * MIB]
            .map(|size| world.allocator.allocate(size, D0, A).unwrap());
        let of_pool = |world: &World| {
            let mut segments = world.allocator.snapshot();
            segments.retain(|segment| segment.pool == pool);
            segments
        };
        let segments = of_pool(&world);
        let mut sizes: Vec<_> = segments.iter().map(|segment| segment.size / MIB).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [2, 4, 4, 10]);
        assert!(segments.iter().all(|segment| segment.blocks.len() == 1));
        world.allocator.free(blocks[3]).unwrap();
        let again = world.allocator.allocate(9 * MIB, D0, A).unwrap();
        assert_eq!(again, blocks[3]);
        for block in [blocks[0], blocks[1], blocks[2], again] {
            world.allocator.free(block).unwrap();
        }
        world.allocator.end_pool(D0, pool).unwrap();
        world.allocator.release_pool(D0, pool).unwrap();
        world.allocator.empty_cache(D0).unwrap();
        assert_eq!(world.allocator.reserved_bytes(D0), Ok(0));
    });
}

#[test]
fn a_pool_that_is_not_known_is_an_error() {
    let world = World::plain(16 * MIB, "");
    let unknown = PoolError::Unknown { device: D0, pool: PoolId(0, 9) };
    assert_eq!(world.allocator.set_use_on_oom(D0, PoolId(0, 9), true), Err(unknown.clone()));
    assert_eq!(world.allocator.set_unsplit(D0, PoolId(0, 9)), Err(unknown));
    assert_eq!(world.allocator.set_unsplit(D0, PoolId::DEFAULT), Err(PoolError::Default));
}
