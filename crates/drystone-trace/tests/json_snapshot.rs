//! Snapshots as JSON: what we write reads back the same, and what is damaged is an error with its
//! place.

mod common;

use common::recorded;
use drystone_trace::{
    Limits, Snapshot, TraceError, read_run_bytes, read_snapshot, read_snapshot_bytes,
    read_trace_bytes,
};
use proptest::prelude::*;

fn json_of(snapshot: &Snapshot) -> Vec<u8> {
    let mut json = Vec::new();
    snapshot.write_json(&mut json).unwrap();
    json
}

fn stanza() -> Vec<u8> {
    json_of(&read_snapshot(recorded("stanza_pos.pickle.xz"), &Limits::default()).unwrap())
}

fn read(json: &str) -> Result<Snapshot, TraceError> {
    read_snapshot_bytes(json.as_bytes(), &Limits::default())
}

#[test]
fn recorded_snapshots_read_back_the_same() {
    for name in ["stanza_pos.pickle.xz", "prefetch_streams.pickle.xz"] {
        let snapshot = read_snapshot(recorded(name), &Limits::default()).unwrap();
        let json = json_of(&snapshot);
        // Compressed as well, as all that is read.
        let packed = zstd::encode_all(&json[..], 1).unwrap();
        for text in [&json, &packed] {
            let again = read_snapshot_bytes(text, &Limits::default()).unwrap();
            assert!(again == snapshot, "{name} differs");
        }
        let (run, left) = (snapshot.clone().into_run("x", &Limits::default()).unwrap(), json);
        assert!(read_run_bytes("x", &left, &Limits::default()).unwrap() == run, "{name} differs");
        assert!(read_trace_bytes("x", &left, &Limits::default()).unwrap() == run.trace);
    }
}

#[test]
fn segments_alone_and_with_white_space_are_a_snapshot() {
    let json = r#"
      [ { "device": 1, "address": 140187732541440, "total_size": 2097152, "stream": -2,
          "segment_pool_id": [0, 3], "is_expandable": true, "of_the_future": {"a": [1.5e3, null]},
          "blocks": [ { "size": 2097152, "state": "inactive" } ] } ]
    "#;
    let snapshot = read(json).unwrap();
    let segment = &snapshot.segments[0];
    assert_eq!(
        (segment.device, segment.address, segment.stream),
        (1, 0x7f80_0000_0000, u64::MAX - 1)
    );
    assert_eq!((segment.segment_pool_id, segment.is_expandable), ((0, 3), true));
    assert_eq!(segment.blocks[0].address, segment.address);
    assert_eq!(read("{}").unwrap(), Snapshot::default());
}

#[test]
fn what_is_wrong_is_told_with_the_path_or_the_byte() {
    for (json, message) in [
        ("[1]", "snapshot, segments[0]: found int 1, expected a dict"),
        (r#"{"segments": null}"#, "snapshot, segments: found None, expected a list"),
        (
            r#"{"traceEvents": []}"#,
            "snapshot, the whole: found dict, expected a dict with segments or device_traces",
        ),
        (
            r#"{"device_traces": [[{"action": "alloc", "addr": 1, "size": 1.5}]]}"#,
            "snapshot, device_traces[0][0].size: found float 1.5, expected a whole number",
        ),
        (
            r#"{"device_traces": [[{"action": "alloc", "addr": 1e30, "size": 1}]]}"#,
            "snapshot, device_traces[0][0].addr: found float 1000000000000000000000000000000",
        ),
        (r#"{"device_traces": [["#, "JSON, byte 19: EOF while parsing a list"),
        (r#"{"device_traces": []} {}"#, "JSON, byte 22: trailing characters"),
    ] {
        let error = read(json).unwrap_err().to_string();
        assert!(error.starts_with(message), "{json}: {error}");
    }
}

#[test]
fn limits_hold() {
    let json = stanza();
    let limits = Limits { max_events: 5999, ..Limits::default() };
    let error = read_snapshot_bytes(&json, &limits).unwrap_err();
    assert!(error.to_string().starts_with("more than 5999 events"), "{error}");
    let limits = Limits { max_objects: 1000, ..Limits::default() };
    let error = read_snapshot_bytes(&json, &limits).unwrap_err();
    assert!(error.to_string().starts_with("more than 1000 values, at byte "), "{error}");
    let limits = Limits { max_memory_bytes: json.len() as u64 + 9999, ..Limits::default() };
    let error = read_snapshot_bytes(&json, &limits).unwrap_err();
    assert!(error.to_string().contains("bytes of memory, at byte "), "{error}");
}

#[test]
fn a_cut_anywhere_is_an_error() {
    let text = stanza();
    for cut in (1..text.len()).step_by(19_997).chain(text.len() - 20..text.len()) {
        let error = read_trace_bytes("x", &text[..cut], &Limits::default()).unwrap_err();
        let TraceError::Json { offset, .. } = error else { panic!("cut at {cut}: {error}") };
        assert!(offset < cut as u64, "cut at {cut}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn changed_bytes_never_panic_and_keep_to_the_limits(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut text = stanza();
        text.truncate(200_000);
        text.extend(b"}]}");
        for (at, byte) in changes {
            let at = at.index(text.len());
            text[at] = byte;
        }
        let limits = Limits { max_memory_bytes: 32 << 20, max_events: 10_000, ..Limits::default() };
        if let Ok(trace) = read_trace_bytes("x", &text, &limits) {
            prop_assert!(trace.events.len() <= 10_000);
        }
    }
}
