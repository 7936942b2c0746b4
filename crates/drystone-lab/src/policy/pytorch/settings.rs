//! PyTorch's options, and what follows from them for a request.

use drystone_core::Config;

use super::super::{OptionInfo, PolicyOptions};

const MIB: u64 = 1 << 20;
/// Sizes of blocks are multiples of this.
pub(super) const MIN_BLOCK: u64 = 512;
/// The largest size that is small.
pub(super) const SMALL: u64 = MIB;
/// What is taken at once for small requests.
pub(super) const SMALL_SEGMENT: u64 = 2 * MIB;
/// What is taken at once for a request below [`LARGE`], if nothing else is said.
const LARGE_SEGMENT: u64 = 20 * MIB;
/// Requests of this size and above get segments of their own.
const LARGE: u64 = 10 * MIB;
/// Such segments are multiples of this.
const ROUND: u64 = 2 * MIB;

const AT_LEAST_LARGE: &str = "a whole number of MiB, at least large_segment_size_mb";

/// The keys of `PYTORCH_ALLOC_CONF` that say how device memory is cached.
pub(super) const OPTIONS: &[OptionInfo] = &[
    OptionInfo {
        name: "max_split_size_mb",
        help: "blocks of this size and above are not split, and serve only requests that large",
        allowed: AT_LEAST_LARGE,
        default: "no limit",
    },
    OptionInfo {
        name: "max_non_split_rounding_mb",
        help: "how much larger than the request a block may be that may not be split",
        allowed: AT_LEAST_LARGE,
        default: "large_segment_size_mb",
    },
    OptionInfo {
        name: "roundup_power2_divisions",
        help: "round requests up to the next of this many steps between powers of two, for all \
               sizes or by size in MiB",
        allowed: "a power of two, or a list such as [256:1,512:2,1024:4,>:8]",
        default: "no such rounding",
    },
    OptionInfo {
        name: "garbage_collection_threshold",
        help: "free old cached segments once this fraction of the allowed memory is reserved; \
               only with per_process_memory_fraction",
        allowed: "a fraction above 0 and below 1",
        default: "off",
    },
    OptionInfo {
        name: "large_segment_size_mb",
        help: "what is taken at once for requests from 1 to 10 MiB",
        allowed: "a whole number of MiB above 10",
        default: "20",
    },
    OptionInfo {
        name: "per_process_memory_fraction",
        help: "reserve no more than this fraction of a device's memory",
        allowed: "a fraction from 0 to 1",
        default: "1",
    },
];

/// The options, in bytes.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Read by PyTorch's rules; what Drystone alone knows stays at its default.
    config: Config,
    /// Whether segments grow.
    pub(super) expandable: bool,
    /// From this size on a block is not split; the largest number if all are.
    pub(super) max_split: u64,
    /// How much larger than the request a block of that size may be.
    pub(super) max_rounding: u64,
    /// What is taken at once for requests from 1 to 10 MiB, and the handles of expandable segments.
    pub(super) large_segment: u64,
    /// Part of the allowed memory; 0 without garbage collection.
    pub(super) gc_threshold: f64,
    /// Part of the device's memory; none without a limit.
    pub(super) fraction: Option<f64>,
}

impl Settings {
    pub(super) fn new(options: &PolicyOptions, expandable: bool) -> Result<Self, String> {
        let mut config = Config::default();
        // PyTorch reads the size that bounds others first, wherever it stands.
        let (first, then): (Vec<_>, Vec<_>) =
            options.iter().partition(|(key, _)| *key == "large_segment_size_mb");
        for (key, value) in first.into_iter().chain(then) {
            if key == "expandable_segments" {
                let other = if expandable { "pytorch" } else { "pytorch-expandable" };
                return Err(format!("`{key}` is a policy of its own here: see `{other}`"));
            }
            if !OPTIONS.iter().any(|option| option.name == key) {
                let names: Vec<_> = OPTIONS.iter().map(|option| option.name).collect();
                return Err(format!("unknown option `{key}`; allowed are {}", names.join(", ")));
            }
            config.set(key, value).map_err(|error| error.to_string())?;
        }
        Ok(Settings {
            expandable,
            max_split: config.max_split_size.unwrap_or(u64::MAX),
            max_rounding: config.max_non_split_rounding,
            large_segment: config.min_large_segment.unwrap_or(LARGE_SEGMENT),
            gc_threshold: config.garbage_collection_threshold,
            // All of the device is what holds anyway.
            fraction: config.memory_fraction.filter(|&fraction| fraction < 1.0),
            config,
        })
    }

    /// The size of the block for a request.
    #[inline]
    pub(super) fn block_size(&self, request: u64) -> u64 {
        if request < MIN_BLOCK {
            return MIN_BLOCK;
        }
        let divisions = self.config.roundup_divisions_for(request);
        if divisions > 1 && request > MIN_BLOCK * divisions {
            return next_division(request, divisions);
        }
        request.next_multiple_of(MIN_BLOCK)
    }

    /// The size of a new segment for a block.
    pub(super) fn segment_size(&self, block: u64) -> u64 {
        if block <= SMALL {
            SMALL_SEGMENT
        } else if block < LARGE {
            self.large_segment
        } else {
            block.next_multiple_of(ROUND)
        }
    }

    /// The size of the handles of an expandable segment.
    pub(super) fn handle_bytes(&self, small: bool) -> u64 {
        if small { SMALL_SEGMENT } else { self.large_segment }
    }

    /// Whether what a block leaves over is split off.
    #[inline]
    pub(super) fn splits(&self, small: bool, block: u64, left: u64) -> bool {
        match small || self.expandable {
            true => left >= MIN_BLOCK,
            false => block < self.max_split && left > SMALL,
        }
    }
}

/// `size` rounded up to the next of `divisions` (a power of two) steps between powers of two.
fn next_division(size: u64, divisions: u64) -> u64 {
    if size.is_power_of_two() {
        return size;
    }
    let floor = 1 << size.ilog2();
    match floor >> divisions.ilog2() {
        0 => floor << 1,
        step => size.next_multiple_of(step),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PolicySpec;

    fn settings(options: &str) -> Settings {
        // Only the command line's syntax makes options.
        let spec: PolicySpec = format!("pytorch:{options}").parse().unwrap();
        Settings::new(&spec.options, false).unwrap()
    }

    #[test]
    fn requests_are_rounded_to_blocks() {
        let plain = settings("");
        for (request, block) in [(1, 512), (512, 512), (513, 1024), (MIB + 1, MIB + 512)] {
            assert_eq!(plain.block_size(request), block, "{request}");
        }
        // The documentation's example: 1200 with 4 divisions is 1280.
        assert_eq!(next_division(1200, 4), 1280);
        assert_eq!(next_division(1280, 4), 1280);
        assert_eq!(next_division(1024, 4), 1024);
        assert_eq!(next_division(5, 64), 8);
        let divided = settings("roundup_power2_divisions=4");
        // Up to 512 bytes a division, granules are the finer steps.
        assert_eq!([2000, 2048].map(|size| divided.block_size(size)), [2048, 2048]);
        assert_eq!(divided.block_size(5 * MIB / 2 + 1), 3 * MIB);
        let listed = settings("roundup_power2_divisions=[1:2,4:1,>:8]");
        assert_eq!(listed.block_size(MIB + 1), MIB * 3 / 2);
        assert_eq!(listed.block_size(4 * MIB + 1), 4 * MIB + 512);
        assert_eq!(listed.block_size(8 * MIB + 1), 9 * MIB);
    }

    #[test]
    fn segments_for_blocks() {
        let plain = settings("");
        let sizes = [(SMALL, 2), (SMALL + 512, 20), (10 * MIB - 512, 20), (10 * MIB, 10)];
        for (block, mib) in sizes {
            assert_eq!(plain.segment_size(block), mib * MIB, "{block}");
        }
        assert_eq!(plain.segment_size(10 * MIB + 512), 12 * MIB);
        assert_eq!(settings("large_segment_size_mb=11").segment_size(2 * MIB), 11 * MIB);
    }

    #[test]
    fn options_are_checked_as_pytorch_checks_them() {
        for (option, part) in [
            ("max_split_size_mb=19", "`max_split_size_mb` cannot be `19`"),
            ("max_split_size_mb=20,large_segment_size_mb=32", "cannot be `20`"),
            ("expandable_segments=True", "see `pytorch-expandable`"),
            ("max_split_size=20", "allowed are max_split_size_mb, max_non_split"),
            ("per_process_memory_fraction=1.5", "from 0 to 1"),
            ("garbage_collection_threshold=1", "below 1"),
        ] {
            let error = format!("pytorch:{option}").parse::<PolicySpec>().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let all = settings(
            "max_split_size_mb=64,max_non_split_rounding_mb=32,large_segment_size_mb=24,\
             garbage_collection_threshold=0.5,per_process_memory_fraction=0.25",
        );
        assert_eq!((all.max_split, all.max_rounding), (64 * MIB, 32 * MIB));
        assert_eq!(
            (all.large_segment, all.gc_threshold, all.fraction),
            (24 * MIB, 0.5, Some(0.25))
        );
        assert_eq!(settings("per_process_memory_fraction=1").fraction, None);
        assert_eq!(settings("large_segment_size_mb=24").max_rounding, 24 * MIB);
    }
}
