//! `drystone policies`: what can stand behind `--policy`.

use std::io::Write;

use anyhow::Result;
use drystone_lab::{OptionInfo, POLICIES};

use crate::output::Outcome;
use crate::table;

pub(crate) fn policies(out: &mut dyn Write) -> Result<Outcome> {
    for policy in POLICIES {
        writeln!(out, "{}: {}", policy.name, policy.summary)?;
        let options = (policy.options)();
        if options.is_empty() {
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
