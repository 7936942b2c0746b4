//! The page of `compare --report`: it is made for every policy and for odd traces, stays small, and
//! nothing in it is markup that came from outside. What it looks like is for `scripts/report-browser`.

use std::fmt::Write;
use std::process::Command;

use drystone_lab::{
    Journal, POLICIES, PolicySpec, Recording, Replayed, Report, SimTarget, Target,
    replay_with_journal,
};
use drystone_trace::{Limits, Run, read_run, read_run_bytes};
use serde_json::Value;

fn run(name: &str, lines: &str) -> Run {
    let csv = format!("t_us,op,id,size,stream,device\n{lines}");
    read_run_bytes(name, csv.as_bytes(), &Limits::default()).unwrap()
}

fn recorded(file: &str) -> Run {
    let path = format!("{}/../../traces/{file}", env!("CARGO_MANIFEST_DIR"));
    read_run(path, &Limits::default()).unwrap()
}

/// The policies that a simulated device can stand for.
fn all() -> Vec<PolicySpec> {
    let plain = POLICIES.iter().filter_map(|info| PolicySpec::plain(info).ok());
    plain.collect()
}

fn play(run: &Run, policies: &[PolicySpec], capacity: u64) -> Vec<(Replayed, Journal)> {
    let target = Target::Sim(SimTarget { capacity, ..SimTarget::default() });
    let one = |policy| replay_with_journal(&run.trace, policy, &target, &mut |_| {}).ok();
    policies.iter().filter_map(one).collect()
}

fn page(runs: &[Run], policies: &[PolicySpec], capacity: u64) -> String {
    let mut report = Report::new(runs.len());
    for run in runs {
        let (replays, journals): (Vec<_>, Vec<_>) =
            play(run, policies, capacity).into_iter().unzip();
        report.add(run, &Recording::of(&run.trace), &replays, &journals);
    }
    report.page()
}

fn named(name: &str) -> PolicySpec {
    name.parse().unwrap()
}

/// The data of a page, by its scripts' ids.
fn data<'a>(page: &'a str, id: &str) -> &'a str {
    let tag = format!(" id=\"{id}\">");
    let start = page.find(&tag).unwrap_or_else(|| panic!("no {id}")) + tag.len();
    page[start..].split_once("</script>").unwrap().0
}

fn index(page: &str) -> Value {
    serde_json::from_str(data(page, "index")).unwrap()
}

const TWO: &str = "0,a,0,33554432,0,0\n1000,a,1,33554000,1,1\n1500,f,0,33554432,0,0\n\
                   2000,c,0,33554432,0,0\n3000,a,2,100,0,0\n";

#[test]
fn every_policy_has_its_figures_and_its_columns() {
    let page = page(&[run("two devices", TWO)], &all(), 80 << 30);
    let index = index(&page);
    let policies = index[0]["policies"].as_array().unwrap();
    assert!(policies.len() >= POLICIES.len() - 1, "{}", policies.len());
    assert_eq!((&index[0]["name"], &index[0]["devices"]), (&"two devices".into(), &2.into()));
    for policy in policies {
        assert_eq!(policy["metrics"]["oom"], Value::Null, "{policy}");
        let text = data(&page, policy["blob"].as_str().unwrap());
        let base64 = |b: u8| b.is_ascii_alphanumeric() || b"+/=".contains(&b);
        assert!(!text.is_empty() && text.bytes().all(base64), "{policy}");
    }
    for left in ["/*style*/", "<!--data-->", "/*scripts*/"] {
        assert!(!page.contains(left), "{left}");
    }
    for outside in ["src=", "http://", "https://", "@import"] {
        // The name of a picture's language is no address that is asked.
        let page = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn a_run_out_of_memory_and_an_empty_one_have_pages_too() {
    let runs = [run("short", TWO), run("empty", "")];
    let page = page(&runs, &[named("drystone"), named("drystone-malloc")], 20 << 20);
    let index = index(&page);
    for policy in index[0]["policies"].as_array().unwrap() {
        assert_eq!(policy["metrics"]["oom"]["at_event"], 0, "{policy}");
    }
    assert_eq!(index[1]["events"], 0);
    assert_eq!(index[1]["policies"].as_array().unwrap().len(), 2);
}

#[test]
fn nothing_from_outside_is_markup() {
    let name = "</script><script>alert(1)</script><!--";
    let page = page(&[run(name, TWO)], &[named("drystone")], 1 << 30);
    assert!(!page.contains("alert(1)</script>"), "{page}");
    assert_eq!(index(&page)[0]["name"], name);
}

#[test]
fn pages_of_real_traces_stay_below_three_megabytes() {
    for file in ["weclone_qa.csv.xz", "unet3d.csv.xz"] {
        let page = page(&[recorded(file)], &all(), 80 << 30);
        println!("{file}: {} bytes", page.len());
        assert!(page.len() < 3_000_000, "{file}: {}", page.len());
        assert_eq!(index(&page)[0]["least_shown_bytes"], 0, "{file}: all blocks are there");
    }
}

#[test]
fn more_blocks_than_fit_leave_out_the_small_ones() {
    let mut lines = String::new();
    let mut size = 1u64;
    for id in 0..400_000u32 {
        size = size.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        writeln!(lines, "{id},a,{id},{},0,0", 512 + (size >> 48)).unwrap();
    }
    let page = page(&[run("many", &lines)], &[named("drystone"), named("optimal")], 80 << 30);
    assert!(page.len() < 3_000_000, "{}", page.len());
    assert!(index(&page)[0]["least_shown_bytes"].as_u64() > Some(512));
}

#[test]
fn a_trace_without_stacks_has_none_in_the_page() {
    let page = page(&[run("two", TWO)], &[named("drystone")], 80 << 30);
    assert_eq!(index(&page)[0]["stacks"], Value::Null);
    assert!(!page.contains("id=\"t0stacks\""));
}

/// The scripts read what Rust wrote, and their helpers do what they say; where there is Node.
#[test]
fn the_scripts_read_the_columns() {
    if Command::new("node").arg("--version").output().is_err() {
        println!("skipped: there is no Node here");
        return;
    }
    let folder = std::env::temp_dir().join(format!("drystone-report-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("page.html");
    std::fs::write(&file, page(&[run("two", TWO)], &[named("drystone-malloc")], 1 << 30)).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/report.mjs");
    let output = Command::new("node").arg(script).arg(&file).output().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
