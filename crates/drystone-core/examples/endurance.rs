//! Allocates and frees at random, over four streams of a small simulated device, millions of times:
//! what is held of addresses, mappings and handles must stay bounded, and each step as fast as the
//! first. Usage: `endurance [operations] [configuration]`.

use std::time::Instant;

use drystone_core::{Allocator, Config, DeviceId, Driver, StreamId};
use drystone_sim::{OnMisuse, SimConfig, SimDriver};

const MIB: u64 = 1 << 20;
const DEVICE: DeviceId = DeviceId(0);
/// Lines that are printed.
const LINES: u64 = 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let operations: u64 = arguments.next().map_or(Ok(10_000_000), |text| text.parse())?;
    let config = Config::parse(&arguments.next().unwrap_or_default())?;
    let sim = SimConfig::default().capacity(256 * MIB).on_misuse(OnMisuse::Panic);
    let sim = std::sync::Arc::new(SimDriver::new(sim)?);
    let allocator = Allocator::new(std::sync::Arc::clone(&sim), config)?;
    let mut state = 1u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (state >> 33) % below
    };
    let (mut live, mut refused) = (Vec::new(), 0u64);
    println!(
        "operations  ns each  refused  MiB live  MiB held  GiB of addresses  mappings  handles"
    );
    for line in 1..=LINES {
        let start = Instant::now();
        for _ in 0..operations / LINES {
            if !live.is_empty() && random(100) < 40 + live.len() as u64 / 13 {
                let (at, stream, bytes, tag) = live.swap_remove(random(live.len() as u64) as usize);
                sim.stamp_check(DEVICE, stream, at, bytes, tag)?;
                allocator.free(at)?;
                continue;
            }
            let stream = StreamId(random(4));
            let bytes = 1 + if random(4) == 0 { random(12 * MIB) } else { random(64 * 1024) };
            match allocator.allocate(bytes, DEVICE, stream) {
                Ok(at) => {
                    let tag = random(u64::from(u32::MAX));
                    sim.stamp_write(DEVICE, stream, at, bytes, tag)?;
                    live.push((at, stream, bytes, tag));
                }
                Err(_) => refused += 1,
            }
        }
        let ns = start.elapsed().as_nanos() as u64 * LINES / operations;
        let bytes: u64 = live.iter().map(|&(_, _, bytes, _)| bytes).sum();
        let usage = sim.usage(DEVICE).ok_or("no device")?;
        println!(
            "{:10}  {ns:7}  {refused:7}  {:8}  {:8}  {:16}  {:8}  {:7}",
            operations / LINES * line,
            bytes / MIB,
            usage.taken / MIB,
            usage.addresses >> 30,
            usage.mappings,
            usage.handles,
        );
        allocator.check_invariants()?;
    }
    live.into_iter().try_for_each(|(at, ..)| allocator.free(at))?;
    sim.device_synchronize(DEVICE)?;
    allocator.empty_cache(DEVICE)?;
    drop(allocator);
    let report = sim.finish();
    println!("{report}");
    if report.is_clean() { Ok(()) } else { Err("not clean".into()) }
}
