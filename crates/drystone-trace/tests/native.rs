//! Native traces: what is written reads back, small, and what is damaged is an error with its place.

mod common;

use common::recorded;
use common::rows::rows;
use drystone_trace::{
    Event, Limits, NO_BLOCK, NativeProblem, NativeReader, NativeWriter, Op, Run, TraceError,
    read_run, read_run_bytes, read_trace_bytes, write_native,
};
use proptest::prelude::*;

const TRACES: [&str; 7] = [
    "stanza_pos",
    "gliner_batches",
    "deepke_bert",
    "weclone_qa",
    "unet3d",
    "bert512",
    "prefetch_streams",
];

fn native(run: &Run) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_native(run, &mut bytes).unwrap();
    bytes
}

fn run(csv: &str) -> Run {
    read_run_bytes("test", csv.as_bytes(), &Limits::default()).unwrap()
}

/// Every operation, a prelude, streams and devices, times far apart, what a reader repairs.
const RARE: &str = "#prelude=2\nt_us,op,id,size,stream,device\n\
    0,a,10,4096,0,0\n0,a,11,8192,3,1\n5,S,,2097152,0,1\n6,a,12,1,0,0\n6,f,12,1,0,0\n\
    6,c,12,1,0,0\n262,f,10,4096,3,0\n518,c,10,4096,0,0\n518,o,,1152921504606846976,0,1\n\
    9999999999999,s,,0,0,0\n9999999999999,m,,2,7,0\n9999999999999,u,,2,7,1023\n\
    18446744073709551615,R,,2097152,0,1\n3,f,99,1,0,0\n";

#[test]
fn what_is_written_reads_back_the_same() {
    let rare = run(RARE);
    assert_eq!(rare.trace.dropped.findings().len(), 2);
    for run in [run("t_us,op,id,size,stream\n"), rare] {
        let again = read_run_bytes("test", &native(&run), &Limits::default()).unwrap();
        assert_eq!(again, run);
    }
}

#[test]
fn snapshots_keep_their_stacks_settings_and_segments() {
    for name in ["stanza_pos", "prefetch_streams"] {
        let path = recorded(&format!("{name}.pickle.xz"));
        let run = read_run(path, &Limits::default()).unwrap();
        assert!(run.stacks.len() > 10 && run.settings.len() > 10 && run.segments.len() > 10);
        assert_eq!(run.block_stacks.len(), run.trace.blocks as usize);
        let bytes = native(&run);
        assert_eq!(read_run_bytes(name, &bytes, &Limits::default()).unwrap(), run, "{name}");
        let trace = read_trace_bytes(name, &bytes, &Limits::default()).unwrap();
        assert_eq!(trace, run.trace, "{name}");
    }
}

#[test]
fn recorded_traces_take_less_than_a_byte_an_event() {
    for name in TRACES {
        let path = recorded(&format!("{name}.csv.xz"));
        let xz = std::fs::metadata(&path).unwrap().len();
        let run = read_run(&path, &Limits::default()).unwrap();
        let bytes = native(&run);
        let events = run.trace.events.len() as f64;
        let (ours, theirs) = (bytes.len() as f64 / events, xz as f64 / events);
        println!("{name}: {events} events, {ours:.3} bytes each, csv.xz {theirs:.3}");
        assert!(ours < 1.1, "{name}: {ours}");
        let again = read_run_bytes(name, &bytes, &Limits::default()).unwrap();
        assert!(again == run, "{name} differs");
    }
}

#[test]
fn a_reader_of_chunks_sees_the_same_events_and_holds_one_chunk() {
    let path = recorded("gliner_batches.csv.xz");
    let run = read_run(path, &Limits::default()).unwrap();
    let bytes = native(&run);
    let mut reader = NativeReader::from_bytes(&bytes, &Limits::default()).unwrap();
    assert_eq!(reader.prelude(), 0);
    let (mut at, mut chunks) = (0, 0);
    while let Some(entries) = reader.next_entries().unwrap() {
        chunks += 1;
        assert!(entries.len() <= 1 << 16);
        for entry in entries {
            let expected = run.trace.events[at];
            let is_free = matches!(expected.op, Op::FreeRequested | Op::FreeCompleted);
            let size = if is_free { 0 } else { expected.size };
            assert_eq!(entry.event, Event { size, ..expected });
            at += 1;
        }
    }
    assert_eq!((at, chunks), (run.trace.events.len(), 2));
    assert!(reader.next_entries().unwrap().is_none(), "the end stays the end");
}

#[test]
fn a_newer_version_is_named() {
    let mut bytes = native(&run(RARE));
    bytes[8] = 7;
    let error = read_trace_bytes("x", &bytes, &Limits::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "native trace, byte 8: version 7 of the format; versions up to 1 are understood, so that a \
         newer drystone is needed"
    );
}

#[test]
fn optional_chunks_of_the_future_are_left_out_and_others_are_not() {
    let run = run(RARE);
    let bytes = native(&run);
    // Behind the magic and the version.
    for (kind, left_out) in [(200, true), (6, false)] {
        let mut head = vec![kind];
        head.extend(0u32.to_le_bytes());
        head.extend(3u32.to_le_bytes());
        let sum = crc32fast::hash(&[&head[..], b"new"].concat());
        head.extend(sum.to_le_bytes());
        head.extend(b"new");
        let bytes = [&bytes[..12], &head, &bytes[12..]].concat();
        match read_run_bytes("test", &bytes, &Limits::default()) {
            Ok(read) => assert!(left_out && read == run),
            Err(error) => {
                assert!(!left_out);
                let problem = NativeProblem::UnknownChunk(kind);
                assert!(
                    matches!(&error, TraceError::Native { offset: 12, problem: p } if *p == problem),
                    "{error}"
                );
            }
        }
    }
}

#[test]
fn a_cut_anywhere_is_an_error_with_its_place() {
    let bytes = native(&run(RARE));
    for cut in 8..bytes.len() {
        let error = read_trace_bytes("x", &bytes[..cut], &Limits::default()).unwrap_err();
        let TraceError::Native { offset, problem } = error else { panic!("{error}") };
        assert!(offset <= cut as u64);
        assert!(matches!(problem, NativeProblem::Truncated { .. }), "{problem}");
    }
    let more = [&bytes[..], b"what follows the end is not looked at"].concat();
    assert_eq!(read_run_bytes("test", &more, &Limits::default()).unwrap(), run(RARE));
}

#[test]
fn a_writer_refuses_what_no_trace_has() {
    let event = |t_us, op, id| Event { t_us, size: 8, id, stream: 0, device: 0, op };
    for (events, why) in [
        (vec![event(0, Op::Alloc, 1)], "event 0: block 1 allocated, expected 0"),
        (vec![event(0, Op::FreeRequested, 0)], "event 0: block 0 freed, of 0"),
        (
            vec![event(5, Op::Snapshot, NO_BLOCK), event(4, Op::Snapshot, NO_BLOCK)],
            "event 1: time 4 after 5",
        ),
        (
            vec![Event { size: u64::MAX, ..event(0, Op::Alloc, 0) }],
            "event 0: size 1844674407370955",
        ),
        (vec![Event { device: 1024, ..event(0, Op::Alloc, 0) }], "event 0: device 1024"),
    ] {
        let mut writer = NativeWriter::new(Vec::new(), 0, &[]).unwrap();
        let refused = events.into_iter().try_for_each(|event| writer.entry(event.into()));
        let error = refused.unwrap_err();
        assert!(error.to_string().starts_with(why), "{error}");
    }
}

#[test]
fn a_prelude_that_is_none_is_an_error() {
    let event = Event { t_us: 0, size: 8, id: NO_BLOCK, stream: 0, device: 0, op: Op::Snapshot };
    for events in [vec![event], vec![]] {
        let mut writer = NativeWriter::new(Vec::new(), 1, &[]).unwrap();
        events.into_iter().for_each(|event| writer.entry(event.into()).unwrap());
        let bytes = writer.finish(&Default::default()).unwrap();
        let error = read_trace_bytes("x", &bytes, &Limits::default()).unwrap_err();
        assert!(error.to_string().contains("the prelude"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_run_reads_back_the_same(text in rows()) {
        let run = run(&text);
        let again = read_run_bytes("test", &native(&run), &Limits::default()).unwrap();
        prop_assert_eq!(again, run);
    }

    #[test]
    fn a_changed_byte_is_always_seen(at in any::<prop::sample::Index>(), change in 1u8..) {
        let path = recorded("stanza_pos.pickle.xz");
        let mut bytes = native(&read_run(path, &Limits::default()).unwrap());
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        prop_assert!(read_run_bytes("x", &bytes, &Limits::default()).is_err());
    }
}
