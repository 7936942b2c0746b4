//! `drystone policies`: what can stand behind `--policy`.

use std::io::Write;

use anyhow::Result;
use drystone_lab::{OptionInfo, POLICIES, PolicyInfo};

use crate::output::Outcome;
use crate::table;

pub(crate) fn policies(out: &mut dyn Write) -> Result<Outcome> {
    for (index, policy) in POLICIES.iter().enumerate() {
        writeln!(out, "{}: {}", policy.name, policy.summary)?;
        let options = (policy.options)();
        if options.is_empty() {
            continue;
        }
        if let Some((name, others)) = told(&POLICIES[..index], &options) {
            writeln!(out, "\nOptions: those of {name}{}\n", but(&others))?;
            continue;
        }
        writeln!(out, "\nOptions, as in --policy {}:{}=…\n", policy.name, options[0].name)?;
        let rows = options.iter().map(|option| {
            let OptionInfo { name, help, allowed, default } = option;
            (*name, format!("{help}.\nAllowed: {allowed}. Default: {default}.\n"))
        });
        writeln!(out, "{}", table::meanings(rows))?;
    }
    Ok(Outcome::Done)
}

/// The policy, of these, that has all the options, and what it has beside them.
fn told(
    policies: &[PolicyInfo],
    options: &[OptionInfo],
) -> Option<(&'static str, Vec<&'static str>)> {
    policies.iter().find_map(|policy| {
        let all = (policy.options)();
        let has_all = options.iter().all(|option| all.contains(option));
        let others = all.iter().filter(|option| !options.contains(option));
        has_all.then(|| (policy.name, others.map(|option| option.name).collect()))
    })
}

fn but(others: &[&str]) -> String {
    if others.is_empty() { String::new() } else { format!(", but not {}", others.join(", ")) }
}
