//! The traces that the repository carries, through Drystone's policies, against what was recorded.

use drystone_lab::{PolicySpec, Recording, SimTarget, Target, replay};
use drystone_trace::{Limits, Trace, read_trace};

/// (trace, the most that torch's native allocator reserved, peak of requested bytes).
const RECORDED: [(&str, u64, u64); 7] = [
    ("stanza_pos", 2_476_736_512, 724_581_696),
    ("gliner_batches", 4_924_112_896, 1_893_417_656),
    ("deepke_bert", 9_898_557_440, 8_512_697_532),
    ("weclone_qa", 12_014_583_808, 8_735_113_392),
    ("unet3d", 9_298_771_968, 5_249_856_115),
    ("bert512", 15_325_986_816, 14_422_971_700),
    ("prefetch_streams", 10_479_468_544, 6_522_500_780),
];

fn trace(name: &str) -> Trace {
    let path = format!("{}/../../traces/{name}.csv.xz", env!("CARGO_MANIFEST_DIR"));
    read_trace(path, &Limits::default()).unwrap()
}

#[test]
fn neither_policy_reserves_more_than_torch_did() {
    let target = Target::Sim(SimTarget::default());
    let mut worse = Vec::new();
    for (name, native, requested) in RECORDED {
        let trace = trace(name);
        for policy in ["drystone", "drystone-malloc"] {
            let spec: PolicySpec = policy.parse().unwrap();
            let metrics = replay(&trace, &spec, &target, &mut |_| {}).unwrap().metrics;
            assert_eq!(metrics.oom, None, "{name}");
            assert_eq!(metrics.peak_live_bytes, requested, "{name}");
            assert_eq!(metrics.recorded_peak_reserved_bytes, Some(native), "{name}");
            println!(
                "{name}, {policy}: {} events, {:.3} x live, native {:.3}, {:.0} ns/event, {:?}",
                metrics.events,
                metrics.ratio.unwrap(),
                native as f64 / requested as f64,
                metrics.ns_per_event,
                metrics.driver_calls,
            );
            let reserved = metrics.peak_reserved_bytes;
            if reserved > native {
                worse.push(format!("{name}, {policy}: {reserved} > {native}"));
            }
        }
    }
    assert!(worse.is_empty(), "{worse:?}");
}

/// With little more memory than is live, so that everything is reused as soon as it may be.
#[test]
fn nobody_else_writes_to_a_block() {
    for name in ["gliner_batches", "prefetch_streams", "unet3d"] {
        let trace = trace(name);
        let peak_live = Recording::of(&trace).peak_live;
        for (policy, more) in [("drystone", 0.02), ("drystone-malloc", 0.3)] {
            let capacity = (peak_live as f64 * (1.0 + more)) as u64;
            for capacity in [80 << 30, capacity] {
                let target = SimTarget { capacity, stamps: true, ..SimTarget::default() };
                let policy: PolicySpec = policy.parse().unwrap();
                let replayed = replay(&trace, &policy, &Target::Sim(target), &mut |_| {});
                replayed.unwrap_or_else(|error| panic!("{name}: {error}"));
            }
        }
    }
}

#[test]
fn the_timeline_keeps_the_peaks() {
    let trace = trace("gliner_batches");
    let policy: PolicySpec = "drystone-malloc".parse().unwrap();
    let target = Target::Sim(SimTarget::default());
    let replayed = replay(&trace, &policy, &target, &mut |_| {}).unwrap();
    let points = &replayed.timeline.points;
    assert!((1_000..=2_000).contains(&points.len()), "{}", points.len());
    let live = points.iter().map(|point| point.live).max();
    assert_eq!(live, Some(replayed.metrics.peak_live_bytes));
    let recording = Recording::of(&trace);
    let recorded: Vec<_> = recording.timeline.points.iter().map(|point| point.live).collect();
    let replayed: Vec<_> = points.iter().map(|point| point.live).collect();
    assert_eq!(recorded, replayed);
}
