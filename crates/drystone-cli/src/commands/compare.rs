//! `drystone compare`: all policies on a trace, as a table and as a picture.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use drystone_lab::{Panel, Report, picture};

use super::tell;
use crate::args::{Cli, Command, CompareArgs};
use crate::device::Device;
use crate::figures;
use crate::load::Source;
use crate::output::Outcome;
use crate::play::{Depth, Played, play};
use crate::whole::{self, Existing};

const NEXT: &str = "\
Shown: a real run that drystone carries (a BiLSTM tagger over reviews, recorded on an H100), through
every policy. \"As recorded\" is PyTorch's own allocator in that run. Next:
  drystone compare run.pickle                    the same for a memory snapshot of yours
  drystone replay run.pickle --capacity 12GiB    would it fit?
  drystone --help                                how to record one, and all else";

/// `compare` on the carried trace, for those who just start the program.
pub(crate) fn demo(out: &mut dyn Write) -> Result<Outcome> {
    let Some(Command::Compare(args)) = Cli::parse_from(["drystone", "compare"]).command else {
        unreachable!("compare is compare");
    };
    let outcome = compare(&args, out)?;
    writeln!(out, "\n{NEXT}")?;
    Ok(outcome)
}

/// Wrong usage, as clap tells it, where two results would go into one file.
fn check_outputs(args: &CompareArgs) {
    let svg = (!args.no_svg).then_some(&args.svg);
    let outputs =
        [("--csv", args.csv.as_ref()), ("--report", args.report.as_ref()), ("--svg", svg)];
    for (at, (name, path)) in outputs.iter().enumerate() {
        let same = |(_, other): &&(&str, Option<&PathBuf>)| path.is_some() && other == path;
        if let Some((other, _)) = outputs[..at].iter().find(same) {
            let message = format!("{other} and {name} name the same file");
            Cli::command().error(ErrorKind::ArgumentConflict, message).exit();
        }
    }
}

pub(crate) fn compare(args: &CompareArgs, out: &mut dyn Write) -> Result<Outcome> {
    check_outputs(args);
    let device = Device::open(&args.options)?;
    let json = args.options.json;
    let sources = Source::of(&args.traces);
    let mut report = args.report.is_some().then(|| Report::new(sources.len()));
    let mut all = Vec::new();
    let depth =
        Depth { journal: true, keep_journals: report.is_some(), min_capacity: args.min_capacity };
    let outcome = play(&sources, &args.options, &device, depth, |mut played| {
        tell(&played, json, out)?;
        if let Some(report) = &mut report {
            report.add(&played.run, &played.recording, &played.replays, &played.journals);
        }
        // The picture does not need the events, of which there may be millions.
        played.run.trace.events = Vec::new();
        played.journals = Vec::new();
        all.push(played);
        Ok(())
    })?;
    if !json {
        writeln!(out, "On {}.", device.describe())?;
    }
    if let Some(path) = &args.csv {
        figures::write(path, &all)?;
        say(&format!("Figures: {}", path.display()), json, out)?;
    }
    if let (Some(path), Some(report)) = (&args.report, &report) {
        let name = path.display();
        let failed = || format!("cannot write the report {name} (--report PATH)");
        put(path, &report.page()).with_context(failed)?;
        say(&format!("Report, for a browser: {name}"), json, out)?;
    }
    all.retain(|played: &Played| !played.replays.is_empty());
    if args.no_svg || all.is_empty() {
        return Ok(outcome);
    }
    let panels: Vec<_> = all
        .iter()
        .map(|played| Panel { recording: &played.recording, replays: &played.replays })
        .collect();
    let path = args.svg.display();
    put(&args.svg, &picture(&panels))
        .with_context(|| format!("cannot write the picture {path} (--svg PATH, or --no-svg)"))?;
    say(&format!("Picture of live and reserved memory over time: {path}"), json, out)?;
    Ok(outcome)
}

fn put(path: &Path, text: &str) -> io::Result<u64> {
    whole::write(path, Existing::Replace, |file| file.write_all(text.as_bytes()))
}

/// Says what was written: where people look, but not between lines of JSON.
fn say(line: &str, json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json { writeln!(io::stderr(), "{line}") } else { writeln!(out, "{line}") }
}
