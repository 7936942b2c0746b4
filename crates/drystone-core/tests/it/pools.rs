//! Pools and captures against a model: who serves which stream, who holds what, and what a capture
//! forbids.

use std::collections::BTreeMap;

use drystone_core::{BlockState, DriverCall, HandleId, PoolError, PoolId, Purpose};
use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use crate::common::physical::behind;
use crate::common::{BACKINGS, STREAMS};
use crate::{D0, KIB, MIB, World};

const POOLS: usize = 3;

fn id(pool: usize) -> PoolId {
    PoolId(1 + pool as u64, 5)
}

#[derive(Clone, Copy, Debug)]
struct Scope {
    pool: usize,
    capture: bool,
    mask: u8,
}

/// A live block: the pool that must serve it, and how it was used.
#[derive(Clone, Debug)]
struct Block {
    name: u32,
    pool: Option<usize>,
    stream: usize,
    recorded: bool,
}

#[derive(Clone, Debug, Default)]
struct Model {
    backing: &'static str,
    uses: [u32; POOLS],
    captured: [bool; POOLS],
    /// In the order in which they began.
    begun: Vec<Scope>,
    live: Vec<Block>,
    /// Blocks freed in the present capture that had recorded streams.
    deferred: u32,
    names: u32,
}

#[derive(Clone, Debug)]
enum Step {
    Begin(Scope),
    End(usize),
    Retain(usize),
    Release(usize),
    Allocate { name: u32, stream: usize, size: u64 },
    Free(u32),
    Record { name: u32, stream: usize },
    EmptyCache,
    EmptyPool(usize),
    Advance(u64),
}

impl Model {
    fn capturing(&self) -> Option<Scope> {
        self.begun.iter().find(|scope| scope.capture).copied()
    }

    fn pool_for(&self, stream: usize) -> Option<usize> {
        let wants = |scope: &&Scope| scope.mask >> stream & 1 == 1;
        self.begun.iter().rev().find(wants).map(|scope| scope.pool)
    }

    fn is_begun(&self, pool: usize) -> bool {
        self.begun.iter().any(|scope| scope.pool == pool)
    }
}

struct Machine;

/// The pages behind a range, as far as it is mapped.
type Physical = Vec<Option<(HandleId, u64)>>;

impl ReferenceStateMachine for Machine {
    type State = Model;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Model> {
        let of = |backing| Model { backing, ..Model::default() };
        prop::sample::select(&BACKINGS).prop_map(of).boxed()
    }

    fn transitions(model: &Model) -> BoxedStrategy<Step> {
        let pool = || 0..POOLS;
        let names: Vec<u32> = model.live.iter().map(|block| block.name).collect();
        let name = model.names;
        let size = prop_oneof![3 => 1..64 * KIB, 2 => MIB..5 * MIB, 1 => Just(9 * MIB)];
        let scope = (pool(), any::<bool>(), 1..16u8)
            .prop_map(|(pool, capture, mask)| Step::Begin(Scope { pool, capture, mask }));
        let mut steps = vec![
            (3, scope.boxed()),
            (3, pool().prop_map(Step::End).boxed()),
            (1, pool().prop_map(Step::Retain).boxed()),
            (3, pool().prop_map(Step::Release).boxed()),
            (
                10,
                (0..4usize, size)
                    .prop_map(move |(stream, size)| Step::Allocate { name, stream, size })
                    .boxed(),
            ),
            (1, Just(Step::EmptyCache).boxed()),
            (1, pool().prop_map(Step::EmptyPool).boxed()),
            (1, (0..4_000_000u64).prop_map(Step::Advance).boxed()),
        ];
        if !names.is_empty() {
            let some = || prop::sample::select(names.clone());
            steps.push((6, some().prop_map(Step::Free).boxed()));
            let record =
                (some(), 0..4usize).prop_map(|(name, stream)| Step::Record { name, stream });
            steps.push((3, record.boxed()));
        }
        prop::strategy::Union::new_weighted(steps).boxed()
    }

    fn preconditions(model: &Model, step: &Step) -> bool {
        let known = |name: &u32| model.live.iter().any(|block| block.name == *name);
        match step {
            Step::Begin(scope) => {
                let one_capture = !scope.capture || model.capturing().is_none();
                one_capture && !model.is_begun(scope.pool)
            }
            Step::Allocate { name, .. } => *name == model.names,
            Step::Free(name) | Step::Record { name, .. } => known(name),
            _ => true,
        }
    }

    fn apply(mut model: Model, step: &Step) -> Model {
        match *step {
            Step::Begin(scope) => {
                model.uses[scope.pool] += 1;
                model.captured[scope.pool] |= scope.capture;
                model.begun.push(scope);
            }
            Step::End(pool) => {
                if model.capturing().is_some_and(|scope| scope.pool == pool) {
                    model.deferred = 0;
                    model.captured[pool] |= model.uses[pool] > 0;
                }
                model.begun.retain(|scope| scope.pool != pool);
            }
            Step::Retain(pool) => model.uses[pool] += 1,
            Step::Release(pool) => {
                model.uses[pool] = model.uses[pool].saturating_sub(1);
                model.captured[pool] &= model.uses[pool] > 0;
            }
            Step::Allocate { name, stream, .. } => {
                model.names += 1;
                let pool = model.pool_for(stream);
                model.live.push(Block { name, pool, stream, recorded: false });
            }
            Step::Free(name) => {
                let at = model.live.iter().position(|block| block.name == name).unwrap();
                let block = model.live.remove(at);
                model.deferred += u32::from(model.capturing().is_some() && block.recorded);
            }
            Step::Record { name, stream } => {
                let block = model.live.iter_mut().find(|block| block.name == name).unwrap();
                block.recorded |= stream != block.stream;
            }
            Step::EmptyCache | Step::EmptyPool(_) | Step::Advance(_) => {}
        }
        model
    }
}

/// The world, the addresses of the blocks by name (0 for one that could not be had), and what
/// graphs use: ranges of the pools they were captured in.
struct System {
    world: World,
    addresses: Vec<u64>,
    replayed: [BTreeMap<(u64, u64), Physical>; POOLS],
    captured: Option<Scope>,
    in_capture: Vec<u64>,
    calls_before: usize,
}

impl System {
    /// The calls since the capture began must be those that a capture allows.
    fn check_calls(&self) {
        let calls = self.world.tap.calls();
        use DriverCall::{
            AddressReserve, DeviceMemory, HandleCreate, Map, SegmentAlloc, SetAccess,
        };
        let allowed = [SegmentAlloc, DeviceMemory, AddressReserve, HandleCreate, Map, SetAccess];
        let made = &calls[self.calls_before..];
        assert!(made.iter().all(|call| allowed.contains(call)), "in a capture: {made:?}");
    }

    fn end(&mut self, pool: usize) {
        self.world.end(D0, id(pool));
        let Some(scope) = self.captured.filter(|scope| scope.pool == pool) else { return };
        self.check_calls();
        for stream in (0..4).filter(|stream| scope.mask >> stream & 1 == 1) {
            self.world.sim.end_capture(D0, STREAMS[stream]).unwrap();
        }
        self.captured = None;
        // What was written in the capture was only noted down in the graph.
        for at in std::mem::take(&mut self.in_capture) {
            let Some(block) = self.world.shadow.live.get(&at) else { continue };
            let (stream, size, tag) = (block.stream, block.size, block.tag);
            self.world.sim.stamp_write(D0, stream, at, size, tag).unwrap();
        }
    }
}

impl StateMachineTest for Machine {
    type SystemUnderTest = System;
    type Reference = Machine;

    fn init_test(model: &Model) -> System {
        System {
            world: World::plain(40 * MIB, model.backing),
            addresses: Vec::new(),
            replayed: Default::default(),
            captured: None,
            in_capture: Vec::new(),
            calls_before: 0,
        }
    }

    fn apply(mut system: System, after: &Model, step: Step) -> System {
        let world = &mut system.world;
        match step {
            Step::Begin(scope) => {
                let purpose = if scope.capture { Purpose::Capture } else { Purpose::User };
                world.begin(D0, id(scope.pool), purpose, u64::from(scope.mask));
                if scope.capture {
                    for stream in (0..4).filter(|stream| scope.mask >> stream & 1 == 1) {
                        world.sim.begin_capture(D0, STREAMS[stream]).unwrap();
                    }
                    system.calls_before = world.tap.calls().len();
                    system.captured = Some(scope);
                }
            }
            Step::End(pool) => {
                if world.begun.iter().any(|begun| begun.pool == id(pool)) {
                    system.end(pool);
                } else {
                    let error = PoolError::NotBegun { device: D0, pool: id(pool) };
                    assert_eq!(world.allocator.end_pool(D0, id(pool)), Err(error));
                }
            }
            Step::Retain(pool) => world.allocator.retain_pool(D0, id(pool)).unwrap(),
            Step::Release(pool) => {
                let held = world.allocator.pool_use_count(D0, id(pool)).unwrap_or(0) > 0;
                let result = world.allocator.release_pool(D0, id(pool));
                assert_eq!(result.is_ok(), held, "{result:?}");
                if after.uses[pool] == 0 {
                    system.replayed[pool].clear();
                }
            }
            Step::Allocate { stream, size, .. } => {
                let at = world.allocate(D0, STREAMS[stream], size).unwrap_or(0);
                system.addresses.push(at);
                let captured = system.captured.filter(|scope| scope.mask >> stream & 1 == 1);
                if let Some(scope) = captured.filter(|_| at != 0) {
                    system.in_capture.push(at);
                    // A pool begun later may serve the captured stream: then its owner keeps it.
                    let held = after.uses[scope.pool] > 0;
                    if held && world.shadow.live[&at].pool == id(scope.pool) {
                        let pages = behind(&world.tap, D0, at, size);
                        system.replayed[scope.pool].insert((at, size), pages);
                    }
                }
            }
            Step::Free(name) => {
                if system.addresses[name as usize] != 0 {
                    world.free(system.addresses[name as usize]);
                }
            }
            Step::Record { name, stream } => {
                let at = system.addresses[name as usize];
                if at != 0 && system.captured.is_none() {
                    world.touch_on(at, STREAMS[stream]);
                } else {
                    world.allocator.record_stream(at, STREAMS[stream]).unwrap();
                }
            }
            Step::EmptyCache => {
                let bytes = world.allocator.empty_cache(D0).unwrap();
                assert!(system.captured.is_none() || bytes == 0);
            }
            Step::EmptyPool(pool) => {
                let known = world.allocator.pool_use_count(D0, id(pool)).is_some();
                let result = world.allocator.empty_pool_cache(D0, id(pool));
                let (device, pool_id) = (D0, id(pool));
                let expected = match (known, after.captured[pool]) {
                    (false, _) => Err(PoolError::Unknown { device, pool: pool_id }),
                    (true, true) => Err(PoolError::Captured { device, pool: pool_id }),
                    (true, false) => Ok(()),
                };
                assert_eq!(result.map(drop), expected);
            }
            Step::Advance(ns) => world.sim.advance(ns),
        }
        system.world.check();
        system
    }

    fn check_invariants(system: &System, model: &Model) {
        let world = &system.world;
        if system.captured.is_some() {
            system.check_calls();
        }
        for pool in 0..POOLS {
            let uses = world.allocator.pool_use_count(D0, id(pool)).unwrap_or(0);
            assert_eq!(uses, model.uses[pool], "{}", id(pool));
        }
        for block in &model.live {
            let at = system.addresses[block.name as usize];
            let Some(live) = world.shadow.live.get(&at) else { continue };
            assert_eq!(live.pool, block.pool.map_or(PoolId::DEFAULT, id));
        }
        let segments = world.allocator.snapshot();
        // What graphs replay over is where it was, in the pool it was of.
        for (pool, ranges) in system.replayed.iter().enumerate() {
            for (&(at, bytes), pages) in ranges {
                let around = segments.iter().find(|segment| {
                    segment.address <= at && at + bytes <= segment.address + segment.size
                });
                let of = around.map(|segment| segment.pool);
                assert_eq!(of, Some(id(pool)), "{at:#x} of a graph");
                assert_eq!(behind(&world.tap, D0, at, bytes), *pages, "{at:#x} of a graph");
            }
        }
        // In a capture nothing that was deferred has become free.
        if system.captured.is_some() {
            let blocks = segments.iter().flat_map(|segment| &segment.blocks);
            let pending = blocks.filter(|block| block.state == BlockState::ActivePendingFree);
            let foreign = system.addresses.iter().filter(|&&at| at == 0).count();
            assert!(pending.count() + foreign >= model.deferred as usize);
        }
    }

    fn teardown(mut system: System, model: Model) {
        if let Some(scope) = model.capturing() {
            system.end(scope.pool);
        }
        system.world.finish();
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn pools_and_captures_follow_the_model(sequential 1..60 => Machine);
}
