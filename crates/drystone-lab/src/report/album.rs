//! One policy in a page: its memory over time, where its waste was, and what lay where.
//!
//! Addresses that a policy ever used are few beside those that it had. They are written as places:
//! the addresses of all spans that were in use at some moment, one after the other, in units of the
//! largest power of two that divides them all.

use drystone_trace::{Op, Trace};

use super::causes::{Causes, causes};
use super::columns::Columns;
use super::ground::Ground;
use super::moments::{Life, Moments};
use crate::journal::{Journal, Placed};

/// The largest unit of places: a page.
const MOST_UNIT: u64 = 2 << 20;

/// Most and least of a part of the run's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) most: u64,
    pub(super) least: u64,
}

/// Equal parts of a run's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    origin_us: u64,
    /// Microseconds in each.
    pub(super) step_us: u64,
    pub(super) count: usize,
}

impl Parts {
    pub(super) fn of(trace: &Trace, most: u64) -> Parts {
        let step_us = trace.duration_us() / most + 1;
        let origin_us = trace.events.first().map_or(0, |event| event.t_us);
        let count = if trace.events.is_empty() { 0 } else { trace.duration_us() / step_us + 1 };
        Parts { origin_us, step_us, count: count as usize }
    }

    /// Most and least in each part, up to the last of `steps`: bytes from certain times on, in
    /// order. The end is the last time that counts.
    pub(super) fn ranges(
        &self,
        steps: impl Iterator<Item = (u64, u64)>,
        end_us: u64,
    ) -> Vec<Range> {
        let part = |t_us: u64| ((t_us - self.origin_us) / self.step_us) as usize;
        let mut ranges: Vec<Range> = Vec::with_capacity(self.count);
        let mut now = 0;
        for (t_us, bytes) in steps {
            while ranges.len() <= part(t_us) {
                ranges.push(Range { most: now, least: now });
            }
            if let Some(range) = ranges.last_mut() {
                range.most = range.most.max(bytes);
                range.least = range.least.min(bytes);
            }
            now = bytes;
        }
        if self.count > 0 {
            ranges.resize(part(end_us) + 1, Range { most: now, least: now });
        }
        ranges
    }
}

/// Writes ranges: two columns.
pub(super) fn write_ranges(columns: &mut Columns, ranges: &[Range]) {
    columns.differences(ranges.iter().map(|range| range.most));
    columns.plain(ranges.iter().map(|range| range.most - range.least));
}

/// Live bytes in each part.
pub(super) fn live(trace: &Trace, parts: &Parts) -> Vec<Range> {
    let mut live = 0u64;
    let steps = trace.events.iter().filter_map(|event| {
        match event.op {
            Op::Alloc => live = live.saturating_add(event.size),
            Op::FreeCompleted => live = live.saturating_sub(event.size),
            _ => return None,
        }
        Some((event.t_us, live))
    });
    parts.ranges(steps, trace.events.last().map_or(0, |event| event.t_us))
}

/// A policy's columns, as text. `lives` are all blocks that a moment sees, `shown` those of them
/// that the page has.
pub(super) fn album(
    trace: &Trace,
    journal: &Journal,
    moments: &Moments,
    lives: &[Life],
    shown: &[Life],
    parts: &Parts,
) -> String {
    let mut columns = Columns::default();
    let events = &trace.events[..journal.played];
    let time = |event: u32| trace.events[event as usize].t_us;
    let steps = journal.reserved().into_iter().map(|(event, bytes)| (time(event), bytes));
    let end_us = events.last().map_or(parts.origin_us, |event| event.t_us);
    let steps: Vec<_> = steps.take_while(|&(t_us, _)| t_us <= end_us).collect();
    write_ranges(&mut columns, &parts.ranges(steps.into_iter(), end_us));

    let ground = Ground::of(journal, moments);
    let played = moments.events.partition_point(|&event| (event as usize) < journal.played);
    let causes = causes(&ground, lives, &journal.blocks, played);
    write_causes(&mut columns, &causes);

    let layout = Layout::of(&ground, shown, &journal.blocks);
    layout.write(&mut columns);
    write_mappings(&mut columns, &ground, &layout);
    write_blocks(&mut columns, shown, &journal.blocks, &layout);
    columns.text()
}

fn write_causes(columns: &mut Columns, causes: &[Causes]) {
    let parts: [fn(&Causes) -> u64; 6] = [
        |causes| causes.used,
        |causes| causes.pending,
        |causes| causes.rounding,
        |causes| causes.shared,
        |causes| causes.stuck,
        |causes| causes.idle,
    ];
    for part in parts {
        columns.differences(causes.iter().map(part));
    }
}

/// Which places addresses have.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    /// Bytes of a place.
    unit: u64,
    spans: Vec<Span>,
}

/// Addresses that were in use at some moment, and the first of their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    device: u32,
    start: u64,
    end: u64,
    place: u64,
}

impl Layout {
    fn of(ground: &Ground, shown: &[Life], placed: &[Placed]) -> Layout {
        let mappings = ground.mappings.iter().map(|mapping| {
            (ground.container(mapping).device, mapping.address, ground.end(mapping))
        });
        let blocks = shown.iter().filter_map(|life| {
            let Placed { address, bytes } = placed[life.id as usize];
            (address != 0).then(|| (life.device, address, address.saturating_add(bytes.max(1))))
        });
        let starts = || blocks.clone().map(|(_, start, _)| start);
        let ends = mappings.clone().flat_map(|(_, start, end)| [start, end]);
        let bits = ends.chain(starts()).fold(MOST_UNIT, |bits, address| bits | address);
        let unit = 1 << bits.trailing_zeros();
        let mut all: Vec<_> = mappings.chain(blocks).collect();
        all.sort_unstable();
        let mut spans: Vec<Span> = Vec::new();
        for (device, start, end) in all {
            match spans.last_mut() {
                Some(last) if last.device == device && start <= last.end => {
                    last.end = last.end.max(end);
                }
                _ => spans.push(Span { device, start, end, place: 0 }),
            }
        }
        let mut place = 0;
        for span in &mut spans {
            span.place = place;
            place += (span.end - span.start).div_ceil(unit);
        }
        Layout { unit, spans }
    }

    /// The place of an address in use.
    fn place(&self, device: u32, address: u64) -> u64 {
        let after = self.spans.partition_point(|s| (s.device, s.start) <= (device, address));
        let span = self.spans[after.saturating_sub(1)];
        span.place + (address - span.start) / self.unit
    }

    fn write(&self, columns: &mut Columns) {
        columns.plain([self.unit].into_iter());
        columns.plain(self.spans.iter().map(|span| span.device.into()));
        columns.differences(self.spans.iter().map(|span| span.start / self.unit));
        columns.plain(self.spans.iter().map(|s| (s.end - s.start).div_ceil(self.unit)));
    }
}

fn write_mappings(columns: &mut Columns, ground: &Ground, layout: &Layout) {
    let mut all: Vec<_> = ground.mappings.iter().collect();
    all.sort_unstable_by_key(|mapping| (ground.container(mapping).device, mapping.address));
    let place = |mapping: &&super::ground::Mapping| {
        layout.place(ground.container(mapping).device, mapping.address)
    };
    columns.differences(all.iter().map(place));
    columns.plain(all.iter().map(|m| ground.container(m).bytes.div_ceil(layout.unit)));
    columns.plain(all.iter().map(|mapping| mapping.from.into()));
    columns.plain(all.iter().map(|mapping| (mapping.to - mapping.from).into()));
    columns.differences(all.iter().map(|mapping| mapping.container.into()));
    columns.plain(all.iter().map(|mapping| ground.container(mapping).kind as u64));
}

/// The blocks' places, as numbers of a table of all, counted from 1; 0 is none. And what rounding
/// adds to each.
fn write_blocks(columns: &mut Columns, shown: &[Life], placed: &[Placed], layout: &Layout) {
    let place = |life: &Life| {
        let Placed { address, .. } = placed[life.id as usize];
        (address != 0).then(|| layout.place(life.device, address))
    };
    let mut places: Vec<_> = shown.iter().filter_map(place).collect();
    places.sort_unstable();
    places.dedup();
    columns.differences(places.iter().copied());
    columns.plain(shown.iter().map(|life| {
        place(life).map_or(0, |place| places.partition_point(|&other| other < place) as u64 + 1)
    }));
    columns.plain(shown.iter().map(|life| {
        let Placed { address, bytes } = placed[life.id as usize];
        if address == 0 { 0 } else { bytes.saturating_sub(life.size) }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::ground::{Container, Kind, Mapping};

    const MIB: u64 = 1 << 20;

    #[test]
    fn parts_keep_most_and_least() {
        let parts = Parts { origin_us: 100, step_us: 10, count: 5 };
        let steps = [(100, 5), (105, 9), (108, 2), (131, 7)];
        let range = |most, least| Range { most, least };
        let expected = [range(9, 0), range(2, 2), range(2, 2), range(7, 2), range(7, 7)];
        assert_eq!(parts.ranges(steps.into_iter(), 140), expected);
        assert_eq!(parts.ranges(steps.into_iter().take(1), 112), [range(5, 0), range(5, 5)]);
    }

    #[test]
    fn spans_in_use_lie_side_by_side() {
        let container =
            |device| Container { device, bytes: 4 * MIB, kind: Kind::Handle, from: 0, to: 1 };
        let mapping = |address, container| Mapping { address, container, from: 0, to: 1 };
        let ground = Ground {
            containers: vec![container(0), container(0), container(1)],
            mappings: vec![mapping(100 * MIB, 0), mapping(104 * MIB, 1), mapping(8 * MIB, 2)],
        };
        let life =
            |id| Life { id, size: 1, stream: 0, device: 0, t_us: 0, from: 0, asked: 1, to: 1 };
        let placed = |address| Placed { address, bytes: 700 };
        let blocks = [placed(105 * MIB), placed(500 * MIB + 512), placed(0)];
        let layout = Layout::of(&ground, &[life(0), life(1), life(2)], &blocks);
        let span = |device, start, bytes, place| Span { device, start, end: start + bytes, place };
        let expected = [
            span(0, 100 * MIB, 8 * MIB, 0),
            span(0, 500 * MIB + 512, 700, 16 * 1024),
            span(1, 8 * MIB, 4 * MIB, 16 * 1024 + 2),
        ];
        assert_eq!(layout, Layout { unit: 512, spans: expected.to_vec() });
        assert_eq!(layout.place(0, 105 * MIB), 10 * 1024);
        assert_eq!(layout.place(1, 9 * MIB), 18 * 1024 + 2);
    }
}
