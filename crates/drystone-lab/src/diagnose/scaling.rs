//! How the peak follows the size of what is worked on, where iterations of different sizes show it.
//!
//! Two iterations of the same program ask for the same blocks in the same order. Where one works on
//! q times as much (texts, tokens, pixels), a block is as large in both, q times, or q² times as
//! large: it is constant, linear or, as attention over a sequence, quadratic. q is the ratio that
//! explains most of the bytes that way. That it explains nearly all of them, and that it gives the
//! peak of the other iteration, is the evidence; without it nothing is said.

use std::collections::HashMap;
use std::ops::Range;

use drystone_trace::{Op, StackId};

use super::laps::{Lap, laps};
use super::view::{View, rounded};

/// The most iterations that one is compared with.
const MOST: usize = 24;
/// Ratios closer to 1 than this say nothing; by logarithm.
const LEAST_RATIO: f64 = 0.1;
/// How far from a whole number a power may be.
const NEAR: f64 = 0.1;
/// Ratios this near to each other are one, by logarithm.
const STEP: f64 = 0.02;
/// The part of the bytes at the peak that has to be explained.
const EXPLAINED: f64 = 0.95;
/// The part of them that has to scale.
const SCALES: f64 = 0.05;
/// How far the other iteration's peak may be from what follows.
const OFF: f64 = 0.05;

/// What halving gives. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scaling {
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
}

/// A block of the iteration with the peak.
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
        let top = laps.iter().find(|lap| lap.events.contains(&view.peak.event))?;
        let asked = asked(view, top);
        let others = laps.iter().filter(|lap| lap.ends && lap.events != top.events);
        let mut found: Option<(f64, Vec<u32>)> = None;
        let (mut checked, mut off) = (0, 0.0);
        let alike = others.rev().filter_map(|lap| Some((lap, matched(view, &asked, top, lap)?)));
        for (other, blocks) in alike.take(MOST) {
            let Some((ratio, powers)) = powers(&blocks) else { continue };
            let expected = peak(view, &top.events, &powers, ratio).above;
            let length = if top.ends { usize::MAX } else { asked.len() };
            let actual = own_peak(view, &other.events, length).above;
            let apart = (expected as f64 / actual as f64 - 1.0).abs();
            if actual == 0 || apart > OFF {
                continue;
            }
            // What the most different sizes say is the surest.
            if found.as_ref().is_none_or(|(best, _)| ratio.ln().abs() > best.ln().abs()) {
                found = Some((ratio, powers));
            }
            (checked, off) = (checked + 1, f64::max(off, apart));
        }
        let (_, powers) = found?;
        let mut sums = [0u64; 3];
        for (block, &power) in asked.iter().zip(&powers).filter(|(block, _)| block.at_peak) {
            let sum = &mut sums[power as usize];
            *sum = sum.saturating_add(block.bytes);
        }
        let [_, linear, quadratic] = sums;
        Some(Scaling {
            constant: view.peak.bytes.saturating_sub(linear.saturating_add(quadratic)),
            linear,
            quadratic,
            halved: peak(view, &top.events, &powers, 0.5).bytes(),
            checked,
            off_percent: (100.0 * off).round() as u64,
        })
    }
}

/// An allocation of the iteration with the peak: who asked, its bytes, whether it is live then.
struct Asked {
    stack: StackId,
    size: u64,
    bytes: u64,
    at_peak: bool,
}

fn asked(view: &View<'_>, lap: &Lap) -> Vec<Asked> {
    let (mut all, mut places) = (Vec::new(), HashMap::new());
    for (index, event) in lap.events.clone().zip(&view.trace.events[lap.events.clone()]) {
        match event.op {
            Op::Alloc => {
                places.insert(event.id, all.len());
                let (size, at_peak) = (event.size, index <= view.peak.event);
                let (stack, bytes) = (view.stack_of(event.id), rounded(size));
                all.push(Asked { stack, size, bytes, at_peak });
            }
            Op::FreeCompleted if index <= view.peak.event => {
                if let Some(&place) = places.get(&event.id) {
                    all[place].at_peak = false;
                }
            }
            _ => {}
        }
    }
    all
}

/// The blocks with their like in another iteration: by who asked and the how manieth time, or by
/// order where that is not known. None if the iterations are not of one kind.
fn matched(view: &View<'_>, asked: &[Asked], top: &Lap, other: &Lap) -> Option<Vec<Block>> {
    let theirs = view.trace.events[other.events.clone()].iter().filter(|e| e.op == Op::Alloc);
    let known = asked.iter().any(|one| one.stack != StackId::default());
    let mut sizes: HashMap<StackId, Vec<u64>> = HashMap::new();
    for event in theirs {
        let stack = if known { view.stack_of(event.id) } else { StackId::default() };
        sizes.entry(stack).or_default().push(event.size);
    }
    let count: usize = sizes.values().map(Vec::len).sum();
    let fits = if top.ends { count == asked.len() } else { count >= asked.len() };
    if !known && !fits {
        return None;
    }
    let mut met: HashMap<StackId, usize> = HashMap::new();
    let blocks = asked.iter().map(|&Asked { stack, size, bytes, at_peak }| {
        let number = met.entry(stack).or_default();
        let found = sizes.get(&stack).and_then(|sizes| sizes.get(*number)).copied();
        *number += 1;
        // Of nothing there is no ratio.
        Block { bytes, other: found.filter(|&other| other > 0 && size > 0).map(rounded), at_peak }
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
struct Most {
    /// Before it.
    start: u64,
    /// More than that.
    above: u64,
}

impl Most {
    fn bytes(&self) -> u64 {
        self.start.saturating_add(self.above)
    }
}

/// The peak of an iteration whose sizes are so many times as large, with these powers.
fn peak(view: &View<'_>, lap: &Range<usize>, powers: &[u32], ratio: f64) -> Most {
    let mut powers = powers.iter();
    most(view, lap, usize::MAX, |bytes| {
        let power = powers.next().copied().unwrap_or(0);
        (bytes as f64 * ratio.powi(power as i32)) as u64
    })
}

/// The peak of an iteration up to its allocation of that number.
fn own_peak(view: &View<'_>, lap: &Range<usize>, allocations: usize) -> Most {
    most(view, lap, allocations, |bytes| bytes)
}

fn most(
    view: &View<'_>,
    lap: &Range<usize>,
    allocations: usize,
    mut size: impl FnMut(u64) -> u64,
) -> Most {
    let events = &view.trace.events;
    let before = events[..lap.start].iter().fold(0u64, |live, event| match event.op {
        Op::Alloc => live.saturating_add(rounded(event.size)),
        Op::FreeCompleted => live.saturating_sub(rounded(event.size)),
        _ => live,
    });
    let (mut own, mut now, mut most, mut left) = (HashMap::new(), before, before, allocations);
    for event in &events[lap.clone()] {
        match event.op {
            Op::Alloc if left == 0 => break,
            Op::Alloc => {
                let bytes = size(rounded(event.size));
                own.insert(event.id, bytes);
                now = now.saturating_add(bytes);
                (most, left) = (most.max(now), left - 1);
            }
            Op::FreeCompleted => {
                let bytes = own.remove(&event.id).unwrap_or(rounded(event.size));
                now = now.saturating_sub(bytes);
            }
            _ => {}
        }
    }
    Most { start: before, above: most - before }
}
