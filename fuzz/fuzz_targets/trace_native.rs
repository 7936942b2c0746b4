//! Any bytes as a native trace, with and without right checksums: no panic, limits kept, and what is
//! read is written and read the same.
#![no_main]

use drystone_trace::{Limits, NativeReader, read_run_bytes, write_native};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    // Behind a byte that is no native trace's first: checksums are put right, so that what lies
    // behind them is reached.
    if bytes.first() == Some(&0) {
        bytes.remove(0);
        put_right(&mut bytes);
    }
    if !bytes.starts_with(b"\x89DST") {
        return;
    }
    let limits = Limits {
        max_events: 200_000,
        max_decompressed_bytes: 8 << 20,
        max_memory_bytes: 32 << 20,
        ..Limits::default()
    };
    if let Ok(mut reader) = NativeReader::from_bytes(&bytes, &limits) {
        while let Ok(Some(entries)) = reader.next_entries() {
            assert!(entries.len() <= 1 << 16);
        }
    }
    let Ok(run) = read_run_bytes("fuzz", &bytes, &limits) else { return };
    assert!(run.trace.events.len() <= 200_000);
    assert!(run.block_stacks.is_empty() || run.block_stacks.len() == run.trace.blocks as usize);
    (0..run.trace.blocks).for_each(|block| run.frames_of_block(block).for_each(drop));
    let mut again = Vec::new();
    write_native(&run, &mut again).expect("a Vec takes all, and a run is repaired");
    let again = read_run_bytes("fuzz", &again, &Limits::default()).expect("our own bytes");
    assert_eq!(again, run);
    if let Ok(snapshot) = run.to_snapshot() {
        let trace = snapshot.to_trace("fuzz", &Limits::default()).expect("limits are high");
        assert_eq!((trace.blocks, trace.pools()), (run.trace.blocks, run.trace.pools()));
    }
});

/// Replaces the checksum of each chunk by the one that its bytes have.
fn put_right(bytes: &mut [u8]) {
    const START: usize = 12;
    const HEAD: usize = 13;
    let mut at = START;
    while let Some(head) = bytes.get(at..at + HEAD) {
        let size = u32::from_le_bytes([head[5], head[6], head[7], head[8]]) as usize;
        let Some(body) = bytes.get(at + HEAD..).and_then(|rest| rest.get(..size)) else { return };
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes[at..at + 9]);
        hasher.update(body);
        let sum = hasher.finalize().to_le_bytes();
        bytes[at + 9..at + HEAD].copy_from_slice(&sum);
        at += HEAD + size;
    }
}
