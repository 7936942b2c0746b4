//! What an iteration would have needed that was cut off by a request that failed: from earlier whole
//! ones. How their blocks follow the size is known from them, and the size of the one that was cut off
//! from the blocks that it has.

use super::laps::Lap;
use super::scaling::{
    Asked, EXPLAINED, MOST, NEAR, OFF, Rule, SCALES, STEP, Scaling, asked, own_peak, pairs, scaled,
};
use super::view::View;

/// How many of the largest whole iterations are tried as its like.
const LIKE: usize = 4;

/// None where earlier iterations do not show it.
pub(super) fn forecast(view: &View<'_>, laps: &[Lap], cut: &Lap) -> Option<Scaling> {
    let part = asked(view, &cut.events, cut.events.end);
    let start = view.live_before(cut.events.start);
    let had = own_peak(view, &cut.events, usize::MAX).above;
    let whole = laps.iter().rev().filter(|lap| lap.ends).take(MOST);
    let mut whole: Vec<_> =
        whole.map(|lap| (own_peak(view, &lap.events, usize::MAX), lap)).collect();
    // The largest are the nearest to one that is larger still.
    whole.sort_by_key(|(most, _)| std::cmp::Reverse(most.above));
    whole.iter().take(LIKE).find_map(|(most, lap)| {
        let rule = Rule::of(view, laps, lap, most.event)?;
        let ratio = ratio(&part, &asked(view, &lap.events, most.event), &rule.powers)?;
        let said = scaled(view, &lap.events, start, part.len(), &rule.powers, ratio).above;
        let meets = (said as f64 / had as f64 - 1.0).abs() <= OFF;
        // A rule that most iterations break is none.
        let holds = meets && rule.checked > rule.missed;
        let told = || Scaling::told(view, &lap.events, start, &rule, ratio);
        holds.then(|| Scaling { predicted: true, ..told() })
    })
}

/// How many times as large as a whole iteration the one is that has this part of it; none if its live
/// blocks do not follow the powers of the whole one's.
fn ratio(part: &[Asked], whole: &[Asked], powers: &[u32]) -> Option<f64> {
    // By logarithm: each block with its bytes.
    let (mut all, mut ratios, mut found) = (0.0, Vec::new(), Vec::new());
    for (one, like) in part.iter().zip(pairs(part, whole)).filter(|(one, _)| one.at_peak) {
        let bytes = one.bytes as f64;
        all += bytes;
        let Some(like) = like.filter(|&like| whole[like].bytes > 0 && one.bytes > 0) else {
            continue;
        };
        let (times, power) = ((bytes / whole[like].bytes as f64).ln(), f64::from(powers[like]));
        if power > 0.0 {
            ratios.push((times / power, bytes));
        }
        found.push((times, power, bytes));
    }
    let scaling: f64 = ratios.iter().map(|&(_, bytes)| bytes).sum();
    // The median, by bytes.
    ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut half = scaling / 2.0;
    let middle = ratios.iter().find(|&&(_, bytes)| {
        half -= bytes;
        half <= 0.0
    });
    let &(ratio, _) = middle.filter(|_| scaling >= SCALES * all)?;
    let near = |&&(times, power, _): &&(f64, f64, f64)| {
        (times - power * ratio).abs() <= STEP.max(NEAR * ratio.abs())
    };
    let explained: f64 = found.iter().filter(near).map(|&(_, _, bytes)| bytes).sum();
    (explained >= EXPLAINED * all).then(|| ratio.exp())
}
