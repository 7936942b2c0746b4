//! Findings that need no failure: what stays live grows, memory is held idle, frees wait for other
//! streams.

use std::collections::{BTreeMap, BTreeSet};

use drystone_core::config::format_bytes;
use drystone_trace::Op;

use super::baseline::Baseline;
use super::holders::holders;
use super::memory::Memory;
use super::view::View;
use super::{Finding, FindingKind, pools};
use crate::recording::Recording;

const MIB: u64 = 1 << 20;
/// Into how many parts of as many events a run is divided to see growth; the first quarter may be
/// its start.
const WINDOWS: usize = 16;
/// Fewer events in a part say nothing.
const LEAST_EVENTS: usize = 8;
/// What is below this is not worth telling of.
const WORTH: u64 = 16 * MIB;
/// Idle memory below this neither.
const IDLE: u64 = 64 * MIB;

pub(super) fn findings(view: &View<'_>, baseline: &Baseline) -> Vec<Finding> {
    let all = [growth(view), idle(view, baseline), pending(view), pools::finding(view)];
    all.into_iter().flatten().collect()
}

/// The least that was live in a part of the run.
#[derive(Clone, Copy)]
struct Low {
    live: u64,
    /// The index of the event after which it was.
    event: usize,
    /// Bytes freed since the recording began.
    freed: u64,
}

/// The least live bytes in each part of the run, up to the failure if there is one.
fn lows(view: &View<'_>) -> Vec<Low> {
    let end = view.failure.map_or(view.trace.events.len(), |failed| failed.event);
    let start = view.trace.prelude.min(end);
    let length = (end - start) / WINDOWS;
    if length < LEAST_EVENTS {
        return Vec::new();
    }
    let (mut lows, mut live, mut freed): (Vec<Low>, _, _) = (Vec::new(), 0u64, 0u64);
    for (event, what) in view.trace.events[..end].iter().enumerate() {
        match what.op {
            Op::Alloc => live = live.saturating_add(what.size),
            Op::FreeCompleted => {
                live = live.saturating_sub(what.size);
                freed = freed.saturating_add(what.size);
            }
            _ => {}
        }
        if event < start {
            continue;
        }
        let low = Low { live, event, freed };
        let part = (event - start) / length;
        if part == lows.len() && part < WINDOWS {
            lows.push(low);
        } else if let Some(least) = lows.get_mut(part)
            && live <= least.live
        {
            *least = low;
        }
    }
    lows
}

/// What stays live rises, again and again, while the rest comes and goes.
fn growth(view: &View<'_>) -> Option<Finding> {
    let mut lows: Vec<_> = lows(view).into_iter().skip(WINDOWS / 4).collect();
    // A run that ends gives its memory back.
    if let [.., before, last] = lows[..]
        && last.live < before.live
    {
        lows.pop();
    }
    let (first, last) = (*lows.first()?, *lows.last()?);
    let rise = last.live.checked_sub(first.live)?;
    let steps: Vec<i128> =
        lows.windows(2).map(|two| i128::from(two[1].live) - i128::from(two[0].live)).collect();
    let up = steps.iter().filter(|&&step| step > 0).count();
    let (most, least) = (*steps.iter().max()?, *steps.iter().min()?);
    let steady = 4 * up >= 3 * steps.len()
        && most <= i128::from(rise) / 2
        && least >= -i128::from(rise) / 10;
    let turned_over = (last.freed - first.freed) / 2 >= rise;
    if rise < WORTH.max(view.peak.bytes / 20) || !steady || !turned_over {
        return None;
    }
    let events = &view.trace.events;
    let between = events[first.event + 1..=last.event].iter();
    let new: BTreeSet<u32> =
        between.filter(|event| event.op == Op::Alloc).map(|event| event.id).collect();
    let mut stayed = view.live_after(last.event);
    stayed.retain(|(id, _)| new.contains(id));
    let passed = events[last.event].t_us - events[first.event].t_us;
    Some(Finding {
        kind: FindingKind::Growth,
        text: format!(
            "What stays live between iterations rose from {} to {}, in {up} of {} steps: something \
             keeps a little more each time.",
            format_bytes(first.live),
            format_bytes(last.live),
            steps.len()
        ),
        evidence: BTreeMap::from([
            ("live_before", first.live),
            ("live_after", last.live),
            ("blocks_that_stayed_count", stayed.len() as u64),
            ("time_us", passed),
        ]),
        holders: holders(view, &stayed),
        pools: Vec::new(),
        advice: "Look for what keeps tensors alive: a list of losses or outputs (append \
                 loss.item() or x.detach()), a retained graph, a cache without a bound.",
        bytes: rise,
    })
}

/// Much was held for the last quarter of the run, of which little was live.
fn idle(view: &View<'_>, baseline: &Baseline) -> Option<Finding> {
    if view.failure.is_some() || baseline.fails() {
        return None;
    }
    let (held, live) = quarter(view, baseline).or_else(|| at_end(view))?;
    let cached = held.saturating_sub(live);
    if cached < IDLE || cached < live {
        return None;
    }
    let segments = view.run.segments.iter().filter(|segment| segment.device == view.device);
    let whole = segments.filter(|segment| segment.active_size == 0);
    let unused: u64 = whole.map(|segment| segment.total_size).fold(0, u64::saturating_add);
    let mut evidence = BTreeMap::from([("reserved", held), ("live", live), ("idle", cached)]);
    if unused > 0 {
        evidence.insert("in_unused_segments", unused);
    }
    Some(Finding {
        kind: FindingKind::IdleCache,
        text: format!(
            "At the end {} stayed reserved, of which at most {} were live: the cache still holds \
             {} from an earlier phase, which nobody else on the device can have.",
            format_bytes(held),
            format_bytes(live),
            format_bytes(cached)
        ),
        evidence,
        holders: Vec::new(),
        pools: Vec::new(),
        advice: "Call torch.cuda.empty_cache() between the phases if others need the memory; the \
                 program itself does not.",
        bytes: cached,
    })
}

/// The least that was held and the most that was live in the last quarter of the run's time.
fn quarter(view: &View<'_>, baseline: &Baseline) -> Option<(u64, u64)> {
    let recording = Recording::of(&view.trace);
    // On another device than the recorded one the replay says what is held.
    let recorded = recording.peak_reserved.is_some() && view.said.is_none();
    let timeline = if recorded { &recording.timeline } else { &baseline.replayed.timeline };
    let points = &timeline.points;
    // A few points are no time in which something lay idle.
    let last = points.get(points.len() - points.len() / 4..).filter(|last| last.len() >= 4)?;
    let held = last.iter().map(|point| point.reserved).min()?;
    Some((held, last.iter().map(|point| point.live).max()?))
}

/// What the segments say, where the recording has no events.
fn at_end(view: &View<'_>) -> Option<(u64, u64)> {
    if view.trace.events.len() > view.trace.prelude {
        return None;
    }
    let segments = view.run.segments.iter().filter(|segment| segment.device == view.device);
    let memory = Memory::of_segments(segments);
    Some((memory.held, memory.held - memory.free.min(memory.held)))
}

/// At the peak much had been freed already, but other streams were not done with it.
fn pending(view: &View<'_>) -> Option<Finding> {
    let mut waiting = BTreeMap::new();
    for event in view.trace.events.iter().take(view.peak.event + 1) {
        match event.op {
            Op::FreeRequested => {
                waiting.insert(event.id, event.size);
            }
            Op::FreeCompleted => {
                waiting.remove(&event.id);
            }
            _ => {}
        }
    }
    let bytes = waiting.values().fold(0u64, |sum, &size| sum.saturating_add(size));
    if bytes < WORTH.max(view.peak.bytes / 10) {
        return None;
    }
    let waiting: Vec<_> = waiting.into_iter().collect();
    Some(Finding {
        kind: FindingKind::PendingFrees,
        text: format!(
            "When most was live ({}), {} of it in {} blocks had been freed already, but other \
             streams were still using it.",
            format_bytes(view.peak.bytes),
            format_bytes(bytes),
            waiting.len()
        ),
        evidence: BTreeMap::from([
            ("peak_live", view.peak.bytes),
            ("pending", bytes),
            ("pending_blocks_count", waiting.len() as u64),
        ]),
        holders: holders(view, &waiting),
        pools: Vec::new(),
        advice: "record_stream keeps a block until the other stream has come that far: let the host \
                 run less far ahead (fewer batches prefetched), or wait for an event and free then.",
        bytes,
    })
}
