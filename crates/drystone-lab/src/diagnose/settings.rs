//! The recorded allocator's settings, as far as they say how PyTorch's caches memory.

use drystone_core::Config;
use drystone_trace::Run;

use super::remedies;
use crate::policy::PolicySpec;
use crate::target::ReplayError;

/// The names under which a snapshot has the text that the settings were given as.
const TEXTS: [&str; 2] = ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"];

/// PyTorch's allocator with the recorded settings.
pub(super) struct Settings {
    pub(super) policy: PolicySpec,
    /// The settings as they are written; `as it was` for the defaults.
    pub(super) written: String,
    /// The part of the device that the program may have, where that is limited.
    pub(super) fraction: Option<f64>,
}

impl Settings {
    pub(super) fn of(run: &Run) -> Result<Self, ReplayError> {
        let config = config(run);
        let name = if config.expandable_segments { "pytorch-expandable" } else { "pytorch" };
        let plain = remedies::policy(name, "")?;
        let known: Vec<_> = (plain.info.options)().iter().map(|option| option.name).collect();
        let mut keys = Vec::new();
        for setting in split(&config.to_string()) {
            let (key, value) = setting.split_once(':').unwrap_or((setting, ""));
            // Drystone's name of the same.
            let key = if key == "memory_fraction" { "per_process_memory_fraction" } else { key };
            let option = format!("{key}={value}");
            if known.contains(&key) && remedies::policy(name, &option).is_ok() {
                keys.push(option);
            }
        }
        let written = keys.iter().map(|option| option.replacen('=', ":", 1));
        let expandable = config.expandable_segments.then(|| "expandable_segments:True".to_owned());
        let written: Vec<String> = expandable.into_iter().chain(written).collect();
        Ok(Settings {
            // Each option was taken alone; one may still bound another.
            policy: remedies::policy(name, &keys.join(",")).unwrap_or(plain),
            written: if written.is_empty() { "as it was".to_owned() } else { written.join(",") },
            fraction: config.memory_fraction.filter(|&fraction| fraction < 1.0),
        })
    }
}

/// What the text says, with what the snapshot says of each setting laid over it: that may have been
/// changed at run time.
fn config(run: &Run) -> Config {
    let value = |name: &str| {
        let found = run.settings.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    };
    let mut config = Config::default();
    let texts = || TEXTS.iter().filter_map(|name| value(name)).flat_map(split);
    // PyTorch reads the size that bounds others first, wherever it stands. What is wrong or unknown
    // does not hold up the rest.
    for bounds in [true, false] {
        for (key, value) in texts().filter_map(|setting| setting.split_once(':')) {
            if (key.trim() == "large_segment_size_mb") == bounds {
                let _ = config.set(key.trim(), value.trim());
            }
        }
    }
    if let Some(bytes) = value("max_split_size") {
        // Bytes; -1 stands for no limit.
        let mib = bytes.parse::<u64>().map(|bytes| (bytes >> 20).to_string());
        config.max_split_size = None;
        let _ = mib.map(|mib| config.set("max_split_size_mb", &mib));
    }
    if let Some(fraction) = value("garbage_collection_threshold") {
        config.garbage_collection_threshold = 0.0;
        let _ = config.set("garbage_collection_threshold", fraction);
    }
    if let Some(flag) = value("expandable_segments") {
        config.expandable_segments = flag.eq_ignore_ascii_case("true");
    }
    for (slot, divisions) in config.roundup_power2_divisions.iter_mut().enumerate() {
        let said = value(&format!("roundup_power2_divisions.{}", 1u64 << slot));
        let said = said.and_then(|said| said.parse::<u64>().ok());
        *divisions = said.filter(|&n| n == 0 || n.is_power_of_two()).unwrap_or(*divisions);
    }
    config
}

/// The settings of a text: at commas that are not inside brackets.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0usize;
    let settings = text.split(move |letter| {
        match letter {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ',' && depth == 0
    });
    settings.map(str::trim).filter(|setting| !setting.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_trace::read_run_bytes;

    fn settings(pairs: &[(&str, &str)]) -> (String, String, Option<f64>) {
        let csv = b"t_us,op,id,size,stream\n";
        let mut run = read_run_bytes("t", csv, &Default::default()).unwrap();
        run.settings = pairs.iter().map(|&(key, value)| (key.into(), value.into())).collect();
        let found = Settings::of(&run).unwrap();
        (found.policy.to_string(), found.written, found.fraction)
    }

    #[test]
    fn recorded_settings_are_those_that_are_replayed() {
        let text = "PYTORCH_CUDA_ALLOC_CONF";
        for (pairs, policy, written) in [
            (&[][..], "pytorch", "as it was"),
            (&[(text, "")], "pytorch", "as it was"),
            (
                &[("max_split_size", "134217728"), ("garbage_collection_threshold", "0.8")],
                "pytorch:max_split_size_mb=128,garbage_collection_threshold=0.8",
                "max_split_size_mb:128,garbage_collection_threshold:0.8",
            ),
            (
                &[("expandable_segments", "True"), ("max_split_size", "-1")],
                "pytorch-expandable",
                "expandable_segments:True",
            ),
            // Of the text, what concerns others or is wrong is left out, and what the snapshot says
            // itself holds.
            (
                &[
                    (
                        text,
                        "backend:native,max_split_size_mb:32,pinned_use_cuda_host_register:True,\
                            max_non_split_rounding_mb:64, per_process_memory_fraction:0.5,new:1",
                    ),
                    ("max_split_size", "67108864"),
                ],
                "pytorch:max_split_size_mb=64,max_non_split_rounding_mb=64,\
                 per_process_memory_fraction=0.5",
                "max_split_size_mb:64,max_non_split_rounding_mb:64,per_process_memory_fraction:0.5",
            ),
            (
                &[(text, "roundup_power2_divisions:[256:1,512:2,>:4],expandable_segments:True")],
                "pytorch-expandable:roundup_power2_divisions=[256:1,512:2,>:4]",
                "expandable_segments:True,roundup_power2_divisions:[256:1,512:2,>:4]",
            ),
            // What PyTorch would not take.
            (&[("max_split_size", "1048576")], "pytorch", "as it was"),
            (&[("max_split_size", "much"), ("expandable_segments", "")], "pytorch", "as it was"),
            (&[("garbage_collection_threshold", "7.5")], "pytorch", "as it was"),
            (&[("roundup_power2_divisions.4", "3")], "pytorch", "as it was"),
            (&[(text, "a,[,:,]")], "pytorch", "as it was"),
        ] {
            let found = settings(pairs);
            assert_eq!((found.0.as_str(), found.1.as_str()), (policy, written), "{pairs:?}");
        }
        assert_eq!(settings(&[(text, "per_process_memory_fraction:0.5")]).2, Some(0.5));
        assert_eq!(settings(&[(text, "per_process_memory_fraction:1")]).2, None);
    }

    #[test]
    fn divisions_are_said_size_by_size() {
        let all: Vec<_> = (0..16).map(|slot| (1u64 << slot).to_string()).collect();
        let names: Vec<_> = all.iter().map(|n| format!("roundup_power2_divisions.{n}")).collect();
        let pairs: Vec<_> = names.iter().map(|name| (name.as_str(), "8")).collect();
        assert_eq!(settings(&pairs).0, "pytorch:roundup_power2_divisions=8");
        let pairs: Vec<_> =
            (0..16).map(|slot| (names[slot].as_str(), if slot < 10 { "0" } else { "4" })).collect();
        assert_eq!(settings(&pairs).0, "pytorch:roundup_power2_divisions=[512:0,>:4]");
    }
}
