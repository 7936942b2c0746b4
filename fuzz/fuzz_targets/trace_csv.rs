//! Any bytes as a CSV: no panic, limits kept, and what is read is written and read the same.
#![no_main]

use drystone_trace::{Limits, read_trace_bytes, write_csv};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits {
        max_events: 10_000,
        max_decompressed_bytes: 1 << 20,
        max_memory_bytes: 16 << 20,
        ..Limits::default()
    };
    // A pickle has a target of its own.
    if bytes.first() == Some(&0x80) {
        return;
    }
    let Ok(trace) = read_trace_bytes("fuzz", bytes, &limits) else { return };
    assert!(trace.events.len() <= 10_000);
    let mut text = Vec::new();
    write_csv(&trace, &mut text).expect("a Vec takes all");
    let mut again = read_trace_bytes("fuzz", &text, &Limits::default()).expect("our own text");
    assert!(again.dropped.is_empty(), "a trace is repaired: {:?}", again.dropped);
    again.dropped = trace.dropped.clone();
    assert_eq!(again, trace);
    let largest = trace.events.iter().filter(|e| e.op.has_block()).map(|e| e.size).max();
    assert!(trace.peak_live_bytes() >= largest.unwrap_or(0));
});
