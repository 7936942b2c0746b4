//! What is documented of DALI's memory.

use drystone_sim::{Access, SimConfig, SimDriver};

use super::*;
use crate::PolicySpec;

const DEVICE: DeviceId = DeviceId(0);
const ONE: StreamId = StreamId(1);
const TWO: StreamId = StreamId(2);
const MIB: u64 = 1 << 20;

fn dali(options: &str, capacity: u64) -> (Box<dyn Policy>, Arc<SimDriver>) {
    let sim = Arc::new(SimDriver::new(SimConfig::default().capacity(capacity)).unwrap());
    let spec: PolicySpec = format!("dali-vm:{options}").parse().unwrap();
    ((spec.make)(Arc::clone(&sim) as _).unwrap(), sim)
}

fn taken(sim: &SimDriver) -> u64 {
    sim.usage(DEVICE).unwrap().taken
}

#[test]
fn blocks_are_a_256th_of_the_device() {
    for (capacity, block) in [(80 << 30, 64), (4 << 30, 16), (1 << 30, 4), (64 << 20, 2)] {
        let (mut dali, sim) = dali("", capacity);
        dali.allocate(1, DEVICE, ONE).unwrap();
        assert_eq!(taken(&sim), block * MIB, "{capacity}");
        drop(dali);
        assert!(sim.finish().is_clean(), "{}", sim.finish());
    }
}

#[test]
fn large_sizes_are_rounded_to_a_2048th() {
    let (mut dali, _) = dali("", 80 << 30);
    let mut bytes = |size| {
        let address = dali.allocate(size, DEVICE, ONE).unwrap();
        dali.block_bytes(address).unwrap()
    };
    assert_eq!(bytes(1), 256);
    assert_eq!(bytes(100_000), 100_096);
    assert_eq!(bytes(MIB + 1), MIB + 512);
    assert_eq!(bytes(100 * MIB + 1), 100 * MIB + (64 << 10));
}

#[test]
fn a_stream_reuses_what_it_freed_at_once_and_others_when_it_has_passed() {
    let (mut dali, sim) = dali("block_size=2MiB", 1 << 30);
    let first = dali.allocate(2 * MIB, DEVICE, ONE).unwrap();
    sim.launch(DEVICE, ONE, &[(first, 2 * MIB)], Access::Write).unwrap();
    dali.free(first).unwrap();
    assert_eq!(dali.allocate(MIB, DEVICE, ONE), Ok(first));
    dali.free(first).unwrap();
    let second = dali.allocate(2 * MIB, DEVICE, TWO).unwrap();
    assert!(second != first && taken(&sim) == 4 * MIB);
    sim.advance(10_000_000);
    // Both halves of the first come back, joined.
    assert_eq!(dali.allocate(2 * MIB, DEVICE, TWO), Ok(first));
}

#[test]
fn free_blocks_are_mapped_into_a_larger_range() {
    let (mut dali, sim) = dali("block_size=2MiB", 8 * MIB);
    let all = [(); 4].map(|()| dali.allocate(2 * MIB, DEVICE, ONE).unwrap());
    for index in [0, 2] {
        sim.launch(DEVICE, ONE, &[(all[index], 2 * MIB)], Access::Write).unwrap();
        dali.free(all[index]).unwrap();
    }
    // Not as long as the stream may use them.
    assert!(matches!(dali.allocate(4 * MIB, DEVICE, TWO), Err(Refusal::OutOfMemory(_))));
    sim.advance(10_000_000);
    let large = dali.allocate(4 * MIB, DEVICE, TWO).unwrap();
    assert!(!all.contains(&large) && taken(&sim) == 8 * MIB);
    assert_eq!(dali.counters(), [("remapped_blocks", 2)]);
    sim.launch(DEVICE, TWO, &[(large, 4 * MIB)], Access::Write).unwrap();
    drop(dali);
    assert!(sim.finish().is_clean(), "{}", sim.finish());
}

#[test]
fn with_avoid_upstream_frees_are_waited_for() {
    for (avoids, held) in [(false, 4), (true, 2)] {
        let (mut dali, sim) = dali(&format!("block_size=2MiB,avoid_upstream={avoids}"), 1 << 30);
        let first = dali.allocate(2 * MIB, DEVICE, ONE).unwrap();
        sim.launch(DEVICE, ONE, &[(first, 2 * MIB)], Access::Write).unwrap();
        dali.free(first).unwrap();
        dali.allocate(2 * MIB, DEVICE, TWO).unwrap();
        assert_eq!(taken(&sim), held * MIB);
    }
}

#[test]
fn options_are_checked() {
    for (text, what) in [
        ("block_size=3MiB", "allowed is a power of two from 2MiB to 1GiB"),
        ("block_size=1MiB", "allowed is a power of two"),
        ("initial_va_size=0", "allowed is a size from 2MiB to 1TiB"),
        ("blocksize=2MiB", "did you mean `block_size`?"),
    ] {
        let error = format!("dali-vm:{text}").parse::<PolicySpec>().unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}
