//! A progress bar on stderr, for what takes long, where somebody is looking.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// What takes less is not worth a bar.
const PATIENCE: Duration = Duration::from_millis(500);

/// Steps of a bar that is told parts.
const PARTS: u64 = 10_000;

/// The progress of a trace through a policy, once or several times, or of a file. The bar goes away
/// with it.
pub(crate) struct Progress {
    started: Instant,
    label: String,
    template: &'static str,
    watched: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(label: String) -> Self {
        Self::with(label, "{msg} {wide_bar} {human_pos} of {human_len} events, {eta} left")
    }

    /// The progress of several replays at once, of which [`part`](Progress::part) is told.
    pub(crate) fn parts(label: String) -> Self {
        Self::with(label, "{msg} {wide_bar} {percent}%, {eta} left")
    }

    /// The progress of a file, counted in bytes.
    pub(crate) fn bytes(label: String) -> Self {
        Self::with(label, "{msg} {wide_bar} {bytes} of {total_bytes}, {eta} left")
    }

    fn with(label: String, template: &'static str) -> Self {
        let watched = io::stderr().is_terminal();
        Progress { started: Instant::now(), label, template, watched, bar: None }
    }

    /// That much is done, of that much.
    pub(crate) fn at(&mut self, done: u64, all: u64) {
        if !self.watched || self.started.elapsed() < PATIENCE {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template(self.template);
            let bar = ProgressBar::new(all).with_message(self.label.clone());
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        bar.set_length(all);
        bar.set_position(done);
    }

    /// That part of all is done, from 0 to 1.
    pub(crate) fn part(&mut self, part: f64) {
        self.at((part * PARTS as f64) as u64, PARTS);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
