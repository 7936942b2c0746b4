//! Replays of small hand-made traces, with figures that follow from the trace and the device.

use drystone_lab::{CostModel, PolicySpec, ReplayError, Replayed, SimTarget, Target, replay};
use drystone_trace::{Trace, read_trace_bytes};

const MIB: u64 = 1 << 20;

fn trace(lines: &str) -> Trace {
    let csv = format!("t_us,op,id,size,stream\n{lines}");
    read_trace_bytes("hand", csv.as_bytes(), &Default::default()).unwrap()
}

fn target(capacity: u64) -> SimTarget {
    SimTarget { capacity, host_lead_ns: 5_000_000, costs: CostModel::Idle, ..SimTarget::default() }
}

fn play(trace: &Trace, policy: &str, target: SimTarget) -> Replayed {
    let policy: PolicySpec = policy.parse().unwrap();
    replay(trace, &policy, &Target::Sim(target), &mut |_| {}).unwrap()
}

/// Two blocks of 32 MiB, the second after the first is free: one segment serves both.
const REUSE: &str = "100,a,0,33554432,0\n200,f,0,33554432,0\n200,c,0,33554432,0\n\
                     300,a,1,33554432,0\n400,S,,999,0\n";

#[test]
fn memory_freed_on_a_stream_is_reused_there() {
    let metrics = play(&trace(REUSE), "drystone-malloc", target(1 << 30)).metrics;
    assert_eq!((metrics.allocs, metrics.frees, metrics.events), (2, 1, 5));
    assert_eq!((metrics.peak_live_bytes, metrics.peak_live_at_us), (32 * MIB, 0));
    assert_eq!(metrics.peak_reserved_bytes, 32 * MIB);
    assert_eq!(metrics.end_reserved_bytes, 32 * MIB);
    assert_eq!(metrics.ratio, Some(1.0));
    assert_eq!(metrics.run_us, 300);
    assert_eq!(metrics.driver_calls["segment_alloc"], 1);
    assert!(!metrics.driver_calls.contains_key("segment_free"), "{:?}", metrics.driver_calls);
    // One look at the device's memory and one cudaMalloc of 32 MiB.
    assert!((40.0..45.0).contains(&metrics.driver_us), "{}", metrics.driver_us);
    assert_eq!((metrics.wait_us, metrics.wait_percent), (0.0, Some(0.0)));
    // The run took 300 µs.
    assert_eq!(metrics.driver_percent, Some(metrics.driver_us / 3.0));
    assert_eq!((metrics.oom, metrics.peak_host_bytes), (None, 0));
}

#[test]
fn a_block_is_live_until_its_free_is_completed() {
    let lines = "0,a,0,33554432,0\n1,f,0,33554432,0\n2,a,1,33554432,0\n3,c,0,33554432,0\n";
    let metrics = play(&trace(lines), "drystone-malloc", target(1 << 30)).metrics;
    assert_eq!((metrics.peak_live_bytes, metrics.peak_live_at_us), (64 * MIB, 2));
    assert_eq!(metrics.peak_reserved_bytes, 64 * MIB);
}

#[test]
fn out_of_memory_ends_the_replay_with_the_figures() {
    let lines = "5,a,0,33554432,0\n6,a,1,16777216,0\n9,a,2,33554432,0\n10,f,0,33554432,0\n";
    let replayed = play(&trace(lines), "drystone-malloc", target(64 * MIB));
    let oom = replayed.metrics.oom.expect("64 MiB are too few");
    assert_eq!((oom.asked, oom.live), (32 * MIB, 48 * MIB));
    assert_eq!(oom.reserved, 48 * MIB);
    assert_eq!((oom.at_event, oom.t_us), (2, 4));
    assert!(oom.message.contains("out of memory on device 0"), "{}", oom.message);
    assert_eq!((replayed.metrics.allocs, replayed.metrics.peak_live_bytes), (2, 48 * MIB));
    assert!(replayed.timeline.points.len() <= 5);
    assert_eq!(play(&trace(lines), "drystone-malloc", target(80 * MIB)).metrics.oom, None);
}

#[test]
fn a_request_larger_than_any_device_is_out_of_memory_too() {
    let lines = format!("0,a,0,{},0\n", 1u64 << 60);
    let oom = play(&trace(&lines), "drystone-malloc", target(80 << 30)).metrics.oom.unwrap();
    assert_eq!((oom.asked, oom.live, oom.reserved), (1 << 60, 0, 0));
}

#[test]
fn options_reach_the_policy() {
    let lines = "0,a,0,33554432,0\n1,a,1,33554432,0\n";
    let limited = play(&trace(lines), "drystone-malloc:limit=48MiB", target(1 << 30)).metrics;
    let oom = limited.oom.expect("the limit binds");
    assert_eq!((oom.at_event, oom.reserved), (1, 32 * MIB));
    assert_eq!(limited.options, "limit=48MiB");
}

/// A block of 32 MiB on stream 1 is freed, and one is asked for on stream 2, 1 ms later; there is
/// memory for one. So the policy has to wait for stream 1, or to make stream 2 wait.
const CROSS: &str = "0,a,0,33554432,1\n1000,f,0,33554432,1\n1000,c,0,33554432,1\n\
                     2000,a,1,33554432,2\n3000,f,1,33554432,2\n3000,c,1,33554432,2\n";

#[test]
fn the_host_lead_is_what_a_wait_takes() {
    let waits = |host_lead_ns| {
        let target = SimTarget { host_lead_ns, ..target(40 * MIB) };
        let metrics = play(&trace(CROSS), "drystone-malloc:cross_stream=off", target).metrics;
        assert_eq!((metrics.oom, metrics.peak_reserved_bytes), (None, 32 * MIB));
        metrics.wait_us
    };
    // The work of stream 1 was submitted at 1 ms of the trace and is done after the lead.
    assert!((3_500.0..4_100.0).contains(&waits(5_000_000)), "{}", waits(5_000_000));
    assert!((8_500.0..9_100.0).contains(&waits(10_000_000)), "{}", waits(10_000_000));
    assert!(waits(0) < 10.0, "{}", waits(0));
}

#[test]
fn time_in_the_driver_delays_what_comes_later() {
    // A segment is free on stream 1, which is 5 ms behind; then `others` GiB are taken at the same
    // moment; then, 1 µs later by the trace, stream 2 could have the first segment.
    let adopted = |others: u64| {
        let mut lines = "0,a,0,33554432,1\n0,f,0,33554432,1\n0,c,0,33554432,1\n".to_owned();
        lines.extend((1..=others).map(|id| format!("0,a,{id},1073741824,0\n")));
        lines += &format!("1,a,{},33554432,2\n", others + 1);
        let metrics = play(&trace(&lines), "drystone-malloc", target(200 << 30)).metrics;
        assert!(metrics.oom.is_none() && metrics.run_us == 1, "{metrics:?}");
        assert_eq!(metrics.driver_us > 5_000.0, others > 0, "{metrics:?}");
        metrics.counters["adopted"]
    };
    assert_eq!((adopted(0), adopted(100)), (0, 1));
}

#[test]
fn zero_bytes_and_blocks_that_are_never_freed() {
    let lines = "0,a,0,0,0\n1,a,1,100,0\n2,f,0,0,0\n2,c,0,0,0\n";
    let metrics = play(&trace(lines), "drystone-malloc", target(1 << 30)).metrics;
    assert_eq!((metrics.allocs, metrics.frees, metrics.peak_live_bytes), (2, 1, 100));
    assert_eq!(metrics.end_reserved_bytes, 2 * MIB);
}

#[test]
fn an_empty_trace_has_figures() {
    let metrics = play(&trace(""), "drystone-malloc", target(1 << 30)).metrics;
    assert_eq!((metrics.events, metrics.peak_reserved_bytes, metrics.ratio), (0, 0, None));
    assert_eq!((metrics.driver_percent, metrics.wait_percent), (None, None));
    assert_eq!(metrics.ns_per_event, metrics.ns_per_event.abs());
}

#[test]
fn devices_of_a_trace_are_devices_of_the_simulator() {
    let csv = "t_us,op,id,size,stream,device\n0,a,0,33554432,0,0\n1,a,1,33554432,0,1\n";
    let trace = read_trace_bytes("two", csv.as_bytes(), &Default::default()).unwrap();
    // Each has 40 MiB: together more than one.
    let metrics = play(&trace, "drystone-malloc", target(40 * MIB)).metrics;
    assert_eq!((metrics.oom, metrics.peak_reserved_bytes), (None, 64 * MIB));
    let far = csv.replace(",0,1\n", ",0,16\n");
    let trace = read_trace_bytes("far", far.as_bytes(), &Default::default()).unwrap();
    let policy: PolicySpec = "drystone-malloc".parse().unwrap();
    let error = replay(&trace, &policy, &Target::Sim(target(1 << 30)), &mut |_| {}).unwrap_err();
    assert_eq!(error, ReplayError::TooManyDevices { needs: 17, has: 16 });
}

#[test]
fn progress_ends_at_the_last_event() {
    let lines: String = (0..70_000).map(|id| format!("{id},a,{id},512,0\n")).collect();
    let policy: PolicySpec = "drystone-malloc".parse().unwrap();
    let mut seen = Vec::new();
    let target = Target::Sim(target(1 << 30));
    replay(&trace(&lines), &policy, &target, &mut |done| seen.push(done)).unwrap();
    assert_eq!(seen, [0, 65_536, 70_000]);
}

#[test]
fn the_figures_are_json() {
    let metrics = play(&trace(REUSE), "drystone-malloc", target(1 << 30)).metrics;
    let json = serde_json::to_value(&metrics).unwrap();
    for field in ["trace", "policy", "events", "run_us", "peak_live_bytes", "peak_reserved_bytes"] {
        assert!(!json[field].is_null(), "{field} in {json}");
    }
    assert_eq!(json["oom"], serde_json::Value::Null);
    assert_eq!(json["driver_calls"]["segment_alloc"], 1);
    assert_eq!(json["counters"]["retries"], 0);
    assert_eq!(json["host_lead_us"], 5_000.0);
}
