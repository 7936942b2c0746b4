//! `drystone min-capacity`: the least device memory with which traces complete.

use std::io::Write;

use anyhow::Result;
use drystone_lab::{MinCapacity, PolicySpec, Recording, Target, min_capacity as search};
use drystone_trace::Trace;

use crate::args::MinCapacityArgs;
use crate::device::Device;
use crate::load::Source;
use crate::output::{Outcome, complain};
use crate::play::{each_run, policies};
use crate::progress::Progress;
use crate::table;

pub(crate) fn min_capacity(args: &MinCapacityArgs, out: &mut dyn Write) -> Result<Outcome> {
    let device = Device::open(&args.options)?;
    let policies = policies(&args.options)?;
    each_run(&Source::of(&args.traces), &device, |run, target| {
        let trace = &run.trace;
        let mut outcome = Outcome::Done;
        let mut all = Vec::new();
        for policy in &policies {
            let Some(found) = find(trace, policy, target, args.tolerance) else {
                outcome = Outcome::Failed;
                continue;
            };
            if args.options.json {
                serde_json::to_writer(&mut *out, &found)?;
                writeln!(out)?;
                out.flush()?;
            }
            all.push(found);
        }
        if !args.options.json && !all.is_empty() {
            tell(trace, &all, out)?;
        }
        Ok(outcome)
    })
}

/// The answer; none if there is none, which is complained about.
fn find(
    trace: &Trace,
    policy: &PolicySpec,
    target: &Target,
    tolerance: f64,
) -> Option<MinCapacity> {
    let mut progress = Progress::new(format!("{}, {}", trace.name, policy.info.name));
    let found = search(trace, policy, target, tolerance, &mut |done, of| progress.at(done, of));
    drop(progress);
    found.map_err(|error| complain(&format!("{}: {error}", trace.name))).ok()
}

fn tell(trace: &Trace, all: &[MinCapacity], out: &mut dyn Write) -> Result<()> {
    writeln!(out, "{}", table::extent(trace, Recording::of(trace).peak_live))?;
    writeln!(out, "{}", table::capacities(all))?;
    for line in all.iter().filter_map(table::contradicted) {
        writeln!(out, "{line}")?;
    }
    Ok(writeln!(out)?)
}
