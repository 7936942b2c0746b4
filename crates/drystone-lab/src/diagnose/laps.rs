//! Where a run repeats itself: laps, as iterations and requests are, at whose end what they made is
//! gone again.

use std::collections::BTreeMap;
use std::ops::Range;

use drystone_trace::{Op, StackId};

use super::view::{View, rounded};

const MIB: u64 = 1 << 20;
/// What comes and goes within less than this, or than this part of what is live at most, is no lap.
const LEAST: u64 = 16 * MIB;
const LEAST_PART: u64 = 64;
/// A lap has ended when this part of what it had at most is left.
const LEFT: u64 = 8;
/// What goes on without laps for this part of the run's time is a phase of its own.
const QUIET: u64 = 16;
/// What is as small says nothing of what a lap does.
const LARGE: u64 = MIB;

/// A lap: a range of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lap {
    pub(super) events: Range<usize>,
    /// Whether what it made went again; else the run ends in it.
    pub(super) ends: bool,
}

/// The laps of a run, up to the failure if there is one, in order and without gaps.
pub(super) fn laps(view: &View<'_>) -> Vec<Lap> {
    let live = live(view);
    let start = view.trace.prelude.min(live.len());
    // A run that ends gives its memory back: that is no valley.
    let end = match median(&live[start + (live.len() - start) / 2..]) {
        Some(usual) => live.iter().rposition(|&bytes| bytes >= usual).map_or(start, |at| at + 1),
        None => return Vec::new(),
    };
    let end = if view.failure.is_some() { live.len() } else { end.max(start) };
    let valley = last_valley(&live[start..end]).map_or(start, |at| start + at);
    let most = live[start..end].iter().max().copied().unwrap_or(0);
    let least = LEAST.max(most / LEAST_PART);

    let mut laps = closed(&live[..=valley.min(live.len() - 1)], start, least);
    let from = laps.last().map_or(start, |lap: &Lap| lap.events.end);
    let base = live.get(from.saturating_sub(1)).copied().unwrap_or(0);
    let rise = live[from..end].iter().max().map_or(0, |&most| most.saturating_sub(base));
    if rise >= least {
        laps.push(Lap { events: from..end, ends: false });
    }
    laps
}

/// Live bytes after each event up to the failed request, which counts.
fn live(view: &View<'_>) -> Vec<u64> {
    let end = view.failure.map_or(view.trace.events.len(), |failed| failed.event + 1);
    let mut now = 0u64;
    let after = view.trace.events.iter().take(end).map(|event| {
        match event.op {
            Op::Alloc => now = now.saturating_add(rounded(event.size)),
            Op::FreeCompleted => now = now.saturating_sub(rounded(event.size)),
            _ => {}
        }
        now
    });
    after.collect()
}

fn median(values: &[u64]) -> Option<u64> {
    quantile(values, 2)
}

/// The value below which one of `part` lies.
fn quantile(values: &[u64], part: usize) -> Option<u64> {
    let mut values = values.to_vec();
    let at = values.len() / part;
    (!values.is_empty()).then(|| *values.select_nth_unstable(at).1)
}

/// The last event after which as little was live as between two laps: behind it a lap is underway.
fn last_valley(live: &[u64]) -> Option<usize> {
    let low = quantile(&live[live.len() / 2..], 7)?;
    let last = live.iter().rposition(|&bytes| bytes <= low)?;
    let around = live[..=last].iter().rposition(|&bytes| bytes > low).map_or(0, |at| at + 1);
    let least = live[around..=last].iter().min()?;
    live[around..=last].iter().rposition(|bytes| bytes == least).map(|at| around + at)
}

/// The laps that end. What is live at a moment and later at the least is no part of a lap: it stays.
fn closed(live: &[u64], start: usize, least: u64) -> Vec<Lap> {
    let mut stays = live.to_vec();
    for at in (1..stays.len()).rev() {
        stays[at - 1] = stays[at - 1].min(stays[at]);
    }
    let (mut laps, mut from, mut most) = (Vec::new(), start, 0u64);
    // Where least was left since the lap went down.
    let mut lowest: Option<(u64, usize)> = None;
    for at in start..live.len() {
        let above = live[at] - stays[at];
        match lowest {
            None => {
                most = most.max(above);
                if most >= least && above <= most / LEFT {
                    lowest = Some((above, at));
                }
            }
            Some((low, end)) if above >= low.saturating_add(least) => {
                laps.push(Lap { events: from..end + 1, ends: true });
                (from, most, lowest) = (end + 1, above, None);
            }
            // The first such moment: from then on the next one may keep things.
            Some((low, _)) if above < low => lowest = Some((above, at)),
            Some(_) => {}
        }
    }
    if let Some((_, end)) = lowest {
        laps.push(Lap { events: from..end + 1, ends: true });
    }
    laps
}

/// The events before which a new phase begins: laps that ask for other things than the one before.
pub(super) fn phases(view: &View<'_>) -> Vec<usize> {
    let laps = laps(view);
    let passing: Vec<_> = laps.iter().map(|lap| passing(view, lap)).collect();
    let pairs = passing.windows(2).zip(laps.iter().skip(1));
    let new = pairs.filter(|(two, lap)| !alike(&two[0], &two[1], lap.ends));
    new.map(|(_, lap)| lap.events.start).chain(quiet(view, &laps)).collect()
}

/// Where a run goes on for long without laps worth the name.
fn quiet(view: &View<'_>, laps: &[Lap]) -> Option<usize> {
    let events = &view.trace.events;
    let from = laps.last()?.events.end;
    let (first, next, last) = (events.first()?.t_us, events.get(from)?.t_us, events.last()?.t_us);
    (last - next >= (last - first) / QUIET).then_some(from)
}

/// Bytes by who asked for them, or else by the size of the request.
type Asked = BTreeMap<(StackId, u64), u64>;

/// What a lap asks for that is large and does not stay; all that is large, if it does not end.
fn passing(view: &View<'_>, lap: &Lap) -> Asked {
    let (mut open, mut asked) = (BTreeMap::new(), Asked::new());
    let mut add = |id: u32, size: u64| {
        let stack = view.stack_of(id);
        let known = stack != StackId::default();
        let bytes = asked.entry((stack, if known { 0 } else { size })).or_insert(0u64);
        *bytes = bytes.saturating_add(size);
    };
    for event in &view.trace.events[lap.events.clone()] {
        match event.op {
            Op::Alloc if event.size >= LARGE => {
                open.insert(event.id, event.size);
            }
            Op::FreeCompleted => {
                if let Some(size) = open.remove(&event.id) {
                    add(event.id, size);
                }
            }
            _ => {}
        }
    }
    if !lap.ends {
        open.into_iter().for_each(|(id, size)| add(id, size));
    }
    asked
}

/// Whether two laps have at least half of their bytes in common; of a lap that does not end, the half
/// of its own.
fn alike(a: &Asked, b: &Asked, ends: bool) -> bool {
    let both = a.iter().map(|(key, &bytes)| bytes.min(b.get(key).copied().unwrap_or(0)));
    let both: u128 = both.map(u128::from).sum();
    let sum = |asked: &Asked| asked.values().map(|&bytes| u128::from(bytes)).sum::<u128>();
    // What is in both counts once.
    let of = if ends { sum(a) + sum(b) - both } else { sum(b) };
    2 * both >= of
}
