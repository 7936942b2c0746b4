//! Reads a CSV event by event.

use crate::builder::{Builder, Recorded};
use crate::csv::lines::Lines;
use crate::csv::parse::{Stream, field, number, stream};
use crate::csv::{Columns, PRELUDE};
use crate::dropped::Oddity;
use crate::error::{Position, TraceError, shown};
use crate::event::{MAX_DEVICES, MAX_SIZE, Op, Trace};
use crate::input::Input;
use crate::limits::Limits;

/// Whether an input that starts with `head` is a CSV: it has our first column, or a comment.
pub(crate) fn is_csv(head: &[u8]) -> bool {
    head.starts_with(b"t_us") || head.starts_with(b"#")
}

/// What was wrong with a line, before its number is known.
pub(crate) struct Wrong {
    column: &'static str,
    found: String,
    allowed: String,
}

pub(crate) fn wrong(column: &'static str, found: &[u8], allowed: impl Into<String>) -> Wrong {
    Wrong { column, found: shown(found), allowed: allowed.into() }
}

impl Wrong {
    pub(crate) fn at(self, line: u64) -> TraceError {
        let Wrong { column, found, allowed } = self;
        TraceError::Csv { line, column, found, allowed }
    }
}

pub(crate) fn read(input: Input<'_>, name: &str, limits: &Limits) -> Result<Trace, TraceError> {
    let mut lines = Lines::new(input, limits);
    let header = read_header(&mut lines)?;
    let mut builder = Builder::new(limits);
    while let Some(line) = lines.next()? {
        if line.is_empty() {
            continue;
        }
        let event = parse_event(line, header.columns);
        let number = lines.number();
        builder.seen(lines.taken());
        let (event, out_of_range) = event.map_err(|wrong| wrong.at(number))?;
        if out_of_range {
            builder.note(Oddity::StreamOutOfRange, Position::Line(number));
        }
        if (builder.len() as u64) < header.prelude {
            check_prelude(&event, &header, &builder).map_err(|wrong| wrong.at(number))?;
        }
        builder.push(event, Position::Line(number))?;
    }
    if (builder.len() as u64) < header.prelude {
        let allowed = format!("{} allocations, as line {} says", header.prelude, header.stated_at);
        return Err(wrong("line", b"", allowed).at(lines.number() + 1));
    }
    Ok(builder.finish(name, header.prelude as usize))
}

/// A prelude is a claim of ours about the first lines; what contradicts it is not repaired.
fn check_prelude(event: &Recorded, header: &Header, builder: &Builder) -> Result<(), Wrong> {
    let Header { prelude, stated_at, .. } = header;
    if event.op != Op::Alloc {
        let allowed = format!("one of {prelude} allocations, as line {stated_at} says");
        return Err(wrong("op", &[event.op.letter() as u8], allowed));
    }
    if let Some(key) = event.key
        && builder.is_live(key) == Some(true)
    {
        let allowed = format!("a block of its own, as one of the {prelude} live before");
        return Err(wrong("id", key.1.to_string().as_bytes(), allowed));
    }
    Ok(())
}

struct Header {
    columns: Columns,
    prelude: u64,
    /// The line that gave `prelude`.
    stated_at: u64,
}

fn read_header(lines: &mut Lines<'_>) -> Result<Header, TraceError> {
    let columns = || Columns::ALL.map(Columns::header).join(" or ");
    let (mut prelude, mut stated_at) = (0, 0);
    while let Some(line) = lines.next()? {
        let mut all = Columns::ALL.into_iter();
        if let Some(columns) = all.find(|columns| line == columns.header().as_bytes()) {
            return Ok(Header { columns, prelude, stated_at });
        }
        if let Some(stated) = line.strip_prefix(PRELUDE.as_bytes()) {
            let Some(stated) = number(stated) else {
                let bad = wrong("line", line, format!("{PRELUDE} and a number"));
                return Err(bad.at(lines.number()));
            };
            (prelude, stated_at) = (stated, lines.number());
        } else if !line.is_empty() && line[0] != b'#' {
            let bad = wrong("line", line, columns());
            return Err(bad.at(lines.number()));
        }
    }
    Err(wrong("line", b"", columns()).at(lines.number() + 1))
}

/// The event, and whether its stream was out of range.
fn parse_event(line: &[u8], columns: Columns) -> Result<(Recorded, bool), Wrong> {
    let mut rest = Some(line);
    let mut next = || field(&mut rest).ok_or_else(|| wrong("line", line, columns.header()));
    let t_us = parse_number("t_us", next()?, u64::MAX)?;
    let op = parse_op(next()?)?;
    let key = parse_id(next()?, op)?;
    let size = parse_number("size", next()?, MAX_SIZE)?;
    let found = next()?;
    let stream = stream(found)
        .ok_or_else(|| wrong("stream", found, format!("a whole number up to {}", u64::MAX)))?;
    let device = match columns.device {
        true => parse_number("device", next()?, u64::from(MAX_DEVICES - 1))? as u32,
        false => 0,
    };
    let pool = if columns.pool { parse_pool(next()?, op)? } else { 0 };
    if field(&mut rest).is_some() {
        return Err(wrong("line", line, columns.header()));
    }
    let (stream, out_of_range) = match stream {
        Stream::Named(stream) => (stream, false),
        Stream::OutOfRange => (0, true),
    };
    let event = Recorded { t_us, op, key: key.map(|id| (0, id)), size, stream, device, pool };
    Ok((event, out_of_range))
}

fn parse_number(column: &'static str, found: &[u8], most: u64) -> Result<u64, Wrong> {
    number(found)
        .filter(|&value| value <= most)
        .ok_or_else(|| wrong(column, found, format!("a whole number from 0 to {most}")))
}

fn parse_pool(found: &[u8], op: Op) -> Result<u64, Wrong> {
    let pool = parse_number("pool", found, u64::MAX)?;
    if op != Op::Alloc && pool != 0 {
        return Err(wrong("pool", found, format!("0, since op {} has no pool", op.letter())));
    }
    Ok(pool)
}

fn parse_op(found: &[u8]) -> Result<Op, Wrong> {
    Ok(match found {
        b"a" => Op::Alloc,
        b"f" => Op::FreeRequested,
        b"c" => Op::FreeCompleted,
        b"S" => Op::SegmentAlloc,
        b"R" => Op::SegmentFree,
        b"m" => Op::SegmentMap,
        b"u" => Op::SegmentUnmap,
        b"o" => Op::OutOfMemory,
        b"s" => Op::Snapshot,
        _ => {
            let letters: Vec<String> = Op::ALL.iter().map(|op| op.letter().to_string()).collect();
            return Err(wrong("op", found, format!("one of {}", letters.join(" "))));
        }
    })
}

fn parse_id(found: &[u8], op: Op) -> Result<Option<u64>, Wrong> {
    match (op, found) {
        (Op::FreeRequested | Op::FreeCompleted, b"-1") => Ok(None),
        (Op::Alloc | Op::FreeRequested | Op::FreeCompleted, _) => {
            parse_number("id", found, u64::MAX).map(Some)
        }
        (_, b"") => Ok(None),
        _ => Err(wrong("id", found, format!("nothing, since op {} has no block", op.letter()))),
    }
}
