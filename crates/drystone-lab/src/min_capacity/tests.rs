//! Searches with a policy whose need is known.

use std::sync::Arc;

use drystone_core::StreamId;
use drystone_sim::{SimConfig, SimDriver};
use drystone_trace::read_trace_bytes;

use super::*;
use crate::policy::{Needs, Policy, PolicyInfo, PolicyOptions, Refusal};
use crate::target::{RealTarget, SimTarget};

const MIB: u64 = 1 << 20;

/// A segment for each block, and a rule which capacities are refused.
struct Toy {
    driver: Arc<dyn Driver>,
    refuses: fn(u64) -> bool,
    devices: HashMap<u64, DeviceId>,
}

impl Policy for Toy {
    fn allocate(&mut self, size: u64, device: DeviceId, _: StreamId) -> Result<u64, Refusal> {
        let total = self.driver.device_memory(device).map_or(0, |memory| memory.total);
        if (self.refuses)(total) {
            return Err(Refusal::OutOfMemory("not with this".into()));
        }
        let refusal = |error: DriverError| Refusal::OutOfMemory(error.to_string().into());
        let address = self.driver.segment_alloc(device, size.next_multiple_of(4 * MIB));
        let address = address.map_err(refusal)?;
        self.devices.insert(address, device);
        Ok(address)
    }

    fn free(&mut self, address: u64) -> Result<(), String> {
        let device = self.devices[&address];
        self.driver.segment_free(device, address).map_err(|error| error.to_string())
    }
}

static TOY: PolicyInfo = PolicyInfo {
    name: "toy",
    summary: "a segment for each block",
    needs: Needs::Device,
    options: Vec::new,
    prepare: |_| Err("made by hand".to_owned()),
};

fn toy(refuses: fn(u64) -> bool) -> PolicySpec {
    let make = move |driver| {
        let devices = HashMap::new();
        Ok(Box::new(Toy { driver, refuses, devices }) as Box<dyn Policy>)
    };
    PolicySpec { info: &TOY, options: PolicyOptions::default(), make: Arc::new(make) }
}

/// Blocks that are all live at once, of so many MiB.
fn trace(sizes: &[u64]) -> Trace {
    let lines = sizes.iter().enumerate();
    let lines: String = lines.map(|(id, mib)| format!("{id},a,{id},{},0\n", mib * MIB)).collect();
    let csv = format!("t_us,op,id,size,stream\n{lines}");
    read_trace_bytes("toys", csv.as_bytes(), &Default::default()).unwrap()
}

fn device(capacity: u64) -> Target {
    Target::Sim(SimTarget { capacity, ..SimTarget::default() })
}

fn search(trace: &Trace, refuses: fn(u64) -> bool, tolerance: f64) -> MinCapacity {
    min_capacity(trace, &toy(refuses), &device(8 << 30), tolerance, &mut |_, _| {}).unwrap()
}

#[test]
fn the_least_memory_is_found_to_the_page() {
    for (sizes, live, least) in [
        (&[4][..], 4, 4),
        (&[3], 3, 4),
        (&[5], 5, 8),
        (&[5, 9, 13, 17], 44, 56),
        (&[1; 300], 300, 1200),
        (&[1024, 2048, 1], 3073, 3076),
    ] {
        let found = search(&trace(sizes), |_| false, 0.0);
        assert_eq!(found.peak_live_bytes, live * MIB, "{sizes:?}");
        assert_eq!(found.min_capacity_bytes, least * MIB, "{sizes:?}");
        assert_eq!(found.ratio, Some(least as f64 / live as f64));
        assert_eq!((found.monotone, found.fails_at_bytes), (true, None), "{sizes:?}");
        assert_eq!(found.step_bytes, 2 * MIB);
        assert!(found.runs <= 20, "{found:?}");
    }
}

#[test]
fn a_tolerance_saves_replays_and_the_answer_still_completes() {
    let trace = trace(&[5; 300]);
    let exact = search(&trace, |_| false, 0.0);
    let near = search(&trace, |_| false, 0.05);
    assert_eq!(exact.min_capacity_bytes, 2400 * MIB);
    assert_eq!(near.step_bytes, 74 * MIB);
    assert!((2400 * MIB..2474 * MIB).contains(&near.min_capacity_bytes), "{near:?}");
    assert!(near.runs < exact.runs && near.monotone, "{near:?}, {exact:?}");
}

#[test]
fn what_was_reserved_with_plenty_may_be_too_little_when_it_is_all() {
    let trace = trace(&[4, 4]);
    let found = search(&trace, |total| total < 1000 * MIB, 0.0);
    assert_eq!((found.min_capacity_bytes, found.monotone), (1000 * MIB, true));
    // All that there is, and nothing less.
    let found = search(&trace, |total| total < 8 << 30, 0.0);
    assert_eq!((found.min_capacity_bytes, found.monotone), (8 << 30, true));
}

#[test]
fn a_capacity_above_the_answer_that_fails_is_told() {
    let trace = trace(&[8]);
    let found = search(&trace, |total| total == 12 * MIB, 0.0);
    assert_eq!((found.min_capacity_bytes, found.monotone), (8 * MIB, false));
    assert_eq!(found.fails_at_bytes, Some(12 * MIB));
    // The bisection ends above the gap, and a look below it finds what is there.
    let found = search(&trace, |total| (9 * MIB..17 * MIB).contains(&total), 0.0);
    assert_eq!((found.min_capacity_bytes, found.monotone), (8 * MIB, false));
    assert_eq!(found.fails_at_bytes, Some(16 * MIB));
}

#[test]
fn each_device_of_a_trace_has_the_capacity() {
    let csv = "t_us,op,id,size,stream,device\n0,a,0,8388608,0,0\n1,a,1,16777216,0,1\n";
    let trace = read_trace_bytes("two", csv.as_bytes(), &Default::default()).unwrap();
    let found = search(&trace, |_| false, 0.0);
    assert_eq!((found.min_capacity_bytes, found.peak_live_bytes), (16 * MIB, 16 * MIB));
}

#[test]
fn a_real_device_is_held_to_less_than_it_has() {
    let sim = || SimDriver::new(SimConfig::default().capacity(100 * MIB)).unwrap();
    let find = |sizes: &[u64], capacity| {
        let streams = vec![StreamId(0)];
        let driver = Arc::new(sim());
        let target = RealTarget { name: "cuda:0".to_owned(), driver, streams, capacity };
        let trace = trace(sizes);
        min_capacity(&trace, &toy(|_| false), &Target::Real(target), 0.0, &mut |_, _| {})
    };
    let found = find(&[5, 9], None).unwrap();
    assert_eq!((found.min_capacity_bytes, found.device.as_str()), (20 * MIB, "cuda:0"));
    assert_eq!(find(&[5, 9], Some(1 << 40)).unwrap().min_capacity_bytes, 20 * MIB);
    for (sizes, allowed, capacity) in [(&[5, 9][..], Some(18 * MIB), 18), (&[101], None, 100)] {
        match find(sizes, allowed) {
            Err(MinCapacityError::Never { capacity: most, .. }) => assert_eq!(most, capacity * MIB),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_trace_without_blocks_needs_the_least_device() {
    let found = search(&trace(&[]), |_| false, 0.001);
    assert_eq!((found.min_capacity_bytes, found.ratio), (2 * MIB, None));
}

#[test]
fn what_never_completes_is_an_error_with_the_policys_words() {
    let find = |trace: &Trace, refuses, capacity| {
        min_capacity(trace, &toy(refuses), &device(capacity), 0.0, &mut |_, _| {}).unwrap_err()
    };
    let error = find(&trace(&[8]), |_| true, 1 << 30).to_string();
    assert_eq!(error, "toy ran out of memory even with 1.00 GiB: not with this");
    let error = find(&trace(&[8]), |_| false, 4 * MIB);
    assert!(matches!(error, MinCapacityError::Never { capacity: 4194304, .. }), "{error}");
    // Not even a page.
    let error = find(&trace(&[8]), |_| false, 1000);
    let no_memory = ReplayError::Sim(drystone_sim::ConfigError::NoMemory(0));
    assert_eq!(error, MinCapacityError::Replay(no_memory));
}

#[test]
fn progress_is_of_all_the_replays() {
    let trace = trace(&[5; 100]);
    let mut seen = Vec::new();
    let target = device(8 << 30);
    let found =
        min_capacity(&trace, &toy(|_| false), &target, 0.0, &mut |at, of| seen.push((at, of)));
    let (runs, last) = (found.unwrap().runs, *seen.last().unwrap());
    assert!(seen.is_sorted_by_key(|&(at, _)| at), "{seen:?}");
    // The last replay may have ended early.
    assert!(last.0 > (runs - 1) * 100 && last.0 <= last.1, "{last:?} after {runs}");
}
