//! What is no event: the head, stacks, segments, the end. Their chunks have one piece each.

use super::bytes::{Bytes, put, put_text};
use crate::dropped::{Dropped, Finding, Oddity};
use crate::error::Position;
use crate::event::{MAX_DEVICES, MAX_SIZE};
use crate::limits::{Budget, Exceeded};
use crate::snapshot::{BlockState, RawFrame, Segment, SegmentType, SnapshotBlock, StackId, Stacks};

/// What the readers of tables fail with.
pub(super) enum Bad {
    /// This is cut short or wrong.
    Content(&'static str),
    Limit(Exceeded),
}

impl From<Exceeded> for Bad {
    fn from(exceeded: Exceeded) -> Self {
        Bad::Limit(exceeded)
    }
}

// The head: the length of the prelude, then pairs of texts.

pub(super) fn put_head(out: &mut Vec<u8>, prelude: u64, settings: &[(String, String)]) {
    put(out, prelude);
    for (key, value) in settings {
        put_text(out, key);
        put_text(out, value);
    }
}

pub(super) struct Head {
    pub(super) prelude: u64,
    pub(super) settings: Vec<(String, String)>,
}

pub(super) fn head(piece: &[u8], items: u32, budget: &mut Budget) -> Result<Head, Bad> {
    let mut piece = Bytes(piece);
    let prelude = piece.number().ok_or(Bad::Content("the prelude"))?;
    let mut settings = Vec::new();
    for _ in 0..items {
        let pair = piece.text().and_then(|key| Some((key, piece.text()?)));
        let (key, value) = pair.ok_or(Bad::Content("a setting"))?;
        budget.charge((key.len() + value.len()) as u64)?;
        budget.push(&mut settings, (key.to_owned(), value.to_owned()))?;
    }
    Ok(Head { prelude, settings })
}

// Stacks: records that build up three tables, each naming earlier ones by number.

const STRING: u8 = 0;
const FRAME: u8 = 1;
const STACK: u8 = 2;

/// Where the next record of a table of stacks comes from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    strings: usize,
    frames: usize,
    stacks: usize,
}

impl Written {
    /// Appends the next record that was not written yet; false if there is none.
    pub(super) fn put_next(&mut self, out: &mut Vec<u8>, stacks: &Stacks) -> bool {
        let (strings, frames, count) = stacks.tables();
        if let Some(string) = strings.get(self.strings) {
            out.push(STRING);
            put_text(out, string);
            self.strings += 1;
        } else if let Some(frame) = frames.get(self.frames) {
            out.push(FRAME);
            put(out, u64::from(frame.filename));
            put(out, u64::from(frame.line));
            put(out, u64::from(frame.name));
            self.frames += 1;
        } else if self.stacks < count {
            self.stacks += 1;
            let members = stacks.members(StackId::from_number(self.stacks as u32));
            out.push(STACK);
            put(out, members.len() as u64);
            members.iter().for_each(|&frame| put(out, u64::from(frame)));
        } else {
            return false;
        }
        true
    }
}

pub(super) fn stacks(
    piece: &[u8],
    items: u32,
    stacks: &mut Stacks,
    budget: &mut Budget,
) -> Result<(), Bad> {
    let mut piece = Bytes(piece);
    let mut members = Vec::new();
    for _ in 0..items {
        let known = match piece.byte() {
            Some(STRING) => {
                let text = piece.text().ok_or(Bad::Content("a string"))?;
                stacks.push_string(text, budget)?;
                true
            }
            Some(FRAME) => {
                let numbers = (piece.small(), piece.small(), piece.small());
                let (Some(filename), Some(line), Some(name)) = numbers else {
                    return Err(Bad::Content("a frame"));
                };
                stacks.push_frame(RawFrame { filename, name, line }, budget)?
            }
            Some(STACK) => {
                members.clear();
                // A number takes a byte at least, so that this ends with the piece.
                for _ in 0..piece.number().ok_or(Bad::Content("a stack"))? {
                    members.push(piece.small().ok_or(Bad::Content("a stack"))?);
                }
                stacks.push_stack(&members, budget)?
            }
            _ => return Err(Bad::Content("a record of stacks")),
        };
        if !known {
            return Err(Bad::Content("a number of a string or frame"));
        }
    }
    Ok(())
}

// Segments: each a record, and behind it one for each of its blocks.

const SEGMENT: u8 = 0;
const BLOCK: u8 = 1;

/// The flags of a segment.
const SMALL: u64 = 1;
const EXPANDABLE: u64 = 2;

pub(super) fn put_segment(out: &mut Vec<u8>, segment: &Segment) {
    let small = u64::from(segment.segment_type == SegmentType::Small) * SMALL;
    let expandable = u64::from(segment.is_expandable) * EXPANDABLE;
    out.push(SEGMENT);
    for value in [
        u64::from(segment.device),
        segment.address,
        segment.total_size,
        segment.allocated_size,
        segment.active_size,
        segment.requested_size,
        segment.stream,
        small | expandable,
        segment.segment_pool_id.0,
        segment.segment_pool_id.1,
        u64::from(segment.stack.number()),
    ] {
        put(out, value);
    }
}

/// A block's address goes in as the distance from `end`, where the one before ended.
pub(super) fn put_block(out: &mut Vec<u8>, block: &SnapshotBlock, end: u64) {
    let state = match block.state {
        BlockState::Allocated => 0,
        BlockState::PendingFree => 1,
        BlockState::Inactive => 2,
    };
    out.push(BLOCK);
    let distance = block.address.wrapping_sub(end);
    let stack = u64::from(block.stack.number());
    for value in [distance, block.size, block.requested_size, state, stack] {
        put(out, value);
    }
}

/// Where a block ends, for the next one's distance.
pub(super) fn end_of(block: &SnapshotBlock) -> u64 {
    block.address.wrapping_add(block.size)
}

/// Appends what a chunk has; blocks belong to the last segment, also one of a chunk before.
pub(super) fn segments(
    piece: &[u8],
    items: u32,
    segments: &mut Vec<Segment>,
    budget: &mut Budget,
) -> Result<(), Bad> {
    let mut piece = Bytes(piece);
    for _ in 0..items {
        match piece.byte() {
            Some(SEGMENT) => {
                let segment = segment(&mut piece).ok_or(Bad::Content("a segment"))?;
                budget.push(segments, segment)?;
            }
            Some(BLOCK) => {
                let last = segments.last_mut().ok_or(Bad::Content("a block without a segment"))?;
                let end = last.blocks.last().map_or(last.address, end_of);
                let block = block(&mut piece, end).ok_or(Bad::Content("a block"))?;
                budget.push(&mut last.blocks, block)?;
            }
            _ => return Err(Bad::Content("a record of segments")),
        }
    }
    Ok(())
}

fn segment(piece: &mut Bytes<'_>) -> Option<Segment> {
    let mut values = [0; 11];
    for value in &mut values {
        *value = piece.number()?;
    }
    let [device, address, total, allocated, active, requested, stream, flags, first, second, stack] =
        values;
    let sizes = [total, allocated, active, requested];
    if device >= u64::from(MAX_DEVICES) || sizes.iter().any(|&size| size > MAX_SIZE) {
        return None;
    }
    Some(Segment {
        device: device as u32,
        address,
        total_size: total,
        allocated_size: allocated,
        active_size: active,
        requested_size: requested,
        stream,
        segment_type: if flags & SMALL != 0 { SegmentType::Small } else { SegmentType::Large },
        segment_pool_id: (first, second),
        is_expandable: flags & EXPANDABLE != 0,
        blocks: Vec::new(),
        stack: StackId::from_number(stack.try_into().ok()?),
    })
}

fn block(piece: &mut Bytes<'_>, end: u64) -> Option<SnapshotBlock> {
    let address = end.wrapping_add(piece.number()?);
    let (size, requested_size) = (piece.number()?, piece.number()?);
    let state = match piece.number()? {
        0 => BlockState::Allocated,
        1 => BlockState::PendingFree,
        2 => BlockState::Inactive,
        _ => return None,
    };
    let stack = StackId::from_number(piece.small()?);
    let fits = size <= MAX_SIZE && requested_size <= MAX_SIZE;
    fits.then_some(SnapshotBlock { address, size, requested_size, state, stack })
}

// The end: totals, and what the recording's reader dropped or repaired.

/// Totals over all events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) events: u64,
    pub(super) blocks: u64,
}

pub(super) fn put_end(out: &mut Vec<u8>, totals: Totals, dropped: &Dropped) {
    put(out, totals.events);
    put(out, totals.blocks);
    for finding in dropped.findings() {
        let oddity = Oddity::ALL.iter().position(|&oddity| oddity == finding.oddity);
        put(out, oddity.unwrap_or(Oddity::ALL.len()) as u64);
        put(out, finding.count);
        let (kind, first, second) = match finding.first {
            Position::Whole => (0, 0, 0),
            Position::Line(line) => (1, line, 0),
            Position::Byte(offset) => (2, offset, 0),
            Position::Entry { device, index } => (3, u64::from(device), index),
            Position::Segment(index) => (4, index, 0),
            Position::Event(index) => (5, index, 0),
        };
        [kind, first, second].iter().for_each(|&value| put(out, value));
    }
}

/// The totals and findings; kinds of findings that only a newer version knows are left out.
pub(super) fn end(piece: &[u8], items: u32) -> Result<(Totals, Dropped), Bad> {
    let mut piece = Bytes(piece);
    let totals = piece.number().zip(piece.number());
    let (events, blocks) = totals.ok_or(Bad::Content("the totals"))?;
    let mut dropped = Dropped::default();
    for _ in 0..items {
        let mut values = [0; 5];
        for value in &mut values {
            *value = piece.number().ok_or(Bad::Content("a finding"))?;
        }
        let [oddity, count, kind, first, second] = values;
        let position = match kind {
            1 => Position::Line(first),
            2 => Position::Byte(first),
            3 => Position::Entry { device: first as u32, index: second },
            4 => Position::Segment(first),
            5 => Position::Event(first),
            _ => Position::Whole,
        };
        let oddity = usize::try_from(oddity).ok().and_then(|place| Oddity::ALL.get(place));
        if let Some(&oddity) = oddity {
            dropped.add(Finding { oddity, count, first: position });
        }
    }
    Ok((Totals { events, blocks }, dropped))
}
