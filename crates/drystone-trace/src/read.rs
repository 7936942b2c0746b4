//! The entry points: find out what an input is, and read it.

use std::io::Read;
use std::path::Path;

use crate::csv;
use crate::error::{TraceError, shown};
use crate::event::Trace;
use crate::input::Input;
use crate::json;
use crate::limits::Limits;
use crate::native;
use crate::rmm;
use crate::run::Run;
use crate::snapshot::Snapshot;

/// Every pickle of protocol 2 or later begins with this instruction.
const PICKLE_START: u8 = 0x80;

/// Reads a trace from a file: a CSV, a log of RMM, a torch snapshot (a pickle or JSON) or a native
/// trace, as it is or compressed with xz or zstd.
///
/// The format is known by the content; the file's name only becomes [`Trace::name`].
///
/// # Errors
/// [`TraceError`] where the file cannot be read, is none of the known formats, is malformed, or
/// passes one of the `limits`.
pub fn read_trace(path: impl AsRef<Path>, limits: &Limits) -> Result<Trace, TraceError> {
    let path = path.as_ref();
    trace_from(Input::open(path, limits)?, &trace_name(path), limits)
}

/// Reads a trace from the bytes of such a file; `name` becomes [`Trace::name`].
///
/// # Errors
/// As [`read_trace`].
pub fn read_trace_bytes(name: &str, bytes: &[u8], limits: &Limits) -> Result<Trace, TraceError> {
    trace_from(Input::from_bytes(bytes, limits)?, name, limits)
}

/// Reads a trace from a file with all that is known beside it: settings, stacks, segments.
///
/// # Errors
/// As [`read_trace`].
pub fn read_run(path: impl AsRef<Path>, limits: &Limits) -> Result<Run, TraceError> {
    let path = path.as_ref();
    run_from(Input::open(path, limits)?, &trace_name(path), limits)
}

/// Reads the same from the bytes of such a file; `name` becomes [`Trace::name`].
///
/// # Errors
/// As [`read_trace`].
pub fn read_run_bytes(name: &str, bytes: &[u8], limits: &Limits) -> Result<Run, TraceError> {
    run_from(Input::from_bytes(bytes, limits)?, name, limits)
}

/// Reads the same from anything that can be read, as a file whose progress is shown.
///
/// # Errors
/// As [`read_trace`].
pub fn read_run_from(name: &str, from: impl Read, limits: &Limits) -> Result<Run, TraceError> {
    run_from(Input::new(from, limits)?, name, limits)
}

/// Reads a torch snapshot from a file, with all that a [`Trace`] leaves out.
///
/// # Errors
/// As [`read_trace`]; a CSV is an unknown format here.
pub fn read_snapshot(path: impl AsRef<Path>, limits: &Limits) -> Result<Snapshot, TraceError> {
    snapshot_from(Input::open(path.as_ref(), limits)?, limits)
}

/// Reads a torch snapshot from the bytes of such a file.
///
/// # Errors
/// As [`read_snapshot`].
pub fn read_snapshot_bytes(bytes: &[u8], limits: &Limits) -> Result<Snapshot, TraceError> {
    snapshot_from(Input::from_bytes(bytes, limits)?, limits)
}

/// Reads a torch snapshot from anything that can be read.
///
/// # Errors
/// As [`read_snapshot`].
pub fn read_snapshot_from(from: impl Read, limits: &Limits) -> Result<Snapshot, TraceError> {
    snapshot_from(Input::new(from, limits)?, limits)
}

fn trace_from(input: Input<'_>, name: &str, limits: &Limits) -> Result<Trace, TraceError> {
    if is_snapshot(input.head()) {
        let (snapshot, left) = Snapshot::read(input, limits)?;
        return snapshot.to_trace(name, &left);
    }
    run_from(input, name, limits).map(|run| run.trace)
}

fn run_from(input: Input<'_>, name: &str, limits: &Limits) -> Result<Run, TraceError> {
    let head = input.head();
    if is_snapshot(head) {
        let (snapshot, left) = Snapshot::read(input, limits)?;
        return snapshot.into_run(name, &left);
    }
    if native::is_native(head) {
        return native::read(input, name, limits);
    }
    if rmm::is_rmm(head) {
        return rmm::read(input, name, limits).map(Run::from);
    }
    if csv::is_csv(head) {
        return csv::read(input, name, limits).map(Run::from);
    }
    Err(unknown(&input))
}

/// Whether it can be a snapshot: a pickle, or the same as JSON.
fn is_snapshot(head: &[u8]) -> bool {
    head.first() == Some(&PICKLE_START) || json::is_json(head)
}

fn snapshot_from(input: Input<'_>, limits: &Limits) -> Result<Snapshot, TraceError> {
    if !is_snapshot(input.head()) {
        return Err(unknown(&input));
    }
    Snapshot::read(input, limits).map(|(snapshot, _)| snapshot)
}

pub(crate) fn unknown(input: &Input<'_>) -> TraceError {
    TraceError::UnknownFormat { start: shown(input.head()) }
}

/// What a trace in a file of this name is called: `runs/bert.pickle.xz` → `bert`.
pub fn trace_name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let mut name: &str = &file;
    for endings in [&[".xz", ".zst"][..], &[".csv", ".pickle", ".pkl", ".dst", ".json"]] {
        name = endings.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
    }
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_directories_and_known_endings_only() {
        for (path, name) in [
            ("runs/bert.pickle.xz", "bert"),
            ("bert.csv", "bert"),
            ("a/b.pkl.zst", "b"),
            ("b.v2.csv.xz", "b.v2"),
            ("data", "data"),
        ] {
            assert_eq!(trace_name(Path::new(path)), name);
        }
    }

    #[test]
    fn an_unknown_format_names_what_it_saw_and_what_is_known() {
        let limits = Limits::default();
        for bytes in [&b""[..], b"<html>", b"\x1f\x8b\x08gzip", b"\x28\xb5\x2f"] {
            let error = read_trace_bytes("x", bytes, &limits).unwrap_err();
            assert!(matches!(error, TraceError::UnknownFormat { .. }), "{error}");
            assert!(error.to_string().contains("t_us,op,id,size,stream"), "{error}");
        }
        let csv = b"t_us,op,id,size,stream\n";
        assert!(read_trace_bytes("x", csv, &limits).is_ok());
        let error = read_snapshot_bytes(csv, &limits).unwrap_err();
        assert!(matches!(error, TraceError::UnknownFormat { .. }), "{error}");
    }
}
