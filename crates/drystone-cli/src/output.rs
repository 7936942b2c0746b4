//! What goes to the terminal: how wide it is, complaints, and whether all went well.

use std::io::{self, Write};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is done.
    Done,
    /// Something failed, and was complained about or shown.
    Failed,
}

impl Outcome {
    /// Failed if either has.
    pub(crate) fn and(self, other: Outcome) -> Outcome {
        if self == Outcome::Done { other } else { self }
    }
}

/// Says on stderr what failed.
pub(crate) fn complain(what: &str) {
    // There is nowhere left to say that this failed.
    let _ = writeln!(io::stderr(), "drystone: {what}");
}

/// Columns of text that fit: the terminal's, or else what COLUMNS says, or else 100.
pub(crate) fn columns() -> u16 {
    let said = || std::env::var("COLUMNS").ok()?.parse().ok();
    let terminal = terminal_size::terminal_size_of(io::stdout());
    terminal.map(|(width, _)| width.0).or_else(said).unwrap_or(100).max(40)
}
