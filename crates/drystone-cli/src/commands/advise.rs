//! `drystone advise`: the best settings for a run, of PyTorch's own allocator and of Drystone.

use std::io::Write;

use anyhow::{Context, Result};
use drystone_core::config::format_bytes;
use drystone_lab::{
    Advice, CapacityFrom, FamilyAdvice, Goal, Part, Question, Recording, SimTarget, Trial, advise,
    processors,
};

use crate::args::AdviseArgs;
use crate::load::Source;
use crate::output::Outcome;
use crate::progress::Progress;
use crate::table;

pub(crate) fn run(args: &AdviseArgs, out: &mut dyn Write) -> Result<Outcome> {
    let run = Source::File(args.trace.clone()).read()?;
    let name = run.trace.name.clone();
    let question = Question {
        capacity: args.capacity,
        goal: args.goal.map(Goal::from),
        headroom: args.headroom,
        device: args.device_index,
        target: SimTarget {
            host_lead_ns: args.host_lead,
            costs: args.costs.into(),
            ..SimTarget::default()
        },
        threads: args.threads.unwrap_or_else(processors).get(),
    };
    let mut progress = Progress::new(format!("{name}: replays"));
    let found = advise(&run, &question, &mut |done, of| progress.at(done, of));
    drop(progress);
    let found = found.with_context(|| name)?;
    if args.json {
        serde_json::to_writer(&mut *out, &found)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{}", table::extent(&run.trace, Recording::of(&run.trace).peak_live))?;
        tell(&found, out)?;
    }
    Ok(if found.completes { Outcome::Done } else { Outcome::Failed })
}

fn tell(found: &Advice, out: &mut dyn Write) -> Result<()> {
    writeln!(out, "{}", table::paragraph(&asked(found)))?;
    for family in &found.families {
        writeln!(out, "\n{}", title(family.family))?;
        tell_family(family, found, out)?;
    }
    Ok(writeln!(out, "\n{}", table::paragraph(&conclusion(found)))?)
}

/// What it is, and how a program runs with it.
fn title(family: &str) -> &str {
    match family {
        "pytorch" => "PyTorch's own allocator",
        "drystone" => "Drystone (python -m drystone run train.py)",
        other => other,
    }
}

/// The question, in a paragraph.
fn asked(found: &Advice) -> String {
    let bytes = format_bytes(found.capacity_bytes);
    let each = if found.devices.len() > 1 { " on each device" } else { "" };
    let free = format_bytes(found.headroom_bytes);
    let capacity = match found.capacity_from {
        CapacityFrom::Said => format!("{bytes}{each}, of which {free} should stay free"),
        CapacityFrom::Recorded => {
            format!("{bytes}{each} as recorded, of which {free} should stay free")
        }
        CapacityFrom::Unknown => {
            format!("Memory unknown (--capacity SIZE), {bytes}{each} simulated")
        }
    };
    let goal = match found.goal {
        Goal::Time => "time in driver calls and waits",
        Goal::Memory => "memory reserved",
    };
    format!(
        "{capacity}; no allocator does with less than {}. Wanted: to complete, then the least {goal}.",
        format_bytes(found.floor_bytes),
    )
}

fn tell_family(family: &FamilyAdvice, found: &Advice, out: &mut dyn Write) -> Result<()> {
    let best = &family.recommended;
    let nothing = "nothing to set: no option is of use";
    writeln!(out, "  {}", if best.line.is_empty() { nothing } else { &best.line })?;
    writeln!(out, "{}", table::paragraph(&does(best, found)))?;
    let mut rows = vec![("the default".to_owned(), &family.default)];
    for (part, word) in [(Part::Only, "only"), (Part::Without, "without")] {
        for effect in family.effects.iter().filter(|effect| effect.part == part) {
            // Of two options, one alone is the other left out.
            if rows.iter().all(|(_, trial)| trial.setting != effect.trial.setting) {
                let options = effect.option.replace(',', ", ");
                rows.push((format!("{word} {options}"), &effect.trial));
            }
        }
    }
    if !best.setting.is_empty() {
        rows.push(("all of the line above".to_owned(), best));
    }
    Ok(writeln!(out, "{}", table::trials(rows.into_iter()))?)
}

/// What a setting does, in a sentence.
fn does(trial: &Trial, found: &Advice) -> String {
    let needs = trial.min_capacity_bytes;
    let Some(spare) = trial.spare_bytes else {
        return match needs.map(|needs| needs.saturating_sub(found.capacity_bytes)) {
            Some(0) => "Runs out of memory, although it completes with less.".to_owned(),
            Some(missing) => {
                format!("Runs out of memory: {} more are needed.", format_bytes(missing))
            }
            None => "Runs out of memory, with any that there can be.".to_owned(),
        };
    };
    let memory = match (found.capacity_from, needs) {
        (CapacityFrom::Unknown, Some(needs)) => format!(
            "Reserves {} where there is plenty, and can do with {}",
            format_bytes(trial.peak_reserved_bytes),
            format_bytes(needs),
        ),
        _ if trial.has_headroom => format!("Completes with {} to spare", format_bytes(spare)),
        _ => format!("Completes with {} to spare, less than should stay free", format_bytes(spare)),
    };
    let time = trial.driver_us + trial.wait_us;
    let waits = match trial.wait_us {
        0.0 => String::new(),
        waits => format!(", {} of it waits", table::time(waits)),
    };
    let share = match found.run_us {
        0 => String::new(),
        run => format!(" ({} of the run{waits})", table::percent(100.0 * time / run as f64)),
    };
    format!("{memory}; {} in driver calls and waits{share}.", table::time(time))
}

/// What to do, in a paragraph.
fn conclusion(found: &Advice) -> String {
    let best = found.families.iter().find(|family| family.family == found.best);
    let name = title(found.best);
    let does = match best.map(|family| family.recommended.line.as_str()) {
        Some("") | None if found.best == "pytorch" => format!("{name}, as it is"),
        Some("") | None => format!("{name}, without a setting"),
        Some(_) => format!("{name}, with the line above"),
    };
    let replays = found.replays;
    if found.completes {
        return format!("Best of both: {does}. {replays} replays.");
    }
    let lack = format_bytes(found.lack_bytes.unwrap_or(0));
    let why = match found.floor_bytes > found.capacity_bytes {
        true => {
            " No allocator can hold what is live at the peak: a smaller batch helps, or Drystone's \
             spill_limit, which puts large blocks into memory of the host."
        }
        false => "",
    };
    format!(
        "With nothing the run completes. Nearest: {does}; it lacks {lack}.{why} {replays} replays."
    )
}
