//! The program as its users meet it: what it prints, where, and how it exits.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use drystone_lab::Needs;
use serde_json::Value;

use common::{command, drystone, folder, small_trace, text};

/// Runs it; it must fail with this code, say all this on stderr, and nothing on stdout.
fn refuses(arguments: &[&str], code: i32, saying: &[&str]) {
    let folder = folder();
    small_trace(folder.path());
    let output = drystone(folder.path(), arguments);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    for words in saying {
        // Messages are wrapped; spaces and line ends are the same here.
        let flat = stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains(words), "{arguments:?}: {words} not in {stderr}");
    }
    assert_eq!(text(&output.stdout), "", "{arguments:?}");
}

#[test]
fn without_arguments_it_compares_on_the_carried_trace() {
    let folder = folder();
    let output = drystone(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    // Columns are as wide as what stands in them; spaces are the same here.
    let flat = stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in [
        "stanza_pos: 65,359 events in 6.5 s; at most 691.01 MiB live",
        " drystone 7",
        " drystone-malloc 1",
        "as recorded 2.31 GiB 3.418",
        "drystone-compare.svg",
        "Next:",
    ] {
        assert!(flat.contains(words), "{words} not in {stdout}");
    }
    assert!(stdout.lines().all(|line| line.chars().count() <= 100), "{stdout}");
    let svg = fs::read_to_string(folder.path().join("drystone-compare.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
}

#[test]
fn help_has_examples_and_exit_codes() {
    for (arguments, words) in [
        (&["--help"][..], "drystone compare run.pickle"),
        (&["--help"], "2 wrong usage"),
        (&["--help"], "DRYSTONE_LOG"),
        (&["replay", "--help"], "drystone replay run.pickle --capacity 12GiB"),
        (&["replay", "--help"], "_dump_snapshot"),
        (&["compare", "-h"], "--svg run.svg"),
        (&["min-capacity", "--help"], "--policy drystone:reserve=lean --json"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
    ] {
        let output = drystone(folder().path(), arguments);
        assert_eq!(output.status.code(), Some(0));
        let flat = text(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains(words), "{arguments:?}: {words} not in {flat}");
    }
}

#[test]
fn json_is_a_line_for_each_trace_and_policy() {
    let folder = folder();
    small_trace(folder.path());
    let both = ["--policy", "drystone-malloc", "--policy", "drystone-malloc:limit=1GiB"];
    let arguments = [&["replay", "small.csv", "small.csv", "--json"][..], &both].concat();
    let output = drystone(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    let lines: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["trace"], "small");
        assert_eq!(line["policy"], "drystone-malloc");
        assert_eq!(line["options"], ["", "limit=1GiB"][index % 2]);
        assert_eq!((&line["events"], &line["run_us"]), (&4.into(), &2_000.into()));
        assert_eq!(line["peak_live_bytes"], 64 << 20);
        let reserved = line["peak_reserved_bytes"].as_u64().unwrap();
        assert!(reserved >= 64 << 20, "{line}");
        let ratio = line["ratio"].as_f64().unwrap();
        assert!((ratio - reserved as f64 / (64 << 20) as f64).abs() < 1e-9, "{line}");
        assert!(line["driver_calls"]["segment_alloc"].as_u64() >= Some(1), "{line}");
        assert!(line["driver_us"].as_f64() > Some(30.0), "{line}");
        assert_eq!((&line["wait_us"], &line["wait_percent"]), (&0.0.into(), &0.0.into()));
        let percent = line["driver_percent"].as_f64().unwrap();
        assert!((percent - line["driver_us"].as_f64().unwrap() / 20.0).abs() < 1e-9, "{line}");
        assert!(line["ns_per_event"].as_f64() > Some(0.0), "{line}");
        assert_eq!(line["oom"], Value::Null);
        assert_eq!(line["device"], "sim");
        assert_eq!(line["capacity_bytes"], 80u64 << 30);
    }
}

#[test]
fn comparing_with_json_writes_the_picture_and_only_json_to_stdout() {
    let folder = folder();
    small_trace(folder.path());
    let arguments = ["compare", "small.csv", "--json", "--svg", "out.svg"];
    let output = drystone(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(0));
    let policies: Vec<_> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["policy"].clone())
        .collect();
    let simulated = drystone_lab::POLICIES.iter().filter(|info| info.needs != Needs::RealDevice);
    let all: Vec<_> = simulated.map(|info| info.name).collect();
    assert_eq!(policies, all);
    assert!(text(&output.stderr).contains("out.svg"));
    assert!(folder.path().join("out.svg").exists());

    fs::remove_file(folder.path().join("out.svg")).unwrap();
    let output = drystone(folder.path(), &["compare", "small.csv", "--no-svg"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn out_of_memory_is_told_with_figures_and_exit_code_1() {
    let folder = folder();
    small_trace(folder.path());
    let arguments = ["replay", "small.csv", "--capacity", "40MiB", "--policy", "drystone-malloc"];
    let output = drystone(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(1));
    let stdout = text(&output.stdout);
    assert!(stdout.contains("stopped after 1.0 ms of the run, at event 1, with 32.00 MiB"));
    assert!(stdout.contains("asked for 32.00 MiB"), "{stdout}");
    assert!(!stdout.contains("as recorded"), "the trace does not say: {stdout}");

    let output = drystone(folder.path(), &[&arguments[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let oom = &json["oom"];
    assert_eq!((&oom["asked"], &oom["live"]), (&(32 << 20).into(), &(32 << 20).into()));
    assert_eq!((&oom["at_event"], &oom["t_us"]), (&1.into(), &1_000.into()));
    assert!(oom["reserved"].as_u64() >= Some(32 << 20), "{oom}");
}

#[test]
fn host_lead_and_capacity_reach_the_device() {
    let folder = folder();
    small_trace(folder.path());
    let arguments =
        ["replay", "small.csv", "--json", "--host-lead", "250us", "--capacity", "1.5GiB"];
    let output = drystone(folder.path(), &arguments);
    let json: Value = serde_json::from_str(text(&output.stdout).lines().next().unwrap()).unwrap();
    assert_eq!(
        (&json["host_lead_us"], &json["capacity_bytes"]),
        (&250.0.into(), &(3 << 29).into())
    );
}

#[test]
fn wrong_usage_says_what_is_allowed_and_exits_with_2() {
    let replay = |option, value| ["replay", "small.csv", option, value];
    refuses(
        &replay("--policy", "drystone-maloc"),
        2,
        &["unknown policy `drystone-maloc`", "did you mean `drystone-malloc`?", "policies are"],
    );
    refuses(&replay("--policy", "drystone-malloc:limti=1GiB"), 2, &["did you mean `limit`?"]);
    refuses(&replay("--policy", "drystone-malloc:limit=1G"), 2, &["cannot be `1G`: allowed is"]);
    refuses(&replay("--policy", "drystone-malloc:limit"), 2, &["the form is", "key=value"]);
    refuses(&replay("--capacity", "12G"), 2, &["use B, KiB, MiB, GiB", "--capacity"]);
    refuses(&replay("--capacity", "0"), 2, &["above 0"]);
    refuses(&replay("--host-lead", "5"), 2, &["`5` has no unit", "5ms"]);
    refuses(&replay("--device", "gpu"), 2, &["a device is `sim`, or `cuda:`"]);
    refuses(&replay("--costs", "free"), 2, &["busy, idle"]);
    refuses(&["replay"], 2, &["<TRACE>"]);
    refuses(&["min-capacity"], 2, &["<TRACE>"]);
    let tolerance = ["min-capacity", "small.csv", "--tolerance", "0.1"];
    refuses(&tolerance, 2, &["use 0% to 100%, as in 0.1%"]);
    refuses(&["repaly"], 2, &["replay"]);
    refuses(&["compare", "--svg", "a.svg", "--no-svg"], 2, &["cannot be used with"]);
}

#[test]
fn what_is_not_modelled_asks_for_a_real_device() {
    let arguments = ["compare", "small.csv", "--policy", "cuda-async"];
    refuses(&arguments, 1, &["cuda-async is measured on a real device only", "--device cuda:0"]);
}

#[test]
fn a_trace_that_cannot_be_read_does_not_keep_the_others_from_it() {
    let folder = folder();
    small_trace(folder.path());
    let arguments = ["replay", "missing.csv", "small.csv", "--json", "--policy", "drystone"];
    let output = drystone(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout).lines().count(), 1);
    let stderr = text(&output.stderr);
    assert!(stderr.contains("no such file: missing.csv"), "{stderr}");
}

#[test]
fn damaged_traces_are_named_with_the_place() {
    let folder = folder();
    let carried = concat!(env!("CARGO_MANIFEST_DIR"), "/../../traces/stanza_pos.csv.xz");
    let whole = fs::read(carried).unwrap();
    fs::write(folder.path().join("cut.csv.xz"), &whole[..whole.len() / 2]).unwrap();
    fs::write(folder.path().join("bad.csv"), "t_us,op,id,size,stream\n0,a,0,lots,0\n").unwrap();
    fs::write(folder.path().join("odd.bin"), "hello").unwrap();
    for (file, words) in [
        ("cut.csv.xz", "damaged or incomplete xz data"),
        // What the decompressor said is told once.
        ("cut.csv.xz", "of what it unfolds to: premature eof\n"),
        ("bad.csv", "line 2, size: found \"lots\""),
        ("odd.bin", "unknown format"),
        (".", "is a directory"),
    ] {
        let output = drystone(folder.path(), &["replay", file]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(words) && stderr.contains(file), "{file}: {stderr}");
    }
}

#[test]
fn what_was_repaired_in_a_trace_is_told() {
    let folder = folder();
    let csv = "t_us,op,id,size,stream\n0,a,0,512,0\n1,c,7,512,0\n";
    fs::write(folder.path().join("t.csv"), csv).unwrap();
    let output = drystone(folder.path(), &["replay", "t.csv"]);
    assert_eq!(output.status.code(), Some(0));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("t: free of a block that was never allocated"), "{stderr}");
}

#[test]
fn a_picture_that_cannot_be_written_is_an_error_after_the_table() {
    let folder = folder();
    small_trace(folder.path());
    let output = drystone(folder.path(), &["compare", "small.csv", "--svg", "no/such/p.svg"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("drystone-malloc"));
    assert!(text(&output.stderr).contains("cannot write the picture no/such/p.svg"));
}

#[test]
fn a_reader_that_goes_away_is_a_clean_exit() {
    let folder = folder();
    small_trace(folder.path());
    // Far more than a pipe holds, so that the program finds it closed.
    let mut arguments = vec!["replay", "--json"];
    arguments.extend(std::iter::repeat_n("small.csv", 1_000));
    let mut command = command(folder.path(), &arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    serde_json::from_str::<Value>(&first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_missing_gpu_is_an_error_that_says_what_to_do() {
    let folder = folder();
    small_trace(folder.path());
    // Not even a machine with GPUs has this one.
    let output = drystone(folder.path(), &["replay", "small.csv", "--device", "cuda:4000"]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("cannot use cuda:4000 (--device sim needs no GPU): "), "{stderr}");
    assert_eq!(text(&output.stdout), "");
}

#[test]
fn policies_are_listed_with_their_options() {
    let output = drystone(folder().path(), &["policies"]);
    assert_eq!(output.status.code(), Some(0));
    let stdout = text(&output.stdout);
    for words in [
        "drystone: ",
        "  reserve  ",
        "  cross_stream  ",
        "Default: ",
        "drystone-malloc: ",
        "Options: those of drystone, but not backing, reserve",
    ] {
        assert!(stdout.contains(words), "{words} not in {stdout}");
    }
    assert!(stdout.lines().all(|line| line.chars().count() <= 100), "{stdout}");
}

#[test]
fn a_narrow_terminal_shows_fewer_columns() {
    let folder = folder();
    small_trace(folder.path());
    for (columns, last) in
        [("130", "ns/event"), ("100", "calls"), ("80", "waits"), ("60", "mean ×"), ("45", "× live")]
    {
        let two = ["--policy", "drystone", "--policy", "drystone-malloc"];
        let arguments = [&["replay", "small.csv"][..], &two].concat();
        let mut command = command(folder.path(), &arguments);
        let output = command.env("COLUMNS", columns).output().unwrap();
        let stdout = text(&output.stdout);
        let header = stdout.lines().nth(1).unwrap();
        assert!(header.trim_end().ends_with(last), "{columns}: {stdout}");
        let fits = |line: &str| line.chars().count() <= columns.parse().unwrap();
        assert!(stdout.lines().skip(1).all(fits), "{columns}: {stdout}");
    }
}

#[test]
fn a_bad_log_filter_is_wrong_usage() {
    let folder = folder();
    let mut command = command(folder.path(), &["policies"]);
    let output = command.env("DRYSTONE_LOG", "drystone=loud").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("drystone: DRYSTONE_LOG: "));
}
