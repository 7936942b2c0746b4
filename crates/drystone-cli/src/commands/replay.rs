//! `drystone replay`: the figures of traces through policies.

use std::io::Write;

use anyhow::Result;

use super::tell;
use crate::args::ReplayArgs;
use crate::device::Device;
use crate::load::Source;
use crate::output::Outcome;
use crate::play::{Depth, play};

pub(crate) fn replay(args: &ReplayArgs, out: &mut dyn Write) -> Result<Outcome> {
    let device = Device::open(&args.options)?;
    let json = args.options.json;
    play(&Source::of(&args.traces), &args.options, &device, Depth::default(), |played| {
        Ok(tell(&played, json, out)?)
    })
}
