//! Policy: how requests round, how blocks are cut, and how large segments are. The one place for
//! these decisions; computed once from the configuration.

use crate::config::{Config, CrossStream};
use crate::heap::{Fit, SplitRule};
use crate::units::{GRANULE, GRANULE_SHIFT, Kind, MIB, SMALL_LIMIT, round_to_division, round_up};

/// The least remainder of a large block that is worth a block of its own. Small enough that
/// rounding wastes nothing, since blocks pack at a granule anyway.
const LEAST_LARGE_REMAINDER: u64 = GRANULE;

/// The configured decisions, ready for the fast path.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    roundup: Option<Box<Config>>,
    rule: SplitRule,
    small_segment: u64,
    granularity: u64,
    min_large_segment: u64,
    pub(crate) cross_stream: CrossStream,
    pub(crate) garbage_collection_threshold: f64,
    pub(crate) max_split_size: Option<u64>,
    pub(crate) oom_retries: u32,
}

impl Policy {
    pub(crate) fn new(config: &Config) -> Self {
        let units = |bytes: u64| u32::try_from(bytes >> GRANULE_SHIFT).unwrap_or(u32::MAX);
        let remainder = config.min_split_remainder.unwrap_or(LEAST_LARGE_REMAINDER);
        Policy {
            roundup: config
                .roundup_power2_divisions
                .iter()
                .any(|&divisions| divisions > 1)
                .then(|| Box::new(config.clone())),
            rule: SplitRule {
                max_split: config.max_split_size.map_or(u32::MAX, units),
                max_rounding: units(config.max_non_split_rounding),
                least_remainder: units(remainder).max(1),
            },
            small_segment: config.small_segment_size,
            granularity: config.segment_granularity,
            min_large_segment: config.min_large_segment.unwrap_or(0),
            cross_stream: config.cross_stream,
            garbage_collection_threshold: config.garbage_collection_threshold,
            max_split_size: config.max_split_size,
            oom_retries: config.oom_retries,
        }
    }

    /// The block that serves a request of `size` bytes (1 to the largest) at `align` (a power of
    /// two): a multiple of [`GRANULE`], enlarged by `roundup_power2_divisions` where that is set.
    ///
    /// The rule is torch's: with d divisions for this size and a size above d granules, the
    /// interval between two powers of two has d steps and the size goes to the next; exact powers
    /// stay.
    #[inline]
    pub(crate) fn fit(&self, size: u64, align: u64) -> Fit {
        let mut rounded = round_up(size, GRANULE);
        if let Some(config) = &self.roundup
            && size > GRANULE
        {
            let divisions = config.roundup_divisions_for(size);
            if divisions > 1 && size > GRANULE * divisions {
                rounded = round_up(round_to_division(size, divisions), GRANULE);
            }
        }
        let align = align.max(GRANULE);
        Fit {
            // A block that must be found by its alignment may not fit a small segment.
            kind: if rounded + align - GRANULE <= SMALL_LIMIT { Kind::Small } else { Kind::Large },
            units: (rounded >> GRANULE_SHIFT) as u32,
            requested: size,
            align,
            rule: self.rule,
        }
    }

    /// The sizes in bytes of a new segment for a request: the one to ask for first, and the least
    /// that would do.
    pub(crate) fn segment_sizes(&self, fit: &Fit) -> (u64, u64) {
        let needed = u64::from(fit.units_to_find()) << GRANULE_SHIFT;
        let least = round_up(needed, 2 * MIB);
        let wanted = match fit.kind {
            Kind::Small => self.small_segment,
            Kind::Large => round_up(needed, self.granularity).max(self.min_large_segment),
        };
        (wanted.max(least), least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        Policy::new(&Config::parse(text).expect("a valid configuration"))
    }

    #[test]
    fn requests_round_to_granules_or_divisions() {
        let bytes = |policy: &Policy, size| policy.fit(size, 1).units << GRANULE_SHIFT;
        let plain = policy("");
        assert_eq!(bytes(&plain, 1), 512);
        assert_eq!(bytes(&plain, 512), 512);
        assert_eq!(bytes(&plain, 513), 1024);
        let four = policy("roundup_power2_divisions:4");
        assert_eq!(bytes(&four, 1200), 1536); // below four granules the divisions do not apply
        assert_eq!(bytes(&four, 1_200_000), 1 << 20 | 1 << 18);
        assert_eq!(bytes(&four, 1 << 20), 1 << 20);
    }

    #[test]
    fn kinds_and_segments() {
        let plain = policy("");
        assert_eq!(plain.fit(1 << 20, 512).kind, Kind::Small);
        assert_eq!(plain.fit((1 << 20) + 1, 512).kind, Kind::Large);
        let aligned = plain.fit(512, 2 << 20);
        assert_eq!((aligned.kind, aligned.units_to_find()), (Kind::Large, 4096));
        let (wanted, least) = plain.segment_sizes(&plain.fit(3 << 20, 512));
        assert!(wanted >= least && least == 4 << 20);
        let large = policy("large_segment_size:64MiB");
        assert_eq!(large.segment_sizes(&large.fit(3 << 20, 512)), (64 << 20, 4 << 20));
    }

    #[test]
    fn the_split_limit_refuses_both_ways() {
        let limited = policy("max_split_size_mb:100");
        let mib = |n: u32| n << (20 - GRANULE_SHIFT);
        let below = limited.fit(50 << 20, 512);
        assert!(below.accepts(mib(99)) && !below.accepts(mib(100)));
        let above = limited.fit(100 << 20, 512);
        assert!(above.accepts(mib(119)) && !above.accepts(mib(120)));
    }
}
