//! `drystone min-capacity`: the least device memory with which traces complete.

use std::io::Write;

use anyhow::Result;
use drystone_lab::{MinCapacity, PolicySpec, Recording, min_capacity as search, on_threads};
use drystone_trace::Trace;

use crate::args::MinCapacityArgs;
use crate::device::Device;
use crate::load::Source;
use crate::output::{Outcome, complain};
use crate::play::{each_run, policies, threads, watch};
use crate::table;

pub(crate) fn min_capacity(args: &MinCapacityArgs, out: &mut dyn Write) -> Result<Outcome> {
    let device = Device::open(&args.options)?;
    let policies = policies(&args.options)?;
    let threads = threads(&args.options);
    each_run(&Source::of(&args.traces), &device, |run, target| {
        let trace = &run.trace;
        let mut progress = watch(trace, &policies);
        let work = |policy: &PolicySpec, say: &mut dyn FnMut(f64)| {
            let told = &mut |done, of: u64| say(done as f64 / of.max(1) as f64);
            search(trace, policy, target, args.tolerance, told)
        };
        let found = on_threads(&policies, threads, work, &mut |part| progress.part(part));
        drop(progress);
        let mut outcome = Outcome::Done;
        let mut all = Vec::new();
        for found in found {
            match found {
                Ok(found) => all.push(found),
                Err(error) => {
                    complain(&format!("{}: {error}", trace.name));
                    outcome = Outcome::Failed;
                }
            }
        }
        if args.options.json {
            for found in &all {
                serde_json::to_writer(&mut *out, found)?;
                writeln!(out)?;
            }
            out.flush()?;
        } else if !all.is_empty() {
            tell(trace, &all, out)?;
        }
        Ok(outcome)
    })
}

fn tell(trace: &Trace, all: &[MinCapacity], out: &mut dyn Write) -> Result<()> {
    writeln!(out, "{}", table::extent(trace, Recording::of(trace).peak_live))?;
    writeln!(out, "{}", table::capacities(all))?;
    for line in all.iter().filter_map(table::contradicted) {
        writeln!(out, "{line}")?;
    }
    if let Some(text) = table::refused(trace) {
        writeln!(out, "{text}")?;
    }
    Ok(writeln!(out)?)
}
