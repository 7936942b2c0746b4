//! `drystone diagnose`: why a run died or wasted memory, and what would have helped.

use std::io::Write;

use anyhow::{Context, Result};
use drystone_core::config::format_bytes;
use drystone_lab::{
    DeviceDiagnosis, Diagnosis, Failure, Finding, FindingKind, Recording, diagnose,
};
use drystone_trace::{Op, Trace};

use crate::args::DiagnoseArgs;
use crate::load::Source;
use crate::output::Outcome;
use crate::progress::Progress;
use crate::table;

/// The most remedies that are shown; JSON has all.
const SHOWN: usize = 6;

const NO_HISTORY: &str = "The recording has no history, only what was live when it was made: \
                          settings cannot be compared with it. Record with \
                          torch.cuda.memory._record_memory_history (see drystone diagnose --help).";

pub(crate) fn run(args: &DiagnoseArgs, out: &mut dyn Write) -> Result<Outcome> {
    let run = Source::File(args.snapshot.clone()).read()?;
    let name = run.trace.name.clone();
    let mut progress = Progress::new(format!("{name}: replays"));
    let found = diagnose(&run, args.capacity, &mut |done, of| progress.at(done, of));
    drop(progress);
    let found = found.with_context(|| name)?;
    if args.json {
        serde_json::to_writer(&mut *out, &found)?;
        writeln!(out)?;
        return Ok(Outcome::Done);
    }
    writeln!(out, "{}", table::extent(&run.trace, Recording::of(&run.trace).peak_live))?;
    if !has_history(&run.trace) {
        writeln!(out, "{}", table::paragraph(NO_HISTORY))?;
    }
    tell(&found, out)?;
    Ok(Outcome::Done)
}

/// Whether anything was asked for while the recording ran, and not only before it; or nothing at all.
fn has_history(trace: &Trace) -> bool {
    trace.events.is_empty()
        || trace.events[trace.prelude..].iter().any(|event| event.op == Op::Alloc)
}

fn tell(found: &Diagnosis, out: &mut dyn Write) -> Result<()> {
    for device in &found.devices {
        writeln!(out, "\nDevice {}", device.device)?;
        writeln!(out, "{}", table::paragraph(&state(device)))?;
        for (number, finding) in (1..).zip(&device.findings) {
            tell_finding(number, finding, out)?;
        }
        if !device.findings.is_empty() {
            tell_remedies(device, out)?;
        } else if device.failure.is_some() {
            writeln!(out, "\n{}", table::paragraph(unexplained(device)))?;
        }
    }
    if found.is_clean() && found.devices.iter().all(|device| device.failure.is_none()) {
        writeln!(out, "\nNothing wrong found.")?;
    }
    Ok(())
}

/// What became of the run on the device, in a sentence.
fn state(device: &DeviceDiagnosis) -> String {
    let capacity = match device.capacity_bytes {
        Some(bytes) => format!("{} to be had", format_bytes(bytes)),
        None => "memory unknown (--capacity SIZE)".to_owned(),
    };
    let peak = format_bytes(device.peak_live_bytes);
    let Some(Failure { asked, t_us, recorded, .. }) = device.failure else {
        return format!("{capacity}; at most {peak} live; no request failed");
    };
    let when = table::time(t_us as f64);
    let asked = format_bytes(asked);
    let what = if recorded { "failed" } else { "fails in a replay" };
    format!("{capacity}; a request of {asked} {what} after {when}")
}

/// Whether replays have more memory than there was when the request failed.
fn has_more(device: &DeviceDiagnosis, failure: &Failure) -> bool {
    let was =
        failure.reserved.zip(failure.device_free).map(|(held, free)| held.saturating_add(free));
    was.zip(device.replayed_bytes()).is_some_and(|(was, replayed)| replayed > was)
}

/// What there is to say of a request that failed for no reason that was found.
fn unexplained(device: &DeviceDiagnosis) -> &'static str {
    match device.capacity_bytes {
        None => "A request failed. Why, depends on how much memory there was: add --capacity SIZE.",
        Some(_) => "A request failed, and what was recorded does not show why.",
    }
}

fn tell_finding(number: usize, finding: &Finding, out: &mut dyn Write) -> Result<()> {
    writeln!(out, "\n{number}. {}", title(finding.kind))?;
    writeln!(out, "{}", table::paragraph(&finding.text))?;
    if !finding.holders.is_empty() {
        writeln!(out, "{}", table::holders(&finding.holders))?;
    }
    if !finding.pools.is_empty() {
        writeln!(out, "{}", table::pools(&finding.pools))?;
    }
    writeln!(out, "{}", table::paragraph(&format!("What helps: {}", finding.advice)))?;
    Ok(())
}

fn title(kind: FindingKind) -> &'static str {
    match kind {
        FindingKind::Excess => "More memory is needed than there is",
        FindingKind::Limit => "A limit is set too low",
        FindingKind::LimitTooHigh => "A limit is set too high",
        FindingKind::SetAside => "Much was set aside, and little was left",
        FindingKind::OtherProcess => "Somebody else holds memory of the device",
        FindingKind::Fragmentation => "Fragmentation",
        FindingKind::Growth => "Memory grows from iteration to iteration",
        FindingKind::IdleCache => "Memory is held that nobody uses",
        FindingKind::PendingFrees => "Freed memory waits for other streams",
        FindingKind::PrivatePools => "Private pools hold much",
        _ => "Something else",
    }
}

fn tell_remedies(device: &DeviceDiagnosis, out: &mut dyn Write) -> Result<()> {
    let Some(before) = &device.as_it_was else { return Ok(()) };
    let on = device
        .replayed_bytes()
        .map_or_else(String::new, |bytes| format!(", with {}", format_bytes(bytes)));
    writeln!(out, "\n{} settings tried, each by a replay{on}:", device.tried)?;
    if let (Some(alone), Some(whole)) = (device.completes_without_others, device.capacity_bytes) {
        let ends = if alone { "completes" } else { "runs out of memory too" };
        let whole = format_bytes(whole);
        let text =
            format!("That is beside the others. Without them, with {whole}, it {ends} as it was.");
        writeln!(out, "{}", table::paragraph(&text))?;
    }
    if device.meets_recorded_only {
        let text = "A replay ends where the recording does: what completes has met every request up to the \
                    one that failed; what would have come after it is not known.";
        writeln!(out, "{}", table::paragraph(text))?;
    }
    if device.remedies.is_empty() {
        let recorded = device.failure.filter(|failure| failure.recorded);
        let text = match before.completes {
            true if recorded.is_some_and(|failure| has_more(device, &failure)) => {
                "The run's own settings meet the request that failed too: in the replay there is more \
                 memory than there was."
            }
            true if recorded.is_some() => {
                "In the replay the request is met with the run's own settings too, so it shows no \
                 remedy: what lay where before the recording began, or in private pools, is not in \
                 it."
            }
            true => "None holds less than the run's own settings do.",
            false => "With none of them the run completes.",
        };
        return Ok(writeln!(out, "{}", table::paragraph(text))?);
    }
    let (program, settings): (Vec<_>, Vec<_>) =
        device.remedies.iter().cloned().partition(|remedy| remedy.changes_program);
    let settings = &settings[..settings.len().min(SHOWN)];
    let shown: Vec<_> = settings.iter().chain(&program).cloned().collect();
    writeln!(out, "{}", table::remedies(before, &shown))?;
    if !settings.is_empty() {
        writeln!(out, "To copy, the best first:")?;
    }
    for remedy in settings {
        writeln!(out, "  {}", remedy.setting)?;
    }
    for remedy in &program {
        let mut text = format!("In the program: {}", remedy.setting);
        if before.completes && remedy.end_reserved_bytes < before.end_reserved_bytes {
            let held = [remedy, before].map(|of| format_bytes(of.end_reserved_bytes));
            text += &format!("; {} are held at the end then, not {}", held[0], held[1]);
        }
        writeln!(out, "{}", table::paragraph(&text))?;
    }
    Ok(())
}
