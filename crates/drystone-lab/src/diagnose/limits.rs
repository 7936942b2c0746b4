//! Findings about how much the program may have: a limit that is too low, one that is too high for
//! what there is, and others on the device.

use std::collections::{BTreeMap, HashMap, HashSet};

use drystone_core::config::format_bytes;
use drystone_trace::{Op, StackId};

use super::baseline::Baseline;
use super::holders::holders;
use super::view::{View, rounded};
use super::{Failure, Finding, FindingKind};
use crate::recording::Recording;

const MIB: u64 = 1 << 20;
/// What PyTorch takes of the device for requests up to 1 MiB, and below 10 MiB.
const SEGMENTS: [(u64, u64); 2] = [(MIB, 2 * MIB), (10 * MIB, 20 * MIB)];
/// A driver refuses memory although a little of it is left.
const SLACK: u64 = 32 * MIB;
/// What a program uses of a device beside its allocator (the CUDA context, libraries) is below
/// this, or below a 16th of the device.
const CONTEXT: u64 = 1 << 30;
/// What was set aside counts from this part of the live bytes on.
const ASIDE: u64 = 8;
/// Parts of names of functions that set memory aside for the whole run, as an engine that serves
/// sets aside what its utilization setting leaves for keys and values.
const SETS_ASIDE: [&str; 4] = ["cache", "prealloc", "reserve", "workspace"];

/// The bytes that the device has to have for a request.
fn segment(asked: u64) -> u64 {
    let small = SEGMENTS.iter().find(|&&(most, _)| asked <= most);
    small.map_or(asked, |&(_, segment)| segment)
}

/// Whether the device had room for what was refused.
fn had_room(failure: &Failure) -> bool {
    let needed = segment(failure.asked).saturating_add(SLACK);
    failure.device_free.is_some_and(|free| failure.recorded && free >= needed)
}

/// The most that the limit allows which refused a request, as far as that shows: a segment more was
/// too much.
pub(super) fn allowed(failure: &Failure) -> Option<u64> {
    let most = failure.reserved?.saturating_add(segment(failure.asked)).saturating_sub(1);
    had_room(failure).then_some(most / SEGMENTS[0].1 * SEGMENTS[0].1)
}

/// The device had room for the segment, and yet it was refused.
pub(super) fn too_low(
    view: &View<'_>,
    failure: &Failure,
    fraction: Option<f64>,
) -> Option<Finding> {
    let free = failure.device_free.filter(|_| had_room(failure))?;
    let mut text = format!(
        "{} were asked for and refused although the device had {} free: a limit is set too \
         low, not the memory too small.",
        format_bytes(failure.asked),
        format_bytes(free)
    );
    let mut evidence = BTreeMap::from([("asked", failure.asked), ("device_free", free)]);
    if let Some(fraction) = fraction {
        text += &format!(" The recorded per_process_memory_fraction is {fraction}.");
    } else if let Some(limit) = view.limit {
        evidence.insert("limit", limit);
        text += &format!(" It is about {}.", format_bytes(limit));
    }
    Some(Finding {
        kind: FindingKind::Limit,
        text,
        evidence,
        holders: Vec::new(),
        pools: Vec::new(),
        advice: "Raise what torch.cuda.set_per_process_memory_fraction, or a framework's \
                 utilization setting, allows.",
        bytes: free,
    })
}

/// What others left to the program of the capacity that was said, where they hold much.
pub(super) fn beside(view: &View<'_>) -> Option<u64> {
    let (total, available) = (view.said?, view.failure?.available()?);
    let much = total.saturating_sub(available) >= CONTEXT.max(total / 16);
    much.then_some(available)
}

/// Much of the device was neither free nor the program's own.
pub(super) fn other_process(view: &View<'_>) -> Option<Finding> {
    let (total, available) = (view.said?, view.beside?);
    let others = total.saturating_sub(available);
    Some(Finding {
        kind: FindingKind::OtherProcess,
        text: format!(
            "Of {} the program's allocator held or could have had only {}. The other {} are held \
             by another process, by another framework in this one, or by libraries (a CUDA \
             context takes about half a GiB of it).",
            format_bytes(total),
            format_bytes(available),
            format_bytes(others)
        ),
        evidence: BTreeMap::from([("total", total), ("available", available), ("others", others)]),
        holders: Vec::new(),
        pools: Vec::new(),
        advice: "Look at nvidia-smi for who else is there; keep other frameworks from taking the \
                 device whole (XLA_PYTHON_CLIENT_PREALLOCATE=false, TF_FORCE_GPU_ALLOW_GROWTH=true).",
        bytes: others,
    })
}

/// More was promised, set aside or kept than leaves room for the rest.
pub(super) fn too_high(view: &View<'_>, baseline: &Baseline) -> Option<Finding> {
    let promised = promised(view, baseline.settings.fraction);
    promised.or_else(|| set_aside(view)).or_else(|| crowded(view))
}

/// The fraction allows more than the device had left.
fn promised(view: &View<'_>, fraction: Option<f64>) -> Option<Finding> {
    let (fraction, total, failed) = (fraction?, view.said?, view.failure?);
    let allowed = (fraction * total as f64) as u64;
    let available = failed.available()?;
    if had_room(&failed.told) || available >= allowed {
        return None;
    }
    let most = (100.0 * available as f64 / total as f64).floor() / 100.0;
    let text = format!(
        "A per_process_memory_fraction of {fraction} promises {} of {}, but the device had only {} \
         left for the program, and ran out before the limit was reached. With what else is there the \
         fraction can be {most} at most.",
        format_bytes(allowed),
        format_bytes(total),
        format_bytes(available)
    );
    let evidence =
        BTreeMap::from([("total", total), ("allowed", allowed), ("available", available)]);
    let advice = "Set the fraction to what others leave: an allocator that knows its limit gives \
                  cached memory back in time, and a framework's utilization setting then sizes its \
                  caches to what there is.";
    let (holders, pools, bytes) = (Vec::new(), Vec::new(), allowed - available);
    let kind = FindingKind::LimitTooHigh;
    Some(Finding { kind, text, evidence, holders, pools, advice, bytes })
}

/// Most of what was live was set aside for later, and something small did not fit any more.
fn set_aside(view: &View<'_>) -> Option<Finding> {
    let failed = view.failure?;
    let stack = view.stack_of(view.trace.events[failed.event].id);
    let mut aside: HashMap<StackId, Vec<(u32, u64)>> = HashMap::new();
    for (id, size) in view.live_after(failed.event) {
        aside.entry(view.stack_of(id)).or_default().push((id, size));
    }
    // What comes and goes is in use, not set aside.
    let frees = view.trace.events[..failed.event].iter().filter(|e| e.op == Op::FreeCompleted);
    let passing: HashSet<StackId> = frees.map(|event| view.stack_of(event.id)).collect();
    aside.retain(|&of, _| of != stack && !passing.contains(&of) && sets_aside(view, of));
    let blocks: Vec<_> = aside.into_values().flatten().collect();
    let bytes = blocks.iter().fold(0u64, |sum, &(_, size)| sum.saturating_add(rounded(size)));
    let Failure { asked, live, .. } = failed.told;
    if bytes == 0 || bytes < live / ASIDE || asked > bytes / 2 {
        return None;
    }
    let reserved = failed.told.reserved.unwrap_or(live);
    let available = view.limit.or(failed.available()).or(view.capacity).unwrap_or(reserved);
    let missing = live.saturating_add(rounded(asked)).saturating_sub(available);
    let mut text = format!(
        "{} of the {} that were live had been set aside for the whole run, and then {} more \
         could not be had.",
        format_bytes(bytes),
        format_bytes(live),
        format_bytes(asked)
    );
    let mut evidence = BTreeMap::from([("set_aside", bytes), ("live", live), ("asked", asked)]);
    if missing > 0 {
        evidence.insert("missing", missing);
        text += &format!(" At least {} have to be left for it.", format_bytes(missing));
    }
    let advice = "Set aside less: lower the framework's utilization setting (vLLM: \
                  gpu_memory_utilization), so that graph capture, activations and libraries have \
                  room beside the cache.";
    let (kind, holders) = (FindingKind::SetAside, holders(view, &blocks));
    Some(Finding { kind, text, evidence, holders, pools: Vec::new(), advice, bytes })
}

fn sets_aside(view: &View<'_>, stack: StackId) -> bool {
    let mut frames = view.run.stacks.frames(stack);
    frames.any(|frame| {
        let name = frame.name.to_ascii_lowercase();
        frame.filename.ends_with(".py") && SETS_ASIDE.iter().any(|part| name.contains(part))
    })
}

/// Nothing failed here, but the cache took nearly all of the device, and did not need it.
fn crowded(view: &View<'_>) -> Option<Finding> {
    let total = view.said.filter(|_| view.failure.is_none())?;
    let reserved = Recording::of(&view.trace).peak_reserved.filter(|&bytes| bytes <= total)?;
    let (left, peak) = (total - reserved, view.peak.bytes);
    let idle = reserved.saturating_sub(peak);
    if left >= CONTEXT.min(total / 16) || idle < (total / 8).max(left) {
        return None;
    }
    let fraction = (100.0 * (peak as f64 * 1.05) / total as f64).ceil() / 100.0;
    let text = format!(
        "At its peak the allocator held {} of {}, and left {} to all others: the CUDA context, \
         libraries, other frameworks. It never needed more than {} for blocks; what is above that was \
         cached.",
        format_bytes(reserved),
        format_bytes(total),
        format_bytes(left),
        format_bytes(peak)
    );
    let text =
        text + &format!(" A fraction of {fraction} would hold what was live and a 20th more.");
    let evidence = BTreeMap::from([
        ("total", total),
        ("reserved", reserved),
        ("left", left),
        ("peak_live", peak),
    ]);
    let advice = "Set torch.cuda.set_per_process_memory_fraction, so that the cache gives memory back \
                  before others run out of it.";
    let (holders, pools) = (Vec::new(), Vec::new());
    let kind = FindingKind::LimitTooHigh;
    Some(Finding { kind, text, evidence, holders, pools, advice, bytes: idle })
}
