//! Every format that is written is read back, and says what it leaves out.

mod common;

use common::recorded;
use drystone_trace::{
    Event, Format, Limits, NO_BLOCK, Op, read_run, read_run_bytes, read_run_from,
};

#[test]
fn what_is_left_out_is_told_and_the_rest_comes_back() {
    let mut run = read_run(recorded("stanza_pos.pickle.xz"), &Limits::default()).unwrap();
    let last = *run.trace.events.last().unwrap();
    run.trace.events.push(Event { op: Op::SegmentAlloc, id: NO_BLOCK, size: 2 << 20, ..last });
    let stacks = (0..run.trace.blocks).filter(|&block| run.frames_of_block(block).count() > 0);
    let (stacks, settings) = (stacks.count(), run.settings.len());
    let csv = format!("stacks of blocks ({stacks}), settings ({settings}), segments (17)");
    let snapshot = "segments (17), events of segments (1)";
    for (format, left_out) in [
        (Format::Csv, &csv[..]),
        (Format::CsvXz, &csv),
        (Format::CsvZst, &csv),
        (Format::Native, ""),
        (Format::Pickle, snapshot),
        (Format::Json, snapshot),
    ] {
        let found: Vec<_> = format.leaves_out(&run).iter().map(ToString::to_string).collect();
        assert_eq!(found.join(", "), left_out, "{format:?}");
        let mut bytes = Vec::new();
        format.write(&run, &mut bytes).unwrap();
        if format == Format::Json {
            assert!(bytes.starts_with(b"{\"segments\":[{\"device\":0,"));
            continue;
        }
        let again = read_run_from("stanza_pos", &bytes[..], &Limits::default()).unwrap();
        assert_eq!(again, read_run_bytes("stanza_pos", &bytes, &Limits::default()).unwrap());
        assert!(again.trace.dropped.is_empty());
        assert_eq!(again.trace.blocks, run.trace.blocks);
        if !format.is_snapshot() {
            assert_eq!(again.trace, run.trace);
        }
    }
}
