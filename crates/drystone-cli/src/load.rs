//! The traces to replay: files, or the one that the program carries.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use drystone_trace::{Limits, Run, read_run, read_run_bytes};

use crate::output::complain;

/// Sentences of clinical and social-media length, unsplit, through a BiLSTM tagger.
const CARRIED: &[u8] = include_bytes!("../../../traces/stanza_pos.csv.xz");
const CARRIED_NAME: &str = "stanza_pos";

/// Where a trace comes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A file.
    File(PathBuf),
    /// The one that the program carries.
    Carried,
}

impl Source {
    /// The files; the carried trace where there are none.
    pub(crate) fn of(paths: &[PathBuf]) -> Vec<Source> {
        if paths.is_empty() {
            return vec![Source::Carried];
        }
        paths.iter().cloned().map(Source::File).collect()
    }

    /// Reads it. What had to be repaired is told on stderr.
    pub(crate) fn read(&self) -> Result<Run> {
        let run = match self {
            Source::Carried => read_run_bytes(CARRIED_NAME, CARRIED, &Limits::default())?,
            Source::File(path) => read_file(path)?,
        };
        for finding in run.trace.dropped.findings() {
            complain(&format!("{}: {finding}", run.trace.name));
        }
        Ok(run)
    }
}

fn read_file(path: &Path) -> Result<Run> {
    read_run(path, &Limits::default())
        .with_context(|| format!("cannot read the trace {}", path.display()))
}
