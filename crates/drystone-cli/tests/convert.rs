//! `drystone convert` as its users meet it.

mod common;

use std::fs;
use std::path::Path;

use serde_json::Value;

use common::{drystone, folder, small_trace, text};

const TRACES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../traces");

/// Runs it; the summary.
fn convert(folder: &Path, arguments: &[&str]) -> Value {
    let output = drystone(folder, &[&["convert", "--json"], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs it; it must fail with this code, saying this, and leave nothing behind but `small.csv`.
fn refuses(arguments: &[&str], code: i32, saying: &str) {
    let folder = folder();
    small_trace(folder.path());
    fs::write(folder.path().join("bad.csv"), "t_us,op,id,size,stream\n0,a,0,1,0\n0,x\n").unwrap();
    fs::create_dir(folder.path().join("there.dst")).unwrap();
    let before = names(folder.path());
    let output = drystone(folder.path(), &[&["convert"], arguments].concat());
    let stderr = text(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    assert!(stderr.contains(saying), "{arguments:?}: {saying} not in {stderr}");
    assert_eq!(text(&output.stdout), "");
    assert_eq!(names(folder.path()), before, "{arguments:?}");
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_trace_goes_through_every_format_and_stays_the_same() {
    let folder = folder();
    small_trace(folder.path());
    let original = fs::read_to_string(folder.path().join("small.csv")).unwrap();
    let mut from = "small.csv".to_owned();
    for to in ["a.dst", "a.csv.xz", "a.pickle", "a.csv.zst", "a.pkl", "b.dst", "b.csv"] {
        let summary = convert(folder.path(), &[&from, to]);
        assert_eq!(summary["events"], 4, "{summary}");
        assert_eq!((&summary["inputs"][0], &summary["output"]), (&from[..].into(), &to.into()));
        let bytes = fs::metadata(folder.path().join(to)).unwrap().len();
        assert_eq!(summary["bytes"], bytes);
        assert_eq!(summary["bytes_per_event"].as_f64(), Some(bytes as f64 / 4.0));
        assert_eq!(summary["dropped"], Value::Array(vec![]));
        from = to.to_owned();
    }
    assert_eq!(fs::read_to_string(folder.path().join("b.csv")).unwrap(), original);
    let summary = convert(folder.path(), &["b.csv", "text", "--to", "json"]);
    assert_eq!((&summary["format"], &summary["input_bytes"]), (&"json".into(), &100.into()));
    let json: Value =
        serde_json::from_slice(&fs::read(folder.path().join("text")).unwrap()).unwrap();
    assert_eq!(json["device_traces"][0].as_array().unwrap().len(), 4);
    assert_eq!(names(folder.path()).len(), 9, "no temporary file stays");
}

#[test]
fn a_snapshot_keeps_all_in_a_dst_and_between_snapshots() {
    let folder = folder();
    let pickle = format!("{TRACES}/stanza_pos.pickle.xz");
    let summary = convert(folder.path(), &[&pickle, "a.dst"]);
    assert_eq!((&summary["events"], &summary["left_out"]), (&6026.into(), &Value::Array(vec![])));
    let summary = convert(folder.path(), &["a.dst", "a.csv"]);
    let left_out: Vec<_> = summary["left_out"].as_array().unwrap().iter().collect();
    assert_eq!(left_out.len(), 3, "{summary}");
    assert_eq!(left_out[2]["what"], "segments");
    assert_eq!(left_out[2]["count"], 17);
    convert(folder.path(), &[&pickle, "a.pickle"]);
    convert(folder.path(), &["a.pickle", "b.json"]);
    convert(folder.path(), &["b.json", "b.pickle"]);
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(read("a.pickle") == read("b.pickle"));
    let json: Value = serde_json::from_slice(&read("b.json")).unwrap();
    assert_eq!(json["segments"].as_array().unwrap().len(), 17);
    assert_eq!(json["device_traces"][0].as_array().unwrap().len(), 6000);
}

#[test]
fn pools_go_through_every_format() {
    let folder = folder();
    let original = "#prelude=1\nt_us,op,id,size,stream,device,pool\n0,a,0,512,0,0,1\n1,a,1,64,1,1,0\n\
                    2,a,2,64,1,1,1\n3,f,0,512,0,0,0\n3,c,0,512,0,0,0\n4,a,3,512,2,0,2\n";
    fs::write(folder.path().join("a.csv"), original).unwrap();
    let mut from = "a.csv";
    for to in ["a.dst", "a.csv.xz", "a.pickle", "a.json", "b.csv.zst", "b.dst", "b.csv"] {
        convert(folder.path(), &[from, to]);
        from = to;
    }
    assert_eq!(fs::read_to_string(folder.path().join("b.csv")).unwrap(), original);
    // Graphs that PyTorch captured, through a trace of ours into a snapshot of ours.
    convert(folder.path(), &[&format!("{TRACES}/cases/weclone.pickle.xz"), "c.dst"]);
    convert(folder.path(), &["c.dst", "c.json"]);
    let json: Value =
        serde_json::from_slice(&fs::read(folder.path().join("c.json")).unwrap()).unwrap();
    let segments = json["segments"].as_array().unwrap();
    let pools: Vec<_> = segments.iter().map(|one| one["segment_pool_id"][1].as_u64()).collect();
    assert_eq!(pools, (0..10).map(Some).collect::<Vec<_>>());
}

#[test]
fn logs_of_several_devices_become_one_trace() {
    let folder = folder();
    for (device, time) in [(0, "23:59:59.5"), (1, "00:00:00.5")] {
        let log = format!(
            "Thread,Time,Action,Pointer,Size,Stream\n1,{time},allocate,0x100,8,0\n\
             1,{time},free,0x200,8,0\n"
        );
        fs::write(folder.path().join(format!("r.dev{device}.csv")), log).unwrap();
    }
    let summary = convert(folder.path(), &["r.dev0.csv", "r.dev1.csv", "r.csv"]);
    assert_eq!(summary["events"], 2);
    let unknown = &summary["dropped"][0];
    assert_eq!(unknown["what"], "free of a block that was never allocated, dropped");
    assert_eq!((&unknown["count"], &unknown["first"]), (&2.into(), &"line 3".into()));
    let csv = fs::read_to_string(folder.path().join("r.csv")).unwrap();
    assert_eq!(csv, "t_us,op,id,size,stream,device\n0,a,0,8,0,0\n1000000,a,1,8,0,1\n");
}

#[test]
fn what_was_done_is_told_to_people_too() {
    let folder = folder();
    small_trace(folder.path());
    let output = drystone(folder.path(), &["convert", "small.csv", "a.dst"]);
    let stdout = text(&output.stdout);
    assert!(stdout.starts_with("small: 4 events in 2.0 ms; at most 64.00 MiB live\n"), "{stdout}");
    assert!(stdout.contains("a.dst: ") && stdout.contains(" an event (before: 100)"), "{stdout}");
    let pickle = format!("{TRACES}/stanza_pos.pickle.xz");
    let output = drystone(folder.path(), &["convert", &pickle, "a.csv"]);
    let expected = "Left out, as csv has no place for them: 17 segments";
    assert!(text(&output.stdout).contains(expected), "{}", text(&output.stdout));
}

#[test]
fn nothing_is_replaced_unless_it_is_said() {
    let folder = folder();
    let small = small_trace(folder.path());
    let original = fs::read(&small).unwrap();
    let refused = drystone(folder.path(), &["convert", "small.csv", "small.csv"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("small.csv is there already (--force replaces it)"));
    assert_eq!(fs::read(&small).unwrap(), original);
    convert(folder.path(), &["small.csv", "small.csv", "--to", "dst", "--force"]);
    assert!(fs::read(&small).unwrap().starts_with(b"\x89DST"));
    assert_eq!(convert(folder.path(), &["small.csv", "again.csv"])["events"], 4, "by content");
    assert_eq!(fs::read(folder.path().join("again.csv")).unwrap(), original);
}

#[test]
fn failures_leave_nothing_behind() {
    refuses(&["bad.csv", "out.dst"], 1, "cannot read the trace bad.csv: line 3, op: found \"x\"");
    refuses(&["missing.csv", "out.dst"], 1, "cannot read the trace missing.csv");
    refuses(&["there.dst", "out.dst"], 1, "it is a directory");
    refuses(&["small.csv", "there.dst", "--force"], 1, "is no plain file");
    refuses(&["small.csv", "no/folder/out.dst"], 1, "cannot write no/folder/out.dst");
    refuses(&["small.csv", "small.csv", "out.dst"], 1, "the logs that RMM wrote");
    refuses(&["small.csv", "out.txt"], 2, "the name of `out.txt` says no format");
    refuses(&["small.csv", "out.dst", "--to", "csvv"], 2, "did you mean `csv`?");
    refuses(&["small.csv", "-", "--to", "csv"], 2, "no writing to standard output");
    refuses(&["small.csv"], 2, "<OUT>");
    // The blocks need more addresses than there are, which shows while the file is being written.
    let folder = folder();
    let lines: String = (0..5).map(|id| format!("0,a,{id},{},0\n", 1u64 << 60)).collect();
    fs::write(folder.path().join("a.csv"), format!("t_us,op,id,size,stream\n{lines}")).unwrap();
    let output = drystone(folder.path(), &["convert", "a.csv", "a.pickle"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("2^62 bytes of addresses"), "{}", text(&output.stderr));
    assert_eq!(names(folder.path()), ["a.csv"]);
}
