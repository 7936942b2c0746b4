//! `drystone generate`: traces made from a seed, or the list of what can be made.

use std::io::Write;

use anyhow::{Context, Result};
use drystone_lab::{GENERATORS, GeneratorSpec};
use drystone_trace::{Format, Run, write_csv};

use crate::args::GenerateArgs;
use crate::output::Outcome;
use crate::table;
use crate::whole::{self, Existing};

pub(crate) fn generate(args: &GenerateArgs, out: &mut dyn Write) -> Result<Outcome> {
    match &args.kind {
        None => list(out),
        Some(kind) => make(kind, args, out),
    }
}

fn make(kind: &GeneratorSpec, args: &GenerateArgs, out: &mut dyn Write) -> Result<Outcome> {
    let trace = kind.generate(args.seed)?;
    let Some(path) = &args.output else {
        write_csv(&trace, out)?;
        return Ok(Outcome::Done);
    };
    let format = Format::of(path).unwrap_or(Format::Csv);
    let run = Run::from(trace);
    whole::write(path, Existing::Replace, |file| format.write(&run, file))
        .with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(out, "{}", table::extent(&run.trace, run.trace.peak_live_bytes()))?;
    writeln!(out, "Written to {}", path.display())?;
    Ok(Outcome::Done)
}

fn list(out: &mut dyn Write) -> Result<Outcome> {
    for info in GENERATORS {
        let first = info.options.first().map_or("", |option| option.name);
        writeln!(out, "{}: {}", info.name, info.summary)?;
        writeln!(out, "\nOptions, as in drystone generate {}:{first}=…\n", info.name)?;
        let rows = info.options.iter().map(|option| {
            let (help, allowed, default) = (option.help, option.allowed, option.default);
            (option.name, format!("{help}.\nAllowed: {allowed}. Default: {default}.\n"))
        });
        writeln!(out, "{}", table::meanings(rows))?;
    }
    Ok(Outcome::Done)
}
