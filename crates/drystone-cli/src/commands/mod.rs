//! The commands, one in each file.

mod advise;
mod compare;
mod convert;
mod diagnose;
mod generate;
mod min_capacity;
mod policies;
mod replay;

pub(crate) use advise::run as advise;
pub(crate) use compare::{compare, demo};
pub(crate) use convert::convert;
pub(crate) use diagnose::run as diagnose;
pub(crate) use generate::generate;
pub(crate) use min_capacity::min_capacity;
pub(crate) use policies::policies;
pub(crate) use replay::replay;

use std::io::{self, Write};

use crate::play::Played;
use crate::table;

/// Tells of a trace: as lines of JSON, or as a table for people.
fn tell(played: &Played, json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        for replay in &played.replays {
            serde_json::to_writer(&mut *out, &replay.metrics)?;
            writeln!(out)?;
        }
        return out.flush();
    }
    writeln!(out, "{}", table::headline(played))?;
    writeln!(out, "{}", table::figures(played))?;
    for replay in &played.replays {
        if let Some(why) = table::stopped(&replay.metrics) {
            writeln!(out, "{why}")?;
        }
    }
    if let Some(text) = table::refused(&played.run.trace) {
        writeln!(out, "{text}")?;
    }
    writeln!(out)
}
