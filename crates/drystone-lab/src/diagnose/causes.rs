//! Findings that follow from a request that failed: what kept it from being met.

use std::collections::BTreeMap;

use drystone_core::config::format_bytes;

use super::baseline::Baseline;
use super::holders::holders;
use super::memory::Memory;
use super::scaling::Scaling;
use super::view::{Failed, View, rounded};
use super::{Finding, FindingKind, limits};

const MIB: u64 = 1 << 20;
/// Without a failure, less waste than this, or than a fifth of what is held, is not told of.
const WASTE: u64 = 64 * MIB;

pub(super) fn findings(
    view: &View<'_>,
    baseline: &Baseline,
    failed: Option<&Failed>,
) -> Vec<Finding> {
    let high = limits::too_high(view, baseline);
    let Some(failed) = failed else {
        return high.or_else(|| wasted(view, baseline)).into_iter().collect();
    };
    let fraction = baseline.settings.fraction;
    let scaling = Scaling::of(view);
    let excess = excess(view, scaling.as_ref());
    let limit = limits::too_low(view, &failed.told, fraction);
    let certain = view.exceeds() || limit.is_some();
    // What halving gives is told once.
    let left = scaling.filter(|_| excess.is_none());
    let split = if certain { None } else { fragmented(view, baseline, failed, left.as_ref()) };
    let limit = limit.filter(|_| !view.exceeds());
    [excess, limit, high, limits::other_process(view), split].into_iter().flatten().collect()
}

/// More is needed at once than there is, or would have been in the iteration that failed.
fn excess(view: &View<'_>, scaling: Option<&Scaling>) -> Option<Finding> {
    let capacity = view.capacity?;
    let predicted = scaling.filter(|found| found.predicted && found.peak > capacity);
    let peak = predicted.map_or(view.peak.bytes, |found| found.peak.max(view.peak.bytes));
    let missing = peak.checked_sub(capacity).filter(|&missing| missing > 0)?;
    let mut text = String::new();
    let mut evidence = BTreeMap::from([("peak_live", view.peak.bytes), ("capacity", capacity)]);
    if view.exceeds() {
        text = format!(
            "The program needs {} at once and there are {}: {} are missing. No allocator \
             and no setting can hold that on the device.",
            format_bytes(view.peak.bytes),
            format_bytes(capacity),
            format_bytes(view.peak.bytes - capacity)
        );
    }
    if predicted.is_some() {
        evidence.insert("predicted_peak", peak);
        let space = if text.is_empty() { "" } else { " " };
        text += &format!(
            "{space}The iteration that failed would need about {} at once, and there are {}. That is a \
             prediction: the recording ends in the midst of it, and earlier iterations show how it would \
             have gone on. What meets the request that failed does not bring it to its end.",
            format_bytes(peak),
            format_bytes(capacity)
        );
    }
    if let Some(scaling) = scaling {
        halving(scaling, capacity, &mut text, &mut evidence);
    }
    let blocks = predicted.map(|found| found.blocks.clone());
    Some(Finding {
        kind: FindingKind::Excess,
        text,
        evidence,
        holders: holders(view, &blocks.unwrap_or_else(|| view.live_after(view.peak.event))),
        pools: Vec::new(),
        advice: "Need less at once: a smaller batch or shorter sequences, recomputation of \
                 activations, a smaller type, or parts of the state on the \
                 host (Drystone's spill_limit does that with large blocks).",
        bytes: missing,
    })
}

/// Adds what halving would give, and how that is known.
fn halving(
    scaling: &Scaling,
    capacity: u64,
    text: &mut String,
    evidence: &mut BTreeMap<&'static str, u64>,
) {
    let &Scaling { predicted, peak, constant, linear, quadratic, halved, .. } = scaling;
    let &Scaling { checked, off_percent, .. } = scaling;
    evidence.extend([
        ("constant", constant),
        ("linear", linear),
        ("quadratic", quadratic),
        ("halved_peak", halved),
        ("iterations_checked_count", checked),
        ("off_percent", off_percent),
    ]);
    if predicted {
        evidence.insert("predicted_peak", peak);
    }
    let what = match quadratic > linear / 16 {
        true => "the length of the sequence (or another size whose square counts)",
        false => "the batch (or another size that everything else follows)",
    };
    let squared = match quadratic {
        0 => String::new(),
        bytes => format!(", and {} its square", format_bytes(bytes)),
    };
    let fits = if halved <= capacity { "which fits" } else { "which is still too much" };
    let whose = if predicted { " of the iteration that failed" } else { "" };
    let about = if predicted { "about " } else { "" };
    let plural = if checked == 1 { "" } else { "s" };
    *text += &format!(
        " Iterations of other sizes show how what is needed scales: {} stay, {} follow the size of \
         what is worked on{squared}. Halving {what} would take the peak{whose} from {about}{} to about \
         {}, {fits}. The rule gives the peak{plural} of {checked} other iteration{plural} to \
         {off_percent}%.",
        format_bytes(constant),
        format_bytes(linear),
        format_bytes(peak),
        format_bytes(halved)
    );
}

/// Enough was there, but not in one piece.
fn fragmented(
    view: &View<'_>,
    baseline: &Baseline,
    failed: &Failed,
    scaling: Option<&Scaling>,
) -> Option<Finding> {
    let failure = &failed.told;
    let recorded = recorded(view, failed);
    let memory = recorded.or_else(|| replayed(view, baseline, failed));
    let reserved = failure.reserved.or(memory.map(|memory| memory.held))?;
    // The recorded blocks are larger than what follows from requests, where a rest was not worth a cut.
    let free = recorded.map_or(reserved.saturating_sub(failure.live), |memory| memory.free);
    // Where the recording does not say it, it follows from the capacity.
    let rest = || Some(view.capacity?.saturating_sub(reserved));
    let device_free = failure.device_free.or_else(rest).unwrap_or(0);
    let asked = rounded(failure.asked);
    if free == 0 || free.saturating_add(device_free) < asked || memory.is_none() && free < asked {
        return None;
    }
    let mut evidence = BTreeMap::from([
        ("asked", failure.asked),
        ("live", failure.live),
        ("reserved", reserved),
        ("reserved_free", free),
        ("device_free", device_free),
    ]);
    let mut text = format!(
        "{} were asked for. {} were reserved and free",
        format_bytes(failure.asked),
        format_bytes(free)
    );
    if let Some(memory) = memory.filter(|memory| memory.pieces > 0) {
        evidence.insert("free_pieces_count", memory.pieces);
        evidence.insert("largest_free", memory.largest_free);
        text += &format!(
            ", {} of them the largest of {} pieces",
            format_bytes(memory.largest_free),
            memory.pieces
        );
        let fits = memory.largest_free.max(device_free);
        text += &format!("; the device had {} more", format_bytes(device_free));
        if fits < asked {
            evidence.insert("would_have_fit", fits);
            text += &format!(". A request of up to {} would have fit", format_bytes(fits));
        }
    }
    text += ". The memory was there, but not in one piece.";
    // Where nearly all was needed, order alone does not help for long.
    let capacity = view.capacity.filter(|&all| view.peak.bytes >= all / 10 * 9);
    if let (Some(capacity), Some(scaling)) = (capacity, scaling) {
        halving(scaling, capacity, &mut text, &mut evidence);
    }
    Some(fragmentation(text, evidence, free))
}

/// What was held and free at the failure as the segments say, if nothing happened after it.
fn recorded(view: &View<'_>, failed: &Failed) -> Option<Memory> {
    let last = failed.told.recorded && view.ends_there();
    let segments = view.run.segments.iter().filter(|segment| segment.device == view.device);
    last.then(|| Memory::of_segments(segments)).filter(|memory| memory.held > 0)
}

/// The same from the replay, if it fails there too.
fn replayed(view: &View<'_>, baseline: &Baseline, failed: &Failed) -> Option<Memory> {
    let played = baseline.replayed.metrics.oom.as_ref().map(|oom| oom.at_event as usize);
    let fails_too = played == Some(failed.event);
    fails_too.then(|| baseline.memory_at_failure(view)).flatten()
}

/// Nothing failed and nobody said how much there is: whether much more was held than used.
fn wasted(view: &View<'_>, baseline: &Baseline) -> Option<Finding> {
    let (asked, memory) = baseline.largest_taken(view)?;
    if view.capacity.is_some() || memory.free < WASTE.max(memory.held / 5) {
        return None;
    }
    let text = format!(
        "No request failed. But when {} were asked for, new memory was taken although {} of what \
         was reserved, {} in all, were free: in {} pieces, the largest of {}.",
        format_bytes(asked),
        format_bytes(memory.free),
        format_bytes(memory.held),
        memory.pieces,
        format_bytes(memory.largest_free)
    );
    let evidence = BTreeMap::from([
        ("asked", asked),
        ("reserved", memory.held),
        ("reserved_free", memory.free),
        ("free_pieces_count", memory.pieces),
        ("largest_free", memory.largest_free),
    ]);
    Some(fragmentation(text, evidence, memory.free))
}

fn fragmentation(text: String, evidence: BTreeMap<&'static str, u64>, bytes: u64) -> Finding {
    Finding {
        kind: FindingKind::Fragmentation,
        text,
        evidence,
        holders: Vec::new(),
        pools: Vec::new(),
        advice: "Settings are tried below. Sizes that vary less from step to step, as with padding to a \
                 few lengths, help as well.",
        bytes,
    }
}
