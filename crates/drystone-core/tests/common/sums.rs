//! Sums that the statistics must equal: counts by small, large and both; and what a snapshot adds
//! up to.

use drystone_core::{BlockState, Kind, MemoryStats, Metric, SegmentInfo, Stat};

/// Blocks and bytes of live allocations, by small, large and both.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) blocks: [Stat; 3],
    pub(crate) bytes: [Stat; 3],
    /// The highest present value seen of each metric: no peak may be below it.
    seen: [[u64; Metric::COUNT]; 3],
}

fn levels(kind: Kind) -> [usize; 2] {
    [kind as usize, 2]
}

fn up(stat: &mut Stat, by: u64) {
    stat.current += by;
    stat.allocated += by;
    stat.peak = stat.peak.max(stat.current);
}

fn down(stat: &mut Stat, by: u64) {
    stat.current -= by;
    stat.freed += by;
}

/// A metric at a level: small, large, or both.
pub(crate) fn stat(stats: &MemoryStats, level: usize, metric: Metric) -> Stat {
    match level {
        0 => stats.of(Kind::Small, metric),
        1 => stats.of(Kind::Large, metric),
        _ => stats.all(metric),
    }
}

impl Sums {
    pub(crate) fn add(&mut self, kind: Kind, bytes: u64) {
        for level in levels(kind) {
            up(&mut self.blocks[level], 1);
            up(&mut self.bytes[level], bytes);
        }
    }

    pub(crate) fn sub(&mut self, kind: Kind, bytes: u64) {
        for level in levels(kind) {
            down(&mut self.blocks[level], 1);
            down(&mut self.bytes[level], bytes);
        }
    }

    pub(crate) fn reset_peaks(&mut self) {
        for stat in self.blocks.iter_mut().chain(&mut self.bytes) {
            stat.peak = stat.current;
        }
        self.seen = Default::default();
    }

    pub(crate) fn reset_accumulated(&mut self) {
        for stat in self.blocks.iter_mut().chain(&mut self.bytes) {
            (stat.allocated, stat.freed) = (0, 0);
        }
    }

    /// Statistics of allocations must be these sums in every figure; no peak may be below what was
    /// seen.
    pub(crate) fn check(&mut self, what: &str, stats: &MemoryStats) {
        for level in 0..3 {
            let count = stat(stats, level, Metric::Allocation);
            assert_eq!(count, self.blocks[level], "{what}: allocation, level {level}");
            let bytes = stat(stats, level, Metric::AllocatedBytes);
            assert_eq!(bytes, self.bytes[level], "{what}: allocated bytes, level {level}");
            for metric in Metric::ALL {
                let stat = stat(stats, level, metric);
                let seen = &mut self.seen[level][metric as usize];
                *seen = (*seen).max(stat.current);
                let name = metric.name();
                assert!(stat.peak >= *seen, "{what}: {name}, level {level}: {stat:?}, {seen}");
                assert!(stat.allocated < 1 << 60, "{what}: {name}, level {level}: {stat:?}");
                assert!(stat.freed < 1 << 60, "{what}: {name}, level {level}: {stat:?}");
            }
        }
    }
}

/// What the segments of a snapshot add up to, by the meaning of each metric. In arenas every free
/// block is a part of something, and how many arenas there are the snapshot does not say.
fn of_segments<'a>(
    segments: impl Iterator<Item = &'a SegmentInfo>,
    in_arenas: bool,
) -> [[u64; Metric::COUNT]; 3] {
    let mut sums = [[0; Metric::COUNT]; 3];
    for segment in segments {
        let mut add = |metric: Metric, by: u64| {
            for level in levels(segment.kind) {
                sums[level][metric as usize] += by;
            }
        };
        add(Metric::Segment, 1);
        add(Metric::ReservedBytes, if segment.spilled { 0 } else { segment.size });
        for block in &segment.blocks {
            match block.state {
                BlockState::Inactive if block.size < segment.size || in_arenas => {
                    add(Metric::InactiveSplit, 1);
                    add(Metric::InactiveSplitBytes, block.size);
                    continue;
                }
                BlockState::Inactive => continue,
                BlockState::ActiveAllocated => {
                    add(Metric::Allocation, 1);
                    add(Metric::AllocatedBytes, block.size);
                }
                BlockState::ActivePendingFree => {}
            }
            add(Metric::Active, 1);
            add(Metric::ActiveBytes, block.size);
            add(Metric::RequestedBytes, block.requested);
        }
    }
    sums
}

/// The present values of statistics must be what the segments add up to.
pub(crate) fn check_present<'a>(
    what: &str,
    stats: &MemoryStats,
    segments: impl Iterator<Item = &'a SegmentInfo>,
    in_arenas: bool,
) {
    let sums = of_segments(segments, in_arenas);
    for (level, sums) in sums.iter().enumerate() {
        for metric in Metric::ALL {
            if in_arenas && metric == Metric::Segment {
                continue;
            }
            let (name, now) = (metric.name(), stat(stats, level, metric).current);
            assert_eq!(now, sums[metric as usize], "{what}: {name}, level {level}");
        }
    }
}
