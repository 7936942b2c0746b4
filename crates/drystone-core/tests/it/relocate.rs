//! Movable blocks: passes empty handles and segments, the owner's copies arrive, and nothing moves
//! that was not declared movable.

use std::collections::BTreeMap;

use drystone_core::{
    DriverCall, MovableId, Move, MoveError, MoveLimits, MovePass, PointerError, PoolId, Purpose,
    Request, StreamId,
};
use proptest::prelude::*;

use crate::common::tap::Tap;
use crate::common::{BACKINGS, STREAMS, world::Tapped};
use crate::{A, B, C, D0, KIB, MIB, World};

const ALL: MoveLimits = MoveLimits { bytes: u64::MAX, moves: usize::MAX };

type Pass<'a> = MovePass<'a, std::sync::Arc<Tap>>;

/// What an owner knows of a movable block.
#[derive(Clone, Copy, Debug)]
struct Owned {
    stream: StreamId,
    size: u64,
    tag: u64,
}

/// A program with movable blocks.
struct Owner {
    world: World,
    movable: BTreeMap<MovableId, Owned>,
    tags: u64,
}

impl Owner {
    fn new(capacity: u64, config: &str) -> Owner {
        let mut world = World::plain(capacity, config);
        world.faulty = true; // out of memory is checked here
        Owner { world, movable: BTreeMap::new(), tags: 1 << 32 }
    }

    fn allocator(&self) -> &Tapped {
        &self.world.allocator
    }

    fn allocate(&mut self, stream: StreamId, size: u64) -> Option<MovableId> {
        let request = Request { size, align: 512, device: D0, stream };
        let id = self.world.allocator.allocate_movable(request).ok()?;
        let at = self.address(id);
        self.tags += 1;
        self.world.sim.stamp_write(D0, stream, at, size, self.tags).unwrap();
        self.movable.insert(id, Owned { stream, size, tag: self.tags });
        Some(id)
    }

    fn address(&self, id: MovableId) -> u64 {
        self.allocator().movable_address(id).unwrap()
    }

    /// Every block holds what its owner wrote.
    fn check(&self) {
        for (&id, owned) in &self.movable {
            let Owned { stream, size, tag } = *owned;
            self.world.sim.stamp_check(D0, stream, self.address(id), size, tag).unwrap();
        }
        self.allocator().check_invariants().unwrap();
    }

    fn free(&mut self, id: MovableId) {
        self.movable.remove(&id).unwrap();
        self.allocator().free_movable(id).unwrap();
    }

    /// What the owner's copy kernel does.
    fn copy(&self, one: &Move) {
        let Owned { stream, size, tag } = self.movable[&one.allocation];
        assert_eq!((one.stream, one.bytes), (stream, size));
        assert_eq!(one.from, self.address(one.allocation));
        self.world.sim.stamp_check(D0, stream, one.from, size, tag).unwrap();
        self.world.sim.stamp_write(D0, stream, one.to, size, tag).unwrap();
    }

    /// A whole pass: the moves that were made.
    fn defragment(&self, limits: MoveLimits) -> Vec<Move> {
        let mut pass = self.allocator().plan_moves(D0, limits).unwrap();
        let moves = pass.moves().to_vec();
        for one in &moves {
            self.copy(one);
            pass.commit(one.allocation).unwrap();
            assert_eq!(self.address(one.allocation), one.to);
        }
        moves
    }

    /// What is left of the memory once the cache is emptied.
    fn reserved(&self) -> u64 {
        self.world.synchronize();
        self.allocator().empty_cache(D0).unwrap();
        self.allocator().reserved_bytes(D0).unwrap()
    }

    fn end(mut self) {
        self.check();
        let ids: Vec<_> = self.movable.keys().copied().collect();
        ids.into_iter().for_each(|id| self.free(id));
        end(self.world);
    }
}

/// Nothing is wrong now, and nothing is left when all is freed.
fn end(mut world: World) {
    world.allocator.check_invariants().unwrap();
    world.free_all();
    world.synchronize();
    let World { allocator, sim, .. } = world;
    allocator.empty_cache(D0).unwrap();
    allocator.check_invariants().unwrap();
    assert_eq!(allocator.reserved_bytes(D0), Ok(0));
    drop(allocator);
    let report = sim.finish();
    assert!(report.is_clean(), "{report}");
}

/// A heap of 16 KiB blocks of which one in sixteen survives, scattered.
fn scattered(config: &str, streams: &[StreamId]) -> Owner {
    let mut owner = Owner::new(1 << 30, config);
    for &stream in streams {
        let all: Vec<_> = (0..4096).map(|_| owner.allocate(stream, 16 * KIB).unwrap()).collect();
        let dead = all.iter().enumerate().filter(|(n, _)| n % 16 != n / 256);
        dead.for_each(|(_, &id)| owner.free(id));
    }
    owner
}

#[test]
fn a_heap_of_scattered_survivors_shrinks() {
    for config in BACKINGS {
        let owner = scattered(config, &[A]);
        let live = 256 * 16 * KIB;
        assert!(owner.reserved() > 15 * live, "{config}: survivors keep everything");
        let moves = owner.defragment(ALL);
        assert!(moves.len() < 256, "{config}: what receives need not move");
        let left = owner.reserved();
        assert!(left <= 5 * live / 2, "{config}: {left} for {live}");
        assert!(owner.defragment(ALL).is_empty(), "{config}: nothing is left to do");
        owner.end();
    }
}

#[test]
fn each_stream_s_blocks_stay_in_its_memory() {
    for config in BACKINGS {
        let owner = scattered(config, &[A, B, C]);
        let before = owner.reserved();
        owner.defragment(ALL);
        assert!(owner.reserved() < before / 4, "{config}");
        owner.end();
    }
}

#[test]
fn a_pass_opens_no_memory_and_makes_none() {
    for config in BACKINGS {
        let owner = scattered(config, &[A]);
        let calls = owner.world.tap.calls().len();
        let pass = owner.allocator().plan_moves(D0, ALL).unwrap();
        assert!(!pass.moves().is_empty());
        use DriverCall::{EventCreate, EventQuery, EventRecord};
        let asked = [EventCreate, EventQuery, EventRecord];
        assert!(owner.world.tap.calls()[calls..].iter().all(|call| asked.contains(call)));
        drop(pass);
        owner.end();
    }
}

#[test]
fn limits_are_kept_and_small_passes_get_there_too() {
    for config in BACKINGS {
        let owner = scattered(config, &[A]);
        for limits in [MoveLimits { bytes: 0, ..ALL }, MoveLimits { moves: 0, ..ALL }] {
            assert!(owner.defragment(limits).is_empty());
        }
        let limits = MoveLimits { bytes: 40 * 16 * KIB, moves: 30 };
        let mut passes = 0;
        while passes < 40 {
            let moves = owner.defragment(limits);
            assert!(moves.len() <= 30, "{}", moves.len());
            passes += 1;
            if moves.is_empty() {
                break;
            }
        }
        let left = owner.reserved();
        assert!(left < 32 * MIB, "{config}: {left} after {passes} passes");
        owner.end();
    }
}

#[test]
fn a_pass_that_is_dropped_changes_nothing() {
    for config in BACKINGS {
        let owner = scattered(config, &[A]);
        let live = |owner: &Owner| {
            let stats = owner.allocator().stats(D0).unwrap().memory;
            stats.all(drystone_core::Metric::Allocation).current
        };
        let before: Vec<_> = owner.movable.keys().map(|&id| owner.address(id)).collect();
        let pass = owner.allocator().plan_moves(D0, ALL).unwrap();
        let planned = pass.moves().len() as u64;
        assert_eq!(live(&owner), 256 + planned, "places are reserved");
        // What is in a pass is in no other.
        assert!(
            owner
                .defragment(ALL)
                .iter()
                .all(|other| { pass.moves().iter().all(|one| one.allocation != other.allocation) })
        );
        drop(pass);
        assert_eq!(live(&owner), 256);
        let after: Vec<_> = owner.movable.keys().map(|&id| owner.address(id)).collect();
        assert_eq!(before, after);
        owner.end();
    }
}

#[test]
fn moves_end_once() {
    let mut owner = scattered("", &[A]);
    let world = std::mem::replace(&mut owner.world, World::plain(MIB, ""));
    let mut pass: Pass<'_> = world.allocator.plan_moves(D0, ALL).unwrap();
    let moves = pass.moves().to_vec();
    let [one, two, three] = [0, 1, 2].map(|n: usize| moves[n].allocation);
    let not_planned = |id| Err(MoveError::NotPlanned { id });
    pass.commit(one).unwrap();
    assert_eq!(pass.commit(one), not_planned(one));
    assert_eq!(pass.abandon(one), not_planned(one));
    pass.abandon(two).unwrap();
    assert_eq!(pass.commit(two), not_planned(two));
    // Given back in the middle of its move: both places are free.
    world.allocator.free_movable(three).unwrap();
    assert_eq!(pass.commit(three), Err(MoveError::Unknown { id: three }));
    assert_eq!(world.allocator.free_movable(three), Err(MoveError::Unknown { id: three }));
    assert_eq!(world.allocator.movable_address(three), None);
    assert_eq!(world.allocator.movable_address(one), Some(moves[0].to));
    assert_eq!(world.allocator.movable_address(two), Some(moves[1].from));
    world.allocator.check_invariants().unwrap();
    drop(pass);
    world.allocator.check_invariants().unwrap();
}

#[test]
fn a_movable_block_is_known_by_its_id_only() {
    let mut owner = Owner::new(64 * MIB, "");
    let id = owner.allocate(A, 3 * MIB).unwrap();
    let at = owner.address(id);
    let movable = Err(PointerError::Movable { pointer: at });
    assert_eq!(owner.allocator().free(at), movable);
    assert_eq!(owner.allocator().free_on(at, D0, A), movable);
    let interior = Err(PointerError::Interior { pointer: at + 512, block: at });
    assert_eq!(owner.allocator().free(at + 512), interior);
    assert_eq!(owner.allocator().block_info(at).unwrap().requested, 3 * MIB);
    owner.allocator().record_stream(at, B).unwrap();
    owner.allocator().pin(at).unwrap();
    owner.allocator().unpin(at).unwrap();
    let none =
        owner.allocator().allocate_movable(Request { size: 0, align: 512, device: D0, stream: A });
    let none = none.unwrap();
    assert_eq!(owner.allocator().movable_address(none), Some(0));
    owner.allocator().free_movable(none).unwrap();
    owner.end();
}

#[test]
fn what_cannot_leave_keeps_its_handle() {
    for config in BACKINGS {
        // A plain block, a pinned one, and one of a graph's pool, each among survivors.
        let mut owner = Owner::new(1 << 30, config);
        let all: Vec<_> = (0..512).map(|_| owner.allocate(A, 64 * KIB).unwrap()).collect();
        let (kept, pinned) = (all[0], all[1]);
        let plain = owner.world.allocate(D0, A, 64 * KIB).unwrap();
        owner.allocator().pin(owner.address(pinned)).unwrap();
        for &id in all[2..].iter().filter(|id| !id.eq(&&all[300])) {
            owner.free(id);
        }
        let before = [kept, pinned].map(|id| owner.address(id));
        let moves = owner.defragment(ALL);
        assert!(moves.iter().all(|one| one.allocation == all[300]), "{moves:?}");
        assert_eq!(before, [kept, pinned].map(|id| owner.address(id)));
        owner.world.touch(plain);
        owner.allocator().unpin(owner.address(pinned)).unwrap();
        owner.end();
    }
}

#[test]
fn a_graph_s_memory_and_captures_are_left_alone() {
    let mut owner = Owner::new(1 << 30, "");
    let pool = PoolId(1, 1);
    owner.world.begin(D0, pool, Purpose::Capture, 0b0010);
    assert!(owner.defragment(ALL).is_empty());
    let all: Vec<_> = (0..512).map(|_| owner.allocate(A, 64 * KIB).unwrap()).collect();
    owner.world.end(D0, pool);
    all.iter().enumerate().filter(|(n, _)| n % 16 > 0).for_each(|(_, &id)| owner.free(id));
    assert!(owner.defragment(ALL).is_empty());
    owner.allocator().release_pool(D0, pool).unwrap();
    owner.world.synchronize();
    owner.allocator().empty_cache(D0).unwrap();
    assert!(!owner.defragment(ALL).is_empty());
    owner.end();
}

/// A step of a random program; numbers pick among what there is.
#[derive(Clone, Copy, Debug)]
enum Step {
    Movable { stream: usize, size: u64 },
    Plain { stream: usize, size: u64 },
    FreeMovable(usize),
    FreePlain(usize),
    FreeMost(usize),
    Pass { moves: usize, ends: u64 },
    Empty,
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let size = || prop_oneof![4 => 1..200 * KIB, 2 => MIB..4 * MIB];
    prop_oneof![
        8 => (0..4usize, size()).prop_map(|(stream, size)| Step::Movable { stream, size }),
        1 => (0..4usize, size()).prop_map(|(stream, size)| Step::Plain { stream, size }),
        2 => any::<usize>().prop_map(Step::FreeMovable),
        1 => any::<usize>().prop_map(Step::FreePlain),
        1 => (2..8usize).prop_map(Step::FreeMost),
        3 => (1..40usize, any::<u64>()).prop_map(|(moves, ends)| Step::Pass { moves, ends }),
        1 => Just(Step::Empty),
        1 => (0..3_000_000u64).prop_map(Step::Advance),
    ]
}

/// A pass whose moves end in different ways, by the bits of a number.
fn pass(owner: &mut Owner, limits: MoveLimits, ends: u64) {
    let world = std::mem::replace(&mut owner.world, World::plain(MIB, ""));
    let mut pass = world.allocator.plan_moves(D0, limits).unwrap();
    let moves = pass.moves().to_vec();
    for (n, one) in moves.iter().enumerate() {
        let Owned { stream, size, tag } = owner.movable[&one.allocation];
        world.sim.stamp_check(D0, stream, one.from, size, tag).unwrap();
        world.sim.stamp_write(D0, stream, one.to, size, tag).unwrap();
        match ends >> (2 * (n % 32)) & 3 {
            0 | 1 => pass.commit(one.allocation).unwrap(),
            2 => pass.abandon(one.allocation).unwrap(),
            _ if n % 3 == 0 => {
                owner.movable.remove(&one.allocation).unwrap();
                world.allocator.free_movable(one.allocation).unwrap();
            }
            _ => {} // by dropping
        }
    }
    drop(pass);
    owner.world = world;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever ends how, every block holds its bytes, and plain blocks stay where they are.
    #[test]
    fn random_programs_keep_their_bytes(
        config in prop::sample::select(vec!["", "reserve:lean", "backing:malloc"]),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut owner = Owner::new(40 * MIB, config);
        for step in steps {
            let ids: Vec<_> = owner.movable.keys().copied().collect();
            let plain: Vec<_> = owner.world.shadow.live.keys().copied().collect();
            match step {
                Step::Movable { stream, size } => drop(owner.allocate(STREAMS[stream], size)),
                Step::Plain { stream, size } => {
                    let _ = owner.world.allocate(D0, STREAMS[stream], size);
                }
                Step::FreeMovable(which) if !ids.is_empty() => owner.free(ids[which % ids.len()]),
                Step::FreePlain(which) if !plain.is_empty() => {
                    owner.world.free(plain[which % plain.len()]);
                }
                Step::FreeMost(but) => {
                    let dead = ids.iter().enumerate().filter(|(n, _)| n % but > 0);
                    dead.for_each(|(_, &id)| owner.free(id));
                }
                Step::Pass { moves, ends } => pass(&mut owner, MoveLimits { moves, ..ALL }, ends),
                Step::Empty => drop(owner.allocator().empty_cache(D0).unwrap()),
                Step::Advance(ns) => owner.world.sim.advance(ns),
                _ => {}
            }
            for at in owner.world.shadow.live.keys().copied().collect::<Vec<_>>() {
                owner.world.touch(at);
            }
            owner.check();
        }
        owner.end();
    }
}
