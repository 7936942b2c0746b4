//! Pools that the entries of a ring say themselves, as those of Drystone's histories do.

mod common;

use common::encode::{Val, dict, encode};
use common::recorded;
use common::torch::{entry, segment, whole};
use drystone_trace::{
    Limits, Op, Snapshot, Trace, TraceError, read_snapshot, read_snapshot_bytes, read_trace_bytes,
};

/// The entry with this pool.
fn said(entry: Val, pool: Val) -> Val {
    let Val::Dict(mut pairs) = entry else { unreachable!("an entry is a dict") };
    pairs.push(("pool_id".into(), pool));
    Val::Dict(pairs)
}

fn pair(first: i64, second: i64) -> Val {
    Val::Tuple(vec![first.into(), second.into()])
}

/// A segment of 4096 bytes at 4096, at the end of pool (0, 7).
fn of_seven() -> Val {
    let Val::Dict(mut pairs) = segment(0, 4096, 0, vec![]) else { unreachable!("dict") };
    pairs.push(("segment_pool_id".into(), pair(0, 7)));
    Val::Dict(pairs)
}

fn read(ring: Vec<Val>) -> Snapshot {
    let text = encode(&whole(vec![of_seven()], vec![ring]), 4);
    read_snapshot_bytes(&text, &Limits::default()).unwrap()
}

/// The size of each block with its pool.
fn pools(trace: &Trace) -> Vec<(u64, u32)> {
    let allocations = trace.events.iter().filter(|event| event.op == Op::Alloc);
    allocations.map(|event| (event.size, trace.pool_of(event.id))).collect()
}

/// Entries that say pools and some that do not: frees of what was there before, and allocations.
fn mixed() -> Snapshot {
    read(vec![
        said(entry("alloc", 4096, 1, 0, 1), pair(0, 3)),
        said(entry("alloc", 4608, 2, 0, 2), pair(0, 0)),
        entry("alloc", 5120, 3, 0, 3),
        said(entry("free_requested", 5632, 4, 0, 4), pair(5, i64::MAX)),
        said(entry("free_completed", 6144, 5, 0, 5), pair(0, 0)),
        entry("free_completed", 6656, 6, 0, 6),
        // Of an allocation the ring has: its own entry has said it.
        said(entry("free_requested", 4096, 1, 0, 7), pair(0, 0)),
        // Of no block.
        said(entry("snapshot", 0, 0, 0, 8), pair(0, 8)),
    ])
}

#[test]
fn what_an_entry_says_counts_before_the_segments() {
    let trace = mixed().to_trace("test", &Limits::default()).unwrap();
    // The blocks that were there before come first. Pools count from 1 in order of appearance.
    let expected = [(4, 1), (5, 0), (6, 2), (1, 3), (2, 0), (3, 2)];
    assert_eq!(pools(&trace), expected);
    assert_eq!(trace.prelude, 3);
}

#[test]
fn allocations_of_a_prelude_say_it_as_well() {
    let text = r#"{"segments": [{"address": 4096, "total_size": 4096, "segment_pool_id": [0, 7]}],
        "device_traces": [[
            {"action": "alloc", "addr": 4096, "size": 1, "pool_id": [0, 0]},
            {"action": "alloc", "addr": 4608, "size": 2, "pool_id": [9, 18446744073709551615]},
            {"action": "alloc", "addr": 5120, "size": 3}]],
        "drystone_prelude": [2]}"#;
    let trace = read_trace_bytes("test", text.as_bytes(), &Limits::default()).unwrap();
    assert_eq!((pools(&trace), trace.prelude), (vec![(1, 0), (2, 1), (3, 2)], 2));
}

#[test]
fn they_are_written_and_read_back_the_same() {
    let snapshot = mixed();
    assert_eq!(snapshot.entry_pools.ids(), [(0, 3), (0, 0), (5, i64::MAX as u64), (0, 8)]);
    let (mut pickle, mut json) = (Vec::new(), Vec::new());
    snapshot.write_pickle(&mut pickle).unwrap();
    snapshot.write_json(&mut json).unwrap();
    for text in [&pickle, &json] {
        assert_eq!(read_snapshot_bytes(text, &Limits::default()).unwrap(), snapshot);
    }
    let json = String::from_utf8(json).unwrap();
    assert_eq!(json.matches(r#""pool_id":["#).count(), 6);
    assert!(json.contains(r#""user_metadata":"","pool_id":[5,9223372036854775807]}"#), "{json}");
}

#[test]
fn torchs_snapshots_get_no_such_key() {
    let snapshot = read_snapshot(recorded("cases/weclone.pickle.xz"), &Limits::default()).unwrap();
    assert!(snapshot.entry_pools.ids().is_empty());
    let mut json = Vec::new();
    snapshot.write_json(&mut json).unwrap();
    assert!(!String::from_utf8(json).unwrap().contains("\"pool_id\""));
    let mut json = Vec::new();
    let run = mixed().into_run("test", &Limits::default()).unwrap();
    run.to_snapshot().unwrap().write_json(&mut json).unwrap();
    assert!(!String::from_utf8(json).unwrap().contains("\"pool_id\""));
}

#[test]
fn what_is_no_pair_of_numbers_is_an_error_that_names_it() {
    let path = "device_traces[0][1].pool_id";
    for (value, at, found) in [
        (Val::None, "", "None"),
        (1.into(), "", "int 1"),
        ("(0, 0)".into(), "", "str"),
        (dict([]), "", "dict"),
        (Val::Tuple(vec![]), "", ""),
        (Val::Tuple(vec![1.into()]), "", ""),
        (Val::List(vec![1.into(), 2.into(), 3.into()]), "", "list"),
        (pair(-1, 0), "[0]", "int -1"),
        (Val::List(vec![0.into(), true.into()]), "[1]", "bool true"),
        (Val::List(vec![0.into(), Val::Float(1.0)]), "[1]", "float 1"),
    ] {
        let ring = vec![entry("snapshot", 0, 0, 0, 1), said(entry("oom", 1, 1, 0, 2), value)];
        let text = encode(&whole(vec![], vec![ring]), 4);
        let error = read_snapshot_bytes(&text, &Limits::default()).unwrap_err();
        let TraceError::Snapshot { path: p, found: f, .. } = &error else { panic!("{error}") };
        assert_eq!(*p, format!("{path}{at}"), "{error}");
        assert!(f.starts_with(found), "{error}");
    }
}

#[test]
fn pools_are_within_the_limits() {
    // 2000 entries, of one pool or of a pool each, in texts of one length.
    let ring = |pool: fn(u32) -> u32| {
        let entry = |id| {
            let pool = pool(id);
            format!(r#"{{"action":"alloc","addr":{id},"size":1,"pool_id":[0,{pool}]}}"#)
        };
        let entries: Vec<_> = (1000..3000).map(entry).collect();
        format!(r#"{{"device_traces":[[{}]]}}"#, entries.join(","))
    };
    let (one, each) = (ring(|_| 1000), ring(|id| id));
    let read = |text: &str, most| {
        let limits = Limits { max_memory_bytes: most, ..Limits::default() };
        read_snapshot_bytes(text.as_bytes(), &limits)
    };
    let enough = (0..).map(|n| n << 14).find(|&most| read(&one, most).is_ok()).unwrap();
    // Above 16 bytes for an id, its number and place in a map.
    let most = enough + 2000 * 40;
    let refused = read(&each, most).unwrap_err();
    assert!(matches!(refused, TraceError::Limit { allowed, .. } if allowed == most), "{refused}");
    let of_each = read(&each, enough + 2000 * 200).unwrap();
    assert_eq!(of_each.to_trace("test", &Limits::default()).unwrap().pools(), 2001);
}
