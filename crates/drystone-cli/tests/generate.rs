//! `drystone generate` as its users meet it.

mod common;

use std::fs;

use common::{drystone, folder, small_trace, text};

#[test]
fn a_trace_is_written_and_can_be_replayed() {
    let folder = folder();
    let small = "train:layers=2,width=64,vocabulary=1000,steps=2,evaluate=0";
    let output = drystone(folder.path(), &["generate", small, "--seed", "5", "-o", "made.csv"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("Written to made.csv"), "{}", text(&output.stdout));
    let made = fs::read(folder.path().join("made.csv")).unwrap();
    let printed = drystone(folder.path(), &["generate", small, "--seed", "5"]);
    assert_eq!(printed.stdout, made);
    let other = drystone(folder.path(), &["generate", small, "--seed", "6"]);
    assert_ne!(other.stdout, made);
    let figures = |name: &str| {
        let output = drystone(folder.path(), &["replay", name, "--policy", "optimal", "--json"]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", text(&output.stderr));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (json["events"].clone(), json["peak_live_bytes"].clone())
    };
    for name in ["made.dst", "made.csv.xz", "made.pickle"] {
        let output = drystone(folder.path(), &["generate", small, "--seed", "5", "-o", name]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", text(&output.stderr));
        assert_eq!(figures(name), figures("made.csv"), "{name}");
    }
}

#[test]
fn without_a_kind_all_are_listed() {
    let folder = folder();
    let output = drystone(folder.path(), &["generate"]);
    let stdout = text(&output.stdout);
    for words in ["rmm-random: RMM's benchmark", "zero3:layers=", "Default: concatenated."] {
        assert!(stdout.contains(words), "{words} not in {stdout}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    let folder = folder();
    // A file, where a folder is asked for.
    small_trace(folder.path());
    for (arguments, code, words) in [
        (&["generate", "trian"][..], 2, "did you mean `train`?"),
        (&["generate", "train:layers=0"], 2, "allowed is a whole number from 1 to 1000"),
        (&["generate", "--seed", "3"], 2, "KIND"),
        (
            &["generate", "zero3:layers=1,steps=1", "-o", "no/such.csv"],
            1,
            "cannot write no/such.csv",
        ),
    ] {
        let output = drystone(folder.path(), arguments);
        let flat = text(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {flat}");
        assert!(flat.contains(words), "{arguments:?}: {words} not in {flat}");
    }
}
