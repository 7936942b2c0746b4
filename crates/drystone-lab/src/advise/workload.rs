//! What is asked for: the requests of a run on the devices that count, those that failed among them.

use std::collections::BTreeSet;

use drystone_trace::{Event, NO_BLOCK, Op, Run, Trace};

use super::AdviseError;
use crate::diagnose::View;

/// What a device gives at least.
pub(super) const PAGE: u64 = 2 << 20;

/// The requests that a setting has to meet.
pub(super) struct Workload {
    /// Which devices they are on, by number.
    pub(super) devices: Vec<u32>,
    /// The events of these devices. A request that failed is a block that comes and goes at once.
    pub(super) trace: Trace,
    /// The memory that the recording shows of a device on which a request failed; the least of them.
    pub(super) capacity: Option<u64>,
    /// The least memory of each device with which any allocator could do: in whole pages.
    pub(super) floor: u64,
}

impl Workload {
    /// The requests on one device, or on all that the run used: an allocator has one setting for all
    /// devices of a process.
    pub(super) fn of(run: &Run, device: Option<u32>) -> Result<Self, AdviseError> {
        let blocks = run.trace.events.iter().filter(|event| asks(event));
        let used: BTreeSet<u32> = blocks.map(|event| event.device).collect();
        let devices = match device {
            None => used.into_iter().collect(),
            Some(device) if used.contains(&device) => vec![device],
            Some(device) => {
                return Err(AdviseError::NoSuchDevice { device, used: used.into_iter().collect() });
            }
        };
        let views = devices.iter().map(|&device| View::of(run, device, None));
        let views: Vec<_> = views.collect();
        if !views.is_empty() && !views.iter().any(View::has_history) {
            return Err(AdviseError::NoHistory);
        }
        let peak = views.iter().map(|view| view.peak.bytes).max().unwrap_or(0);
        Ok(Workload {
            devices,
            capacity: views.iter().filter_map(|view| view.capacity).min(),
            floor: peak.checked_next_multiple_of(PAGE).unwrap_or(peak),
            trace: merged(run, views.into_iter().map(|view| view.trace).collect()),
        })
    }

    /// The largest request, in bytes.
    pub(super) fn largest(&self) -> u64 {
        self.trace.events.iter().filter(|event| asks(event)).map(|e| e.size).max().unwrap_or(0)
    }
}

fn asks(event: &Event) -> bool {
    matches!(event.op, Op::Alloc | Op::OutOfMemory)
}

/// The traces of several devices as one. Each numbers the blocks of its failed requests after the
/// run's own, so that they get numbers of their own here.
fn merged(run: &Run, mut traces: Vec<Trace>) -> Trace {
    let own = run.trace.blocks;
    let mut all = Trace {
        name: run.trace.name.clone(),
        events: Vec::new(),
        blocks: own,
        streams: run.trace.streams,
        devices: run.trace.devices,
        prelude: traces.iter().map(|trace| trace.prelude).sum(),
        block_pools: Vec::new(),
        dropped: Default::default(),
    };
    if let [_] = traces[..] {
        all.blocks = traces[0].blocks;
        all.events = std::mem::take(&mut traces[0].events);
        all.block_pools = std::mem::take(&mut traces[0].block_pools);
        return all;
    }
    all.block_pools = run.trace.block_pools.clone();
    let before = |trace: &Trace| trace.events[..trace.prelude].to_vec();
    let mut events: Vec<_> = traces.iter().flat_map(before).collect();
    for trace in &traces {
        let more = all.blocks - own;
        let rest = trace.events[trace.prelude..].iter().copied();
        events.extend(rest.map(|mut event| {
            if event.id != NO_BLOCK && event.id >= own {
                event.id = event.id.saturating_add(more);
            }
            event
        }));
        for block in own..trace.blocks {
            all.set_pool(block.saturating_add(more), trace.pool_of(block));
        }
        all.blocks = all.blocks.saturating_add(trace.blocks - own);
    }
    // What came at the same time keeps its order on each device.
    events[all.prelude..].sort_by_key(|event| event.t_us);
    all.events = events;
    all
}
