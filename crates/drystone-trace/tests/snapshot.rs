//! Snapshots: the recorded ones against CPython's figures, and made-up ones.

mod common;

use common::encode::{Val, dict, encode};
use common::recorded;
use common::torch::{block, entry, segment, whole};
use drystone_trace::{
    Action, BlockState, Event, Limits, NO_BLOCK, Oddity, Op, Position, SegmentType, Snapshot,
    StackId, Trace, TraceError, read_snapshot, read_snapshot_bytes, read_trace, read_trace_bytes,
    write_csv,
};

fn snapshot(value: &Val) -> Snapshot {
    read_snapshot_bytes(&encode(value, 4), &Limits::default()).unwrap()
}

fn trace(value: &Val) -> Trace {
    snapshot(value).to_trace("test", &Limits::default()).unwrap()
}

fn event(t_us: u64, op: Op, id: u32, size: u64, stream: u32) -> Event {
    Event { t_us, size, id, stream, device: 0, op }
}

#[test]
fn recorded_snapshots_have_the_figures_that_cpython_computes() {
    // segments, their bytes, blocks; stacks; prelude, its bytes; trace blocks, streams, peak, µs.
    for (name, segments, stacks, prelude, figures) in [
        (
            "stanza_pos",
            (17, 2_476_736_512, 20),
            20,
            (26, 148_217_792),
            (2010, 1, 713_849_584, 897_497),
        ),
        (
            "prefetch_streams",
            (205, 10_479_468_544, 207),
            53,
            (722, 2_535_437_872),
            (2243, 3, 2_912_129_788, 241_737),
        ),
    ] {
        let path = recorded(&format!("{name}.pickle.xz"));
        let snapshot = read_snapshot(&path, &Limits::default()).unwrap();
        let bytes: u64 = snapshot.segments.iter().map(|s| s.total_size).sum();
        let blocks: usize = snapshot.segments.iter().map(|s| s.blocks.len()).sum();
        assert_eq!((snapshot.segments.len(), bytes, blocks), segments, "{name}");
        assert_eq!(snapshot.stacks.len(), stacks, "{name}");
        assert_eq!(snapshot.device_traces.len(), 1);
        assert_eq!(snapshot.device_traces[0].len(), 6000);
        let divisions = ("roundup_power2_divisions.256".to_owned(), "0".to_owned());
        assert!(snapshot.settings.contains(&divisions), "{:?}", snapshot.settings);
        let threads = ("pinned_num_register_threads".to_owned(), "1".to_owned());
        assert!(snapshot.settings.contains(&threads), "{:?}", snapshot.settings);

        let trace = read_trace(&path, &Limits::default()).unwrap();
        assert_eq!(trace.name, name);
        assert_eq!(trace.events.len(), 6000 + prelude.0, "{name}");
        let bytes: u64 = trace.events[..trace.prelude].iter().map(|e| e.size).sum();
        assert_eq!((trace.prelude, bytes), prelude, "{name}");
        let found = (trace.blocks, trace.streams, trace.peak_live_bytes(), trace.duration_us());
        assert_eq!(found, figures, "{name}");
        assert!(trace.dropped.is_empty(), "{name}: {:?}", trace.dropped);

        let mut csv = Vec::new();
        write_csv(&trace, &mut csv).unwrap();
        assert_eq!(read_trace_bytes(name, &csv, &Limits::default()).unwrap(), trace);
    }
}

#[test]
fn recorded_frames_are_those_that_cpython_reads() {
    let path = recorded("stanza_pos.pickle.xz");
    let snapshot = read_snapshot(path, &Limits::default()).unwrap();
    let ring = &snapshot.device_traces[0];
    let total: usize = ring.iter().map(|e| snapshot.stacks.frames(e.stack).count()).sum();
    assert_eq!(total, 45_471);
    let first: Vec<String> = snapshot
        .stacks
        .frames(ring[0].stack)
        .map(|frame| format!("{}:{} {}", frame.filename, frame.line, frame.name))
        .collect();
    assert_eq!(first.len(), 8);
    assert_eq!(first[0], "torch/nn/modules/linear.py:247 forward");
    assert_eq!(first[7], "train.py:206 <module>");
    assert_eq!(snapshot.stacks.frames(StackId::default()).count(), 0);
}

#[test]
fn all_fields_arrive_in_every_protocol() {
    let frames = Val::List(vec![
        dict([("filename", "a.py".into()), ("line", 7.into()), ("name", "f".into())]),
        dict([("filename", "b.py".into()), ("line", (-1).into()), ("name", "g".into())]),
    ]);
    let value = dict([
        (
            "segments",
            Val::List(vec![dict([
                ("device", 3.into()),
                ("address", (1i64 << 47).into()),
                ("total_size", 4096.into()),
                ("allocated_size", 512.into()),
                ("active_size", 1024.into()),
                ("requested_size", 500.into()),
                ("stream", (-2).into()),
                ("segment_type", "small".into()),
                ("segment_pool_id", Val::Tuple(vec![1.into(), 2.into()])),
                ("is_expandable", true.into()),
                ("frames", frames.clone()),
                ("a_key_of_the_future", Val::List(vec![Val::None])),
                (
                    "blocks",
                    Val::List(vec![
                        dict([("size", 512.into()), ("state", "active_allocated".into())]),
                        dict([
                            ("size", 512.into()),
                            ("requested_size", 300.into()),
                            ("state", "active_pending_free".into()),
                        ]),
                        dict([("size", 3072.into()), ("state", "inactive".into())]),
                    ]),
                ),
            ])]),
        ),
        (
            "device_traces",
            Val::List(vec![Val::List(vec![
                dict([
                    ("action", "alloc".into()),
                    ("addr", Val::BigInt(vec![255, 255, 255, 255, 255, 255, 255, 255, 0])),
                    ("size", 9.into()),
                    ("frames", frames),
                ]),
                entry("oom", 77, 8, 0, 5),
                entry("retired", 1, 1, 0, 6),
            ])]),
        ),
    ]);
    for proto in 2..=5 {
        let snapshot = read_snapshot_bytes(&encode(&value, proto), &Limits::default()).unwrap();
        let segment = &snapshot.segments[0];
        assert_eq!((segment.device, segment.address, segment.total_size), (3, 1 << 47, 4096));
        let sizes = (segment.allocated_size, segment.active_size, segment.requested_size);
        assert_eq!(sizes, (512, 1024, 500));
        assert_eq!((segment.stream, segment.segment_pool_id), (u64::MAX - 1, (1, 2)));
        assert_eq!((segment.segment_type, segment.is_expandable), (SegmentType::Small, true));
        let blocks: Vec<_> =
            segment.blocks.iter().map(|b| (b.address, b.requested_size, b.state)).collect();
        let expected = [
            (1 << 47, 512, BlockState::Allocated),
            ((1 << 47) + 512, 300, BlockState::PendingFree),
            ((1 << 47) + 1024, 3072, BlockState::Inactive),
        ];
        assert_eq!(blocks, expected);
        let ring = &snapshot.device_traces[0];
        assert_eq!((ring[0].addr, ring[0].size, ring[0].time_us), (u64::MAX, 9, 0));
        assert_eq!(ring[0].stack, segment.stack);
        let lines: Vec<u32> = snapshot.stacks.frames(ring[0].stack).map(|f| f.line).collect();
        assert_eq!(lines, [7, 0]);
        assert_eq!((ring[1].action, ring[1].addr), (Action::OutOfMemory, 77));
        assert_eq!(ring[2].action, Action::Unknown);
    }
    let empty = snapshot(&dict([]));
    assert_eq!(empty, Snapshot::default());
}

#[test]
fn a_wrong_type_is_an_error_with_the_path_to_it() {
    let ring = |bad: Val| {
        let mut ring: Vec<Val> = (0..17).map(|t| entry("alloc", t, 1, 0, t)).collect();
        ring.push(bad);
        whole(vec![], vec![vec![], ring])
    };
    let frames = |frame: Val| {
        let Val::Dict(mut pairs) = entry("alloc", 1, 1, 0, 0) else { unreachable!() };
        pairs.push(("frames".into(), Val::List(vec![frame])));
        ring(Val::Dict(pairs))
    };
    let in_block = |bad: Val| whole(vec![segment(0, 0, 0, vec![bad])], vec![]);
    for (value, path, found) in [
        (Val::List(vec![Val::None]), "segments[0]", "None"),
        (dict([("segments", 5.into())]), "segments", "int 5"),
        (dict([("device_traces", dict([]))]), "device_traces", "dict"),
        (dict([("device_traces", Val::List(vec![1.into()]))]), "device_traces[0]", "int 1"),
        (ring("x".into()), "device_traces[1][17]", "str \"x\""),
        (ring(entry("alloc", 1, -5, 0, 0)), "device_traces[1][17].size", "int -5"),
        (ring(entry("alloc", 1, (1 << 60) + 1, 0, 0)), "device_traces[1][17].size", "int 11529"),
        (ring(dict([("action", Val::None)])), "device_traces[1][17].action", "None"),
        (ring(dict([("size", 1.into())])), "device_traces[1][17].action", "nothing"),
        (ring(dict([("action", "alloc".into())])), "device_traces[1][17].size", "nothing"),
        (
            ring(dict([("action", "alloc".into()), ("size", 1.into())])),
            "device_traces[1][17].addr",
            "nothing",
        ),
        (
            frames(dict([("line", Val::Float(1.5))])),
            "device_traces[1][17].frames[0].line",
            "float 1.5",
        ),
        (frames(Val::None), "device_traces[1][17].frames[0]", "None"),
        (whole(vec![dict([])], vec![]), "segments[0].address", "nothing"),
        (whole(vec![dict([("device", 1024.into())])], vec![]), "segments[0].device", "int 1024"),
        (
            whole(
                vec![dict([("segment_pool_id", Val::Tuple(vec![0.into(), true.into()]))])],
                vec![],
            ),
            "segments[0].segment_pool_id[1]",
            "bool true",
        ),
        (in_block(block(0, 1, 1, "\x1b[2J")), "segments[0].blocks[0].state", "str \"\\x1b[2J\""),
        (in_block(dict([("state", "inactive".into())])), "segments[0].blocks[0].size", "nothing"),
    ] {
        let error = read_snapshot_bytes(&encode(&value, 4), &Limits::default()).unwrap_err();
        let TraceError::Snapshot { path: p, found: f, .. } = &error else { panic!("{error}") };
        assert_eq!(p, path, "{error}");
        assert!(f.starts_with(found), "{error}");
    }
    let many = dict([("device_traces", Val::List(vec![Val::List(vec![]); 1025]))]);
    assert!(read_snapshot_bytes(&encode(&many, 4), &Limits::default()).is_err());
}

#[test]
fn blocks_live_before_the_ring_are_put_back_in_front() {
    let stream = 845_613_328;
    let ring = vec![
        // Live before: its free is all that the ring knows.
        entry("free_requested", 9000, 90, stream, 1000),
        entry("free_completed", 9000, 90, stream, 1001),
        // The same address again, twice.
        entry("alloc", 9000, 91, 0, 1002),
        entry("free_requested", 9000, 91, 0, 1003),
        entry("free_completed", 9000, 91, 0, 1004),
        entry("alloc", 9000, 92, 0, 1005),
        // Requested before, completed here.
        entry("free_completed", 5000, 50, stream, 1006),
        entry("segment_alloc", 1 << 40, 2048, 0, 1007),
        entry("oom", 10, 77, 0, 1008),
        entry("snapshot", 0, 0, 0, 1009),
    ];
    let segments = vec![segment(
        0,
        1000,
        stream,
        vec![
            // Live before and after.
            block(1000, 512, 100, "active_allocated"),
            block(1512, 512, 111, "inactive"),
            // Live before, freed there, not completed yet.
            block(2024, 512, 200, "active_pending_free"),
            block(9000, 512, 92, "active_allocated"),
        ],
    )];
    let trace = trace(&whole(segments, vec![ring]));
    let expected = [
        event(0, Op::Alloc, 0, 100, 1),
        event(0, Op::Alloc, 1, 200, 1),
        event(0, Op::Alloc, 2, 50, 1),
        event(0, Op::Alloc, 3, 90, 1),
        event(0, Op::FreeRequested, 1, 200, 1),
        event(0, Op::FreeRequested, 2, 50, 1),
        event(0, Op::FreeRequested, 3, 90, 1),
        event(1, Op::FreeCompleted, 3, 90, 1),
        event(2, Op::Alloc, 4, 91, 0),
        event(3, Op::FreeRequested, 4, 91, 0),
        event(4, Op::FreeCompleted, 4, 91, 0),
        event(5, Op::Alloc, 5, 92, 0),
        event(6, Op::FreeCompleted, 2, 50, 1),
        event(7, Op::SegmentAlloc, NO_BLOCK, 2048, 0),
        event(8, Op::OutOfMemory, NO_BLOCK, 77, 0),
        event(9, Op::Snapshot, NO_BLOCK, 0, 0),
    ];
    assert_eq!(trace.events, expected);
    assert_eq!((trace.prelude, trace.blocks, trace.streams), (4, 6, 2));
    assert!(trace.dropped.is_empty(), "{:?}", trace.dropped);
}

#[test]
fn devices_are_merged_by_time_and_kept_apart_by_address() {
    let rings = vec![
        vec![entry("alloc", 64, 1, 0, 10), entry("free_requested", 64, 1, 0, 30)],
        vec![],
        vec![entry("free_requested", 64, 2, 5, 20), entry("alloc", 128, 3, 5, 40)],
    ];
    let segments = vec![segment(1, 64, 9, vec![block(64, 512, 4, "active_allocated")])];
    let trace = trace(&whole(segments, rings));
    let found: Vec<_> =
        trace.events.iter().map(|e| (e.t_us, e.device, e.op, e.id, e.size)).collect();
    let expected = [
        (0, 1, Op::Alloc, 0, 4),
        (0, 2, Op::Alloc, 1, 2),
        (0, 0, Op::Alloc, 2, 1),
        (10, 2, Op::FreeRequested, 1, 2),
        (20, 0, Op::FreeRequested, 2, 1),
        (30, 2, Op::Alloc, 3, 3),
    ];
    assert_eq!(found, expected);
    assert_eq!((trace.devices, trace.streams, trace.prelude), (3, 3, 2));
    // The segments know nothing of what devices 0 and 2 have live.
    assert_eq!(trace.dropped.count(Oddity::MissingFromSegments), 2 + 1);
}

#[test]
fn contradictions_are_repaired_and_reported() {
    let ring = vec![
        entry("alloc", 64, 1, 0, 10),
        entry("alloc", 64, 2, 0, 9),
        entry("invented", 64, 2, 0, 11),
        entry("free_requested", 64, 5, 0, 12),
        entry("free_completed", 64, 2, 0, 13),
        entry("free_requested", 64, 2, 0, 14),
    ];
    let segments = vec![segment(0, 64, 0, vec![block(64, 512, 4, "active_allocated")])];
    let trace = trace(&whole(segments, vec![ring]));
    let found: Vec<_> =
        trace.dropped.findings().iter().map(|f| (f.oddity, f.count, f.first)).collect();
    let at = |index| Position::Entry { device: 0, index };
    let expected = [
        (Oddity::TimeWentBack, 1, at(1)),
        (Oddity::AllocOfLive, 1, at(1)),
        (Oddity::UnknownAction, 1, at(2)),
        (Oddity::SizeMismatch, 1, at(3)),
        (Oddity::RequestedTwice, 1, at(5)),
        (Oddity::InUseAfterFree, 1, Position::Segment(0)),
    ];
    assert_eq!(found, expected);
    assert_eq!((trace.blocks, trace.prelude, trace.peak_live_bytes()), (2, 0, 2));
}

#[test]
fn each_block_has_the_stack_of_its_allocation() {
    let frames = |name: &str| {
        let frame = dict([("filename", "a.py".into()), ("line", 1.into()), ("name", name.into())]);
        ("frames", Val::List(vec![frame]))
    };
    let with = |value: Val, name: &str| {
        let Val::Dict(mut pairs) = value else { unreachable!() };
        let (key, frames) = frames(name);
        pairs.push((key.into(), frames));
        Val::Dict(pairs)
    };
    let ring = vec![
        with(entry("free_requested", 64, 1, 0, 10), "freed"),
        with(entry("alloc", 128, 1, 0, 11), "inside"),
    ];
    let live = with(block(8, 8, 8, "active_allocated"), "before");
    let snapshot = snapshot(&whole(vec![segment(0, 0, 0, vec![live])], vec![ring]));
    let (trace, stacks) = snapshot.to_trace_with_stacks("x", &Limits::default()).unwrap();
    assert_eq!(stacks.len(), trace.blocks as usize);
    let names: Vec<Option<&str>> =
        stacks.iter().map(|id| snapshot.stacks.frames(*id).next().map(|f| f.name)).collect();
    assert_eq!(names, [Some("before"), None, Some("inside")]);
}

#[test]
fn segments_alone_are_a_snapshot_of_what_was_live() {
    let blocks = || {
        let past = dict([
            ("addr", 0.into()),
            ("real_size", 300.into()),
            ("frames", Val::List(vec![dict([("name", "f".into())])])),
        ]);
        vec![
            dict([
                ("size", 512.into()),
                ("state", "active_allocated".into()),
                ("history", Val::List(vec![past, dict([("real_size", 7.into())])])),
            ]),
            block(4608, 512, 100, "active_pending_free"),
            dict([("size", 3072.into()), ("state", "inactive".into())]),
        ]
    };
    let mut kept = segment(1, 4096, 9, blocks());
    let Val::Dict(pairs) = &mut kept else { unreachable!("a segment is a dict") };
    pairs.push(("segment_pool_id".into(), Val::Tuple(vec![0.into(), 3.into()])));
    // As torch.cuda.memory_snapshot() has it, as torch 2.0 wrote it, and with rings that are empty.
    let segments = Val::List(vec![kept]);
    for value in [
        segments.clone(),
        dict([("segments", segments.clone())]),
        dict([("segments", segments), ("device_traces", Val::List(vec![Val::List(vec![]); 2]))]),
    ] {
        let snapshot = snapshot(&value);
        assert_eq!(snapshot.segments[0].segment_pool_id, (0, 3));
        let run = snapshot.into_run("test", &Limits::default()).unwrap();
        let events: Vec<_> = run.trace.events.iter().map(|e| (e.op, e.id, e.size)).collect();
        let expected = [(Op::Alloc, 0, 300), (Op::Alloc, 1, 100), (Op::FreeRequested, 1, 100)];
        assert_eq!(events, expected);
        assert_eq!((run.trace.prelude, run.trace.devices), (2, 2));
        let names: Vec<_> = run.frames_of_block(0).map(|frame| frame.name.to_owned()).collect();
        assert_eq!(names, ["f"]);
        assert_eq!(run.segments[0].blocks[0].requested_size, 300);
    }
}
