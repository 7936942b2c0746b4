//! Events as columns: each number among its like, and most of them left out.
//!
//! A chunk begins with its first time and the number of its first block, so that it can be read
//! alone. Frees name blocks by how many allocations ago they came, and have no size of their own.

use super::bytes::{Bytes, put};
use super::{Entry, MOST_EVENTS};
use crate::event::{Event, MAX_DEVICES, MAX_SIZE, NO_BLOCK, Op};
use crate::snapshot::StackId;

/// The pieces of a chunk of events, by place.
#[derive(Clone, Copy)]
pub(super) enum Column {
    /// The time of the first event, and how many blocks there were before it.
    Start,
    /// A byte for each entry: its operation and flags.
    Ops,
    /// Stream and device, where they are not those of the entry before.
    Places,
    /// A byte for each entry at another time than the one before: the difference less 1.
    Times,
    /// What a difference has above 255.
    LongTimes,
    /// Bytes, of all but frees.
    Sizes,
    /// Of frees: how many blocks were allocated since theirs.
    Ages,
    /// Stacks, where there is one.
    Stacks,
    /// Bytes free on the device, where that is known.
    DeviceFree,
}

pub(super) const COLUMNS: usize = 9;

/// The operation of an entry is the place in [`Op::ALL`], or this: a free that was requested and
/// completed at once, two events.
const FREED: u8 = Op::ALL.len() as u8;

const OP: u8 = 0x0f;
/// The entry has a place of its own.
const PLACE: u8 = 0x10;
/// The entry has the time of the one before.
const SAME_TIME: u8 = 0x20;
/// The entry has a stack.
const STACK: u8 = 0x40;
/// The entry says how much the device had free.
const DEVICE_FREE: u8 = 0x80;

/// A difference of times that goes into one byte is below this.
const LONG: u64 = 256;

/// Writes the events of one chunk into `columns`; `blocks` is how many there were before it.
pub(super) fn encode(events: &[Entry], mut blocks: u32, columns: &mut [Vec<u8>; COLUMNS]) {
    columns.iter_mut().for_each(Vec::clear);
    let mut column = |which: Column, value: u64| put(&mut columns[which as usize], value);
    let mut last_t = events.first().map_or(0, |first| first.event.t_us);
    column(Column::Start, last_t);
    column(Column::Start, u64::from(blocks));
    let mut last_place = (0, 0);
    let mut ops = Vec::with_capacity(events.len());
    let mut times = Vec::with_capacity(events.len());
    let mut rest = events;
    while let [entry, after @ ..] = rest {
        let event = &entry.event;
        let freed = after.first().is_some_and(|next| completes(event, next));
        rest = if freed { &after[1..] } else { after };
        let mut op = if freed { FREED } else { event.op as u8 };
        let place = (event.stream, event.device);
        if place != last_place {
            op |= PLACE;
            column(Column::Places, u64::from(event.stream));
            column(Column::Places, u64::from(event.device));
            last_place = place;
        }
        match event.t_us - last_t {
            0 => op |= SAME_TIME,
            since if since < LONG => times.push((since - 1) as u8),
            since => {
                times.push(u8::MAX);
                column(Column::LongTimes, since - LONG);
            }
        }
        last_t = event.t_us;
        if entry.stack != StackId::default() {
            op |= STACK;
            column(Column::Stacks, u64::from(entry.stack.number()));
        }
        match event.op {
            Op::FreeRequested | Op::FreeCompleted => {
                column(Column::Ages, u64::from(blocks - 1 - event.id));
            }
            _ => column(Column::Sizes, event.size),
        }
        if let Some(device_free) = entry.device_free {
            op |= DEVICE_FREE;
            column(Column::DeviceFree, device_free);
        }
        blocks += u32::from(event.op == Op::Alloc);
        ops.push(op);
    }
    columns[Column::Ops as usize] = ops;
    columns[Column::Times as usize] = times;
}

/// Whether the second event is the first one's free completed, and says nothing else.
fn completes(request: &Event, next: &Entry) -> bool {
    request.op == Op::FreeRequested
        && *next == Entry::from(Event { op: Op::FreeCompleted, ..*request })
}

/// What is wrong with a column.
pub(super) struct Wrong(pub(super) &'static str);

/// The events of one chunk appended to `events`. A free's size is 0.
pub(super) fn decode(columns: &[Vec<u8>; COLUMNS], events: &mut Vec<Entry>) -> Result<(), Wrong> {
    let mut readers = columns.each_ref().map(|column| Bytes(column));
    let mut number = |which: Column, wrong| readers[which as usize].number().ok_or(Wrong(wrong));
    let mut t_us = number(Column::Start, "a start")?;
    let mut blocks = number(Column::Start, "a start")?;
    let mut place = (0, 0);
    let mut times = columns[Column::Times as usize].iter();
    for &op in &columns[Column::Ops as usize] {
        let freed = op & OP == FREED;
        let kind = if freed { Op::FreeRequested } else { kind_of(op)? };
        if op & PLACE != 0 {
            let stream = number(Column::Places, "a stream")?.try_into();
            let device = number(Column::Places, "a device")?;
            let device = u32::try_from(device).ok().filter(|&device| device < MAX_DEVICES);
            place = stream.ok().zip(device).ok_or(Wrong("a stream or a device"))?;
        }
        if op & SAME_TIME == 0 {
            let since = match *times.next().ok_or(Wrong("a time"))? {
                u8::MAX => number(Column::LongTimes, "a time")?.checked_add(LONG),
                short => Some(u64::from(short) + 1),
            };
            t_us = since.and_then(|since| t_us.checked_add(since)).ok_or(Wrong("a time"))?;
        }
        let stack = if op & STACK != 0 { number(Column::Stacks, "a stack")? } else { 0 };
        let stack = u32::try_from(stack).map_err(|_| Wrong("a stack"))?;
        let mut device_free = None;
        if op & DEVICE_FREE != 0 {
            device_free = Some(number(Column::DeviceFree, "free bytes")?);
        }
        let (mut id, mut size) = (NO_BLOCK, 0);
        if matches!(kind, Op::FreeRequested | Op::FreeCompleted) {
            let back = number(Column::Ages, "a free's block")?.checked_add(1);
            let block = back.and_then(|back| blocks.checked_sub(back));
            id = block.and_then(|block| block.try_into().ok()).ok_or(Wrong("a free's block"))?;
        } else {
            size = number(Column::Sizes, "a size")?;
            if size > MAX_SIZE {
                return Err(Wrong("a size"));
            }
        }
        if kind == Op::Alloc {
            let block = u32::try_from(blocks).ok().filter(|&block| block != NO_BLOCK);
            id = block.ok_or(Wrong("a block"))?;
            blocks += 1;
        }
        if events.len() + 1 + usize::from(freed) > MOST_EVENTS {
            return Err(Wrong("the number of events"));
        }
        let (stream, device) = place;
        let event = Event { t_us, size, id, stream, device, op: kind };
        events.push(Entry { event, stack: StackId::from_number(stack), device_free });
        if freed {
            let event = Event { op: Op::FreeCompleted, ..event };
            events.push(Entry::from(event));
        }
    }
    Ok(())
}

fn kind_of(op: u8) -> Result<Op, Wrong> {
    Op::ALL.get(usize::from(op & OP)).copied().ok_or(Wrong("an operation"))
}
