//! Runs written as snapshots: what reads back is the same run, in segments that add up.

mod common;

use common::recorded;
use drystone_trace::{
    BlockState, Limits, MAX_SIZE, Op, Run, Snapshot, TraceError, read_run, read_run_bytes,
    read_snapshot_bytes,
};
use proptest::prelude::*;

fn run(csv: &str) -> Run {
    read_run_bytes("test", csv.as_bytes(), &Limits::default()).unwrap()
}

/// The snapshot as it reads back.
fn snapshot(run: &Run) -> Snapshot {
    let mut pickle = Vec::new();
    run.to_snapshot().unwrap().write_pickle(&mut pickle).unwrap();
    read_snapshot_bytes(&pickle, &Limits::default()).unwrap()
}

/// The blocks of each segment are the segment, and its sums are theirs.
fn adds_up(snapshot: &Snapshot) {
    for segment in &snapshot.segments {
        let mut next = segment.address;
        let (mut allocated, mut active, mut requested) = (0, 0, 0);
        for block in &segment.blocks {
            assert_eq!(block.address, next);
            assert!(block.size > 0);
            next += block.size;
            if block.state != BlockState::Inactive {
                active += block.size;
                requested += block.requested_size;
                assert!(block.requested_size <= block.size);
            }
            if block.state == BlockState::Allocated {
                allocated += block.size;
            }
        }
        assert_eq!(next, segment.address + segment.total_size);
        let sums = (segment.allocated_size, segment.active_size, segment.requested_size);
        assert_eq!(sums, (allocated, active, requested));
    }
}

/// The run without what a snapshot cannot say.
fn without_segments(mut run: Run) -> Run {
    let is_kept = |op: Op| op.has_block() || matches!(op, Op::OutOfMemory | Op::Snapshot);
    run.trace.events.retain(|event| is_kept(event.op));
    let start = run.trace.events.first().map_or(0, |first| first.t_us);
    run.trace.events.iter_mut().for_each(|event| event.t_us -= start);
    run.trace.dropped = Default::default();
    run.trace.devices = run.trace.events.iter().map(|event| event.device + 1).max().unwrap_or(1);
    run
}

#[test]
fn recorded_traces_come_back_as_they_were() {
    for name in ["stanza_pos", "prefetch_streams"] {
        let run = read_run(recorded(&format!("{name}.csv.xz")), &Limits::default()).unwrap();
        let segment_events = run.trace.events.iter().filter(|event| event.op == Op::SegmentAlloc);
        assert!(run.left_out_of_snapshot() >= segment_events.count() as u64);
        let snapshot = snapshot(&run);
        adds_up(&snapshot);
        assert_eq!(snapshot.segments.len(), run.trace.streams as usize, "one for each stream");
        let again = snapshot.to_trace(name, &Limits::default()).unwrap();
        let expected = without_segments(run).trace;
        assert!(again == expected, "{name} differs");
    }
}

#[test]
fn stacks_settings_and_the_prelude_stay() {
    let run = read_run(recorded("stanza_pos.pickle.xz"), &Limits::default()).unwrap();
    let snapshot = snapshot(&run);
    adds_up(&snapshot);
    let again = snapshot.into_run("stanza_pos", &Limits::default()).unwrap();
    assert_eq!((again.trace.prelude, &again.settings), (26, &run.settings));
    for block in 0..run.trace.blocks {
        assert!(run.frames_of_block(block).eq(again.frames_of_block(block)), "block {block}");
    }
    assert_eq!(again.trace, without_segments(run).trace);
}

#[test]
fn rare_runs_come_back() {
    for csv in [
        "t_us,op,id,size,stream\n",
        "#prelude=2\nt_us,op,id,size,stream\n0,a,0,0,0\n0,a,1,5,9\n7,f,1,5,0\n9,s,,0,0\n9,o,,7,0\n",
        "#prelude=1\nt_us,op,id,size,stream,device\n3,a,0,0,0,2\n5,a,1,5,9,0\n7,f,0,5,0,2\n",
        "#prelude=1\nt_us,op,id,size,stream,device,pool\n3,a,0,0,0,2,7\n5,a,1,5,9,0,7\n\
         6,a,2,5,9,0,0\n7,f,0,5,0,2,0\n8,a,3,9,9,0,2\n",
    ] {
        let run = run(csv);
        let snapshot = snapshot(&run);
        adds_up(&snapshot);
        let again = snapshot.to_trace("test", &Limits::default()).unwrap();
        assert_eq!(again, without_segments(run).trace, "{csv}");
    }
}

#[test]
fn a_free_that_names_another_device_frees_its_block() {
    let csv = "t_us,op,id,size,stream,device\n0,a,0,8,0,0\n1,f,0,8,0,1\n1,c,0,8,0,1\n";
    let trace = snapshot(&run(csv)).to_trace("test", &Limits::default()).unwrap();
    assert_eq!((trace.blocks, trace.events.len(), trace.devices), (1, 3, 1));
    assert!(trace.dropped.is_empty(), "{:?}", trace.dropped);
}

#[test]
fn what_no_addresses_are_left_for_is_an_error() {
    let lines: String = (0..5).map(|id| format!("0,a,{id},{MAX_SIZE},0\n")).collect();
    let error = run(&format!("t_us,op,id,size,stream\n{lines}")).to_snapshot().unwrap_err();
    assert!(matches!(error, TraceError::NoRoom), "{error}");
}

proptest! {
    #[test]
    fn any_run_of_one_device_comes_back(
        operations in prop::collection::vec(
            (0u64..3, 0usize..5, 0usize..20, 0u64..3000, 0u64..4), 0..200),
        prelude in 0usize..5,
    ) {
        use std::fmt::Write;
        let mut lines = format!("#prelude={prelude}\nt_us,op,id,size,stream,pool\n");
        (0..prelude).for_each(|id| writeln!(lines, "0,a,{id},9,1,{}", id % 2).unwrap());
        let mut next = prelude;
        let mut time = 0;
        for (step, operation, back, size, pool) in operations {
            time += step;
            let (op, id) = match operation {
                0 | 1 => {
                    next += 1;
                    ("a", next - 1)
                }
                2 => ("f", next.saturating_sub(back)),
                3 => ("c", next.saturating_sub(back)),
                _ => ("o", 0),
            };
            let id = if op == "o" { String::new() } else { id.to_string() };
            let pool = if op == "a" { pool } else { 0 };
            writeln!(lines, "{time},{op},{id},{size},{},{pool}", size % 3).unwrap();
        }
        let run = run(&lines);
        let snapshot = snapshot(&run);
        adds_up(&snapshot);
        let again = snapshot.to_trace("test", &Limits::default()).unwrap();
        prop_assert_eq!(again, without_segments(run).trace);
    }
}
