//! `drystone convert`: a trace in another format.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::CommandFactory;
use clap::error::ErrorKind;
use drystone_trace::{
    Dropped, Format, LeftOut, Limits, Run, Snapshot, TraceError, read_rmm_logs, read_run_from,
    read_snapshot_from, trace_name,
};
use serde::Serialize;

use crate::args::{Cli, ConvertArgs};
use crate::output::{Outcome, complain};
use crate::progress::Progress;
use crate::table;
use crate::whole::{self, Existing};

pub(crate) fn convert(args: &ConvertArgs, out: &mut dyn Write) -> Result<Outcome> {
    let format = args.to.or_else(|| Format::of(&args.output)).unwrap_or_else(|| no_format(args));
    if args.output == Path::new("-") {
        let message = "there is no writing to standard output: give the output a name";
        Cli::command().error(ErrorKind::ValueValidation, message).exit();
    }
    let may_write = permission(args)?;
    let summary = match read(args, format)? {
        Input::Run(run) => {
            let left_out = format.leaves_out(&run);
            let bytes = write(args, may_write, |file| format.write(&run, file))?;
            let extent = table::extent(&run.trace, run.trace.peak_live_bytes());
            Summary::new(args, format, bytes, &run, left_out, extent)
        }
        Input::Snapshot(snapshot) => {
            let bytes = write(args, may_write, |file| match format {
                Format::Json => snapshot.write_json(file),
                _ => snapshot.write_pickle(file),
            })?;
            Summary::of_snapshot(args, format, bytes, &snapshot)
        }
    };
    summary.tell(args.json, out)?;
    Ok(Outcome::Done)
}

/// Wrong usage, as clap tells it.
fn no_format(args: &ConvertArgs) -> ! {
    let names: Vec<_> = Format::ALL.iter().map(|format| format.name()).collect();
    let output = args.output.display();
    let message = format!(
        "the name of `{output}` says no format; give it one of the endings .{}, or --to FORMAT",
        names.join(", .")
    );
    Cli::command().error(ErrorKind::ValueValidation, message).exit()
}

enum Input {
    Run(Run),
    /// A snapshot that becomes one: nothing of it is lost on the way.
    Snapshot(Snapshot),
}

fn read(args: &ConvertArgs, format: Format) -> Result<Input> {
    let limits = Limits::default();
    if let [path] = &args.inputs[..] {
        if format.is_snapshot() {
            match read_snapshot_from(Watched::open(path)?, &limits) {
                Err(TraceError::UnknownFormat { .. }) => {}
                other => return Ok(Input::Snapshot(other.with_context(|| cannot_read(path))?)),
            }
        }
        let run = read_run_from(&trace_name(path), Watched::open(path)?, &limits);
        return Ok(Input::Run(run.with_context(|| cannot_read(path))?));
    }
    let trace = read_rmm_logs(&trace_name(&args.output), &args.inputs, &limits)
        .context("cannot read several inputs as the logs that RMM wrote, one a device")?;
    Ok(Input::Run(trace.into()))
}

fn cannot_read(path: &Path) -> String {
    format!("cannot read the trace {}", path.display())
}

/// A file whose progress is shown while it is read.
struct Watched {
    file: File,
    progress: Progress,
    done: u64,
    bytes: u64,
}

impl Watched {
    fn open(path: &Path) -> Result<Watched> {
        let file = File::open(path).with_context(|| cannot_read(path))?;
        let about = file.metadata().with_context(|| cannot_read(path))?;
        if about.is_dir() {
            bail!("{}: it is a directory; name a trace file", cannot_read(path));
        }
        let progress = Progress::bytes(trace_name(path));
        Ok(Watched { file, progress, done: 0, bytes: about.len() })
    }
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.done += n as u64;
        // A pipe has no length.
        self.progress.at(self.done, self.bytes.max(self.done));
        Ok(n)
    }
}

/// Whether the output may take the place of what is there.
fn permission(args: &ConvertArgs) -> Result<Existing> {
    let output = args.output.display();
    match fs::symlink_metadata(&args.output) {
        Ok(there) if !there.is_file() => {
            bail!("{output} is there and is no plain file: it is left as it is")
        }
        Ok(_) if !args.force => bail!("{output} is there already (--force replaces it)"),
        Ok(_) => Ok(Existing::Replace),
        Err(_) => Ok(Existing::Keep),
    }
}

fn write(
    args: &ConvertArgs,
    existing: Existing,
    body: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<u64> {
    whole::write(&args.output, existing, body)
        .with_context(|| format!("cannot write {}", args.output.display()))
}

/// What was done.
#[derive(Serialize)]
struct Summary {
    inputs: Vec<PathBuf>,
    output: PathBuf,
    format: &'static str,
    events: u64,
    input_bytes: u64,
    bytes: u64,
    bytes_per_event: Option<f64>,
    /// What was dropped or repaired when the input was read.
    dropped: Vec<Repair>,
    /// What the format has no place for.
    left_out: Vec<Missing>,
    #[serde(skip)]
    extent: String,
}

#[derive(Serialize)]
struct Repair {
    what: String,
    count: u64,
    first: String,
}

#[derive(Serialize)]
struct Missing {
    what: &'static str,
    count: u64,
}

impl Summary {
    fn new(
        args: &ConvertArgs,
        format: Format,
        bytes: u64,
        run: &Run,
        left_out: Vec<LeftOut>,
        extent: String,
    ) -> Summary {
        let events = run.trace.events.len() as u64;
        let missing = |LeftOut { what, count }| Missing { what, count };
        Summary {
            dropped: repairs(&run.trace.dropped),
            left_out: left_out.into_iter().map(missing).collect(),
            ..Summary::plain(args, format, bytes, events, extent)
        }
    }

    fn of_snapshot(args: &ConvertArgs, format: Format, bytes: u64, snapshot: &Snapshot) -> Summary {
        let events = snapshot.device_traces.iter().map(Vec::len).sum::<usize>();
        let (segments, devices) = (snapshot.segments.len(), snapshot.device_traces.len());
        let extent = format!("{events} entries of {devices} devices, {segments} segments");
        Summary::plain(args, format, bytes, events as u64, extent)
    }

    fn plain(
        args: &ConvertArgs,
        format: Format,
        bytes: u64,
        events: u64,
        extent: String,
    ) -> Summary {
        let length = |path: &PathBuf| fs::metadata(path).map_or(0, |about| about.len());
        Summary {
            inputs: args.inputs.clone(),
            output: args.output.clone(),
            format: format.name(),
            events,
            input_bytes: args.inputs.iter().map(length).sum(),
            bytes,
            bytes_per_event: (events > 0).then(|| bytes as f64 / events as f64),
            dropped: Vec::new(),
            left_out: Vec::new(),
            extent,
        }
    }

    fn tell(&self, json: bool, out: &mut dyn Write) -> Result<()> {
        if json {
            serde_json::to_writer(&mut *out, self)?;
            return Ok(writeln!(out)?);
        }
        for Repair { what, count, first } in &self.dropped {
            complain(&format!("{what}: {count} times, first at {first}"));
        }
        writeln!(out, "{}", self.extent)?;
        let each = self.bytes_per_event.map(|bytes| format!(", {bytes:.2} an event"));
        let (bytes, before) = (self.bytes, self.input_bytes);
        let output = self.output.display();
        writeln!(out, "{output}: {bytes} bytes{} (before: {before})", each.unwrap_or_default())?;
        for Missing { what, count } in &self.left_out {
            let format = self.format;
            writeln!(out, "Left out, as {format} has no place for them: {count} {what}")?;
        }
        Ok(())
    }
}

fn repairs(dropped: &Dropped) -> Vec<Repair> {
    let repair = |finding: &drystone_trace::Finding| Repair {
        what: finding.oddity.to_string(),
        count: finding.count,
        first: finding.first.to_string(),
    };
    dropped.findings().iter().map(repair).collect()
}
