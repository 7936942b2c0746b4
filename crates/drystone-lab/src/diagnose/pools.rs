//! Private pools, as those of captured graphs: what each holds, how much of it lies idle, and whose
//! it is.

use std::collections::{BTreeMap, HashMap};

use drystone_core::config::format_bytes;
use drystone_trace::{BlockState, Segment, StackId};
use serde::Serialize;

use super::holders::{Holder, holders_of};
use super::memory::Memory;
use super::view::View;
use super::{Finding, FindingKind};

/// Pools that hold less are not worth telling of.
const WORTH: u64 = 64 << 20;
/// The most pools that are told of.
const MOST: usize = 6;

/// A private pool at the end of a run. Sizes are in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// Its id, as PyTorch writes it.
    pub id: (u64, u64),
    /// In its segments.
    pub reserved: u64,
    /// Of that in no block.
    pub idle: u64,
    /// The largest piece of that.
    pub largest_idle: u64,
    /// How many segments it has.
    pub segments: u64,
    /// Whose the blocks are, largest first; if it has none, who took the segments.
    pub holders: Vec<Holder>,
}

/// Private pools hold much, which nobody but them can use.
pub(super) fn finding(view: &View<'_>) -> Option<Finding> {
    let segments = || view.run.segments.iter().filter(|segment| segment.device == view.device);
    let private = || segments().filter(|segment| segment.segment_pool_id != (0, 0));
    let all = Memory::of_segments(segments());
    let memory = Memory::of_segments(private());
    if memory.held < WORTH.max(all.held / 4) {
        return None;
    }
    let mut pools = pools(view, private());
    let count = pools.len() as u64;
    pools.truncate(MOST);
    let largest = pools.first()?;
    Some(Finding {
        kind: FindingKind::PrivatePools,
        text: format!(
            "{count} private pools, as those of captured graphs, hold {} of the {} reserved at the \
             end, {} of it free. Only they can use it, and it is not given back while they live. The \
             largest, ({}, {}), has {} in {} segments, {} of it idle.",
            format_bytes(memory.held),
            format_bytes(all.held),
            format_bytes(memory.free),
            largest.id.0,
            largest.id.1,
            format_bytes(largest.reserved),
            largest.segments,
            format_bytes(largest.idle)
        ),
        evidence: BTreeMap::from([
            ("pools_count", count),
            ("private_reserved", memory.held),
            ("private_free", memory.free),
            ("reserved", all.held),
        ]),
        holders: Vec::new(),
        pools,
        advice: "Capture fewer shapes, the largest first, and let graphs that do not run at the \
                 same time share a pool (torch.cuda.graph(pool=…)).",
        bytes: memory.held,
    })
}

/// The pools of these segments, the one that holds most first.
fn pools<'a>(view: &View<'_>, segments: impl Iterator<Item = &'a Segment>) -> Vec<Pool> {
    let mut by_id: BTreeMap<(u64, u64), Vec<&Segment>> = BTreeMap::new();
    for segment in segments {
        by_id.entry(segment.segment_pool_id).or_default().push(segment);
    }
    let pool = |(id, segments): ((u64, u64), Vec<&Segment>)| {
        let memory = Memory::of_segments(segments.iter().copied());
        Pool {
            id,
            reserved: memory.held,
            idle: memory.free,
            largest_idle: memory.largest_free,
            segments: segments.len() as u64,
            holders: whose(view, &segments),
        }
    };
    let mut pools: Vec<_> = by_id.into_iter().map(pool).collect();
    // The order by id stays among equals.
    pools.sort_by_key(|pool| std::cmp::Reverse(pool.reserved));
    pools
}

fn whose(view: &View<'_>, segments: &[&Segment]) -> Vec<Holder> {
    let mut by_stack: HashMap<StackId, Holder> = HashMap::new();
    let blocks = segments.iter().flat_map(|segment| &segment.blocks);
    for block in blocks.filter(|block| block.state != BlockState::Inactive) {
        by_stack.entry(block.stack).or_default().add(block.size, 1, block.size);
    }
    if by_stack.is_empty() {
        for segment in segments {
            let bytes = segment.total_size;
            by_stack.entry(segment.stack).or_default().add(bytes, 1, bytes);
        }
    }
    holders_of(view.run, by_stack)
}
