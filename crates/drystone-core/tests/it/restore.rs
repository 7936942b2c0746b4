//! Blocks handed out at a certain address: a pool comes back to a state that it once had.

use drystone_core::{
    Action, AllocError, Allocator, BlockState, Config, PoolId, Purpose, SegmentInfo,
};
use drystone_sim::{SimConfig, SimDriver};

use crate::common::over_both;
use crate::{A, B, D0, KIB, MIB};

const POOL: PoolId = PoolId(7, 0);

fn allocator(backing: &str) -> Allocator<SimDriver> {
    let sim = SimDriver::new(SimConfig::default().capacity(256 * MIB)).unwrap();
    Allocator::new(sim, Config::parse(backing).unwrap()).unwrap()
}

/// The live blocks of the pool: address and bytes asked for.
fn live(segments: &[SegmentInfo]) -> Vec<(u64, u64)> {
    let of_pool = segments.iter().filter(|segment| segment.pool == POOL);
    let blocks = of_pool.flat_map(|segment| &segment.blocks);
    let live = blocks.filter(|block| block.state == BlockState::ActiveAllocated);
    live.map(|block| (block.address, block.requested)).collect()
}

#[test]
fn a_captured_pool_gets_its_blocks_back_where_they_were() {
    over_both(|backing| {
        let allocator = allocator(backing);
        allocator.begin_pool(D0, POOL, Purpose::Capture, |_| true).unwrap();
        let sizes = [3 * MIB, 700, 40 * KIB, 9 * MIB + 5, MIB, 2 * MIB, 512];
        let all: Vec<_> =
            sizes.iter().map(|&size| allocator.allocate(size, D0, A).unwrap()).collect();
        for gone in [all[1], all[5]] {
            allocator.free(gone).unwrap();
        }
        allocator.end_pool(D0, POOL).unwrap();
        let then = live(&allocator.snapshot());
        assert_eq!(then.len(), 5);
        // Another graph of the same pool cuts the memory otherwise.
        for &(address, _) in &then {
            allocator.free(address).unwrap();
        }
        allocator.begin_pool(D0, POOL, Purpose::Capture, |_| true).unwrap();
        let other: Vec<_> = [9 * MIB, 2 * MIB, 5 * KIB]
            .iter()
            .map(|&size| allocator.allocate(size, D0, A).unwrap())
            .collect();
        allocator.end_pool(D0, POOL).unwrap();
        for &address in &other {
            allocator.free(address).unwrap();
        }
        for &(address, size) in then.iter().rev() {
            allocator.allocate_at(address, size, D0, POOL).unwrap();
        }
        assert_eq!(live(&allocator.snapshot()), then);
        allocator.check_invariants().unwrap();
        for (address, _) in then {
            allocator.free(address).unwrap();
        }
        allocator.release_pool(D0, POOL).unwrap();
        allocator.release_pool(D0, POOL).unwrap();
        allocator.check_invariants().unwrap();
    });
}

#[test]
fn what_is_not_free_is_refused() {
    over_both(|backing| {
        let allocator = allocator(backing);
        allocator.begin_pool(D0, POOL, Purpose::User, |stream| stream == A).unwrap();
        let at = allocator.allocate(3 * MIB, D0, A).unwrap();
        let foreign = allocator.allocate(3 * MIB, D0, B).unwrap();
        allocator.free(foreign).unwrap();
        let refused = |address, size, pool| {
            let error = allocator.allocate_at(address, size, D0, pool);
            assert_eq!(error, Err(AllocError::NotFree { address, size, pool }));
        };
        refused(at, 3 * MIB, POOL); // in use
        refused(at + 512, 512, POOL); // inside a block in use, and of the other kind
        refused(foreign, 3 * MIB, POOL); // of another pool
        refused(0x10, 3 * MIB, POOL); // nobody's
        allocator.free(at).unwrap();
        refused(at, 0, POOL);
        refused(at + 1, 2 * MIB, POOL);
        refused(at, 1 << 40, POOL); // more than there is
        refused(at, 3 * MIB, PoolId(8, 0)); // of a pool that nobody has heard of
        allocator.allocate_at(at, 3 * MIB, D0, POOL).unwrap();
        allocator.free(at).unwrap();
        allocator.check_invariants().unwrap();
    });
}

#[test]
fn history_is_asked_for_by_number() {
    let allocator = allocator("history:4");
    assert_eq!(allocator.history_since(0), (vec![], 0));
    let at = allocator.allocate(KIB, D0, A).unwrap();
    let (events, next) = allocator.history_since(0);
    assert_eq!(events.len() as u64, next);
    assert_eq!(allocator.history_since(next), (vec![], next));
    allocator.free(at).unwrap();
    let (events, after) = allocator.history_since(next);
    let actions: Vec<_> = events.iter().map(|event| event.action).collect();
    assert_eq!(actions, [Action::FreeRequested, Action::FreeCompleted]);
    assert_eq!(after, next + 2);
    // Numbers count on where events were forgotten, or the ring was off.
    for _ in 0..10 {
        let at = allocator.allocate(KIB, D0, A).unwrap();
        allocator.free(at).unwrap();
    }
    assert_eq!(allocator.history_since(0), (allocator.history(), after + 30));
    allocator.set_history(0);
    assert_eq!(allocator.history_since(after), (vec![], after + 30));
    assert_eq!(allocator.history_since(u64::MAX), (vec![], after + 30));
}
