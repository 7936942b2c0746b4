//! `torch.cuda.empty_cache()` between the phases of a run, as a policy that does so.

use std::fmt::Write;
use std::sync::Arc;

use drystone_core::{DeviceId, StreamId};
use drystone_trace::Op;

use super::holders::frame;
use super::laps::phases;
use super::view::View;
use crate::policy::{Policy, PolicySpec, Refusal};

/// Requests of this size and above tell where a program is.
const LARGE: u64 = 1 << 20;
/// The most places that are named.
const NAMED: usize = 3;

/// Where a run empties its cache: before each phase but the first.
pub(super) struct Emptying {
    /// Before which allocations, counted from 0.
    before: Arc<[u64]>,
    /// The places, in words.
    pub(super) places: String,
}

impl Emptying {
    /// None if the run has no phases.
    pub(super) fn of(view: &View<'_>) -> Option<Self> {
        let events = &view.trace.events;
        let (mut before, mut frames, mut times): (Vec<_>, Vec<(String, usize)>, Vec<_>) =
            (Vec::new(), Vec::new(), Vec::new());
        let (mut at, mut allocations) = (0, 0u64);
        let start = events.first()?.t_us;
        for phase in phases(view) {
            let passed = events[at..phase].iter().filter(|event| event.op == Op::Alloc);
            allocations += passed.count() as u64;
            at = phase;
            let mut asked = events[phase..].iter().filter(|event| event.op == Op::Alloc);
            // The trace may end with what a phase gives back.
            let Some(first) = asked.clone().next() else { continue };
            before.push(allocations);
            times.push(format!("{:.1} s", (first.t_us - start) as f64 / 1e6));
            let telling = asked.find(|event| event.size >= LARGE).unwrap_or(first);
            let Some(frame) = frame(view.run, view.stack_of(telling.id)) else { continue };
            match frames.iter_mut().find(|(known, _)| *known == frame) {
                Some((_, times)) => *times += 1,
                None => frames.push((frame, 1)),
            }
        }
        if before.is_empty() {
            return None;
        }
        let frames = frames.into_iter().map(|(frame, times)| match times {
            1 => frame,
            _ => format!("{frame} ({times} times)"),
        });
        let frames: Vec<_> = frames.collect();
        let places = match frames.is_empty() {
            true => format!("after {}", first_of(&times)),
            false => format!("before {}", first_of(&frames)),
        };
        Some(Emptying { before: before.into(), places })
    }

    /// The policy, emptying its cache there.
    pub(super) fn on(&self, policy: &PolicySpec) -> PolicySpec {
        let (make, before) = (Arc::clone(&policy.make), Arc::clone(&self.before));
        let make = move |driver| {
            let (policy, before) = (make(driver)?, Arc::clone(&before));
            Ok(Box::new(Emptied { policy, before, allocations: 0, done: 0 }) as Box<dyn Policy>)
        };
        PolicySpec { make: Arc::new(make), ..policy.clone() }
    }
}

/// The first of several, and how many more there are.
fn first_of(all: &[String]) -> String {
    let mut text = all[..all.len().min(NAMED)].join(", ");
    if all.len() > NAMED {
        let _ = write!(text, " and {} more", all.len() - NAMED);
    }
    text
}

/// A policy that empties its cache before certain allocations.
struct Emptied {
    policy: Box<dyn Policy>,
    before: Arc<[u64]>,
    allocations: u64,
    /// How many of them are behind.
    done: usize,
}

impl Policy for Emptied {
    fn allocate(&mut self, size: u64, device: DeviceId, stream: StreamId) -> Result<u64, Refusal> {
        self.allocate_in(0, size, device, stream)
    }

    fn allocate_in(
        &mut self,
        pool: u32,
        size: u64,
        device: DeviceId,
        stream: StreamId,
    ) -> Result<u64, Refusal> {
        if self.before.get(self.done) == Some(&self.allocations) {
            self.policy.empty_cache()?;
            self.done += 1;
        }
        self.allocations += 1;
        self.policy.allocate_in(pool, size, device, stream)
    }

    fn free(&mut self, address: u64) -> Result<(), String> {
        self.policy.free(address)
    }

    fn empty_cache(&mut self) -> Result<bool, Refusal> {
        self.policy.empty_cache()
    }

    fn block_bytes(&self, address: u64) -> Option<u64> {
        self.policy.block_bytes(address)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.policy.counters()
    }
}
