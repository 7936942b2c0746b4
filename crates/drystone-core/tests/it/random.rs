//! Random programs under random configurations, held against the shadow after each operation.

use drystone_core::Config;
use drystone_sim::SimConfig;
use proptest::prelude::*;

use crate::MIB;
use crate::common::BACKINGS;
use crate::common::ops::{self, Op, size_of};
use crate::common::world::World;

fn size() -> impl Strategy<Value = u64> {
    (any::<u8>(), any::<u16>()).prop_map(|(class, word)| size_of(class, word))
}

/// Operations of programs that use no private pools.
fn plain_op() -> impl Strategy<Value = Op> {
    let device = || 0..2u8;
    let stream = || 0..4u8;
    let which = || any::<u16>();
    let align_log2 = prop_oneof![8 => Just(0u8), 1 => 9..23u8];
    prop_oneof![
        12 => (device(), stream(), size(), align_log2).prop_map(
            |(device, stream, size, align_log2)| Op::Allocate { device, stream, size, align_log2 }
        ),
        8 => which().prop_map(|which| Op::Free { which }),
        1 => which().prop_map(|which| Op::Touch { which }),
        4 => (which(), stream()).prop_map(|(which, stream)| Op::TouchOn { which, stream }),
        1 => (0..10_000_000u64).prop_map(|ns| Op::Advance { ns }),
        1 => (0..10_000_000u64).prop_map(|ns| Op::Lead { ns }),
        1 => (device(), stream()).prop_map(|(device, stream)| Op::EndStream { device, stream }),
        1 => device().prop_map(|device| Op::EmptyCache { device }),
        1 => (device(), prop::option::of(0..200 * MIB))
            .prop_map(|(device, bytes)| Op::Limit { device, bytes }),
        1 => (device(), 0..32 * MIB).prop_map(|(device, bytes)| Op::OthersHold { device, bytes }),
        1 => device().prop_map(|device| Op::ResetPeaks { device }),
        1 => device().prop_map(|device| Op::ResetAccumulated { device }),
        1 => any::<u8>().prop_map(|entries| Op::History { entries }),
    ]
}

/// Operations on private pools.
fn pool_op() -> impl Strategy<Value = Op> {
    (0..5u8, 0..2u8, 0..2u8, any::<u8>()).prop_map(|(what, device, pool, mask)| match what {
        0 => Op::BeginPool { device, pool, mask },
        1 => Op::EndPool { device, pool },
        2 => Op::RetainPool { device, pool },
        3 => Op::ReleasePool { device, pool },
        _ => Op::EmptyPool { device, pool },
    })
}

/// Configurations: some keys of those that change what the allocator does.
fn config() -> impl Strategy<Value = Config> {
    const KEYS: [&str; 19] = [
        "max_split_size_mb:20",
        "max_split_size_mb:32,max_non_split_rounding_mb:64",
        "garbage_collection_threshold:0.5,limit:48MiB",
        "garbage_collection_threshold:0.9,memory_fraction:0.75",
        "roundup_power2_divisions:4",
        "roundup_power2_divisions:[1:8,4:2,>:1]",
        "large_segment_size:16MiB",
        "small_segment_size:4MiB",
        "segment_granularity:8MiB",
        "min_split_remainder:1MiB",
        "reserve:lean",
        "reserve:fast",
        "slack:0",
        "cross_stream:off",
        "cross_stream:passed",
        "cross_stream:wait",
        "history:50",
        "limit:40MiB",
        "",
    ];
    (prop::sample::select(&BACKINGS), prop::sample::subsequence(&KEYS, 0..4))
        .prop_map(|(backing, keys)| Config::parse(&format!("{backing},{}", keys.join(","))))
        .prop_filter_map("keys that bound each other", Result::ok)
}

/// Small devices, so that they fill; now and then one with room for everything.
fn device() -> impl Strategy<Value = SimConfig> {
    let capacity = prop_oneof![
        4 => Just(24 * MIB),
        4 => Just(64 * MIB),
        2 => Just(256 * MIB),
        1 => Just(3 << 30),
    ];
    (capacity, prop::option::of(any::<u64>()), 1..3usize).prop_map(
        |(capacity, scatter, devices)| SimConfig {
            scatter,
            ..SimConfig::default().capacity(capacity).devices(devices)
        },
    )
}

fn run(sim: SimConfig, config: Config, ops: &[Op], check_every: usize) {
    let mut world = World::new(sim, config);
    for (n, &op) in ops.iter().enumerate() {
        world.run(op);
        if n % check_every == 0 {
            world.check();
        }
    }
    world.finish();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Programs that use the default pool only.
    #[test]
    fn programs_agree_with_the_shadow(
        sim in device(),
        config in config(),
        ops in prop::collection::vec(plain_op(), 1..200),
    ) {
        run(sim, config, &ops, 8);
    }

    /// Programs that do the same again and again, so that requests have the places of the time before.
    #[test]
    fn loops_agree_with_the_shadow(
        sim in device(),
        config in config(),
        body in prop::collection::vec(plain_op(), 5..40),
        times in 3..8usize,
    ) {
        run(sim, config, &body.repeat(times), 8);
    }

    /// Short ones, checked in full after each operation.
    #[test]
    fn each_step_leaves_everything_in_order(
        sim in device(),
        config in config(),
        ops in prop::collection::vec(plain_op(), 1..40),
    ) {
        run(sim, config, &ops, 1);
    }

    /// Programs that also begin, end, hold, release and empty pools.
    #[test]
    fn programs_with_pools_agree_with_the_shadow(
        sim in device(),
        config in config(),
        ops in prop::collection::vec(prop_oneof![4 => plain_op(), 1 => pool_op()], 1..150),
    ) {
        run(sim, config, &ops, 8);
    }

    /// What the fuzzer runs.
    #[test]
    fn programs_from_bytes(
        backing in prop::sample::select(&BACKINGS),
        words in prop::collection::vec(any::<[u8; 6]>(), 1..100),
    ) {
        let ops: Vec<Op> = words.into_iter().map(ops::decode).collect();
        let sim = SimConfig::default().capacity(32 * MIB).devices(2).scatter(1);
        run(sim, Config::parse(backing).unwrap(), &ops, 16);
    }
}
