//! Any bytes as a log of RMM: no panic, limits kept, and its trace is one that needs no repair.
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
    let log = [b"Thread,Time,Action,Pointer,Size,Stream\n", bytes].concat();
    let Ok(trace) = read_trace_bytes("fuzz", &log, &limits) else { return };
    assert!(trace.events.len() <= 10_000 && trace.pools() == 1);
    let mut text = Vec::new();
    write_csv(&trace, &mut text).expect("a Vec takes all");
    let again = read_trace_bytes("fuzz", &text, &Limits::default()).expect("our own text");
    assert!(again.dropped.is_empty(), "a trace is repaired: {:?}", again.dropped);
    assert_eq!(again.events, trace.events);
});
