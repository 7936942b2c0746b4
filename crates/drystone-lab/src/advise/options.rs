//! What is searched: for PyTorch's allocator and for Drystone, which options there are and which
//! values of them are tried.

use super::workload::Workload;
use crate::policy::{PolicyError, PolicySpec};

const MIB: u64 = 1 << 20;
/// PyTorch takes so much at once for requests from 1 to 10 MiB: a smaller block is rarely a segment.
const LARGE_SEGMENT: u64 = 20 * MIB;
/// The sizes that are tried for `max_split_size_mb`.
const SPLITS: [u64; 8] = [20, 32, 64, 128, 256, 512, 1024, 2048];

/// An allocator with what can be set.
#[derive(Debug)]
pub(super) struct Family {
    /// As it is called in results.
    pub(super) name: &'static str,
    /// The program is started with this in its environment.
    variable: &'static str,
    options: Vec<Choice>,
    /// Options with which a search of its own begins: what they change, no other single one shows.
    pub(super) starts: Vec<Setting>,
}

/// An option, and what is tried for it.
#[derive(Debug)]
struct Choice {
    /// As they are written, `key:value`.
    values: Vec<String>,
    /// The option without which this one does nothing.
    under: Option<usize>,
}

/// Which value each option has, from 1 on; 0 is its default.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Setting(Vec<usize>);

impl Setting {
    /// How many options are set.
    pub(super) fn count(&self) -> usize {
        self.given().count()
    }

    /// The options that are set.
    pub(super) fn given(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().filter(|&(_, &value)| value > 0).map(|(option, _)| option)
    }
}

impl Family {
    /// PyTorch's own allocator.
    pub(super) fn pytorch(workload: &Workload) -> Self {
        let mut family = Family::new("pytorch", "PYTORCH_ALLOC_CONF");
        let expandable = family.option(None, &["expandable_segments:True"]);
        let split = family.splits(workload);
        family.option(split, &["max_non_split_rounding_mb:64", "max_non_split_rounding_mb:256"]);
        family.option(None, &["2", "4", "8", "16"].map(roundup));
        family.option(None, &["0.6", "0.8", "0.9"].map(|t| garbage(t, "per_process_memory")));
        family.option(None, &["large_segment_size_mb:12", "large_segment_size_mb:64"]);
        family.start_with(expandable);
        family
    }

    /// Drystone.
    pub(super) fn drystone(workload: &Workload) -> Self {
        let mut family = Family::new("drystone", "DRYSTONE_CONF");
        let segments = family.option(None, &["backing:malloc"]);
        family.option(None, &["reserve:lean", "reserve:fast"]);
        family.option(None, &["0", "0.02", "0.1", "0.3"].map(|slack| format!("slack:{slack}")));
        family.option(None, &["4", "8", "16"].map(roundup));
        family.option(None, &["min_split_remainder:64KiB", "min_split_remainder:1MiB"]);
        family.option(None, &["0.8"].map(|threshold| garbage(threshold, "memory")));
        family.splits(workload);
        if workload.trace.streams > 1 {
            family.option(None, &["cross_stream:passed", "cross_stream:off"]);
        }
        let sizes = ["2MiB", "32MiB", "128MiB"];
        family.option(segments, &sizes.map(|size| format!("segment_granularity:{size}")));
        family.option(segments, &["large_segment_size:20MiB", "large_segment_size:256MiB"]);
        family.start_with(segments);
        family
    }

    fn new(name: &'static str, variable: &'static str) -> Self {
        Family { name, variable, options: Vec::new(), starts: Vec::new() }
    }

    /// The same with one option alone.
    #[cfg(test)]
    pub(super) fn with_only(mut self, key: &str) -> Self {
        for choice in &mut self.options {
            choice.values.retain(|value| value.starts_with(key));
        }
        self.starts = vec![self.default()];
        self
    }

    /// Adds an option.
    fn option(&mut self, under: Option<usize>, values: &[impl ToString]) -> Option<usize> {
        let values = values.iter().map(ToString::to_string).collect();
        self.options.push(Choice { values, under });
        Some(self.options.len() - 1)
    }

    /// `max_split_size_mb`: above every block it changes nothing.
    fn splits(&mut self, workload: &Workload) -> Option<usize> {
        let most = workload.largest().max(LARGE_SEGMENT);
        let sizes = SPLITS.iter().filter(|&&size| size * MIB <= most);
        let values: Vec<_> = sizes.map(|size| format!("max_split_size_mb:{size}")).collect();
        self.option(None, &values)
    }

    /// Searches begin with the default, and with the first value of this option.
    fn start_with(&mut self, option: Option<usize>) {
        let mut other = self.default();
        if let Some(option) = option {
            other.0[option] = 1;
        }
        self.starts = vec![self.default(), other];
    }

    /// Without any option.
    pub(super) fn default(&self) -> Setting {
        Setting(vec![0; self.options.len()])
    }

    /// The setting with one of its options alone.
    pub(super) fn only(&self, setting: &Setting, option: usize) -> Setting {
        let mut only = self.default();
        only.0[option] = setting.0[option];
        if let Some(under) = self.options[option].under {
            only.0[under] = setting.0[under];
        }
        only
    }

    /// The setting without one of its options, and without those that do nothing then.
    pub(super) fn without(&self, setting: &Setting, option: usize) -> Setting {
        let mut less = setting.clone();
        less.0[option] = 0;
        for (value, choice) in less.0.iter_mut().zip(&self.options) {
            if choice.under == Some(option) {
                *value = 0;
            }
        }
        less
    }

    /// All settings that differ in one option, and that the allocator takes.
    pub(super) fn neighbours(&self, setting: &Setting) -> Vec<Setting> {
        let mut all = Vec::new();
        for (option, choice) in self.options.iter().enumerate() {
            if choice.under.is_some_and(|under| setting.0[under] == 0) {
                continue;
            }
            for value in (0..=choice.values.len()).filter(|&value| value != setting.0[option]) {
                let mut other = self.without(setting, option);
                if value > 0 {
                    other = setting.clone();
                    other.0[option] = value;
                }
                all.push(other);
            }
        }
        all.retain(|setting| self.policy(setting).is_ok());
        all
    }

    /// An option as it is written.
    pub(super) fn written(&self, setting: &Setting, option: usize) -> &str {
        let value = setting.0[option].checked_sub(1);
        value.map_or("", |value| &self.options[option].values[value])
    }

    /// The setting as it stands in the variable.
    pub(super) fn text(&self, setting: &Setting) -> String {
        let given: Vec<_> = setting.given().map(|option| self.written(setting, option)).collect();
        given.join(",")
    }

    /// The line to copy; empty for the default.
    pub(super) fn line(&self, setting: &Setting) -> String {
        match self.text(setting) {
            text if text.is_empty() => text,
            text => format!("{}={text}", self.variable),
        }
    }

    /// The policy that is replayed for it.
    pub(super) fn policy(&self, setting: &Setting) -> Result<PolicySpec, PolicyError> {
        let text = self.text(setting).replace(':', "=");
        let expandable = text.strip_prefix("expandable_segments=True");
        let name = expandable.map_or(self.name, |_| "pytorch-expandable");
        let options = expandable.unwrap_or(&text).trim_start_matches(',');
        let colon = if options.is_empty() { "" } else { ":" };
        format!("{name}{colon}{options}").parse()
    }
}

fn roundup(divisions: &str) -> String {
    format!("roundup_power2_divisions:{divisions}")
}

/// Garbage collection works only under a limit, so that one is set which takes next to nothing away.
fn garbage(threshold: &str, limit: &str) -> String {
    format!("garbage_collection_threshold:{threshold},{limit}_fraction:0.99")
}
