//! What is documented of TensorFlow's allocator.

use drystone_sim::{Access, SimConfig, SimDriver};

use super::*;
use crate::PolicySpec;

const DEVICE: DeviceId = DeviceId(0);
const COMPUTE: StreamId = StreamId(0);
const COPY: StreamId = StreamId(7);
const MIB: u64 = 1 << 20;

fn bfc(options: &str, capacity: u64) -> (Box<dyn Policy>, Arc<SimDriver>) {
    let sim = Arc::new(SimDriver::new(SimConfig::default().capacity(capacity)).unwrap());
    let spec: PolicySpec = format!("bfc:{options}").parse().unwrap();
    ((spec.make)(Arc::clone(&sim) as _).unwrap(), sim)
}

fn taken(sim: &SimDriver) -> u64 {
    sim.usage(DEVICE).unwrap().taken
}

#[test]
fn regions_double_from_2_mib_and_hold_the_request() {
    let (mut bfc, sim) = bfc("", 1 << 30);
    let mut take = |bytes| {
        bfc.allocate(bytes, DEVICE, COMPUTE).unwrap();
        taken(&sim) / MIB
    };
    assert_eq!(take(MIB), 2);
    // The next is twice as large, although less is needed.
    assert_eq!(take(2 * MIB), 2 + 4);
    // Doubled as often as the request needs; the one after it is no larger.
    assert_eq!(take(20 * MIB), 6 + 32);
    assert_eq!(take(30 * MIB), 38 + 32);
}

#[test]
fn at_the_limit_a_region_is_smaller() {
    let (mut bfc, sim) = bfc("memory_limit=10MiB", 1 << 30);
    bfc.allocate(2 * MIB, DEVICE, COMPUTE).unwrap();
    bfc.allocate(3 * MIB, DEVICE, COMPUTE).unwrap();
    bfc.allocate(4 * MIB, DEVICE, COMPUTE).unwrap();
    assert_eq!(taken(&sim), 10 * MIB);
    let refused = bfc.allocate(2 * MIB, DEVICE, COMPUTE).unwrap_err();
    let Refusal::OutOfMemory(why) = refused else { panic!("{refused:?}") };
    assert!(why.contains("GPU_0_bfc") && why.contains("2097152 bytes"), "{why}");
}

#[test]
fn a_device_that_refuses_is_asked_for_less_by_tenths() {
    let (mut bfc, sim) = bfc("allow_growth=false,memory_limit=1GiB", 100 * MIB);
    bfc.allocate(MIB, DEVICE, COMPUTE).unwrap();
    let held = taken(&sim);
    assert!(held > 90 * MIB && held <= 100 * MIB, "{held}");
}

#[test]
fn a_chunk_is_cut_from_twice_the_request_on_or_128_mib_above_it() {
    let (mut bfc, _) = bfc("allow_growth=false", 1 << 30);
    let bytes = |bfc: &mut Box<dyn Policy>, first: u64, then: u64| {
        let old = bfc.allocate(first, DEVICE, COMPUTE).unwrap();
        let wall = bfc.allocate(GRAIN, DEVICE, COMPUTE).unwrap();
        bfc.free(old).unwrap();
        let new = bfc.allocate(then, DEVICE, COMPUTE).unwrap();
        let bytes = bfc.block_bytes(new).unwrap();
        assert_eq!(new, old);
        bfc.free(new).unwrap();
        bfc.free(wall).unwrap();
        bytes
    };
    assert_eq!(bytes(&mut bfc, 10 * MIB, 6 * MIB), 10 * MIB);
    assert_eq!(bytes(&mut bfc, 10 * MIB, 5 * MIB), 5 * MIB);
    assert_eq!(bytes(&mut bfc, 300 * MIB, 173 * MIB), 300 * MIB);
    assert_eq!(bytes(&mut bfc, 300 * MIB, 172 * MIB), 172 * MIB);
    assert_eq!(bytes(&mut bfc, 300, 1), 256);
}

#[test]
fn regions_without_a_chunk_go_back_before_memory_is_out() {
    for (collects, fits) in [(true, true), (false, false)] {
        let (mut bfc, sim) = bfc(&format!("garbage_collection={collects}"), 16 * MIB);
        // Regions of 2 and 4 MiB, and one of the 8 that the limit leaves room for.
        let all = [2, 4, 8].map(|mib| bfc.allocate(mib * MIB, DEVICE, COMPUTE).unwrap());
        bfc.free(all[0]).unwrap();
        bfc.free(all[2]).unwrap();
        let asked = bfc.allocate(12 * MIB, DEVICE, COMPUTE);
        assert_eq!(asked.is_ok(), fits);
        assert_eq!(taken(&sim), if fits { 16 * MIB } else { 14 * MIB });
        assert_eq!(bfc.counters()[0], ("collections", u64::from(fits)));
        drop(bfc);
        assert!(sim.finish().is_clean(), "{}", sim.finish());
    }
}

#[test]
fn another_streams_block_is_free_when_its_event_has_passed() {
    let (mut bfc, sim) = bfc("memory_limit=2MiB", 1 << 30);
    bfc.allocate(0, DEVICE, COMPUTE).unwrap();
    let first = bfc.allocate(MIB, DEVICE, COMPUTE).unwrap();
    sim.launch(DEVICE, COMPUTE, &[(first, MIB)], Access::Write).unwrap();
    bfc.free(first).unwrap();
    // The copy stream waits for the compute stream.
    let copied = bfc.allocate(2 * MIB, DEVICE, COPY).unwrap();
    assert_eq!(copied, first);
    sim.launch(DEVICE, COPY, &[(copied, 2 * MIB)], Access::Write).unwrap();
    bfc.free(copied).unwrap();
    let before = sim.stats().total().wait_ns;
    let again = bfc.allocate(2 * MIB, DEVICE, COMPUTE).unwrap();
    assert_eq!(again, first, "the host waited for the copy stream");
    assert!(sim.stats().total().wait_ns > before);
    assert_eq!(bfc.counters()[1], ("waits_for_streams", 1));
    sim.launch(DEVICE, COMPUTE, &[(again, 2 * MIB)], Access::Write).unwrap();
    drop(bfc);
    assert!(sim.finish().is_clean(), "{}", sim.finish());
}

#[test]
fn options_are_checked() {
    for (text, what) in [
        ("allow_growth=yes", "allowed is true or false"),
        ("fragmentation_fraction=3MiB", "allowed is 0% to 100%"),
        ("memory_limit=101%", "`memory_limit` cannot be `101%`"),
        ("alow_growth=true", "did you mean `allow_growth`?"),
    ] {
        let error = format!("bfc:{text}").parse::<PolicySpec>().unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}
