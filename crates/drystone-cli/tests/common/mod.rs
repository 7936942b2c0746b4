//! What the tests of the program share: a folder, a trace in it, and a run there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A run of the program in a folder of its own.
pub(crate) fn drystone(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("drystone"));
    command.current_dir(folder).args(arguments).env_remove("DRYSTONE_LOG");
    command.env("COLUMNS", "100").stdin(Stdio::null());
    command
}

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Two blocks of 32 MiB at once, one freed.
#[allow(dead_code, reason = "not every test file needs a trace of its own")]
pub(crate) fn small_trace(folder: &Path) -> PathBuf {
    let path = folder.join("small.csv");
    let csv = "t_us,op,id,size,stream\n0,a,0,33554432,0\n1000,a,1,33554432,0\n\
               2000,f,0,33554432,0\n2000,c,0,33554432,0\n";
    fs::write(&path, csv).unwrap();
    path
}
