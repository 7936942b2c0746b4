//! Somebody stops the program while it writes a file: nothing of it is left.
#![cfg(unix)]

mod common;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{command, drystone, folder, text};

/// A trace whose text takes some seconds to compress.
const LONG: &str = "rmm-random:allocations=1500000";

/// The names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Starts the program and stops it once it writes.
fn stopped(folder: &Path, arguments: &[&str], signal: &str, number: i32) {
    let before = names(folder);
    let mut command = command(folder, arguments);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while !names(folder).iter().any(|name| name.ends_with(".part")) {
        assert!(child.try_wait().unwrap().is_none(), "{arguments:?} has ended");
        assert!(started.elapsed() < Duration::from_secs(120), "{arguments:?} writes nothing");
        sleep(Duration::from_millis(5));
    }
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert_eq!(child.wait().unwrap().signal(), Some(number), "{arguments:?}");
    assert_eq!(names(folder), before, "{arguments:?}");
}

#[test]
fn nothing_is_left_of_a_file_that_is_interrupted() {
    let folder = folder();
    let path = folder.path();
    let made = drystone(path, &["generate", LONG, "-o", "long.dst"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    fs::write(path.join("there.csv.xz"), "as it was").unwrap();
    stopped(path, &["generate", LONG, "-o", "new.csv.xz"], "-INT", 2);
    stopped(path, &["convert", "long.dst", "new.csv.xz"], "-INT", 2);
    stopped(path, &["convert", "long.dst", "there.csv.xz", "--force"], "-TERM", 15);
    assert_eq!(fs::read_to_string(path.join("there.csv.xz")).unwrap(), "as it was");
}

#[test]
fn what_is_no_plain_file_is_written_to() {
    let folder = folder();
    let small = "train:layers=2,width=64,vocabulary=1000,steps=2,evaluate=0";
    let output = drystone(folder.path(), &["generate", small, "-o", "/dev/null"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    std::os::unix::fs::symlink("target.csv", folder.path().join("link.csv")).unwrap();
    let output = drystone(folder.path(), &["generate", small, "-o", "link.csv"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(names(folder.path()), ["link.csv", "target.csv"]);
    assert!(folder.path().join("link.csv").symlink_metadata().unwrap().is_symlink());
}
