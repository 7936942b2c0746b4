//! `drystone advise` as its users meet it.

mod common;

use std::fs;
use std::path::Path;

use serde_json::Value;

use common::{command, drystone, folder, small_trace, text};

/// A snapshot of PyTorch's that comes with the source.
fn bundled() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../traces/stanza_pos.pickle.xz");
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_best_settings_are_lines_to_copy_in_80_columns() {
    let folder = folder();
    let snapshot = bundled();
    let arguments = ["advise", &snapshot, "--capacity", "750MiB"];
    let output = command(folder.path(), &arguments).env("COLUMNS", "80").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    assert!(stdout.lines().all(|line| line.chars().count() <= 80), "{stdout}");
    for part in [
        "750.00 MiB, of which 37.50 MiB should stay free; no allocator does with less\n",
        "PyTorch's own allocator\n  PYTORCH_ALLOC_CONF=expandable_segments:True",
        "Drystone (python -m drystone run train.py)\n",
        "the default ",
        "OOM",
        "Best of both: ",
    ] {
        assert!(stdout.contains(part), "{part}\n{stdout}");
    }
}

#[test]
fn where_nothing_completes_the_lack_is_said_and_the_exit_code_1() {
    let folder = folder();
    small_trace(folder.path());
    let output = drystone(folder.path(), &["advise", "small.csv", "--capacity", "40MiB"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(1), ""));
    let stdout = text(&output.stdout);
    for part in [
        "no allocator does with less than 64.00 MiB",
        "Runs out of memory: 24.00 MiB more are needed.",
        "With nothing the run completes. Nearest: PyTorch's own allocator, as it is; it lacks",
        "spill_limit",
    ] {
        assert!(stdout.contains(part), "{part}\n{stdout}");
    }
}

#[test]
fn json_is_one_object_and_the_same_with_any_number_of_threads() {
    let folder = folder();
    let snapshot = bundled();
    let ask = |threads: &str| {
        let arguments = ["advise", &snapshot, "--capacity", "700MiB", "--json"];
        let output = drystone(folder.path(), &[&arguments[..], &["--threads", threads]].concat());
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
        output.stdout
    };
    let first = ask("1");
    assert_eq!(text(&first), text(&ask("2")));
    let json: Value = serde_json::from_slice(&first).unwrap();
    for (key, value) in [
        ("capacity_bytes", (700u64 << 20).into()),
        ("capacity_from", "said".into()),
        ("goal", "time".into()),
        ("floor_bytes", (682u64 << 20).into()),
        ("completes", true.into()),
        ("best", "drystone".into()),
        ("lack_bytes", Value::Null),
        ("devices", vec![0].into()),
    ] {
        assert_eq!(json[key], value, "{key}");
    }
    assert_eq!(json["families"][0]["family"], "pytorch");
    let trial = &json["families"][0]["default"];
    assert_eq!((&trial["setting"], &trial["policy"]), (&"".into(), &"pytorch".into()));
    assert_eq!((&trial["completes"], &trial["spare_bytes"]), (&false.into(), &Value::Null));
    assert!(trial["min_capacity_bytes"].as_u64() > Some(700 << 20));
    assert!(json["families"][1]["effects"].is_array());
}

#[test]
fn without_a_capacity_the_least_memory_is_sought() {
    let folder = folder();
    small_trace(folder.path());
    let output = drystone(folder.path(), &["advise", "small.csv"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let stdout = text(&output.stdout);
    for part in [
        "Memory unknown (--capacity SIZE), 80.00 GiB simulated",
        "the least memory reserved",
        "nothing to set: no option is of use\n  Reserves 64.00 MiB where there is plenty, and can do with 64.00 MiB;",
    ] {
        assert!(stdout.contains(part), "{part}\n{stdout}");
    }
}

#[test]
fn what_cannot_be_read_is_exit_code_1_and_wrong_usage_2() {
    let folder = folder();
    small_trace(folder.path());
    fs::write(folder.path().join("odd"), "no trace").unwrap();
    for (arguments, code, part) in [
        (&["advise", "missing.pickle"][..], 1, "no such file: missing.pickle"),
        (&["advise", "odd"], 1, "cannot read the trace odd"),
        (
            &["advise", "small.csv", "--device-index", "3"],
            1,
            "device 3 in the trace; devices are 0",
        ),
        (&["advise"], 2, "<TRACE>"),
        (&["advise", "small.csv", "--capacity", "12G"], 2, "use B, KiB, MiB, GiB"),
        (&["advise", "small.csv", "--headroom", "5"], 2, "use 0% to 100%"),
        (&["advise", "small.csv", "--goal", "both"], 2, "[possible values: time, memory]"),
        (&["advise", "small.csv", "--threads", "0"], 2, "--threads"),
    ] {
        let output = drystone(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains(part), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "");
    }
}
