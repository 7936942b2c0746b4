//! Any bytes as a torch snapshot: no panic, limits kept, and its trace is one that needs no repair.
#![no_main]

use drystone_trace::{Limits, read_snapshot_bytes, read_trace_bytes, write_csv};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits {
        max_events: 10_000,
        max_decompressed_bytes: 1 << 20,
        max_memory_bytes: 16 << 20,
        ..Limits::default()
    };
    let Ok(snapshot) = read_snapshot_bytes(bytes, &limits) else { return };
    for entry in snapshot.device_traces.iter().flatten() {
        snapshot.stacks.frames(entry.stack).for_each(drop);
    }
    let Ok((trace, stacks)) = snapshot.to_trace_with_stacks("fuzz", &limits) else { return };
    assert_eq!(stacks.len(), trace.blocks as usize);
    let mut text = Vec::new();
    write_csv(&trace, &mut text).expect("a Vec takes all");
    let mut again = read_trace_bytes("fuzz", &text, &Limits::default()).expect("our own text");
    assert!(again.dropped.is_empty(), "a trace is repaired: {:?}", again.dropped);
    again.dropped = trace.dropped.clone();
    assert_eq!(again, trace);
});
