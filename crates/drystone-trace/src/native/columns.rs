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
    /// Pools of allocations; left out where all are in the default one.
    Pools,
}

pub(super) const COLUMNS: usize = 10;
/// So many are in every chunk; the others are empty where they are not there.
pub(super) const REQUIRED: usize = Column::Pools as usize;

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
    let with_pools = events.iter().any(|entry| entry.event.op == Op::Alloc && entry.pool != 0);
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
        if event.op == Op::Alloc {
            blocks += 1;
            if with_pools {
                column(Column::Pools, u64::from(entry.pool));
            }
        }
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
    let with_pools = !columns[Column::Pools as usize].is_empty();
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
        let mut pool = 0;
        if kind == Op::Alloc {
            if with_pools {
                pool = number(Column::Pools, "a pool")?;
            }
            let block = u32::try_from(blocks).ok().filter(|&block| block != NO_BLOCK);
            id = block.ok_or(Wrong("a block"))?;
            blocks += 1;
        }
        let pool = u32::try_from(pool).map_err(|_| Wrong("a pool"))?;
        if events.len() + 1 + usize::from(freed) > MOST_EVENTS {
            return Err(Wrong("the number of events"));
        }
        let (stream, device) = place;
        let event = Event { t_us, size, id, stream, device, op: kind };
        events.push(Entry { event, stack: StackId::from_number(stack), device_free, pool });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_a_number_for_each_allocation_and_what_is_none_is_refused() {
        let entry = |op, id, pool| {
            let event = Event { t_us: 0, size: 1, id, stream: 0, device: 0, op };
            Entry { pool, ..Entry::from(event) }
        };
        let snapshot = entry(Op::Snapshot, NO_BLOCK, 0);
        let events = [entry(Op::Alloc, 0, 0), snapshot, entry(Op::Alloc, 1, u32::MAX)];
        let mut columns = Default::default();
        encode(&events, 0, &mut columns);
        let pools = columns[Column::Pools as usize].clone();
        assert_eq!(pools, [0, 0xff, 0xff, 0xff, 0xff, 0x0f]);
        for (piece, expected) in [
            (&pools[..], Ok([0, 0, u32::MAX])),
            (&[], Ok([0; 3])),
            (&[1, 2, 3], Ok([1, 0, 2])),
            (&pools[..5], Err("a pool")),
            (&[1], Err("a pool")),
            (&[0, 0xff, 0xff, 0xff, 0xff, 0x1f], Err("a pool")),
            (&[0xff; 12], Err("a pool")),
        ] {
            columns[Column::Pools as usize] = piece.to_vec();
            let mut found = Vec::new();
            let decoded = decode(&columns, &mut found).map_err(|Wrong(what)| what);
            let found = decoded.map(|()| [found[0].pool, found[1].pool, found[2].pool]);
            assert_eq!(found, expected, "{piece:?}");
        }
        encode(&[entry(Op::Alloc, 0, 0), entry(Op::Snapshot, NO_BLOCK, 7)], 0, &mut columns);
        assert!(columns[Column::Pools as usize].is_empty());
    }
}
