//! Snapshots that are written: read back by this crate and by CPython.

mod common;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use common::encode::{Val, dict, encode};
use common::recorded;
use common::torch::{block, entry, segment, whole};
use drystone_trace::{Limits, Snapshot, read_snapshot, read_snapshot_bytes};

fn pickled(snapshot: &Snapshot) -> Vec<u8> {
    let mut pickle = Vec::new();
    snapshot.write_pickle(&mut pickle).unwrap();
    pickle
}

fn json(snapshot: &Snapshot) -> String {
    let mut json = Vec::new();
    snapshot.write_json(&mut json).unwrap();
    String::from_utf8(json).unwrap()
}

/// A small snapshot with what is rare: numbers of 64 bits, text that needs escapes.
fn rare() -> Snapshot {
    let mut whole = whole(
        vec![segment(1, (7 << 45) + 512, -5, vec![block((7 << 45) + 512, 4096, 17, "inactive")])],
        vec![vec![], vec![entry("oom", 1 << 40, 3, -1, 1), entry("alloc", 8, 9, 2, i64::MAX)]],
    );
    let Val::Dict(entries) = &mut whole else { unreachable!("a snapshot is a dict") };
    let settings = [
        ("CONF", "a\"b\\c\n\u{e9}\u{1f600}".into()),
        ("long", "x".repeat(300).as_str().into()),
        ("number", "-1".into()),
        ("threshold", Val::Float(0.1)),
        ("on", true.into()),
        ("nothing", Val::None),
        ("divisions", dict([("1", 2.into()), ("256", 4.into())])),
        ("last", Val::Float(1e300)),
    ];
    entries.push(("allocator_settings".into(), dict(settings)));
    read_snapshot_bytes(&encode(&whole, 4), &Limits::default()).unwrap()
}

#[test]
fn what_is_written_reads_back_the_same() {
    let recorded = ["stanza_pos", "prefetch_streams"].map(|name| {
        read_snapshot(recorded(&format!("{name}.pickle.xz")), &Limits::default()).unwrap()
    });
    for snapshot in recorded.iter().chain([&rare(), &Snapshot::default()]) {
        let again = read_snapshot_bytes(&pickled(snapshot), &Limits::default()).unwrap();
        assert_eq!(again, *snapshot);
    }
}

#[test]
fn json_is_what_a_snapshot_says() {
    let expected = concat!(
        r#"{"segments":[{"device":1,"address":246290604622336,"total_size":4096,"allocated_size":0,"#,
        r#""active_size":0,"requested_size":0,"stream":-5,"segment_type":"large","#,
        r#""segment_pool_id":[0,0],"is_expandable":false,"frames":[],"blocks":[{"#,
        r#""address":246290604622336,"size":4096,"requested_size":17,"state":"inactive","#,
        r#""frames":[]}]}],"device_traces":[[],[{"action":"oom","device_free":1099511627776,"#,
        r#""size":3,"stream":-1,"time_us":1,"compile_context":"N/A","user_metadata":""},{"#,
        r#""action":"alloc","addr":8,"size":9,"stream":2,"time_us":9223372036854775807,"#,
        r#""compile_context":"N/A","user_metadata":""}]],"allocator_settings":{"#,
    );
    let text = json(&rare());
    assert!(text.starts_with(expected), "{text}");
    let settings = concat!(
        r#""CONF":"a\"b\\c\u000aé😀","long":"LONG","number":-1,"threshold":0.1,"on":true,"#,
        r#""nothing":null,"divisions":{"1":2,"256":4},"last":1e300},"external_annotations":[]}"#,
    );
    assert_eq!(text[expected.len()..], settings.replace("LONG", &"x".repeat(300)));
}

/// Runs a script in CPython with this input, or says that there is none.
fn python(script: &str, file: &Path, input: &[u8]) {
    let mut command = Command::new("python3");
    command.arg("-c").arg(script).arg(file).stdin(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        eprintln!("skipped: there is no python3");
        return;
    };
    child.stdin.take().unwrap().write_all(input).unwrap();
    assert!(child.wait().unwrap().success(), "python3 disagrees");
}

#[test]
fn cpython_reads_what_torch_wrote_and_what_is_written_alike() {
    let path = recorded("stanza_pos.pickle.xz");
    let snapshot = read_snapshot(&path, &Limits::default()).unwrap();
    let script = "
import json, lzma, pickle, sys
with lzma.open(sys.argv[1]) as file:
    theirs = pickle.load(file)
pickled, text = pickle.load(sys.stdin.buffer)
ours = pickle.loads(pickled)
assert ours == theirs, 'the pickles differ'
assert json.loads(text) == json.loads(json.dumps(theirs)), 'the JSON differs'
blocks = [block for segment in ours['segments'] for block in segment['blocks']]
assert len({id(block['frames']) for block in blocks}) < len(blocks), 'stacks are not shared'
";
    let both = Val::Tuple(vec![Val::Bytes(pickled(&snapshot)), Val::Str(json(&snapshot))]);
    python(script, &path, &encode(&both, 4));
}
