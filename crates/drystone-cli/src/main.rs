//! The `drystone` program: replays allocation traces through allocation policies and compares them.

mod args;
mod commands;
mod device;
mod figures;
mod load;
mod output;
mod play;
mod progress;
mod table;
mod values;
mod whole;

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;
use output::Outcome;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The environment variable that says what is logged.
const LOG: &str = "DRYSTONE_LOG";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::builder()
        .with_env_var(LOG)
        .with_default_directive(LevelFilter::WARN.into())
        .from_env();
    let filter = match filter {
        Ok(filter) => filter,
        Err(error) => {
            output::complain(&format!("{LOG}: {error}; allowed is a level such as debug"));
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();

    let mut out = io::stdout().lock();
    let result = match cli.command {
        Some(Command::Replay(args)) => commands::replay(&args, &mut out),
        Some(Command::Compare(args)) => commands::compare(&args, &mut out),
        Some(Command::Diagnose(args)) => commands::diagnose(&args, &mut out),
        Some(Command::Advise(args)) => commands::advise(&args, &mut out),
        Some(Command::MinCapacity(args)) => commands::min_capacity(&args, &mut out),
        Some(Command::Convert(args)) => commands::convert(&args, &mut out),
        Some(Command::Generate(args)) => commands::generate(&args, &mut out),
        Some(Command::Policies) => commands::policies(&mut out),
        None => commands::demo(&mut out),
    };
    match result.and_then(|outcome| Ok(out.flush().map(|()| outcome)?)) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::from(1),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&format!("{error:#}"));
            ExitCode::from(1)
        }
    }
}

/// Whether the reader of our output has gone, as `head` does when it has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
    })
}
