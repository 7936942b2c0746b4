//! Windows under load: random programs of large blocks against the shadow, training loops on a
//! device that has little more than they need, and addresses that stay few.

use drystone_core::{Config, PoolId, Purpose, StreamId};
use drystone_sim::{Costs, SimConfig};
use proptest::prelude::*;

use crate::common::ops::Op;
use crate::common::world::World;
use crate::common::{A, B, C, D0, MIB, STREAMS};

const RESERVES: [&str; 3] = ["reserve:lean", "reserve:balanced", "reserve:fast"];

/// Operations of a program whose blocks are pages and more.
fn op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![
        4 => (1..8u64).prop_map(|pages| pages * 2 * MIB),
        4 => MIB..12 * MIB,
        2 => 1..512 * 1024u64,
        1 => 12 * MIB..40 * MIB,
    ];
    let align_log2 = prop_oneof![12 => Just(0u8), 1 => 20..23u8];
    prop_oneof![
        12 => (0..4u8, size, align_log2).prop_map(|(stream, size, align_log2)| {
            Op::Allocate { device: 0, stream, size, align_log2 }
        }),
        10 => any::<u16>().prop_map(|which| Op::Free { which }),
        3 => (any::<u16>(), 0..4u8).prop_map(|(which, stream)| Op::TouchOn { which, stream }),
        1 => (0..2_000_000u64).prop_map(|ns| Op::Advance { ns }),
        1 => Just(Op::EmptyCache { device: 0 }),
        1 => prop::option::of(8 * MIB..64 * MIB).prop_map(|bytes| Op::Limit { device: 0, bytes }),
        1 => (0..5u8, 0..2u8, any::<u8>()).prop_map(|(what, pool, mask)| match what {
            0 => Op::BeginPool { device: 0, pool, mask },
            1 => Op::EndPool { device: 0, pool },
            2 => Op::RetainPool { device: 0, pool },
            3 => Op::ReleasePool { device: 0, pool },
            _ => Op::EmptyPool { device: 0, pool },
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn programs_of_large_blocks_agree_with_the_shadow(
        capacity in prop::sample::select(&[24 * MIB, 50 * MIB, 96 * MIB]),
        reserve in prop::sample::select(&RESERVES),
        cross_stream in prop::sample::select(&["wait", "wait", "passed", "off"]),
        few_addresses in prop::bool::weighted(0.2),
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let config = format!("{reserve},cross_stream:{cross_stream}");
        let sim = SimConfig::default().capacity(capacity).host_lead_ns(1_000_000);
        let sim = sim.addresses(if few_addresses { 2 << 30 } else { 64 << 40 });
        let mut world = World::new(sim, Config::parse(&config).unwrap());
        // Addresses may run out.
        world.faulty = few_addresses;
        for (n, op) in ops.into_iter().enumerate() {
            world.run(op);
            if n % 4 == 0 {
                world.check();
            }
        }
        world.finish();
    }
}

/// What a training loop does, step by step.
#[derive(Clone, Copy)]
enum Step {
    /// Allocates under a name.
    Take {
        name: usize,
        stream: StreamId,
        bytes: u64,
    },
    Give {
        name: usize,
    },
    /// Another stream uses it.
    Lend {
        name: usize,
        to: StreamId,
    },
    /// A pool begins for the default stream, or ends and is released.
    Pool(bool),
    /// The end of an iteration.
    Next,
}

/// A training loop whose layers have other sizes in each iteration: weights that stay, activations
/// that are freed in the opposite order, temporaries, prefetched batches that the compute stream
/// uses, gradients that are reduced on another one, and a pool that comes and goes.
fn loop_of(iterations: u64, seed: u64) -> Vec<Step> {
    let mut state = seed;
    let mut random = |from: u64, to: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        from + (state >> 33) % (to - from)
    };
    let (mut steps, mut names) = (Vec::new(), 0);
    let mut take = |steps: &mut Vec<Step>, stream, bytes| {
        names += 1;
        steps.push(Step::Take { name: names - 1, stream, bytes });
        names - 1
    };
    for _ in 0..24 {
        let bytes = random(64 * 1024, 24 * MIB);
        take(&mut steps, A, bytes);
    }
    for _ in 0..iterations {
        let scale = random(50, 150);
        let batch = take(&mut steps, B, scale * MIB / 4);
        steps.push(Step::Lend { name: batch, to: A });
        let mut activations = Vec::new();
        for layer in 0..20 {
            let bytes = (layer % 5 + 1) * scale * 30_000 + random(0, MIB);
            activations.push(take(&mut steps, A, bytes));
            let temporary = random(1024, 3 * MIB);
            let temporary = take(&mut steps, A, temporary);
            steps.push(Step::Give { name: temporary });
        }
        steps.push(Step::Give { name: batch });
        for (layer, activation) in activations.into_iter().enumerate().rev() {
            let bytes = random(MIB, 4 * MIB);
            let gradient = take(&mut steps, A, bytes);
            if layer % 4 == 0 {
                steps.push(Step::Lend { name: gradient, to: C });
            }
            steps.push(Step::Give { name: activation });
            steps.push(Step::Give { name: gradient });
        }
        steps.push(Step::Pool(true));
        let pooled = [3, 9].map(|mib| take(&mut steps, STREAMS[0], mib * MIB));
        steps.push(Step::Pool(false));
        steps.extend(pooled.map(|name| Step::Give { name }));
        steps.push(Step::Next);
    }
    steps
}

/// The most bytes that are live at once.
fn peak(steps: &[Step]) -> u64 {
    let mut sizes = std::collections::HashMap::new();
    let (mut live, mut peak) = (0u64, 0);
    for step in steps {
        match *step {
            Step::Take { name, bytes, .. } => {
                let bytes = bytes.div_ceil(512) * 512;
                sizes.insert(name, bytes);
                live += bytes;
                peak = peak.max(live);
            }
            Step::Give { name } => live -= sizes[&name],
            Step::Lend { .. } | Step::Pool(_) | Step::Next => {}
        }
    }
    peak
}

/// Bytes that a graph keeps from the loop.
const GRAPH: u64 = 30 * MIB;

/// Runs a loop on a device of so many bytes, beside a graph that has been captured.
fn train(capacity: u64, config: &str, steps: &[Step]) {
    const POOL: PoolId = PoolId(1, 1);
    let sim = SimConfig::default().capacity(capacity + GRAPH).host_lead_ns(20_000_000);
    let mut world = World::new(sim, Config::parse(config).unwrap());
    let graph = PoolId(2, 2);
    world.begin(D0, graph, Purpose::Capture, 0b0010);
    world.sim.begin_capture(D0, A).unwrap();
    let captured = world.allocate(D0, A, GRAPH).unwrap();
    world.free(captured);
    world.sim.end_capture(D0, A).unwrap();
    world.end(D0, graph);
    let mut at = std::collections::HashMap::new();
    for step in steps {
        match *step {
            Step::Take { name, stream, bytes } => {
                let address = world.allocate(D0, stream, bytes).unwrap_or_else(|error| {
                    panic!("{config}: {error}");
                });
                at.insert(name, address);
            }
            Step::Give { name } => world.free(at[&name]),
            Step::Lend { name, to } => world.touch_on(at[&name], to),
            Step::Pool(true) => world.begin(D0, POOL, Purpose::User, 0b0001),
            Step::Pool(false) => {
                world.end(D0, POOL);
                world.allocator.release_pool(D0, POOL).unwrap();
            }
            Step::Next => {
                // A replay, on any stream.
                world.sim.stamp_write(D0, C, captured, GRAPH, 7).unwrap();
                world.check();
            }
        }
    }
    world.check();
    world.finish();
}

#[test]
fn a_training_loop_fits_into_little_more_than_it_needs() {
    for (seed, config, percent) in [
        (1, "reserve:lean", 105),
        (2, "reserve:lean", 105),
        (3, "reserve:balanced", 110),
        (4, "reserve:fast", 110),
    ] {
        let steps = loop_of(10, seed);
        train(peak(&steps) / 100 * percent, config, &steps);
    }
}

#[test]
fn addresses_and_mappings_stay_few() {
    for reserve in RESERVES {
        // Little more than the device can have in use at once, some times over.
        let sim = SimConfig::default().capacity(64 * MIB).addresses(64 << 30).costs(Costs::zero());
        let world = World::new(sim, Config::parse(reserve).unwrap());
        let mut state = 5u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            (state >> 33) % below
        };
        let (mut most, mut live) = ((0, 0), Vec::new());
        for _ in 0..20_000 {
            if live.is_empty() || random(2) == 0 {
                let (stream, bytes) = (STREAMS[random(4) as usize], 1 + random(6 * MIB));
                live.extend(world.allocator.allocate(bytes, D0, stream).ok());
            } else {
                let at = live.swap_remove(random(live.len() as u64) as usize);
                world.allocator.free(at).unwrap();
            }
            let usage = world.sim.usage(D0).unwrap();
            most = (most.0.max(usage.addresses), most.1.max(usage.mappings));
        }
        assert!(most.0 <= 16 << 30, "{reserve}: {} bytes of addresses", most.0);
        assert!(most.1 <= 1000, "{reserve}: {} mappings of 32 pages", most.1);
        world.allocator.check_invariants().unwrap();
        assert_eq!(world.sim.misuses(), []);
        live.into_iter().for_each(|at| world.allocator.free(at).unwrap());
    }
}
