//! `drystone compare` as its users meet it: the figures and where they go.

mod common;

use std::fs;

use serde_json::Value;

use common::{command, drystone, folder, small_trace, text};

const TWO: [&str; 4] = ["--policy", "drystone", "--policy", "drystone-malloc:limit=1GiB"];

/// The columns of the first line of the CSV in the folder, with the values of each further line.
fn csv(path: &std::path::Path) -> Vec<Vec<(String, String)>> {
    let mut reader = csv::Reader::from_path(path).unwrap();
    let names: Vec<_> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let named = |record: csv::StringRecord| {
        names.iter().cloned().zip(record.iter().map(str::to_owned)).collect()
    };
    reader.records().map(|record| named(record.unwrap())).collect()
}

#[test]
fn csv_has_the_figures_of_json() {
    let folder = folder();
    small_trace(folder.path());
    let arguments =
        [&["compare", "small.csv", "small.csv", "--json", "--no-svg", "--csv", "f.csv"][..], &TWO];
    let output = drystone(folder.path(), &arguments.concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let json: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let lines = csv(&folder.path().join("f.csv"));
    assert_eq!((json.len(), lines.len()), (4, 4));
    for (json, line) in json.iter().zip(&lines) {
        for (name, value) in line {
            let known = match name.as_str() {
                // Not nested here.
                "driver_calls" => {
                    let calls = json[name].as_object().unwrap().values();
                    Value::from(calls.map(|count| count.as_u64().unwrap()).sum::<u64>())
                }
                name if name.starts_with("oom_") => json["oom"].clone(),
                name => json[name].clone(),
            };
            match known {
                Value::Null => assert_eq!(value, "", "{name}"),
                Value::String(text) => assert_eq!(*value, text, "{name}"),
                number => assert_eq!(value.parse().ok(), number.as_f64(), "{name}"),
            }
        }
        let live = json["peak_live_bytes"].as_u64().unwrap();
        let [rounding, free, reserved] =
            ["rounding_at_peak_bytes", "free_at_peak_bytes", "peak_reserved_bytes"]
                .map(|name| json[name].as_u64().unwrap());
        assert_eq!(live + rounding + free, reserved, "both blocks were live at the peak");
        assert!(json["mean_ratio"].as_f64() >= Some(1.0), "{json}");
        assert_eq!(json["min_capacity_bytes"], Value::Null);
    }
    assert!(text(&output.stderr).contains("Figures: f.csv"));

    let output = drystone(folder.path(), &["compare", "small.csv", "--csv", "no/such/f.csv"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot write the figures no/such/f.csv (--csv PATH)"));
}

#[test]
fn the_least_capacity_is_one_more_column_if_asked_for() {
    let folder = folder();
    small_trace(folder.path());
    let arguments = [&["compare", "small.csv", "--no-svg", "--min-capacity"][..], &TWO].concat();
    let stdout = |arguments: &[&str], columns| {
        let output = command(folder.path(), arguments).env("COLUMNS", columns).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout).to_owned()
    };
    let narrow = stdout(&arguments, "80");
    assert!(narrow.lines().nth(1).unwrap().contains("needs"), "{narrow}");
    assert!(narrow.lines().take(5).all(|line| line.chars().count() <= 80), "{narrow}");
    let json = stdout(&[&arguments[..], &["--json"]].concat(), "80");
    for line in json.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["min_capacity_bytes"], 64 << 20);
    }
    let wide = stdout(&["compare", "small.csv", "--no-svg"], "160");
    let header = wide.lines().nth(1).unwrap();
    assert!(!header.contains("needs") && header.contains("rounding"), "{wide}");
}

#[test]
fn a_policy_that_runs_out_of_memory_has_no_ratio_in_the_table() {
    let folder = folder();
    small_trace(folder.path());
    let arguments =
        [&["compare", "small.csv", "--no-svg", "--capacity", "40MiB"][..], &TWO].concat();
    let output = drystone(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(1));
    let stdout = text(&output.stdout);
    assert_eq!(stdout.matches(" OOM ").count(), 2, "{stdout}");
    assert!(stdout.contains("stopped after 1.0 ms of the run"), "{stdout}");
}

#[test]
fn the_report_is_a_page_of_all_traces() {
    let folder = folder();
    small_trace(folder.path());
    let files = ["compare", "small.csv", "small.csv", "--no-svg"];
    let arguments = [&files[..], &["--json", "--report", "out.html"], &TWO].concat();
    let output = drystone(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).lines().count(), 4, "nothing but JSON");
    assert!(text(&output.stderr).contains("Report, for a browser: out.html"));
    let page = fs::read_to_string(folder.path().join("out.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"), "{page}");
    assert_eq!(page.matches("\"name\":\"small\"").count(), 2);
    assert!(page.contains("\"label\":\"drystone-malloc:limit=1GiB\""));

    let arguments = [&files[..], &["--report", "no/such/out.html"], &TWO].concat();
    let output = drystone(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("drystone-malloc"), "the table comes first");
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("cannot write the report no/such/out.html (--report PATH)"),
        "{stderr}"
    );
}

#[test]
fn results_do_not_depend_on_threads() {
    let folder = folder();
    small_trace(folder.path());
    let figures = |arguments: &[&str], threads: &str| {
        let arguments = [arguments, &["small.csv", "--json", "--threads", threads]].concat();
        let output = drystone(folder.path(), &arguments);
        let lines = text(&output.stdout).lines().map(|line| {
            let mut line: serde_json::Map<_, _> = serde_json::from_str(line).unwrap();
            line.remove("ns_per_event");
            line
        });
        (lines.collect::<Vec<_>>(), text(&output.stderr).to_owned(), output.status.code())
    };
    for (arguments, code, lines) in [
        (&["compare", "small.csv", "--report", "a.html", "--no-svg", "--min-capacity"][..], 0, 34),
        // Most of the policies complain.
        (&["replay", "--capacity", "40MiB"], 1, 17),
        (&["min-capacity", "--capacity", "40MiB"], 1, 0),
    ] {
        let one = figures(arguments, "1");
        assert_eq!((one.0.len(), one.2), (lines, Some(code)), "{}", one.1);
        for threads in ["2", "5"] {
            assert!(figures(arguments, threads) == one, "{arguments:?} on {threads} threads");
        }
    }
    let output = drystone(folder.path(), &["replay", "small.csv", "--threads", "0"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn two_results_do_not_go_into_one_file() {
    let folder = folder();
    small_trace(folder.path());
    for [one, other] in [["--csv", "--report"], ["--svg", "--csv"]] {
        let output = drystone(folder.path(), &["compare", "small.csv", one, "x", other, "x"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains("name the same file"), "{}", text(&output.stderr));
    }
    assert!(!folder.path().join("x").exists());
}
