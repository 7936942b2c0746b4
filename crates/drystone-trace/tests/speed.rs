//! How fast traces are read: prints the rates, and in release builds fails if they are far off.
//! `cargo test --release -p drystone-trace --test speed -- --nocapture`

mod common;

use std::time::{Duration, Instant};

use common::encode::{Encoder, Val};
use common::recorded;
use drystone_trace::{
    Limits, NativeReader, read_run, read_run_bytes, read_trace, read_trace_bytes, write_native,
};

const EVENTS: u32 = 300_000;

/// The best of three, as others use the machine, too.
fn timed(what: &str, events: usize, mut run: impl FnMut()) {
    let best = (0..3)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .min()
        .unwrap_or(Duration::MAX);
    let rate = events as f64 / best.as_secs_f64() / 1e6;
    println!("{what}: {events} events in {best:.1?}, {rate:.2} million a second");
    if !cfg!(debug_assertions) {
        let allowed = Duration::from_secs(1).mul_f64(events as f64 / f64::from(EVENTS));
        assert!(best < allowed, "{what} took {best:?}");
    }
}

/// A ring as torch writes it: shared keys, an own list of shared frames for each entry.
fn big_pickle(proto: u8) -> Vec<u8> {
    let mut encoder = Encoder::new(proto);
    let kept = |encoder: &mut Encoder, text: &str| {
        encoder.str(text);
        let number = encoder.memoize();
        encoder.op(b'0', &[]);
        number
    };
    let keys = ["action", "addr", "size", "stream", "time_us", "compile_context", "frames"]
        .map(|key| kept(&mut encoder, key));
    let actions =
        ["alloc", "free_requested", "free_completed"].map(|action| kept(&mut encoder, action));
    let context = kept(&mut encoder, "N/A");
    let frames: Vec<u32> = (0..200)
        .map(|line| {
            encoder.value(&Val::Dict(vec![
                ("name".into(), "forward".into()),
                ("filename".into(), "torch/nn/modules/linear.py".into()),
                ("line".into(), line.into()),
            ]));
            let number = encoder.memoize();
            encoder.op(b'0', &[]);
            number
        })
        .collect();
    encoder.op(b'}', &[]);
    encoder.str("device_traces");
    encoder.op(b']', &[]);
    encoder.op(b']', &[]);
    encoder.memoize();
    for event in 0..EVENTS {
        let block = i64::from(event / 3);
        encoder.op(b'}', &[]);
        encoder.memoize();
        encoder.op(b'(', &[]);
        encoder.get(keys[0]);
        encoder.get(actions[event as usize % 3]);
        for (key, value) in [
            (1, (0x7f00 << 32) + block % 5000 * 512),
            (2, 1000 + block % 977),
            (3, 0),
            (4, 1_795_235_396_754_851 + i64::from(event)),
        ] {
            encoder.get(keys[key]);
            encoder.int(value);
        }
        encoder.get(keys[5]);
        encoder.get(context);
        encoder.get(keys[6]);
        encoder.op(b']', &[]);
        encoder.memoize();
        encoder.op(b'(', &[]);
        (0..8).for_each(|i| encoder.get(frames[(event as usize + i * 7) % frames.len()]));
        encoder.op(b'e', &[]);
        encoder.op(b'u', &[]);
        encoder.op(b'a', &[]);
    }
    encoder.op(b'a', &[]);
    encoder.op(b's', &[]);
    encoder.finish()
}

#[test]
fn snapshots_are_read_at_a_rate_worth_having() {
    for proto in [2, 4] {
        let text = big_pickle(proto);
        let limits = Limits { max_memory_bytes: 5 * text.len() as u64, ..Limits::default() };
        let what = format!("pickle of protocol {proto}, {} MB", text.len() >> 20);
        timed(&what, EVENTS as usize, || {
            let trace = read_trace_bytes("big", &text, &limits).unwrap();
            assert_eq!((trace.events.len(), trace.blocks), (EVENTS as usize, EVENTS / 3));
            assert!(trace.dropped.is_empty());
        });
    }
}

#[test]
fn csv_is_read_at_a_rate_worth_having() {
    for name in ["weclone_qa", "deepke_bert"] {
        let path = recorded(&format!("{name}.csv.xz"));
        let limits = Limits::default();
        let events = read_trace(&path, &limits).unwrap().events.len();
        timed(&format!("{name}.csv.xz"), events, || drop(read_trace(&path, &limits).unwrap()));
        let text = liblzma::decode_all(&std::fs::read(&path).unwrap()[..]).unwrap();
        timed(&format!("{name}.csv"), events, || {
            drop(read_trace_bytes(name, &text, &limits).unwrap());
        });
    }
}

#[test]
fn native_traces_are_read_and_written_at_a_rate_worth_having() {
    for name in ["weclone_qa", "deepke_bert"] {
        let run = read_run(recorded(&format!("{name}.csv.xz")), &Limits::default()).unwrap();
        let events = run.trace.events.len();
        let mut bytes = Vec::new();
        timed(&format!("{name}.dst written"), events, || {
            bytes.clear();
            write_native(&run, &mut bytes).unwrap();
        });
        timed(&format!("{name}.dst"), events, || {
            drop(read_run_bytes(name, &bytes, &Limits::default()).unwrap());
        });
        timed(&format!("{name}.dst by chunks"), events, || {
            let mut reader = NativeReader::from_bytes(&bytes, &Limits::default()).unwrap();
            while reader.next_entries().unwrap().is_some() {}
        });
        timed(&format!("{name}.pickle made up and written"), events, || {
            let snapshot = run.to_snapshot().unwrap();
            snapshot.write_pickle(std::io::sink()).unwrap();
        });
    }
}
