//! Snapshots that are damaged, cut short or made to cost much.

mod common;

use common::encode::Encoder;
use common::recorded;
use common::torch::{entry, segment};
use drystone_trace::{
    LimitKind, Limits, TraceError, read_snapshot_bytes, read_trace_bytes, write_csv,
};
use proptest::prelude::*;

fn plain_text(name: &str) -> Vec<u8> {
    let packed = std::fs::read(recorded(name)).unwrap();
    liblzma::decode_all(&packed[..]).unwrap()
}

#[test]
fn hostile_sharing_is_stopped_before_it_unfolds() {
    // 2,000 lists that are all the same list of 2,000 entries that are all the same entry.
    let mut encoder = Encoder::new(4);
    encoder.op(b'}', &[]);
    encoder.str("segments");
    encoder.value(&segment(0, 0, 0, vec![]));
    let one = encoder.memoize();
    encoder.op(b'0', &[]);
    encoder.op(b'(', &[]);
    (0..100_000).for_each(|_| encoder.get(one));
    encoder.op(b'l', &[]);
    encoder.op(b's', &[]);
    let flat = encoder.finish();
    let limits = Limits { max_memory_bytes: 4 << 20, ..Limits::default() };
    let error = read_snapshot_bytes(&flat, &limits).unwrap_err();
    assert!(matches!(error, TraceError::Limit { kind: LimitKind::Memory, .. }), "{error}");

    let mut encoder = Encoder::new(4);
    encoder.op(b'}', &[]);
    encoder.str("device_traces");
    encoder.value(&entry("alloc", 1, 1, 0, 1));
    let one = encoder.memoize();
    encoder.op(b'0', &[]);
    encoder.op(b'(', &[]);
    (0..2000).for_each(|_| encoder.get(one));
    encoder.op(b'l', &[]);
    let ring = encoder.memoize();
    encoder.op(b'0', &[]);
    encoder.op(b'(', &[]);
    (0..1000).for_each(|_| encoder.get(ring));
    encoder.op(b'l', &[]);
    encoder.op(b's', &[]);
    let text = encoder.finish();
    let error = read_snapshot_bytes(&text, &Limits::default()).unwrap_err();
    assert!(matches!(error, TraceError::Limit { kind: LimitKind::Expansion, .. }), "{error}");
    let limits = Limits { max_events: 1999, ..Limits::default() };
    let error = read_snapshot_bytes(&text, &limits).unwrap_err();
    assert!(matches!(error, TraceError::Limit { kind: LimitKind::Events, .. }), "{error}");
}

#[test]
fn hostile_settings_that_contain_themselves_end() {
    let mut encoder = Encoder::new(4);
    encoder.op(b'}', &[]);
    encoder.str("allocator_settings");
    encoder.op(b'}', &[]);
    let settings = encoder.memoize();
    encoder.str("again");
    encoder.get(settings);
    encoder.op(b's', &[]);
    encoder.op(b's', &[]);
    let snapshot = read_snapshot_bytes(&encoder.finish(), &Limits::default()).unwrap();
    assert_eq!(snapshot.settings, []);
}

#[test]
fn reading_holds_a_small_multiple_of_the_text() {
    let text = plain_text("prefetch_streams.pickle.xz");
    let within = |times: u64| {
        let limits = Limits { max_memory_bytes: times * text.len() as u64, ..Limits::default() };
        read_snapshot_bytes(&text, &limits)
    };
    // The text itself, its values, and the snapshot made of them.
    within(4).unwrap();
    assert!(within(1).is_err(), "the account sees less than what is held");
}

#[test]
fn a_cut_anywhere_is_an_error() {
    let text = plain_text("stanza_pos.pickle.xz");
    let packed = std::fs::read(recorded("stanza_pos.pickle.xz")).unwrap();
    let limits = Limits::default();
    for cut in (0..text.len()).step_by(997).chain(text.len() - 20..text.len()) {
        let error = read_trace_bytes("x", &text[..cut], &limits).unwrap_err();
        match error {
            TraceError::Pickle { offset, .. } => assert!(offset <= cut as u64),
            TraceError::UnknownFormat { .. } => assert_eq!(cut, 0),
            other => panic!("cut at {cut}: {other}"),
        }
    }
    for cut in (0..packed.len()).step_by(499) {
        assert!(read_trace_bytes("x", &packed[..cut], &limits).is_err(), "cut at {cut}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn changed_bytes_never_panic_and_keep_to_the_limits(
        name in prop::sample::select(vec!["stanza_pos.pickle.xz", "cases/weclone.pickle.xz"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let mut text = plain_text(name);
        for (at, byte) in changes {
            let at = at.index(text.len());
            text[at] = byte;
        }
        let limits = Limits { max_memory_bytes: 32 << 20, max_events: 10_000, ..Limits::default() };
        if let Ok(trace) = read_trace_bytes("x", &text, &limits) {
            prop_assert!(trace.events.len() <= 10_000);
            let mut csv = Vec::new();
            write_csv(&trace, &mut csv).unwrap();
            let again = read_trace_bytes("x", &csv, &limits).unwrap();
            prop_assert_eq!(again.events, trace.events);
            prop_assert_eq!(again.block_pools, trace.block_pools);
        }
    }

    #[test]
    fn changed_bytes_of_compressed_data_never_panic(
        at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut packed = std::fs::read(recorded("stanza_pos.pickle.xz")).unwrap();
        let at = at.index(packed.len());
        let changed = packed[at] != byte;
        packed[at] = byte;
        let found = read_trace_bytes("x", &packed, &Limits::default());
        prop_assert_eq!(found.is_err(), changed, "the checksum covers every byte");
    }
}
