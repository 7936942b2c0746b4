//! Pools of blocks: read off a snapshot's segments, and kept by every format.

mod common;

use common::encode::{Val, encode};
use common::recorded;
use common::torch::{block, entry, segment, whole};
use drystone_trace::{
    Action, Entry, EntryPool, Format, Frame, Limits, MAX_SIZE, NativeReader, NativeWriter, Op, Run,
    Segment, SegmentType, Snapshot, StackId, Trace, TraceEntry, read_run, read_run_bytes,
    read_trace_bytes,
};

/// A segment of 4096 bytes in a pool of its own.
fn private(device: i64, address: i64, pool: (i64, i64), expandable: bool, blocks: Vec<Val>) -> Val {
    let Val::Dict(mut pairs) = segment(device, address, 0, blocks) else { unreachable!() };
    let id = Val::Tuple(vec![pool.0.into(), pool.1.into()]);
    pairs.extend([("segment_pool_id".into(), id), ("is_expandable".into(), expandable.into())]);
    Val::Dict(pairs)
}

fn trace(segments: Vec<Val>, rings: Vec<Vec<Val>>) -> Trace {
    let text = encode(&whole(segments, rings), 4);
    read_trace_bytes("test", &text, &Limits::default()).unwrap()
}

fn pools(trace: &Trace) -> Vec<u32> {
    (0..trace.blocks).map(|block| trace.pool_of(block)).collect()
}

#[test]
fn blocks_of_captured_graphs_are_in_the_pools_of_those() {
    let run = read_run(recorded("cases/weclone.pickle.xz"), &Limits::default()).unwrap();
    assert_eq!(run.trace.pools(), 10, "the default pool and nine graphs");
    let mut last = 0;
    for block in 0..run.trace.blocks {
        let captured = |frame: Frame<'_>| (frame.filename, frame.name) == ("weclone.py", "capture");
        let captured = run.frames_of_block(block).any(captured);
        let pool = run.trace.pool_of(block);
        assert_eq!(captured, pool != 0, "block {block}");
        // One graph after the other.
        assert!(pool == 0 || pool == last || pool == last + 1, "block {block}: {pool}");
        last = last.max(pool);
    }
    // In other formats, too.
    for format in Format::ALL {
        let mut bytes = Vec::new();
        format.write(&run, &mut bytes).unwrap();
        let again = read_run_bytes("weclone", &bytes, &Limits::default()).unwrap();
        assert!(again.trace.block_pools == run.trace.block_pools, "{format:?}");
    }
}

#[test]
fn without_private_pools_there_is_no_list() {
    for name in ["stanza_pos.pickle.xz", "prefetch_streams.pickle.xz"] {
        let run = read_run(recorded(name), &Limits::default()).unwrap();
        assert_eq!((run.trace.block_pools.capacity(), run.trace.pools()), (0, 1));
    }
}

#[test]
fn a_segment_has_its_blocks_from_where_it_was_taken() {
    let ring = |segment: bool| {
        let taken = |at: i64, time| match segment {
            true => vec![entry("segment_alloc", at, 4096, 0, time)],
            false => vec![],
        };
        let mut ring = taken(4096, 1);
        ring.push(entry("alloc", 4096, 1, 0, 2));
        ring.push(entry("free_completed", 4096, 1, 0, 3));
        // Given back, and taken at the same address by another pool.
        ring.push(entry("segment_free", 4096, 4096, 0, 4));
        ring.extend(taken(4096, 5));
        // Inside, at its end, and behind it.
        ring.push(entry("alloc", 4096, 2, 0, 6));
        ring.push(entry("alloc", 8191, 3, 0, 7));
        ring.push(entry("alloc", 8192, 4, 0, 8));
        ring.push(entry("alloc", 4095, 5, 0, 9));
        ring
    };
    let own = |expandable| vec![private(0, 4096, (0, 7), expandable, vec![])];
    assert_eq!(pools(&trace(own(false), vec![ring(true)])), [0, 1, 1, 0, 0]);
    // As if it had been there before the ring began.
    assert_eq!(pools(&trace(own(false), vec![ring(false)])), [1, 1, 1, 0, 0]);
    // Addresses of an expandable segment belong to one pool.
    assert_eq!(pools(&trace(own(true), vec![ring(true)])), [1, 1, 1, 0, 0]);
    // What is mapped in it, and where another device took memory, does not count.
    let others = vec![ring(false), vec![entry("segment_alloc", 4096, 1, 0, 7)]];
    assert_eq!(pools(&trace(own(false), others)), [1, 1, 1, 0, 0]);
    let mut mapped = vec![entry("segment_map", 4096, 4096, 0, 7)];
    mapped.splice(0..0, ring(false));
    assert_eq!(pools(&trace(own(false), vec![mapped])), [1, 1, 1, 0, 0]);
    // The default pool has no list.
    let default = trace(vec![private(0, 4096, (0, 0), false, vec![])], vec![ring(true)]);
    assert!(default.block_pools.is_empty());
}

#[test]
fn blocks_that_were_there_before_have_the_pool_of_their_segment() {
    let ring = vec![
        entry("free_requested", 4096, 1, 0, 1),
        // Freed before the segment at the end was taken.
        entry("free_requested", 12_288, 2, 0, 2),
        entry("free_completed", 12_288, 2, 0, 3),
        entry("segment_alloc", 12_288, 4096, 0, 4),
        entry("alloc", 12_288, 3, 0, 5),
        // In no segment.
        entry("free_completed", 1, 4, 0, 6),
    ];
    let live = |at: i64, size: i64, state: &str| block(at, 512, size, state);
    let segments = vec![
        private(0, 4096, (0, 7), false, vec![live(4608, 5, "active_allocated")]),
        private(0, 12_288, (1, 0), false, vec![live(12_288, 3, "active_allocated")]),
        private(1, 4096, (1, 0), true, vec![live(4096, 6, "active_pending_free")]),
        segment(0, 20_480, 0, vec![live(20_480, 7, "active_allocated")]),
    ];
    let trace = trace(segments, vec![ring, vec![]]);
    let mut found: Vec<_> = trace
        .events
        .iter()
        .filter(|event| event.op == Op::Alloc)
        .map(|event| (event.size, trace.pool_of(event.id)))
        .collect();
    found.sort_unstable();
    assert_eq!(found, [(1, 1), (2, 0), (3, 2), (4, 0), (5, 1), (6, 2), (7, 0)]);
    assert_eq!(trace.prelude, 6);
}

#[test]
fn segments_that_make_no_sense_are_no_trouble() {
    // They overlap, go beyond all addresses, are empty, or begin where others do.
    let addresses = [0, 1, 4096, 5000, 1 << 63, u64::MAX - 4096, u64::MAX];
    let sizes = [0, 1, 4096, MAX_SIZE, u64::MAX];
    let segments = addresses.iter().flat_map(|&address| {
        sizes.map(|total_size| Segment {
            total_size,
            segment_pool_id: (total_size, address),
            is_expandable: total_size == 1,
            ..segment_at(address)
        })
    });
    let entry = |action, addr| TraceEntry {
        action,
        addr,
        size: 1,
        stream: 0,
        time_us: 0,
        stack: StackId::default(),
        pool: EntryPool::default(),
    };
    let actions = [Action::FreeCompleted, Action::SegmentAlloc, Action::Alloc];
    let ring: Vec<_> =
        actions.iter().flat_map(|&action| addresses.map(|addr| entry(action, addr))).collect();
    let snapshot = Snapshot {
        segments: segments.collect(),
        device_traces: vec![ring.clone(), ring],
        ..Snapshot::default()
    };
    let trace = snapshot.to_trace("test", &Limits::default()).unwrap();
    assert_eq!(trace.blocks, 4 * addresses.len() as u32);
    // As many names as there are segments are in the table; the table has its limit.
    let few = Limits { max_memory_bytes: 2000, ..Limits::default() };
    let private = Snapshot { device_traces: vec![], ..snapshot };
    assert!(private.to_trace("test", &few).is_err());
    let mut default = private;
    default.segments.iter_mut().for_each(|segment| segment.segment_pool_id = (0, 0));
    assert!(default.to_trace("test", &few).is_ok());
}

fn segment_at(address: u64) -> Segment {
    Segment {
        device: 0,
        address,
        total_size: 0,
        allocated_size: 0,
        active_size: 0,
        requested_size: 0,
        stream: 0,
        segment_type: SegmentType::Large,
        segment_pool_id: (0, 0),
        is_expandable: false,
        blocks: Vec::new(),
        stack: StackId::default(),
    }
}

/// The events of `run` written one by one, with these pools.
fn native(run: &Run, pools: impl Fn(u32) -> u32) -> Vec<u8> {
    let mut writer = NativeWriter::new(Vec::new(), 0, &[]).unwrap();
    for &event in &run.trace.events {
        let mut entry = Entry::from(event);
        if event.op == Op::Alloc {
            entry.pool = pools(event.id);
        }
        writer.entry(entry).unwrap();
    }
    writer.finish(&Default::default()).unwrap()
}

#[test]
fn native_traces_have_pools_only_where_there_are_some() {
    let lines: String = (0..100_000).map(|id| format!("{id},a,{id},8,0\n")).collect();
    let text = format!("t_us,op,id,size,stream\n{lines}");
    let run = read_run_bytes("test", text.as_bytes(), &Limits::default()).unwrap();
    let without = native(&run, |_| 0);
    // The second chunk has one: one number for each of its 34,464 blocks, all alike but for one.
    let with = native(&run, |id| if id == 70_000 { u32::MAX } else { 0 });
    let more = with.len() - without.len();
    assert!((1..100).contains(&more), "{more} bytes more");
    assert_eq!(with[..12], without[..12], "the version stays");
    let mut reader = NativeReader::from_bytes(&with, &Limits::default()).unwrap();
    let mut found = Vec::new();
    while let Some(entries) = reader.next_entries().unwrap() {
        found.extend(entries.iter().filter(|e| e.pool != 0).map(|e| (e.event.id, e.pool)));
    }
    assert_eq!(found, [(70_000, u32::MAX)]);
    let trace = read_trace_bytes("test", &with, &Limits::default()).unwrap();
    assert_eq!((trace.block_pools.len(), trace.pool_of(70_000), trace.pools()), (70_001, 1, 2));
    assert_eq!(read_trace_bytes("test", &without, &Limits::default()).unwrap().pools(), 1);
}
