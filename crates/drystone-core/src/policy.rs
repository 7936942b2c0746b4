//! Policy: how requests round, how blocks are cut, and how large segments are. The one place for
//! these decisions; computed once from the configuration.

use crate::config::{Backing, Config, CrossStream, Reserve};
use crate::heap::{Extent, Fit, SplitRule};
use crate::units::{
    GRANULE, GRANULE_SHIFT, GRANULES_PER_PAGE, Kind, MIB, PAGE, PAGE_SHIFT, SMALL_LIMIT,
    round_to_division, round_up,
};

/// The least remainder of a large block that is worth a block of its own. Small enough that
/// rounding wastes nothing, since blocks pack at a granule anyway.
const LEAST_LARGE_REMAINDER: u64 = GRANULE;

/// A segment is a multiple of the power of two at or above this part of what the heap holds of its
/// kind, within bounds: a few larger segments waste less than many small ones, whose free ends
/// cannot be joined, as long as the last one is small beside the whole. Swept over the traces;
/// docs/results/segment-policy.md has the figures.
const GRANULARITY_PART: u64 = 64;
const GRANULARITY_MIN: u64 = 2 * MIB;
const GRANULARITY_MAX: [u64; 2] = [32 * MIB, 128 * MIB];

/// How much may be reserved above the peak of live bytes in segments, as a part of it.
const SEGMENT_SLACK: f64 = 0.1;

/// Addresses of a heap's first arena.
const ARENA_MIN: u64 = 1 << 30;
/// The most addresses of an arena, of which 32 bits can count the granules: less than 2 TiB.
const ARENA_MAX: u64 = (1 << 41) - PAGE;

/// What as much memory above the allowed reserve costs as is live at the peak, in µs.
const PRICE_US: u64 = 5_000_000;

/// The largest handle, in pages.
const HANDLE_MAX: u32 = 64;

/// What a usual handle is divided by for memory above the allowed reserve.
const ABOVE_DIVISOR: u32 = 4;

/// How driver calls are weighed against memory. Small handles strand little beside a survivor; large
/// ones cost fewer calls. Found by replaying; docs/remapping.md has the figures.
#[derive(Clone, Copy, Debug)]
struct Thrift {
    /// What may be reserved above the peak of live bytes, as a part of it.
    slack: f64,
    /// The usual handle, as a part of what is reserved, and in pages at least.
    handle_part: f64,
    handle_min: u32,
    /// How many pages more may be stranded at the place of the time before than at the best. Places
    /// that come again save driver calls; too much of it takes memory.
    recall_loss: f32,
    /// What is taken at once while there is ample room, as a part of what is reserved.
    growth_part: f64,
}

impl Thrift {
    fn of(reserve: Reserve) -> Thrift {
        match reserve {
            Reserve::Lean => Thrift {
                slack: 0.01,
                handle_part: 0.003,
                handle_min: 2,
                growth_part: 0.003,
                recall_loss: 3.0,
            },
            Reserve::Balanced => Thrift {
                slack: 0.035,
                handle_part: 0.025,
                handle_min: 6,
                growth_part: 0.02,
                recall_loss: 5.0,
            },
            Reserve::Fast => Thrift {
                slack: f64::INFINITY,
                handle_part: 0.02,
                handle_min: 8,
                growth_part: 0.02,
                recall_loss: f32::INFINITY,
            },
        }
    }
}

/// The part of the time since the allocator was made that trading segments in may take, and what
/// it may take beyond that: a workload that gains nothing from it is not slowed for long.
pub(crate) const TRADE_TIME_PART: u64 = 100;
pub(crate) const TRADE_TIME_FREE_NS: u64 = 100_000_000;

/// The configured decisions, ready for the fast path.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    roundup: Option<Box<Config>>,
    rule: SplitRule,
    small_segment: Option<u64>,
    granularity: Option<u64>,
    min_large_segment: u64,
    slack: f64,
    thrift: Thrift,
    pub(crate) cross_stream: CrossStream,
    pub(crate) garbage_collection_threshold: f64,
    pub(crate) max_split_size: Option<u64>,
    pub(crate) oom_retries: u32,
}

impl Policy {
    pub(crate) fn new(config: &Config) -> Self {
        let units = |bytes: u64| u32::try_from(bytes >> GRANULE_SHIFT).unwrap_or(u32::MAX);
        let remainder = config.min_split_remainder.unwrap_or(LEAST_LARGE_REMAINDER);
        let thrift = Thrift::of(config.reserve);
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
            slack: config.slack.unwrap_or(match config.backing {
                Backing::Malloc => SEGMENT_SLACK,
                Backing::Vmm => thrift.slack,
            }),
            thrift,
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
    #[inline(always)]
    pub(crate) fn extent(&self, size: u64, align: u64) -> Extent {
        let rounded = match &self.roundup {
            None => round_up(size, GRANULE),
            Some(config) => rounded_by(config, size),
        };
        let align = align.max(GRANULE);
        // A block that must be found by its alignment may not fit a small segment.
        let small = rounded + align - GRANULE <= SMALL_LIMIT;
        let kind = if small { Kind::Small } else { Kind::Large };
        Extent { kind, units: (rounded >> GRANULE_SHIFT) as u32 }
    }

    /// Likewise, with all that tells which free blocks may serve the request.
    #[inline]
    pub(crate) fn fit(&self, size: u64, align: u64) -> Fit {
        self.fit_of(self.extent(size, align), size, align)
    }

    /// Likewise for a request whose block has this size.
    #[inline]
    pub(crate) fn fit_of(&self, block: Extent, requested: u64, align: u64) -> Fit {
        let Extent { kind, units } = block;
        Fit {
            kind,
            units,
            requested,
            align: align.max(GRANULE),
            rule: self.rule,
            recall_loss: self.thrift.recall_loss,
        }
    }

    /// The same request for a pool whose blocks are not to share pages or a segment.
    pub(crate) fn whole(&self, fit: &Fit) -> Fit {
        let pages = fit.units.div_ceil(GRANULES_PER_PAGE);
        let rule = SplitRule { least_remainder: u32::MAX, ..fit.rule };
        Fit { kind: Kind::Large, units: pages * GRANULES_PER_PAGE, rule, ..*fit }
    }

    /// The least size in bytes of a new segment that would serve a request.
    pub(crate) fn least_segment(&self, fit: &Fit) -> u64 {
        round_up(u64::from(fit.units_to_find()) << GRANULE_SHIFT, GRANULARITY_MIN)
    }

    /// The size in bytes of a new segment to ask for, where the heap holds `held` bytes of the
    /// kind.
    pub(crate) fn segment(&self, fit: &Fit, held: u64) -> u64 {
        let least = self.least_segment(fit);
        let part = (held / GRANULARITY_PART).next_power_of_two();
        let grown = part.clamp(GRANULARITY_MIN, GRANULARITY_MAX[fit.kind as usize]);
        let wanted = match fit.kind {
            Kind::Small => self.small_segment.unwrap_or(grown),
            Kind::Large => {
                round_up(least, self.granularity.unwrap_or(grown)).max(self.min_large_segment)
            }
        };
        match self.max_split_size {
            // The rest of a larger one would serve nobody.
            _ if fit.rule.least_remainder == u32::MAX => least,
            // A larger one would be refused to its own size once it is one free block.
            Some(limit) if u64::from(fit.units) << GRANULE_SHIFT < limit => {
                wanted.min((limit - 1) / GRANULARITY_MIN * GRANULARITY_MIN).max(least)
            }
            _ => wanted.max(least),
        }
    }

    /// Bytes of addresses for the next arena of a heap that has `held` bytes of them, for a window
    /// of `needed` bytes: more each time, so that there are few.
    pub(crate) fn arena(&self, total: u64, held: u64, needed: u64) -> u64 {
        let grown = (2 * held).clamp(total.max(ARENA_MIN), (4 * total).max(ARENA_MIN));
        // The last page stays without memory.
        round_up(grown.max(2 * needed) + PAGE, PAGE).min(ARENA_MAX)
    }

    /// Bytes of addresses of an arena that is hardly more than a window of `needed` bytes.
    pub(crate) fn least_arena(&self, needed: u64) -> u64 {
        round_up(needed, PAGE) + PAGE
    }

    /// The pages of a new handle, at most, where so many bytes are reserved: a survivor keeps the
    /// whole handle that it lies in, which may be more the more there is.
    ///
    /// Memory `above` the allowed reserve is only taken because survivors keep so much, so then
    /// handles are smaller. The more of the `capacity` is reserved, the likelier is it that all of it
    /// will be needed: then every choice is as thrifty as the leanest, and at last handles are pages,
    /// none of which keeps another.
    pub(crate) fn handle_pages(&self, reserved: u64, capacity: u64, above: bool) -> u32 {
        let usual = |thrift: &Thrift| {
            let part = (reserved >> PAGE_SHIFT) as f64 * thrift.handle_part;
            (part as u32).clamp(thrift.handle_min, HANDLE_MAX)
        };
        let leanest = usual(&Thrift::of(Reserve::Lean));
        match usual(&self.thrift) {
            _ if reserved > capacity / 4 * 3 => 1,
            _ if reserved > capacity / 8 => leanest,
            usual if above => leanest.max(usual / ABOVE_DIVISOR),
            usual => usual,
        }
    }

    /// The handles of at most so many pages of which new memory is made.
    pub(crate) fn handles(&self, pages: u32, most: u32) -> impl Iterator<Item = u32> + use<> {
        let count = pages.div_ceil(most);
        (0..count).map(move |at| most.min(pages - at * most))
    }

    /// Bytes up to which new memory is taken in larger steps than needed.
    pub(crate) fn ample_reserve(&self, peak: u64) -> u64 {
        peak.saturating_add((peak as f64 * self.slack / 2.0) as u64)
    }

    /// What a page above the allowed reserve costs, in µs, as much as driver calls that take so
    /// long: the more, the less there is.
    pub(crate) fn page_price(&self, peak: u64) -> u64 {
        PRICE_US / (peak >> PAGE_SHIFT).max(1)
    }

    /// New pages to take at least, where there is ample room and so many bytes are reserved.
    pub(crate) fn growth(&self, reserved: u64) -> u32 {
        let part = (reserved >> PAGE_SHIFT) as f64 * self.thrift.growth_part;
        (part as u32).min(HANDLE_MAX)
    }

    /// Pages that stay without memory between windows, in an arena of so many bytes.
    pub(crate) fn gap(&self, arena: u64) -> u32 {
        ((arena >> PAGE_SHIFT) / 32).min(1024) as u32
    }

    /// Bytes that may be reserved before idle segments are traded in, where `peak` is the peak of
    /// live bytes.
    pub(crate) fn allowed_reserve(&self, peak: u64) -> u64 {
        peak.saturating_add((peak as f64 * self.slack) as u64)
    }
}

/// The bytes of a block for `size`, where `roundup_power2_divisions` is set.
#[cold]
fn rounded_by(config: &Config, size: u64) -> u64 {
    let divisions = if size > GRANULE { config.roundup_divisions_for(size) } else { 0 };
    if divisions > 1 && size > GRANULE * divisions {
        return round_up(round_to_division(size, divisions), GRANULE);
    }
    round_up(size, GRANULE)
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
        let three = plain.fit(3 << 20, 512);
        assert_eq!((plain.least_segment(&three), plain.segment(&three, 0)), (4 << 20, 4 << 20));
        assert_eq!(plain.segment(&three, 10 << 30), 128 << 20);
        assert_eq!(policy("large_segment_size:64MiB").segment(&three, 0), 64 << 20);
        assert_eq!(policy("segment_granularity:32MiB").segment(&three, 10 << 30), 32 << 20);
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
