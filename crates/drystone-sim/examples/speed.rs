//! The real time that the simulated device's own calls take, to see that it is fast enough to stand
//! inside benchmarks: `cargo run --release -p drystone-sim --example speed`.

use std::time::Instant;

use drystone_core::{DeviceId, Driver, HandleKind, StreamId};
use drystone_sim::{Access, SimConfig, SimDriver};

const D0: DeviceId = DeviceId(0);
const A: StreamId = StreamId(0xa);
const B: StreamId = StreamId(0xb);
const MIB: u64 = 1 << 20;

/// Prints the real nanoseconds per round.
fn time(what: &str, rounds: u32, mut round: impl FnMut(u64)) {
    let start = Instant::now();
    (0..u64::from(rounds)).for_each(&mut round);
    let ns = start.elapsed().as_nanos() as f64 / f64::from(rounds);
    println!("{what}: {ns:.0} ns");
}

fn main() {
    let sim = SimDriver::new(SimConfig::default()).unwrap();
    // A device that is well used: holes of many sizes.
    let segments: Vec<u64> =
        (0..4000).map(|i| sim.segment_alloc(D0, (1 + i % 7) * 2 * MIB).unwrap()).collect();
    for address in segments.iter().step_by(2) {
        sim.segment_free(D0, *address).unwrap();
    }
    time("segment_alloc and segment_free", 1_000_000, |i| {
        let address = sim.segment_alloc(D0, (1 + i % 13) * MIB).unwrap();
        sim.segment_free(D0, address).unwrap();
    });
    let event = sim.event_create(D0).unwrap();
    time("event_record", 5_000_000, |_| sim.event_record(D0, event, A).unwrap());
    time("event_query", 5_000_000, |_| drop(sim.event_query(D0, event)));
    time("stream_wait_event", 5_000_000, |_| {
        sim.stream_wait_event(D0, B, event).unwrap();
    });
    time("now_ns and advance_to", 10_000_000, |i| sim.advance_to(sim.now_ns().max(i)));
    time("launch without ranges", 5_000_000, |_| {
        drop(sim.launch(D0, A, &[], Access::Write));
    });
    time("launch with four ranges", 100_000, |i| {
        let at = |k: u64| (segments[1] + (i * 7919 + k * 31) % 4000 * 512, 512);
        drop(sim.launch(D0, A, &[at(0), at(1), at(2), at(3)], Access::Write));
    });
    mapped();
}

/// A device that is full of handles of one page, most of them mapped twice.
fn mapped() {
    const HANDLES: u64 = 40_000;
    const PAGE: u64 = 2 * MIB;
    let sim = SimDriver::new(SimConfig::default()).unwrap();
    let base = sim.address_reserve(D0, 2 * HANDLES * PAGE).unwrap();
    let make = |i| {
        let handle = sim.handle_create(D0, PAGE, HandleKind::Device).unwrap();
        sim.map(D0, base + i * PAGE, handle).unwrap();
        handle
    };
    let handles: Vec<_> = (0..HANDLES).map(make).collect();
    // Far apart from one another, each once in so many rounds.
    let at = |i: u64| base + (HANDLES + i * 7919 % HANDLES) * PAGE;
    (0..HANDLES / 2).for_each(|i| sim.map(D0, at(i), handles[i as usize]).unwrap());
    time("map, set_access and unmap among 60,000 mappings", 1_000_000, |i| {
        let address = at(HANDLES / 2 + i % (HANDLES / 2));
        sim.map(D0, address, handles[(i % HANDLES) as usize]).unwrap();
        sim.set_access(D0, address, PAGE, &[D0]).unwrap();
        sim.unmap(D0, address, PAGE).unwrap();
    });
    time("handle_create and handle_release among 40,000", 1_000_000, |_| {
        let handle = sim.handle_create(D0, PAGE, HandleKind::Device).unwrap();
        sim.handle_release(D0, handle).unwrap();
    });
    sim.set_access(D0, base, HANDLES * PAGE, &[D0]).unwrap();
    time("launch with a range of 16 mappings", 20_000, |i| {
        let range = (base + i * 7919 % (HANDLES - 16) * PAGE + 512, 16 * PAGE - 1024);
        drop(sim.launch(D0, A, &[range], Access::Write));
    });
}
