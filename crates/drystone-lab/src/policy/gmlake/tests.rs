//! What is documented of GMLake.

use drystone_sim::{Access, SimConfig, SimDriver};

use super::*;
use crate::PolicySpec;

const DEVICE: DeviceId = DeviceId(0);
const STREAM: StreamId = StreamId(1);
const MIB: u64 = 1 << 20;

fn gmlake(options: &str, capacity: u64) -> (Box<dyn Policy>, Arc<SimDriver>) {
    let sim = Arc::new(SimDriver::new(SimConfig::default().capacity(capacity)).unwrap());
    let spec: PolicySpec = format!("gmlake:{options}").parse().unwrap();
    ((spec.make)(Arc::clone(&sim) as _).unwrap(), sim)
}

fn taken(sim: &SimDriver) -> u64 {
    sim.usage(DEVICE).unwrap().taken / MIB
}

/// Four blocks of 20 MiB, of which the first and the third are free.
fn fragmented(options: &str, capacity: u64) -> (Box<dyn Policy>, Arc<SimDriver>, [u64; 4]) {
    let (mut gmlake, sim) = gmlake(options, capacity);
    let all = [(); 4].map(|()| gmlake.allocate(20 * MIB, DEVICE, STREAM).unwrap());
    for index in [0, 2] {
        sim.launch(DEVICE, STREAM, &[(all[index], 20 * MIB)], Access::Write).unwrap();
        gmlake.free(all[index]).unwrap();
    }
    (gmlake, sim, all)
}

#[test]
fn sizes_are_pytorchs_in_units_of_2_mib() {
    let (mut gmlake, sim) = gmlake("", 1 << 30);
    let mut take = |size| {
        let address = gmlake.allocate(size, DEVICE, STREAM).unwrap();
        (gmlake.block_bytes(address).unwrap(), taken(&sim))
    };
    assert_eq!(take(100), (512, 2));
    assert_eq!(take(MIB + 1), (2 * MIB, 2 + 20));
    assert_eq!(take(7 * MIB), (8 * MIB, 22));
    assert_eq!(take(11 * MIB), (12 * MIB, 22 + 12));
}

#[test]
fn free_blocks_are_stitched_before_memory_is_taken() {
    let (mut gmlake, sim, all) = fragmented("fragLimit=2MiB", 1 << 30);
    let stitched = gmlake.allocate(30 * MIB, DEVICE, STREAM).unwrap();
    assert!(!all.contains(&stitched) && taken(&sim) == 80);
    sim.launch(DEVICE, STREAM, &[(stitched, 30 * MIB)], Access::Write).unwrap();
    // The last block was cut: its rest is still there.
    let rest = gmlake.allocate(10 * MIB, DEVICE, STREAM).unwrap();
    assert!((all[0]..all[3] + 20 * MIB).contains(&rest) && taken(&sim) == 80);
    gmlake.free(stitched).unwrap();
    // It stays stitched and serves the next one, by its start if that is smaller.
    let again = gmlake.allocate(24 * MIB, DEVICE, STREAM).unwrap();
    assert_eq!(again, stitched);
    let pages_behind_it = gmlake.allocate(6 * MIB, DEVICE, STREAM).unwrap();
    sim.launch(DEVICE, STREAM, &[(again, 24 * MIB)], Access::Write).unwrap();
    sim.launch(DEVICE, STREAM, &[(pages_behind_it, 6 * MIB)], Access::Write).unwrap();
    assert_eq!(taken(&sim), 80);
    assert_eq!(gmlake.counters()[..2], [("stitches", 1), ("stitched_reuses", 1)]);
    drop(gmlake);
    assert!(sim.finish().is_clean(), "{}", sim.finish());
}

#[test]
fn a_stitched_block_with_a_page_in_use_is_not_free() {
    let (mut gmlake, sim, all) = fragmented("fragLimit=2MiB", 1 << 30);
    let stitched = gmlake.allocate(40 * MIB, DEVICE, STREAM).unwrap();
    gmlake.free(stitched).unwrap();
    let part = gmlake.allocate(20 * MIB, DEVICE, STREAM).unwrap();
    assert!(part == all[0] || part == all[2]);
    let new = gmlake.allocate(40 * MIB, DEVICE, STREAM).unwrap();
    assert_ne!(new, stitched);
    assert_eq!((taken(&sim), gmlake.counters()[0].1), (120, 1));
}

#[test]
fn small_requests_and_lazy_levels_are_not_stitched_while_there_is_memory() {
    for options in ["fragLimit=32MiB", "fragLimit=2MiB,defragLevel=1"] {
        let (mut gmlake, sim, _) = fragmented(options, 1 << 30);
        gmlake.allocate(30 * MIB, DEVICE, STREAM).unwrap();
        assert_eq!((taken(&sim), gmlake.counters()[0].1), (110, 0), "{options}");
    }
    // Out of memory, the lazy one does, and the other gives segments back.
    let (mut lazy, sim, _) = fragmented("fragLimit=2MiB,defragLevel=1", 100 * MIB);
    lazy.allocate(30 * MIB, DEVICE, STREAM).unwrap();
    assert_eq!((taken(&sim), lazy.counters()[0].1), (80, 1));
    let (mut plain, sim, _) = fragmented("fragLimit=32MiB", 100 * MIB);
    plain.allocate(30 * MIB, DEVICE, STREAM).unwrap();
    assert_eq!((taken(&sim), plain.counters()[0].1), (70, 0));
}

#[test]
fn with_realloc_only_what_is_missing_is_taken() {
    let (mut gmlake, sim, _) = fragmented("fragLimit=2MiB,reAlloc=1", 1 << 30);
    gmlake.allocate(64 * MIB, DEVICE, STREAM).unwrap();
    assert_eq!((taken(&sim), gmlake.counters()[0].1), (80 + 24, 1));
}

#[test]
fn what_is_given_back_takes_its_stitched_blocks_along() {
    let (mut gmlake, sim, all) = fragmented("fragLimit=2MiB", 100 * MIB);
    let stitched = gmlake.allocate(40 * MIB, DEVICE, STREAM).unwrap();
    sim.launch(DEVICE, STREAM, &[(stitched, 40 * MIB)], Access::Write).unwrap();
    gmlake.free(stitched).unwrap();
    gmlake.free(all[1]).unwrap();
    gmlake.free(all[3]).unwrap();
    let other = StreamId(2);
    let large = gmlake.allocate(90 * MIB, DEVICE, other).unwrap();
    sim.launch(DEVICE, other, &[(large, 90 * MIB)], Access::Write).unwrap();
    assert_eq!((taken(&sim), gmlake.counters()[2].1), (90, 1));
    assert!(matches!(gmlake.allocate(20 * MIB, DEVICE, STREAM), Err(Refusal::OutOfMemory(_))));
    drop(gmlake);
    assert!(sim.finish().is_clean(), "{}", sim.finish());
}

#[test]
fn stitched_blocks_that_nobody_uses_are_dissolved_when_there_are_too_many() {
    // Each round stitches what the one before left, at other sizes: some 30 GiB in all.
    let (mut gmlake, sim, _) = fragmented("fragLimit=2MiB,autoGC=1,reuseLimit=1", 1 << 30);
    for round in 0..1_000 {
        let size = (22 + 2 * (round % 8)) * MIB;
        let block = gmlake.allocate(size, DEVICE, STREAM).unwrap();
        sim.launch(DEVICE, STREAM, &[(block, size)], Access::Write).unwrap();
        sim.advance(6_000_000);
        gmlake.free(block).unwrap();
        let wedge = gmlake.allocate((2 + 2 * (round % 3)) * MIB, DEVICE, STREAM).unwrap();
        gmlake.allocate(2 * MIB, DEVICE, STREAM).map(|a| gmlake.free(a).unwrap()).unwrap();
        gmlake.free(wedge).unwrap();
    }
    let addresses = sim.usage(DEVICE).unwrap().addresses;
    assert!(addresses < 3 << 30, "{addresses}");
    drop(gmlake);
    assert!(sim.finish().is_clean(), "{}", sim.finish());
}

#[test]
fn options_are_checked() {
    for (text, what) in [
        ("fragLimit=1MiB", "allowed is a size from 2MiB on"),
        ("defragLevel=2", "allowed is 0 or 1"),
        ("reuseLimit=0.5", "allowed is a number from 1 to 1000000"),
        ("fraglimit=2MiB", "did you mean `fragLimit`?"),
    ] {
        let error = format!("gmlake:{text}").parse::<PolicySpec>().unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}
