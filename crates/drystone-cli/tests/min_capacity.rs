//! `drystone min-capacity` as its users meet it.

mod common;

use serde_json::Value;

use common::{command, drystone, folder, small_trace, text};

const TWO: [&str; 4] = ["--policy", "drystone", "--policy", "drystone-malloc"];

#[test]
fn min_capacity_is_the_least_with_which_a_replay_completes() {
    let folder = folder();
    small_trace(folder.path());
    let arguments = [&["min-capacity", "small.csv", "--json"][..], &TWO].concat();
    let output = drystone(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    let lines: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    for (line, policy) in lines.iter().zip(["drystone", "drystone-malloc"]) {
        assert_eq!((&line["trace"], &line["policy"]), (&"small".into(), &policy.into()));
        assert_eq!(line["peak_live_bytes"], 64 << 20);
        assert_eq!((&line["monotone"], &line["device"]), (&true.into(), &"sim".into()));
        let least = line["min_capacity_bytes"].as_u64().unwrap();
        assert_eq!(line["ratio"].as_f64(), Some(least as f64 / f64::from(64 << 20)));
        for (bytes, code) in [(least, 0), (least - (2 << 20), 1)] {
            let capacity = format!("{bytes}B");
            let replay = ["replay", "small.csv", "--policy", policy, "--capacity", &capacity];
            let output = drystone(folder.path(), &replay);
            assert_eq!(output.status.code(), Some(code), "{}", text(&output.stdout));
        }
    }
}

#[test]
fn min_capacity_for_people_is_a_table_for_each_trace() {
    let folder = folder();
    small_trace(folder.path());
    for columns in ["100", "60"] {
        let arguments = [&["min-capacity", "small.csv", "small.csv"][..], &TWO].concat();
        let mut command = command(folder.path(), &arguments);
        let output = command.env("COLUMNS", columns).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let stdout = text(&output.stdout);
        let headline = "small: 4 events in 2.0 ms; at most 64.00 MiB live";
        assert_eq!(stdout.matches(headline).count(), 2, "{stdout}");
        assert!(stdout.contains("  policy            completes with   × live   replays"));
        assert!(stdout.contains("  drystone               64.00 MiB    1.000 "), "{stdout}");
        let fits = |line: &str| line.chars().count() <= columns.parse().unwrap();
        assert!(stdout.lines().all(fits), "{stdout}");
    }
}

#[test]
fn min_capacity_without_an_answer_is_exit_code_1() {
    let folder = folder();
    small_trace(folder.path());
    let policies = ["--policy", "drystone:limit=48MiB", "--policy", "drystone-malloc", "--json"];
    let arguments = [&["min-capacity", "missing.csv", "small.csv"][..], &policies].concat();
    let output = drystone(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("no such file: missing.csv"), "{stderr}");
    let never = "drystone: small: drystone:limit=48MiB ran out of memory even with 80.00 GiB: ";
    assert!(stderr.contains(never), "{stderr}");
    // The other policy has an answer all the same.
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["policy"], "drystone-malloc");
}
