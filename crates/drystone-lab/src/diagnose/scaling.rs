//! How the peak follows the size of what is worked on, where iterations of different sizes show it.
//!
//! Two iterations of the same program ask for the same blocks in the same order. Where one works on
//! q times as much (texts, tokens, pixels), a block is as large in both, q times, or q² times as
//! large: it is constant, linear or, as attention over a sequence, quadratic. q is the ratio that
//! explains most of the bytes that way. That it explains nearly all of them, and that it gives the
//! peak of the other iteration, is the evidence; without it nothing is said. An iteration that was cut
//! off by the request that failed is no such peak: `forecast` says what it would have come to.

use std::collections::HashMap;
use std::ops::Range;

use drystone_trace::{Op, StackId};

use super::forecast::forecast;
use super::laps::{Lap, laps};
use super::view::{View, rounded};

/// The most iterations that one is compared with.
pub(super) const MOST: usize = 24;
/// Ratios closer to 1 than this say nothing; by logarithm.
const LEAST_RATIO: f64 = 0.1;
/// How far from a whole number a power may be.
pub(super) const NEAR: f64 = 0.1;
/// Ratios this near to each other are one, by logarithm.
pub(super) const STEP: f64 = 0.02;
/// The part of the bytes at the peak that has to be explained.
pub(super) const EXPLAINED: f64 = 0.95;
/// The part of them that has to scale.
pub(super) const SCALES: f64 = 0.05;
/// How far the other iteration's peak may be from what follows.
pub(super) const OFF: f64 = 0.05;

/// What an iteration needs at its peak, and what halving gives. Bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scaling {
    /// Whether the iteration was cut off, so that its peak follows from the rule.
    pub(super) predicted: bool,
    pub(super) peak: u64,
    /// At the peak: what stays as it is, and what follows the size, and its square.
    pub(super) constant: u64,
    pub(super) linear: u64,
    pub(super) quadratic: u64,
    /// The peak of the iteration with half the size.
    pub(super) halved: u64,
    /// How many other iterations the rule was checked on.
    pub(super) checked: u64,
    /// By how many percent it was off there at most.
    pub(super) off_percent: u64,
    /// What is live at the peak: blocks and their sizes.
    pub(super) blocks: Vec<(u32, u64)>,
}

/// How the blocks of an iteration follow the size of what is worked on.
pub(super) struct Rule {
    /// The power with which each of its allocations goes.
    pub(super) powers: Vec<u32>,
    /// How many other iterations have the peak that follows, and how many not.
    pub(super) checked: u64,
    pub(super) missed: u64,
    /// How far off it was at most.
    off: f64,
}

/// A block of an iteration.
struct Block {
    bytes: u64,
    /// In the other iteration; none if it has none such.
    other: Option<u64>,
    /// Whether it is live at the peak.
    at_peak: bool,
}

impl Scaling {
    /// None where the trace does not show it.
    pub(super) fn of(view: &View<'_>) -> Option<Self> {
        let laps = laps(view);
        let top = laps.iter().find(|lap| lap.events.contains(&view.peak.event));
        let failed = view.failure.map(|failed| failed.event);
        let holds = |lap: &&Lap| !lap.ends && failed.is_some_and(|at| lap.events.contains(&at));
        let cut = laps.last().filter(holds);
        let more = |found: &Self| cut == top || found.peak > view.peak.bytes;
        let forecast = cut.and_then(|cut| forecast(view, &laps, cut)).filter(more);
        let whole = || {
            let top = top.filter(|&top| cut != Some(top))?;
            let rule = Rule::of(view, &laps, top, view.peak.event)?;
            let start = view.live_before(top.events.start);
            Some(Scaling::told(view, &top.events, start, &rule, 1.0))
        };
        forecast.or_else(whole)
    }

    /// Of an iteration that begins with so much live and is so many times as large as a known one.
    pub(super) fn told(
        view: &View<'_>,
        known: &Range<usize>,
        start: u64,
        rule: &Rule,
        ratio: f64,
    ) -> Self {
        let most = scaled(view, known, start, usize::MAX, &rule.powers, ratio);
        let mut sums = [0u64; 3];
        let mut sizes = HashMap::new();
        for (one, &power) in asked(view, known, most.event).iter().zip(&rule.powers) {
            let bytes = times(one.bytes, ratio, power);
            if one.at_peak {
                sums[power as usize] = sums[power as usize].saturating_add(bytes);
            }
            sizes.insert(one.block, times(one.size, ratio, power));
        }
        let [_, linear, quadratic] = sums;
        let mut blocks = view.live_after(most.event);
        blocks.iter_mut().for_each(|(id, size)| *size = *sizes.get(id).unwrap_or(size));
        Scaling {
            predicted: false,
            peak: most.bytes(),
            constant: most.bytes().saturating_sub(linear.saturating_add(quadratic)),
            linear,
            quadratic,
            halved: scaled(view, known, start, usize::MAX, &rule.powers, ratio / 2.0).bytes(),
            checked: rule.checked,
            off_percent: (100.0 * rule.off).round() as u64,
            blocks,
        }
    }
}

impl Rule {
    /// Of an iteration with its peak at that event, from others of other sizes.
    pub(super) fn of(view: &View<'_>, laps: &[Lap], top: &Lap, peak: usize) -> Option<Self> {
        let asked = asked(view, &top.events, peak);
        let others = laps.iter().filter(|lap| lap.ends && lap.events != top.events);
        let mut found: Option<(f64, Vec<u32>)> = None;
        let (mut checked, mut missed, mut off) = (0, 0, 0.0);
        let alike = others.rev().filter_map(|lap| Some((lap, matched(view, &asked, top, lap)?)));
        let start = view.live_before(top.events.start);
        for (other, blocks) in alike.take(MOST) {
            let Some((ratio, powers)) = powers(&blocks) else { continue };
            let expected = scaled(view, &top.events, start, usize::MAX, &powers, ratio).above;
            let length = if top.ends { usize::MAX } else { asked.len() };
            let actual = own_peak(view, &other.events, length).above;
            let apart = (expected as f64 / actual as f64 - 1.0).abs();
            if actual == 0 || apart > OFF {
                missed += 1;
                continue;
            }
            // What the most different sizes say is the surest.
            if found.as_ref().is_none_or(|(best, _)| ratio.ln().abs() > best.ln().abs()) {
                found = Some((ratio, powers));
            }
            (checked, off) = (checked + 1, f64::max(off, apart));
        }
        found.map(|(_, powers)| Rule { powers, checked, missed, off })
    }
}

/// An allocation of an iteration: its block, who asked, its bytes, whether it is live at the peak.
pub(super) struct Asked {
    block: u32,
    stack: StackId,
    size: u64,
    pub(super) bytes: u64,
    pub(super) at_peak: bool,
}

/// What an iteration asks for, and what of it is live after the event of that index.
pub(super) fn asked(view: &View<'_>, lap: &Range<usize>, peak: usize) -> Vec<Asked> {
    let (mut all, mut places) = (Vec::new(), HashMap::new());
    for (index, event) in lap.clone().zip(&view.trace.events[lap.clone()]) {
        match event.op {
            Op::Alloc => {
                places.insert(event.id, all.len());
                let (block, size, at_peak) = (event.id, event.size, index <= peak);
                let (stack, bytes) = (view.stack_of(event.id), rounded(size));
                all.push(Asked { block, stack, size, bytes, at_peak });
            }
            Op::FreeCompleted if index <= peak => {
                if let Some(&place) = places.get(&event.id) {
                    all[place].at_peak = false;
                }
            }
            _ => {}
        }
    }
    all
}

/// For each allocation the place of its like in another iteration: by who asked and the how manieth
/// time, or by order where that is not known.
pub(super) fn pairs(asked: &[Asked], others: &[Asked]) -> Vec<Option<usize>> {
    let known = asked.iter().any(|one| one.stack != StackId::default());
    let key = |one: &Asked| if known { one.stack } else { StackId::default() };
    let mut places: HashMap<StackId, Vec<usize>> = HashMap::new();
    for (place, one) in others.iter().enumerate() {
        places.entry(key(one)).or_default().push(place);
    }
    let mut met: HashMap<StackId, usize> = HashMap::new();
    let like = asked.iter().map(|one| {
        let number = met.entry(key(one)).or_default();
        *number += 1;
        places.get(&key(one)).and_then(|places| places.get(*number - 1)).copied()
    });
    like.collect()
}

/// The blocks with their like in another iteration. None if the iterations are not of one kind.
fn matched(view: &View<'_>, all: &[Asked], top: &Lap, other: &Lap) -> Option<Vec<Block>> {
    let theirs = asked(view, &other.events, other.events.end);
    let known = all.iter().any(|one| one.stack != StackId::default());
    let fits = if top.ends { theirs.len() == all.len() } else { theirs.len() >= all.len() };
    if !known && !fits {
        return None;
    }
    let blocks = all.iter().zip(pairs(all, &theirs)).map(|(one, like)| {
        // Of nothing there is no ratio.
        let other = like.map(|place| &theirs[place]).filter(|o| o.size > 0 && one.size > 0);
        Block { bytes: one.bytes, other: other.map(|other| other.bytes), at_peak: one.at_peak }
    });
    Some(blocks.collect())
}

/// The ratio of sizes, and with which power of it each block goes.
fn powers(blocks: &[Block]) -> Option<(f64, Vec<u32>)> {
    let at_peak = blocks.iter().filter(|block| block.at_peak);
    let all: f64 = at_peak.map(|block| block.bytes as f64).sum();
    let mut by_ratio: HashMap<i64, u64> = HashMap::new();
    for block in blocks.iter().filter(|block| block.at_peak) {
        if let Some(ratio) = block.ratio().filter(|ratio| ratio.abs() >= LEAST_RATIO) {
            let bytes = by_ratio.entry((ratio / STEP).round() as i64).or_default();
            *bytes = block.bytes.saturating_add(*bytes);
        }
    }
    let mut ratios: Vec<_> = by_ratio.into_iter().map(|(step, bytes)| (bytes, step)).collect();
    ratios.sort_unstable_by_key(|&(bytes, step)| (std::cmp::Reverse(bytes), step.abs(), step));
    let mut best: Option<(u128, f64, Vec<u32>)> = None;
    for (_, step) in ratios.into_iter().take(4) {
        let ratio = step as f64 * STEP;
        let (mut explained, mut powers) = (0u128, Vec::with_capacity(blocks.len()));
        for block in blocks {
            let power = block.power(ratio);
            let counts = block.at_peak && power.is_some();
            explained += if counts { u128::from(block.bytes) } else { 0 };
            powers.push(power.unwrap_or(0));
        }
        let better = |&(bytes, before, _): &(u128, f64, _)| {
            explained > bytes || explained == bytes && ratio.abs() < before.abs()
        };
        if best.as_ref().is_none_or(better) {
            best = Some((explained, ratio, powers));
        }
    }
    let (explained, ratio, powers) = best?;
    let scaling = blocks.iter().zip(&powers).filter(|(block, power)| block.at_peak && **power > 0);
    let (mut scaled, mut sum) = (0.0, 0.0);
    for (block, &power) in scaling {
        scaled += block.bytes as f64;
        sum += block.bytes as f64 * block.ratio().unwrap_or(ratio) / f64::from(power);
    }
    let enough = explained as f64 >= EXPLAINED * all && scaled >= SCALES * all;
    // What was found in steps, as the mean of those that it is about.
    enough.then(|| ((sum / scaled).exp(), powers))
}

impl Block {
    /// How much larger its like is, by logarithm.
    fn ratio(&self) -> Option<f64> {
        self.other.map(|other| (other as f64 / self.bytes as f64).ln())
    }

    /// The power of a ratio that it goes with.
    fn power(&self, ratio: f64) -> Option<u32> {
        let power = self.ratio()? / ratio;
        let whole = power.round();
        ((0.0..=2.0).contains(&whole) && (power - whole).abs() <= NEAR).then_some(whole as u32)
    }
}

/// The most that is live in an iteration. Bytes.
pub(super) struct Most {
    /// Before it.
    start: u64,
    /// More than that.
    pub(super) above: u64,
    /// The event after which it is.
    pub(super) event: usize,
}

impl Most {
    fn bytes(&self) -> u64 {
        self.start.saturating_add(self.above)
    }
}

fn times(bytes: u64, ratio: f64, power: u32) -> u64 {
    (bytes as f64 * ratio.powi(power as i32)) as u64
}

/// The peak, up to its allocation of that number, of an iteration that begins with so much live and
/// whose sizes are so many times as large as those of a known one, with these powers.
pub(super) fn scaled(
    view: &View<'_>,
    known: &Range<usize>,
    start: u64,
    allocations: usize,
    powers: &[u32],
    ratio: f64,
) -> Most {
    let mut powers = powers.iter();
    most(view, known, start, allocations, |bytes| {
        times(bytes, ratio, powers.next().copied().unwrap_or(0))
    })
}

/// The peak of an iteration up to its allocation of that number.
pub(super) fn own_peak(view: &View<'_>, lap: &Range<usize>, allocations: usize) -> Most {
    most(view, lap, view.live_before(lap.start), allocations, |bytes| bytes)
}

fn most(
    view: &View<'_>,
    lap: &Range<usize>,
    start: u64,
    allocations: usize,
    mut size: impl FnMut(u64) -> u64,
) -> Most {
    let (mut own, mut now, mut left) = (HashMap::new(), start, allocations);
    let mut most = Most { start, above: 0, event: lap.start };
    for (index, event) in lap.clone().zip(&view.trace.events[lap.clone()]) {
        match event.op {
            Op::Alloc if left == 0 => break,
            Op::Alloc => {
                let bytes = size(rounded(event.size));
                own.insert(event.id, bytes);
                now = now.saturating_add(bytes);
                left -= 1;
                if now - start.min(now) > most.above {
                    (most.above, most.event) = (now - start, index);
                }
            }
            Op::FreeCompleted => {
                let bytes = own.remove(&event.id).unwrap_or(rounded(event.size));
                now = now.saturating_sub(bytes);
            }
            _ => {}
        }
    }
    most
}
