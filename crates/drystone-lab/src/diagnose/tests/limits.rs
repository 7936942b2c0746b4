//! Limits that are too low, or too high for what there is; private pools one by one.

use drystone_trace::{Snapshot, read_snapshot_bytes};

use super::*;

const GIB: u64 = 1 << 30;

fn kinds_of(run: &Run, capacity: Option<u64>) -> Vec<FindingKind> {
    kinds(&diagnosed(run, capacity))
}

/// One block, then a request that fails, with what the device had free.
fn refused(live: u64, asked: u64, device_free: u64, fraction: Option<f64>) -> Run {
    let mut script = Script::default();
    script.alloc(live);
    script.fail(asked);
    let mut run = script.run();
    failed(&mut run, device_free, live);
    let text = fraction.map(|fraction| format!("per_process_memory_fraction:{fraction}"));
    let text = text.map(|text| ("PYTORCH_CUDA_ALLOC_CONF".to_owned(), text));
    run.settings = text.into_iter().collect();
    run
}

#[test]
fn a_fraction_too_low_or_too_high_is_told_from_what_the_device_had() {
    use FindingKind::{Excess, Limit, LimitTooHigh, OtherProcess};
    for (live, asked, free, fraction, total, expected) in [
        // The device had room: the limit is what refused.
        (8 * GIB, GIB, 8 * GIB, Some(0.5), None, &[Limit][..]),
        (8 * GIB, GIB, 8 * GIB, Some(0.5), Some(16 * GIB), &[Limit]),
        // 16 GiB, of which others hold 6: the limit of 14.4 GiB was never reached.
        (9 * GIB, 2 * GIB, GIB, Some(0.9), Some(16 * GIB), &[OtherProcess, LimitTooHigh]),
        // The same without a limit, or with one that was reached.
        (9 * GIB, 2 * GIB, GIB, None, Some(16 * GIB), &[OtherProcess]),
        (9 * GIB, 2 * GIB, GIB, Some(0.5), Some(16 * GIB), &[OtherProcess]),
        (9 * GIB, 2 * GIB, GIB, Some(0.9), None, &[Excess]),
    ] {
        let run = refused(live, asked, free, fraction);
        assert_eq!(kinds_of(&run, total), expected, "{live} {asked} {free} {fraction:?}");
    }
    let found = diagnosed(&refused(9 * GIB, 2 * GIB, GIB, Some(0.9)), Some(16 * GIB));
    let high = found.findings.iter().find(|found| found.kind == LimitTooHigh).unwrap();
    assert!(high.text.contains("can be 0.62 at most"), "{}", high.text);
    assert_eq!(high.evidence["available"], 10 * GIB);
    let found = diagnosed(&refused(8 * GIB, GIB, 8 * GIB, Some(0.5)), None);
    assert!(found.findings[0].text.contains("fraction is 0.5"), "{}", found.findings[0].text);
}

#[test]
fn a_limit_that_is_lifted_is_among_what_is_tried() {
    // 300 of 500 MiB may be had; others keep to the limit as well.
    let run = refused(200 * MIB, 150 * MIB, 300 * MIB, Some(0.6));
    let found = diagnosed(&run, Some(500 * MIB));
    assert_eq!(kinds(&found), [FindingKind::Limit]);
    let helped: Vec<_> = found.remedies.iter().map(|remedy| remedy.setting.as_str()).collect();
    assert_eq!(helped, ["PYTORCH_ALLOC_CONF=per_process_memory_fraction:1"]);
    let before = found.as_it_was.unwrap();
    assert_eq!(before.policy, "pytorch:per_process_memory_fraction=0.6");
    assert!(!before.completes);
}

#[test]
fn a_limit_that_refused_is_known_from_that_and_what_is_tried_keeps_to_it() {
    // 100 of 200 MiB lie in pieces of 20 MiB, and the limit is that.
    let mut script = in_pieces();
    script.fail(60 * MIB);
    let mut run = script.run();
    failed(&mut run, 800 * MIB, 200 * MIB);
    let found = diagnosed(&run, None);
    assert_eq!(kinds(&found), [FindingKind::Limit]);
    assert_eq!((found.capacity_bytes, found.limit_bytes), (Some(1000 * MIB), Some(258 * MIB)));
    assert!(found.findings[0].text.ends_with("It is about 258.00 MiB."), "{found:?}");
    assert!(!found.as_it_was.unwrap().completes);
    assert!(found.remedies.iter().any(|remedy| remedy.policy == "drystone"));
    assert!(found.remedies.iter().all(|remedy| remedy.peak_reserved_bytes <= 258 * MIB));
}

#[test]
fn what_others_hold_is_not_there_in_replays() {
    // 100 of 200 MiB lie in pieces of 20 MiB, others hold all but 258 MiB.
    let mut script = in_pieces();
    script.fail(60 * MIB);
    let mut run = script.run();
    failed(&mut run, 58 * MIB, 200 * MIB);
    let found = diagnosed(&run, Some(16 * GIB));
    assert_eq!(kinds(&found), [FindingKind::OtherProcess, FindingKind::Fragmentation]);
    assert_eq!((found.capacity_bytes, found.limit_bytes), (Some(16 * GIB), None));
    assert_eq!(found.beside_others_bytes, Some(258 * MIB));
    assert_eq!(found.completes_without_others, Some(true));
    assert!(!found.as_it_was.unwrap().completes);
    assert!(found.remedies.iter().any(|remedy| remedy.policy == "drystone"));
    assert!(found.remedies.iter().all(|remedy| remedy.peak_reserved_bytes <= 258 * MIB));
    // Without others there is nothing to say of them.
    let found = diagnosed(&run, None);
    assert_eq!((found.beside_others_bytes, found.completes_without_others), (None, None));
    // A fraction is one of the whole device, so that replays have that.
    let text = ("PYTORCH_CUDA_ALLOC_CONF".to_owned(), "per_process_memory_fraction:0.9".to_owned());
    run.settings = vec![text];
    assert_eq!(diagnosed(&run, Some(16 * GIB)).beside_others_bytes, None);
}

/// A snapshot as an engine that serves leaves it: weights, a cache set aside by a function of this
/// name, and a request that fails.
fn engine(function: &str, cache: u64, asked: u64, frees: bool) -> Run {
    let frames = |name: &str, line: u32| {
        format!(r#"[{{"name": "{name}", "filename": "/app/engine.py", "line": {line}}}]"#)
    };
    let mut entries = Vec::new();
    let mut entry = |action: &str, at: u64, bytes: u64, frames: &str| {
        let key = if action == "oom" { "device_free" } else { "addr" };
        let time = entries.len();
        entries.push(format!(
            r#"{{"action": "{action}", "{key}": {at}, "size": {bytes}, "time_us": {time}, "frames": {frames}}}"#
        ));
    };
    let segment = 1 << 40;
    entry("segment_alloc", segment, 4 * GIB + cache, &frames("load", 5));
    entry("alloc", segment, 4 * GIB, &frames("load", 5));
    if frees {
        entry("alloc", segment + 4 * GIB, MIB, &frames(function, 17));
        entry("free_requested", segment + 4 * GIB, MIB, "[]");
        entry("free_completed", segment + 4 * GIB, MIB, "[]");
    }
    for layer in 0..8 {
        let at = segment + 4 * GIB + layer * cache / 8;
        entry("alloc", at, cache / 8, &frames(function, 17));
    }
    entry("oom", 100 * MIB, asked, &frames("capture", 30));
    let json = format!(r#"{{"device_traces": [[{}]]}}"#, entries.join(","));
    let snapshot: Snapshot = read_snapshot_bytes(json.as_bytes(), &Default::default()).unwrap();
    snapshot.into_run("engine", &Default::default()).unwrap()
}

#[test]
fn what_was_set_aside_for_a_cache_is_told_of() {
    let found = diagnosed(&engine("allocate_kv_cache", 10 * GIB, 512 * MIB, false), None);
    assert_eq!(kinds(&found), [FindingKind::Excess, FindingKind::SetAside]);
    let high = &found.findings[1];
    assert_eq!((high.bytes, high.evidence["missing"]), (10 * GIB, 412 * MIB));
    assert!(high.text.contains("At least 412.00 MiB have to be left for it"), "{}", high.text);
    assert_eq!(high.holders[0].frame.as_deref(), Some("/app/engine.py:17 allocate_kv_cache"));
    for (what, run) in [
        ("a name that says nothing", engine("load", 10 * GIB, 512 * MIB, false)),
        ("what comes and goes", engine("allocate_kv_cache", 10 * GIB, 512 * MIB, true)),
        ("little", engine("allocate_kv_cache", 500 * MIB, 200 * MIB, false)),
        ("a large request", engine("allocate_kv_cache", 10 * GIB, 6 * GIB, false)),
    ] {
        assert_eq!(kinds_of(&run, None), [FindingKind::Excess], "{what}");
    }
}

#[test]
fn a_cache_that_leaves_nothing_to_others_is_a_limit_too_high() {
    let mut script = Script::default();
    script.line(format_args!("S,,{},0,0", 3800 * MIB));
    for _ in 0..3 {
        let block = script.alloc(2000 * MIB);
        script.free(block);
    }
    let run = script.run();
    let found = diagnosed(&run, Some(4000 * MIB));
    assert!(kinds(&found).contains(&FindingKind::LimitTooHigh), "{:?}", kinds(&found));
    let high = found.findings.iter().find(|f| f.kind == FindingKind::LimitTooHigh).unwrap();
    assert_eq!((high.evidence["left"], high.bytes), (200 * MIB, 1800 * MIB));
    assert!(high.text.contains("A fraction of 0.53"), "{}", high.text);
    // With more room, or where nobody said how large the device is, it is none.
    for capacity in [None, Some(8000 * MIB)] {
        assert!(!kinds_of(&run, capacity).contains(&FindingKind::LimitTooHigh), "{capacity:?}");
    }
}

#[test]
fn each_private_pool_is_told_with_what_lies_idle_in_it() {
    let json = |pool: &str, at: u64, blocks: &str, name: &str| {
        format!(
            r#"{{"address": {at}, "total_size": {}, "segment_pool_id": [{pool}],
                "frames": [{{"name": "{name}", "filename": "g.py", "line": 1}}], "blocks": [{blocks}]}}"#,
            100 * MIB
        )
    };
    let used = |mib: u64, name: &str| {
        format!(
            r#"{{"size": {}, "state": "active_allocated",
                "frames": [{{"name": "{name}", "filename": "g.py", "line": 2}}]}}"#,
            mib * MIB
        )
    };
    let free = |mib: u64| format!(r#"{{"size": {}, "state": "inactive"}}"#, mib * MIB);
    let segments = [
        json("0, 1", 1 << 40, &format!("{}, {}, {}", used(10, "f"), free(60), free(30)), "a"),
        json("0, 2", 2 << 40, &format!("{}, {}", used(60, "f"), used(40, "h")), "b"),
        json("0, 2", 3 << 40, &format!("{}, {}", used(90, "h"), free(10)), "b"),
        json("0, 3", 4 << 40, &free(100), "capture"),
        json("0, 0", 5 << 40, &used(100, "f"), "c"),
    ];
    let text = format!("[{}]", segments.join(","));
    let snapshot = read_snapshot_bytes(text.as_bytes(), &Default::default()).unwrap();
    let run = snapshot.into_run("graphs", &Default::default()).unwrap();
    let found = diagnosed(&run, None);
    assert_eq!(kinds(&found)[0], FindingKind::PrivatePools);
    let finding = &found.findings[0];
    let pools: Vec<_> = finding
        .pools
        .iter()
        .map(|pool| (pool.id, [pool.reserved, pool.idle, pool.largest_idle].map(|n| n / MIB)))
        .collect();
    let expected = [((0, 2), [200, 10, 10]), ((0, 1), [100, 90, 60]), ((0, 3), [100, 100, 100])];
    assert_eq!(pools, expected);
    let frames: Vec<_> = finding
        .pools
        .iter()
        .map(|pool| pool.holders.iter().map(|h| h.frame.as_deref().unwrap()).collect::<Vec<_>>())
        .collect();
    // Whose an idle pool was is told by who took its segments.
    assert_eq!(frames, [&["g.py:2 h", "g.py:2 f"][..], &["g.py:2 f"], &["g.py:1 capture"]]);
    assert!(finding.text.contains("The largest, (0, 2), has 200.00 MiB in 2 segments"));
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json["findings"][0]["pools"][0]["id"], serde_json::json!([0, 2]));
}
