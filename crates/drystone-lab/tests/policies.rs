//! What holds for every policy: over random programs on several streams, on devices that are too
//! small, with driver calls that fail, and over a real trace.

use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverCall, StreamId};
use drystone_lab::{Needs, POLICIES, PolicyInfo, PolicySpec, Refusal, SimTarget, Target, replay};
use drystone_sim::{Access, FaultPlan, SimConfig, SimDriver};
use drystone_trace::{Limits, Trace, read_trace, read_trace_bytes};

const DEVICE: DeviceId = DeviceId(0);

/// Policies with options by which small programs meet what large ones do by default.
const VARIANTS: [&str; 8] = [
    "bfc:garbage_collection=false,fragmentation_fraction=1%",
    "gmlake:fragLimit=2MiB",
    "gmlake:fragLimit=2MiB,defragLevel=1",
    "gmlake:fragLimit=2MiB,reAlloc=1,reuseLimit=1,autoGC=1",
    "paddle-vmm:large_pool_handle_size_in_mb=2,small_allocation_threshold_in_mb=0",
    "paddle-vmm:remap_on_oom=false",
    "dali-vm:block_size=2MiB",
    "dali-vm:avoid_upstream=true,block_size=4MiB",
];

/// Those that run on the simulated device.
fn policies() -> impl Iterator<Item = (&'static PolicyInfo, PolicySpec)> {
    let simulated = POLICIES.iter().filter(|info| info.needs != Needs::RealDevice);
    let plain = simulated.map(|info| PolicySpec::plain(info).unwrap());
    let others = VARIANTS.iter().map(|text| text.parse().unwrap());
    plain.chain(others).map(|spec: PolicySpec| (spec.info, spec))
}

/// A small generator of random numbers (xorshift64*), the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }

    /// 1 byte to 8 MiB, as often below a size as above its square over 8 MiB.
    fn size(&mut self) -> u64 {
        let bits = self.below(24);
        1 + self.below(1 << bits)
    }
}

/// Those that keep private pools apart.
fn with_pools() -> impl Iterator<Item = (&'static PolicyInfo, PolicySpec)> {
    let names = ["drystone", "drystone-malloc", "pytorch", "pytorch-expandable"];
    policies().filter(move |(info, _)| names.contains(&info.name))
}

/// A program on four streams: blocks that live for a while, and whose frees complete later. Those of
/// an even seed have private pools.
fn program(seed: u64, blocks: usize) -> Trace {
    let mut random = Random(seed);
    let mut lines = String::from("t_us,op,id,size,stream\n");
    let (mut live, mut freed) = (Vec::new(), Vec::new());
    let (mut time, mut made) = (0, 0);
    while made < blocks || !live.is_empty() {
        time += random.below(3_000);
        let grows = made < blocks && random.below(100) < 50 + 10 * u64::from(live.len() < 40);
        if grows {
            let (size, stream) = (random.size(), random.below(4));
            lines += &format!("{time},a,{made},{size},{stream}\n");
            live.push((made, size, stream));
            made += 1;
        } else if !live.is_empty() {
            let block = live.swap_remove(random.below(live.len() as u64) as usize);
            lines += &format!("{time},f,{},{},{}\n", block.0, block.1, block.2);
            freed.push(block);
        }
        if random.below(3) == 0 {
            for (id, size, stream) in freed.drain(..) {
                lines += &format!("{time},c,{id},{size},{stream}\n");
            }
        }
    }
    let mut trace = read_trace_bytes("random", lines.as_bytes(), &Limits::default()).unwrap();
    if seed.is_multiple_of(2) {
        trace.block_pools = (0..made).map(|_| random.below(4).saturating_sub(1) as u32).collect();
    }
    trace
}

#[test]
fn memory_that_is_in_use_is_lent_to_nobody() {
    for seed in 1..=4 {
        let trace = program(seed, 400);
        for (info, spec) in policies() {
            let play = |capacity| {
                let target = SimTarget { capacity, stamps: true, ..SimTarget::default() };
                replay(&trace, &spec, &Target::Sim(target), &mut |_| {})
                    .unwrap_or_else(|error| panic!("{}, seed {seed}: {error}", info.name))
                    .metrics
            };
            let plenty = play(8 << 30);
            assert_eq!(plenty.oom, None, "{}", info.name);
            assert!(plenty.peak_reserved_bytes >= plenty.peak_live_bytes, "{}", info.name);
            let (live, reserved) = (plenty.peak_live_bytes, plenty.peak_reserved_bytes);
            for capacity in [reserved.min(3 * live), live * 3 / 2, live * 11 / 10, live / 2] {
                let tight = play(capacity);
                assert!(tight.peak_reserved_bytes <= capacity, "{}", info.name);
                assert!(tight.oom.is_some() || capacity >= live, "{}", info.name);
            }
        }
    }
}

/// Plays a random program on a driver that fails now and then. What the policy refuses is left
/// out of the program; a block whose free failed is live, and freed at the end at the latest.
fn play_with_faults(spec: &PolicySpec, seed: u64) {
    let sim = Arc::new(SimDriver::new(SimConfig::default().capacity(96 << 20)).unwrap());
    let mut policy = (spec.make)(Arc::clone(&sim) as Arc<dyn Driver>).unwrap();
    // A call that destroys an event fails only when all is lost.
    let kinds = DriverCall::ALL.into_iter().filter(|&call| call != DriverCall::EventDestroy);
    let faults = kinds.fold(FaultPlan::new(), |plan, call| plan.random(call, 0.05, seed));
    sim.set_faults(faults);
    let mut random = Random(seed);
    let mut live = Vec::new();
    for step in 0..2_000u64 {
        sim.advance(random.below(1_000_000));
        if live.len() < 4 || random.below(100) < 52 {
            let (size, stream) = (random.size(), StreamId(random.below(3)));
            let given = match random.below(4) {
                0 => policy.allocate_in(1 + random.below(2) as u32, size, DEVICE, stream),
                _ => policy.allocate(size, DEVICE, stream),
            };
            if let Ok(address) = given {
                sim.stamp_write(DEVICE, stream, address, size, step).unwrap();
                live.push((address, size, stream, step));
            }
        } else {
            let index = random.below(live.len() as u64) as usize;
            let (address, size, stream, stamp) = live[index];
            sim.stamp_check(DEVICE, stream, address, size, stamp).unwrap();
            if policy.free(address).is_ok() {
                live.swap_remove(index);
            }
        }
    }
    sim.set_faults(FaultPlan::new());
    let name = spec.info.name;
    for (address, size, stream, stamp) in live {
        sim.stamp_check(DEVICE, stream, address, size, stamp).unwrap();
        policy.free(address).unwrap_or_else(|error| panic!("{name}, {address:#x}: {error}"));
    }
    assert_eq!(policy.free(0), Ok(()), "{name}");
    assert!(policy.free(12_345).is_err(), "{name}");
    sim.launch(DEVICE, StreamId(0), &[], Access::Read).unwrap();
    drop(policy);
    assert!(sim.finish().is_clean(), "{name}, seed {seed}: {}", sim.finish());
}

#[test]
fn a_driver_that_fails_loses_nothing() {
    for (_, spec) in policies().filter(|(info, _)| info.needs == Needs::Device) {
        for seed in 1..=4 {
            play_with_faults(&spec, seed);
        }
    }
}

#[test]
fn the_floor_costs_nothing_and_no_policy_holds_less() {
    let trace = program(9, 400);
    let play = |spec: &PolicySpec| {
        let target = Target::Sim(SimTarget { stamps: true, ..SimTarget::default() });
        replay(&trace, spec, &target, &mut |_| {}).unwrap().metrics
    };
    let floor = |text: &str| play(&text.parse().unwrap());
    let (coarse, fine) = (floor("optimal"), floor("optimal:page=512"));
    assert_eq!(coarse.peak_reserved_bytes, fine.peak_reserved_bytes.next_multiple_of(2 << 20));
    assert!(fine.peak_reserved_bytes - fine.peak_live_bytes < 512 * trace.blocks as u64);
    for metrics in [&coarse, &fine] {
        assert_eq!((metrics.driver_us, metrics.wait_us, metrics.costs), (0.0, 0.0, Some("zero")));
        assert!(metrics.driver_calls.is_empty());
    }
    for (info, spec) in policies().filter(|(info, _)| !["cudamalloc", "cub"].contains(&info.name)) {
        // Those two serve some sizes unrounded.
        let reserved = play(&spec).peak_reserved_bytes;
        assert!(reserved >= fine.peak_reserved_bytes, "{}: {reserved}", info.name);
    }
}

#[test]
fn a_real_trace_is_played_to_its_end() {
    let path = format!("{}/../../traces/unet3d.csv.xz", env!("CARGO_MANIFEST_DIR"));
    let trace = read_trace(path, &Limits::default()).unwrap();
    for (info, spec) in policies() {
        let replayed = replay(&trace, &spec, &Target::Sim(SimTarget::default()), &mut |_| {});
        let metrics = replayed.unwrap_or_else(|error| panic!("{}: {error}", info.name)).metrics;
        assert_eq!(metrics.oom, None, "{}", info.name);
        assert!(metrics.peak_reserved_bytes >= metrics.peak_live_bytes, "{}", info.name);
    }
}

#[test]
fn what_a_private_pool_has_serves_no_other() {
    for (info, spec) in with_pools() {
        let sim = Arc::new(SimDriver::new(SimConfig::default()).unwrap());
        let mut policy = (spec.make)(Arc::clone(&sim) as Arc<dyn Driver>).unwrap();
        for size in [1_000, 3 << 20, 40 << 20] {
            let at =
                [0, 1, 2].map(|pool| policy.allocate_in(pool, size, DEVICE, StreamId(0)).unwrap());
            at.iter().for_each(|&address| policy.free(address).unwrap());
            // Emptying the cache leaves it what it has.
            policy.empty_cache().unwrap();
            let again =
                [2, 1, 0].map(|pool| policy.allocate_in(pool, size, DEVICE, StreamId(0)).unwrap());
            assert_eq!(again[..2], [at[2], at[1]], "{}, {size}", info.name);
            again.iter().for_each(|&address| policy.free(address).unwrap());
        }
        drop(policy);
        assert!(sim.finish().is_clean(), "{}: {}", info.name, sim.finish());
    }
}

#[test]
fn a_request_of_a_private_pool_takes_nothing_from_the_others() {
    const MIB: u64 = 1 << 20;
    for (info, spec) in with_pools() {
        let config = SimConfig::default().capacity(64 * MIB);
        let sim = Arc::new(SimDriver::new(config).unwrap());
        let mut policy = (spec.make)(Arc::clone(&sim) as Arc<dyn Driver>).unwrap();
        let at = policy.allocate(40 * MIB, DEVICE, StreamId(0)).unwrap();
        policy.free(at).unwrap();
        // A capture waits for nothing and gives nothing back.
        let refused = policy.allocate_in(1, 40 * MIB, DEVICE, StreamId(0));
        assert!(matches!(refused, Err(Refusal::OutOfMemory(_))), "{}: {refused:?}", info.name);
        let at = policy.allocate(60 * MIB, DEVICE, StreamId(0)).unwrap();
        policy.free(at).unwrap();
    }
}
