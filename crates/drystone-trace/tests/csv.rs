//! The CSV reader and writer: the recorded traces, repairs, errors, limits, round trips.

mod common;

use std::fmt::Write as _;
use std::io::Write as _;

use common::recorded;
use common::rows::rows;
use drystone_trace::{
    Compression, Event, LimitKind, Limits, NO_BLOCK, Oddity, Op, Position, Trace, TraceError,
    read_trace, read_trace_bytes, write_csv,
};
use proptest::prelude::*;

const HEADER: &str = "t_us,op,id,size,stream\n";

fn read(rows: &str) -> Trace {
    try_read(rows).unwrap()
}

fn try_read(rows: &str) -> Result<Trace, TraceError> {
    read_trace_bytes("test", format!("{HEADER}{rows}").as_bytes(), &Limits::default())
}

fn event(t_us: u64, op: Op, id: u32, size: u64, stream: u32) -> Event {
    Event { t_us, size, id, stream, device: 0, op }
}

fn written(trace: &Trace) -> Vec<u8> {
    let mut out = Vec::new();
    write_csv(trace, &mut out).unwrap();
    out
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

#[test]
fn recorded_traces_have_the_peaks_and_counts_that_torch_reported() {
    // Requested peaks from the table that came with the recordings; lines and streams by awk.
    for (name, peak, events, blocks, streams) in [
        ("stanza_pos", 724_581_696, 65_359, 21_782, 1),
        ("gliner_batches", 1_893_417_656, 125_336, 41_760, 1),
        ("deepke_bert", 8_512_697_532, 357_677, 119_130, 1),
        ("weclone_qa", 8_735_113_392, 415_359, 138_426, 1),
        ("unet3d", 5_249_856_115, 53_211, 17_721, 1),
        ("bert512", 14_422_971_700, 199_811, 66_485, 1),
        ("prefetch_streams", 6_522_500_780, 196_446, 65_416, 3),
    ] {
        let path = recorded(&format!("{name}.csv.xz"));
        let trace = read_trace(&path, &Limits::default()).unwrap();
        assert_eq!(trace.name, name);
        assert_eq!(trace.peak_live_bytes(), peak, "{name}");
        assert_eq!(trace.events.len(), events, "{name}");
        assert_eq!(trace.blocks, blocks, "{name}");
        assert_eq!((trace.streams, trace.devices, trace.prelude), (streams, 1, 0), "{name}");
        assert!(trace.dropped.is_empty(), "{name}: {:?}", trace.dropped);
        let again = read_trace_bytes(name, &written(&trace), &Limits::default()).unwrap();
        assert_eq!(again, trace);
    }
}

#[test]
fn a_file_is_read_as_it_says() {
    let trace = read("5,a,7,100,3\r\n\n6,S,,2097152,3\n9,f,7,100,3\n9,c,7,100,3\n12,o,,999,0");
    let expected = [
        event(5, Op::Alloc, 0, 100, 1),
        event(6, Op::SegmentAlloc, NO_BLOCK, 2_097_152, 1),
        event(9, Op::FreeRequested, 0, 100, 1),
        event(9, Op::FreeCompleted, 0, 100, 1),
        event(12, Op::OutOfMemory, NO_BLOCK, 999, 0),
    ];
    assert_eq!(trace.events, expected);
    assert_eq!((trace.blocks, trace.streams, trace.devices), (1, 2, 1));
    assert_eq!(trace.duration_us(), 7);
    assert!(trace.dropped.is_empty());
}

#[test]
fn huge_and_reused_numbers_become_dense_ones() {
    let trace = read(
        "0,a,1000000000000000000,1,18446744073709551615\n0,a,18446744073709551615,2,0\n\
         0,f,1000000000000000000,1,18446744073709551615\n\
         0,c,1000000000000000000,1,18446744073709551615\n0,a,1000000000000000000,3,0\n\
         0,a,0,4,0\n0,a,1,5,0\n0,f,1,5,0\n0,c,1,5,0\n0,a,1,6,0\n0,f,1,6,0\n",
    );
    let ids: Vec<u32> = trace.events.iter().map(|event| event.id).collect();
    assert_eq!(ids, [0, 1, 0, 0, 2, 3, 4, 4, 4, 5, 5]);
    assert_eq!((trace.blocks, trace.streams), (6, 2));
    assert!(trace.dropped.is_empty());
}

#[test]
fn what_makes_no_sense_is_repaired_and_counted_with_its_first_line() {
    let found = |rows: &str| {
        let trace = read(rows);
        let findings: Vec<_> = trace
            .dropped
            .findings()
            .iter()
            .map(|finding| (finding.oddity, finding.count, finding.first))
            .collect();
        (trace.events, findings)
    };
    use Op::{Alloc, FreeCompleted, FreeRequested};
    let line = Position::Line;

    let unknown = found("0,f,3,1,0\n0,c,3,1,0\n0,f,-1,1,0\n0,a,3,1,0\n");
    let kept = vec![event(0, Alloc, 0, 1, 0)];
    assert_eq!(unknown, (kept, vec![(Oddity::UnknownBlock, 3, line(2))]));

    let twice = found("0,a,3,1,0\n0,f,3,1,0\n0,f,3,1,0\n0,c,3,1,0\n0,c,3,1,0\n0,f,3,1,0\n");
    let kept = vec![
        event(0, Alloc, 0, 1, 0),
        event(0, FreeRequested, 0, 1, 0),
        event(0, FreeCompleted, 0, 1, 0),
    ];
    let notes = vec![(Oddity::RequestedTwice, 2, line(4)), (Oddity::CompletedTwice, 1, line(6))];
    assert_eq!(twice, (kept.clone(), notes));

    let unrequested = found("0,a,3,1,0\n0,c,3,9,0\n");
    let notes = vec![(Oddity::NotRequested, 1, line(3)), (Oddity::SizeMismatch, 1, line(3))];
    assert_eq!(unrequested, (kept, notes));

    let again = found("0,a,3,1,0\n4,a,3,2,0\n5,f,3,2,0\n6,a,3,4,0\n");
    let kept = vec![
        event(0, Alloc, 0, 1, 0),
        event(4, FreeRequested, 0, 1, 0),
        event(4, FreeCompleted, 0, 1, 0),
        event(4, Alloc, 1, 2, 0),
        event(5, FreeRequested, 1, 2, 0),
        event(6, FreeCompleted, 1, 2, 0),
        event(6, Alloc, 2, 4, 0),
    ];
    assert_eq!(again, (kept, vec![(Oddity::AllocOfLive, 2, line(3))]));

    let back = found("10,a,0,1,0\n4,a,1,1,0\n7,f,1,1,0\n11,c,1,1,0\n");
    let times: Vec<u64> = back.0.iter().map(|event| event.t_us).collect();
    assert_eq!(times, [10, 10, 10, 11]);
    assert_eq!(back.1, [(Oddity::TimeWentBack, 2, line(3))]);
}

#[test]
fn a_malformed_line_is_an_error_with_line_column_content_and_what_is_allowed() {
    for (row, column, found, allowed) in [
        ("x,a,0,1,0", "t_us", "\"x\"", "a whole number from 0 to 18446744073709551615"),
        ("-1,a,0,1,0", "t_us", "\"-1\"", "from 0"),
        ("18446744073709551616,a,0,1,0", "t_us", "\"18446744073709551616\"", "a whole number"),
        ("0,z,0,1,0", "op", "\"z\"", "one of a f c S R m u o s"),
        ("0,,0,1,0", "op", "nothing", "one of"),
        ("0,a,,1,0", "id", "nothing", "a whole number"),
        ("0,a,-1,1,0", "id", "\"-1\"", "a whole number"),
        ("0,S,4,1,0", "id", "\"4\"", "op S has no block"),
        ("0,a,0,1152921504606846977,0", "size", "\"1152921504606846977\"", "1152921504606846976"),
        ("0,a,0,,0", "size", "nothing", "a whole number"),
        ("0,a,0,1,0.5", "stream", "\"0.5\"", "a whole number"),
        ("0,a,0,1", "line", "\"0,a,0,1\"", "t_us,op,id,size,stream"),
        ("0,a,0,1,0,0", "line", "\"0,a,0,1,0,0\"", "t_us,op,id,size,stream"),
        ("\x1b[2J\u{7}", "t_us", "\"\\x1b[2J\\x07\"", "a whole number"),
    ] {
        let error = try_read(&format!("0,a,5,1,0\n\n{row}\n")).unwrap_err();
        let TraceError::Csv { line, column: c, found: f, allowed: a } = &error else {
            panic!("{row}: {error}")
        };
        assert_eq!((*line, *c, f.as_str()), (4, column, found), "{row}");
        assert!(a.contains(allowed), "{row}: {a}");
    }
    for bad in [
        "t_us,op\n",
        "t_us,op,id,size,stream,x\n",
        "t_us,op,id,size,stream,pool,device\n",
        "# only\n",
        "#prelude=x\n",
    ] {
        let error = read_trace_bytes("x", bad.as_bytes(), &Limits::default()).unwrap_err();
        assert!(matches!(error, TraceError::Csv { column: "line", .. }), "{bad}: {error}");
    }
}

#[test]
fn devices_and_preludes_have_their_places() {
    let text = "# a comment\n#prelude=2\nt_us,op,id,size,stream,device\n0,a,0,5,0,1\n0,a,1,6,0,0\n\
                3,f,0,5,0,1\n";
    let limits = Limits::default();
    let trace = read_trace_bytes("x", text.as_bytes(), &limits).unwrap();
    assert_eq!((trace.devices, trace.prelude, trace.events[0].device), (2, 2, 1));
    assert_eq!(read_trace_bytes("x", &written(&trace), &limits).unwrap(), trace);
    for (bad, line, column) in [
        (text.replace("=2", "=3"), 6, "op"),
        (text.replace("=2", "=4"), 6, "op"),
        (text.replace("3,f,0,5,0,1\n", "").replace("=2", "=18446744073709551615"), 6, "line"),
        (text.replace("5,0,1", "5,0,1024"), 4, "device"),
        (text.replace("a,1,6", "a,0,6"), 5, "id"),
    ] {
        match read_trace_bytes("x", bad.as_bytes(), &limits).unwrap_err() {
            TraceError::Csv { line: l, column: c, .. } => assert_eq!((l, c), (line, column)),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn pools_come_last_and_only_allocations_have_one() {
    let limits = Limits::default();
    let read = |text: &str| read_trace_bytes("x", text.as_bytes(), &limits);
    let text = "t_us,op,id,size,stream,pool\n0,a,0,5,0,0\n1,a,1,6,0,18446744073709551615\n\
                2,a,2,6,0,7\n3,f,1,6,0,0\n3,a,3,1,0,7\n4,s,,0,0,0\n5,a,4,1,0,0\n";
    let trace = read(text).unwrap();
    assert_eq!((&trace.block_pools[..], trace.pools()), (&[0, 1, 2, 2][..], 3));
    let again = written(&trace);
    assert_eq!(text.replace("18446744073709551615", "1").replace(",7\n", ",2\n").as_bytes(), again);
    assert_eq!(read_trace_bytes("x", &again, &limits).unwrap(), trace);
    // With devices in between.
    let devices = "t_us,op,id,size,stream,device,pool\n0,a,0,5,0,1,0\n0,a,1,5,0,0,1\n";
    let trace = read(devices).unwrap();
    assert_eq!((&trace.block_pools[..], trace.devices), (&[0, 1][..], 2));
    assert_eq!(written(&trace), devices.as_bytes());
    // Where all are in the default pool, the column goes.
    let trace = read("t_us,op,id,size,stream,pool\n0,a,0,5,0,0\n").unwrap();
    assert!(trace.block_pools.is_empty());
    assert_eq!(written(&trace), b"t_us,op,id,size,stream\n0,a,0,5,0\n");
    for (row, column, found, allowed) in [
        ("0,a,0,5,0,", "pool", "nothing", "a whole number from 0 to 18446744073709551615"),
        ("0,a,0,5,0,-1", "pool", "\"-1\"", "a whole number"),
        ("0,s,,5,0,1", "pool", "\"1\"", "0, since op s has no pool"),
        ("0,a,0,5,0", "line", "\"0,a,0,5,0\"", "t_us,op,id,size,stream,pool"),
        ("0,a,0,5,0,0,0", "line", "\"0,a,0,5,0,0,0\"", "t_us,op,id,size,stream,pool"),
    ] {
        let error = read(&format!("t_us,op,id,size,stream,pool\n{row}\n")).unwrap_err();
        let TraceError::Csv { line: 2, column: c, found: f, allowed: a } = &error else {
            panic!("{row}: {error}")
        };
        assert_eq!((*c, &f[..], &a[..allowed.len()]), (column, found, allowed), "{row}");
    }
}

#[test]
fn compressed_text_is_known_by_its_first_bytes() {
    let text = format!("{HEADER}0,a,0,1,0\n");
    let limits = Limits::default();
    let plain = read_trace_bytes("x", text.as_bytes(), &limits).unwrap();
    let two_streams = [xz(HEADER.as_bytes()), xz(b"0,a,0,1,0\n")].concat();
    for bytes in [xz(text.as_bytes()), zst(text.as_bytes()), two_streams] {
        assert_eq!(read_trace_bytes("x", &bytes, &limits).unwrap(), plain);
    }
    for (bytes, expected) in
        [(xz(text.as_bytes()), Compression::Xz), (zst(text.as_bytes()), Compression::Zstd)]
    {
        for cut in [bytes.len() - 1, bytes.len() / 2, 8] {
            match read_trace_bytes("x", &bytes[..cut], &limits).unwrap_err() {
                TraceError::Decompress { compression, .. } => assert_eq!(compression, expected),
                other => panic!("{expected} cut at {cut}: {other}"),
            }
        }
    }
}

#[test]
fn limits_stop_bombs_long_lines_many_events_and_much_memory() {
    let stopped = |bytes: &[u8], limits: Limits| match read_trace_bytes("x", bytes, &limits) {
        Err(TraceError::Limit { kind, allowed, position }) => (kind, allowed, position),
        other => panic!("{other:?}"),
    };
    let rows = "0,S,,1,0\n".repeat(1_000_000);
    let bomb = format!("{HEADER}{rows}");
    let bytes = Limits { max_decompressed_bytes: 1 << 20, ..Limits::default() };
    for packed in [xz(bomb.as_bytes()), zst(bomb.as_bytes())] {
        assert!(packed.len() < 20_000, "a bomb of {} B", packed.len());
        let position = Position::Byte(1 << 20);
        let expected = (LimitKind::DecompressedBytes, 1 << 20, position);
        assert_eq!(stopped(&packed, bytes.clone()), expected);
    }
    let events = Limits { max_events: 10, ..Limits::default() };
    assert_eq!(stopped(bomb.as_bytes(), events), (LimitKind::Events, 10, Position::Line(12)));
    let memory = Limits { max_memory_bytes: 1 << 20, ..Limits::default() };
    assert_eq!(stopped(bomb.as_bytes(), memory).0, LimitKind::Memory);

    // Each block and each stream counts.
    let mut many = HEADER.to_owned();
    for i in 0..10_000u64 {
        writeln!(many, "0,a,{},1,{}", u64::MAX - i, i + 1).unwrap();
    }
    let memory = Limits { max_memory_bytes: 1 << 20, ..Limits::default() };
    assert_eq!(stopped(many.as_bytes(), memory).0, LimitKind::Memory);

    let line = Limits { max_line_bytes: 30, ..Limits::default() };
    let long = format!("{HEADER}0,S,,1,{}0\n", "0".repeat(23));
    assert_eq!(
        stopped(long.as_bytes(), line.clone()),
        (LimitKind::LineBytes, 30, Position::Line(2))
    );
    let endless = format!("{HEADER}{}", "0".repeat(10_000_000));
    assert_eq!(stopped(endless.as_bytes(), line.clone()).0, LimitKind::LineBytes);
    let just = format!("{HEADER}0,S,,1,{}0\n", "0".repeat(22));
    assert!(read_trace_bytes("x", just.as_bytes(), &line).is_ok());
}

#[test]
fn lines_across_the_edges_of_the_buffer_are_whole() {
    // 1 MB in lines whose length changes, so that buffers end at every place of a line.
    let mut rows = String::new();
    for i in 0..60_000u64 {
        writeln!(rows, "{},a,{i},{},0", i * i, i % 977).unwrap();
    }
    let trace = read(&rows);
    assert_eq!(trace.events.len(), 60_000);
    for (i, event) in (0u64..).zip(&trace.events) {
        assert_eq!((event.t_us, event.size), (i * i, i % 977));
    }
}

#[test]
fn missing_files_and_directories_are_named() {
    let limits = Limits::default();
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("no-such.csv");
    let error = read_trace(&missing, &limits).unwrap_err();
    assert!(matches!(error, TraceError::NotFound { .. }), "{error}");
    assert!(error.to_string().contains("no-such.csv"), "{error}");
    let error = read_trace(dir.path(), &limits).unwrap_err();
    assert!(matches!(error, TraceError::IsDirectory { .. }), "{error}");
    let here = dir.path().join("run.v1.csv.zst");
    std::fs::write(&here, zst(HEADER.as_bytes())).unwrap();
    assert_eq!(read_trace(&here, &limits).unwrap().name, "run.v1");
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_and_was_repaired(text in rows()) {
        let limits = Limits::default();
        let trace = read_trace_bytes("x", text.as_bytes(), &limits).unwrap();
        let mut again = read_trace_bytes("x", &written(&trace), &limits).unwrap();
        prop_assert!(again.dropped.is_empty(), "{:?}", again.dropped);
        again.dropped = trace.dropped.clone();
        prop_assert_eq!(&again, &trace);
        let numbers = trace.block_pools.iter().filter(|&&pool| pool != 0);
        let appeared = numbers.fold(0, |most, &pool| if pool == most + 1 { pool } else { most });
        prop_assert_eq!(appeared + 1, trace.pools(), "pools are numbered as they appear");
        prop_assert!(trace.block_pools.len() <= trace.blocks as usize);
        // What a Trace promises.
        let mut sizes = vec![None; trace.blocks as usize];
        let mut state = vec![0; trace.blocks as usize];
        let mut last = 0;
        for event in &trace.events {
            prop_assert!(event.t_us >= last);
            last = event.t_us;
            prop_assert!(event.stream < trace.streams && event.device < trace.devices);
            let id = event.id as usize;
            match event.op {
                Op::Alloc => {
                    prop_assert_eq!(state[id], 0);
                    sizes[id] = Some(event.size);
                    state[id] = 1;
                }
                Op::FreeRequested => {
                    prop_assert_eq!((state[id], sizes[id]), (1, Some(event.size)));
                    state[id] = 2;
                }
                Op::FreeCompleted => {
                    prop_assert_eq!((state[id], sizes[id]), (2, Some(event.size)));
                    state[id] = 3;
                }
                _ => prop_assert_eq!(event.id, NO_BLOCK),
            }
        }
        prop_assert!(state.iter().all(|&s| s > 0), "numbers are dense");
    }

    #[test]
    fn no_bytes_make_the_reader_panic(tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let limits = Limits { max_memory_bytes: 1 << 20, ..Limits::default() };
        let text = [HEADER.as_bytes(), &tail[..]].concat();
        // Any answer will do; that there is one is the point.
        let _ = read_trace_bytes("x", &text, &limits);
    }
}

#[test]
fn streams_out_of_range_become_the_default_one() {
    let lines = "0,a,0,1,18446744073709551616\n1,a,1,1,-5\n2,a,2,1,18446744073709551611\n";
    let trace = read_trace_bytes("x", format!("{HEADER}{lines}").as_bytes(), &Limits::default());
    let trace = trace.unwrap();
    let streams: Vec<_> = trace.events.iter().map(|event| event.stream).collect();
    assert_eq!(streams, [0, 1, 1]);
    assert_eq!(trace.dropped.count(Oddity::StreamOutOfRange), 1);
    assert_eq!(trace.dropped.findings().len(), 1);
}
