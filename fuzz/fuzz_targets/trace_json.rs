//! Any bytes as a snapshot in JSON: no panic, limits kept, and what is read is written as JSON that
//! reads back the same.
#![no_main]

use drystone_trace::{Limits, read_snapshot_bytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // What is no JSON belongs to the other targets.
    if !matches!(bytes.trim_ascii_start().first(), Some(b'{' | b'[')) {
        return;
    }
    let limits = Limits {
        max_events: 10_000,
        max_decompressed_bytes: 1 << 20,
        max_memory_bytes: 16 << 20,
        ..Limits::default()
    };
    let Ok(snapshot) = read_snapshot_bytes(bytes, &limits) else { return };
    let mut text = Vec::new();
    snapshot.write_json(&mut text).expect("a Vec takes all");
    let again = read_snapshot_bytes(&text, &Limits::default()).expect("our own text");
    let mut second = Vec::new();
    again.write_json(&mut second).expect("a Vec takes all");
    assert_eq!(again.segments.len(), snapshot.segments.len());
    assert!(text == second, "what was written is not what was read");
    let _ = again.to_trace("fuzz", &limits);
});
