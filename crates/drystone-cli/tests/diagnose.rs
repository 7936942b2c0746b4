//! `drystone diagnose` as its users meet it.

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
fn nothing_wrong_is_said_clearly() {
    let folder = folder();
    small_trace(folder.path());
    for arguments in
        [&["diagnose", "small.csv"][..], &["diagnose", "small.csv", "--capacity", "1GiB"]]
    {
        let output = drystone(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(text(&output.stdout).ends_with("\nNothing wrong found.\n"));
        assert_eq!(text(&output.stderr), "");
    }
    fs::write(folder.path().join("empty.csv"), "t_us,op,id,size,stream\n").unwrap();
    let output = drystone(folder.path(), &["diagnose", "empty.csv"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).ends_with("\nNothing wrong found.\n"));
}

#[test]
fn a_request_that_failed_is_never_nothing() {
    let folder = folder();
    // Without segments nobody knows what was held, nor what there was.
    let history = r#"{"segments": [], "device_traces": [[
        {"action": "alloc", "addr": 4096, "size": 1048576, "stream": 0, "time_us": 1},
        {"action": "oom", "size": 1048576000, "stream": 0, "time_us": 2, "device_free": 0}]]}"#;
    fs::write(folder.path().join("died.json"), history).unwrap();
    let output = drystone(folder.path(), &["diagnose", "died.json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    assert!(stdout.contains("how much memory there was: add --capacity SIZE"), "{stdout}");
    assert!(!stdout.contains("Nothing wrong"), "{stdout}");
    // A replay leaves the request out, and says so.
    for command in ["replay", "min-capacity"] {
        let output = drystone(folder.path(), &[command, "died.json", "--policy", "pytorch"]);
        let stdout = text(&output.stdout);
        assert!(stdout.contains("A request of 1000.00 MiB failed in the recording;"), "{stdout}");
    }
}

#[test]
fn a_snapshot_without_a_history_says_that_it_has_none() {
    let folder = folder();
    let segments = r#"{"device_traces": [[]], "segments": [{"device": 0, "address": 4194304,
        "total_size": 536870912, "stream": 0, "segment_type": "large", "blocks": [
        {"address": 4194304, "size": 2097152, "requested_size": 2097152, "state": "active_allocated"},
        {"address": 6291456, "size": 534773760, "requested_size": 0, "state": "inactive"}]}]}"#;
    fs::write(folder.path().join("held.json"), segments).unwrap();
    let output = drystone(folder.path(), &["diagnose", "held.json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    assert!(stdout.contains("The recording has no history"), "{stdout}");
    assert!(stdout.contains("1. Memory is held that nobody uses"), "{stdout}");
    assert!(!stdout.contains("settings tried"), "{stdout}");
}

#[test]
fn in_a_narrow_terminal_names_stay_whole_and_columns_go() {
    let folder = folder();
    let snapshot = bundled();
    for arguments in [
        ["diagnose", &snapshot, "--capacity", "700MiB"],
        ["diagnose", &snapshot, "--capacity", "600MiB"],
    ] {
        let output = command(folder.path(), &arguments).env("COLUMNS", "40").output().unwrap();
        let stdout = text(&output.stdout);
        let shreds = stdout.lines().filter(|line| (1..4).contains(&line.trim().chars().count()));
        assert_eq!(shreds.count(), 0, "{stdout}");
    }
}

#[test]
fn an_excess_is_named_with_its_figures() {
    let folder = folder();
    small_trace(folder.path());
    let output = drystone(folder.path(), &["diagnose", "small.csv", "--capacity", "40MiB"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    for part in [
        "a request of 32.00 MiB fails in a replay after 1.0 ms",
        "1. More memory is needed than there is",
        "needs 64.00 MiB at once and there are 40.00 MiB: 24.00 MiB are missing",
    ] {
        assert!(stdout.contains(part), "{stdout}");
    }
    assert!(!stdout.contains("settings tried"), "{stdout}");
}

#[test]
fn a_snapshot_is_diagnosed_in_80_columns_with_settings_to_copy() {
    let folder = folder();
    let snapshot = bundled();
    let arguments = ["diagnose", &snapshot, "--capacity", "700MiB"];
    let output = command(folder.path(), &arguments).env("COLUMNS", "80").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    assert!(stdout.lines().all(|line| line.chars().count() <= 80), "{stdout}");
    for part in [
        "1. Fragmentation",
        "(as it was)",
        "out of memory",
        "\n  python -m drystone run train.py\n",
    ] {
        assert!(stdout.contains(part), "{stdout}");
    }
    // What has to be written into the program is no line to copy.
    let program = "\n  In the program: torch.cuda.empty_cache() before train.py:24 forward";
    assert!(stdout.contains(program), "{stdout}");
    // Above all that is live there is no setting that helps, but there is who holds it, and what
    // halving would do: sentences have different lengths.
    let output = drystone(folder.path(), &["diagnose", &snapshot, "--capacity", "600MiB"]);
    let stdout = text(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "train.py:24 forward",
        "would take the peak from 680.79 MiB to about 405.49 MiB, which fits",
    ] {
        assert!(stdout.contains(part), "{stdout}");
    }
}

#[test]
fn a_snapshot_as_json_is_diagnosed_like_the_pickle() {
    let folder = folder();
    let snapshot = bundled();
    let output = drystone(folder.path(), &["convert", &snapshot, "stanza_pos.json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let told = |file: &str| {
        let arguments = ["diagnose", file, "--capacity", "700MiB", "--json"];
        drystone(folder.path(), &arguments).stdout
    };
    assert_eq!(text(&told("stanza_pos.json")), text(&told(&snapshot)));
}

/// A program whose texts have up to 512 words, and the same with 256: the square of that counts.
#[test]
fn halving_gives_what_the_program_needs_when_it_is_halved() {
    let folder = folder();
    let told = |name: &str| -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../traces/cases").join(name);
        let arguments = ["diagnose", path.to_str().unwrap(), "--capacity", "12GiB", "--json"];
        serde_json::from_slice(&drystone(folder.path(), &arguments).stdout).unwrap()
    };
    let whole = told("deepke.dst");
    let excess = &whole["devices"][0]["findings"][0];
    assert_eq!(excess["kind"], "excess");
    let said = excess["evidence"]["halved_peak"].as_f64().unwrap();
    let is = told("deepke-256.dst")["devices"][0]["peak_live_bytes"].as_f64().unwrap();
    assert!((said / is - 1.0).abs() < 0.01, "{said} was said, {is} it is");
    assert!(excess["text"].as_str().unwrap().contains("Halving the length of the sequence"));
    // The moment of death shows it as well, though that iteration was cut off.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../traces/cases/deepke.pickle.xz");
    let death = drystone(folder.path(), &["diagnose", path.to_str().unwrap(), "--json"]);
    let death: Value = serde_json::from_slice(&death.stdout).unwrap();
    let death = &death["devices"][0];
    assert_eq!(death["findings"][0]["kind"], "excess", "{death}");
    let evidence = &death["findings"][0]["evidence"];
    let peak = told("deepke.dst")["devices"][0]["peak_live_bytes"].as_f64().unwrap();
    for (what, is) in [("predicted_peak", peak), ("halved_peak", is)] {
        let said = evidence[what].as_f64().unwrap();
        assert!((said / is - 1.0).abs() < 0.01, "{what}: {said} was said, {is} it is");
    }
    assert_eq!(death["meets_recorded_only"], true);
    let stdout = drystone(folder.path(), &["diagnose", path.to_str().unwrap()]).stdout;
    let line = text(&stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(line.contains("A replay ends where the recording does"), "{line}");
}

#[test]
fn private_pools_are_listed_one_by_one() {
    let folder = folder();
    let segment = |at: u64, pool: u64, used: u64| {
        format!(
            r#"{{"address": {at}, "total_size": 104857600, "segment_pool_id": [0, {pool}], "blocks":
                [{{"size": {used}, "state": "active_allocated", "frames":
                   [{{"name": "capture", "filename": "graphs.py", "line": 7}}]}},
                 {{"size": {}, "state": "inactive"}}]}}"#,
            104857600 - used
        )
    };
    let segments = [segment(1 << 40, 1, 10 << 20), segment(2 << 40, 2, 90 << 20)];
    fs::write(folder.path().join("g.json"), format!("[{}]", segments.join(","))).unwrap();
    let output = drystone(folder.path(), &["diagnose", "g.json"]);
    let stdout = text(&output.stdout);
    let rows: Vec<String> = stdout
        .lines()
        .filter(|line| line.trim_start().starts_with("(0, "))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let expected = [
        "(0, 1) 100.00 MiB 90.00 MiB 1 graphs.py:7 capture",
        "(0, 2) 100.00 MiB 10.00 MiB 1 graphs.py:7 capture",
    ];
    assert_eq!(rows, expected, "{stdout}");
}

#[test]
fn json_is_one_object_and_the_same_each_time() {
    let folder = folder();
    let snapshot = bundled();
    let arguments = ["diagnose", &snapshot, "--capacity", "700MiB", "--json"];
    let first = drystone(folder.path(), &arguments);
    assert_eq!((first.status.code(), text(&first.stderr)), (Some(0), ""));
    assert_eq!(first.stdout, drystone(folder.path(), &arguments).stdout);
    let json: Value = serde_json::from_slice(&first.stdout).unwrap();
    let device = &json["devices"][0];
    assert_eq!(device["capacity_bytes"], 700 << 20);
    assert_eq!(device["findings"][0]["kind"], "fragmentation");
    assert_eq!(device["as_it_was"]["completes"], false);
    assert_eq!(device["remedies"][0]["completes"], true);
}

#[test]
fn what_cannot_be_read_is_exit_code_1_and_wrong_usage_2() {
    let folder = folder();
    fs::write(folder.path().join("odd"), "no trace").unwrap();
    for (arguments, code, part) in [
        (&["diagnose", "missing.pickle"][..], 1, "no such file: missing.pickle"),
        (&["diagnose", "odd"], 1, "cannot read the trace odd"),
        (&["diagnose"], 2, "<SNAPSHOT>"),
        (&["diagnose", "odd", "--capacity", "0"], 2, "above 0"),
    ] {
        let output = drystone(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(code));
        assert!(text(&output.stderr).contains(part), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "");
    }
}
