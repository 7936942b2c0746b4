//! Logs of the RAPIDS memory manager (RMM): CSV that its `logging_resource_adaptor` writes, one file a
//! device.
//!
//! * Columns: `Thread,Time,Action,Pointer,Size,Stream`.
//! * A time is the time of day: a step of more than twelve hours is one over midnight.
//! * `allocate failure` is [`Op::OutOfMemory`]; its pointer says nothing. A `free` is requested and
//!   completed at once: RMM hands a block on in the order of the stream it was freed on.
//! * Streams are in hexadecimal; `0` and `0x1` are the default stream, `0x2` is one of each thread.

mod line;

use std::path::Path;

use crate::builder::{BlockKey, Builder, Recorded};
use crate::csv::{Lines, Stream};
use crate::dropped::Oddity;
use crate::error::{Position, TraceError, shown};
use crate::event::{MAX_DEVICES, Op, Trace};
use crate::input::Input;
use crate::limits::{Budget, Exceeded, LimitKind, Limits};
use line::{Action, Line};

const COLUMNS: &str = "Thread,Time,Action,Pointer,Size,Stream";

/// Whether an input that starts with `head` is a log of RMM.
pub(crate) fn is_rmm(head: &[u8]) -> bool {
    head.starts_with(b"Thread,Time,Action")
}

/// Microseconds of a day.
const DAY: i64 = 24 * 3600 * 1_000_000;

/// Reads the log of one device, which becomes device 0.
pub(crate) fn read(input: Input<'_>, name: &str, limits: &Limits) -> Result<Trace, TraceError> {
    let mut log = Log::new(input, limits)?;
    let mut builder = Builder::new(limits);
    let mut start = None;
    while let Some((time, line, at)) = log.next()? {
        let start = *start.get_or_insert(time);
        builder.seen(log.lines.taken());
        push(&mut builder, 0, since(start, time), &line, at)?;
    }
    Ok(builder.finish(name, 0))
}

/// Reads logs of RMM that were written together, each of one device, as one trace called `name`. A
/// device's number is N where the file is called `….devN.…` as RMM does, and otherwise the log's place
/// in `paths`. The time is the same for all: where one log began shortly before midnight and another
/// one after it, they are put together so that the beginnings are less than twelve hours apart.
///
/// # Errors
/// As [`read_trace`](crate::read_trace), for the first log that is wrong; two logs of one device, or
/// more than [`MAX_DEVICES`], are [`TraceError::Devices`].
pub fn read_rmm_logs(
    name: &str,
    paths: &[impl AsRef<Path>],
    limits: &Limits,
) -> Result<Trace, TraceError> {
    let mut budget = Budget::new(limits);
    let mut lines = Vec::new();
    let (mut first, mut taken) = (None, 0);
    for (device, path) in devices_of(paths)? {
        let mut log = Log::new(Input::open(path, limits)?, limits)?;
        let mut shift = None;
        while let Some((time, line, at)) = log.next()? {
            let first = *first.get_or_insert(time);
            let time = time + *shift.get_or_insert_with(|| nearest_day(first, time) - time);
            if lines.len() as u64 == limits.max_events {
                let exceeded = Exceeded { kind: LimitKind::Events, allowed: limits.max_events };
                return Err(exceeded.at(at));
            }
            let timed = Timed { time, device, line, at };
            budget.push(&mut lines, timed).map_err(|exceeded| exceeded.at(at))?;
        }
        taken += log.lines.taken();
    }
    lines.sort_by_key(|timed| timed.time);
    let start = lines.first().map_or(0, |first| first.time);
    let mut builder = Builder::new(limits);
    builder.seen(taken);
    for Timed { time, device, line, at } in &lines {
        push(&mut builder, *device, since(start, *time), line, *at)?;
    }
    Ok(builder.finish(name, 0))
}

/// A line of one of several logs.
struct Timed {
    time: i64,
    device: u32,
    line: Line,
    at: Position,
}

/// Each log with its device.
fn devices_of<P: AsRef<Path>>(paths: &[P]) -> Result<Vec<(u32, &Path)>, TraceError> {
    let named: Option<Vec<u32>> = paths.iter().map(|path| device_of(path.as_ref())).collect();
    let devices = named.unwrap_or_else(|| (0..paths.len() as u32).collect());
    let mut seen = std::collections::HashSet::new();
    for &device in &devices {
        if device >= MAX_DEVICES {
            let expected = format!("device numbers below {MAX_DEVICES}");
            return Err(TraceError::Devices { found: format!("device {device}"), expected });
        }
        if !seen.insert(device) {
            let found = format!("two logs of device {device}");
            return Err(TraceError::Devices { found, expected: "one log a device".to_owned() });
        }
    }
    Ok(devices.into_iter().zip(paths.iter().map(AsRef::as_ref)).collect())
}

/// `rmm.dev3.csv` → 3.
fn device_of(path: &Path) -> Option<u32> {
    let file = path.file_name()?.to_str()?;
    file.split('.').find_map(|part| part.strip_prefix("dev")?.parse().ok())
}

fn since(start: i64, time: i64) -> u64 {
    // A line from before the start is one of a thread that was late: the builder sees time go back.
    u64::try_from(time - start).unwrap_or(0)
}

/// The time on the day on which it is nearest to `last`.
fn nearest_day(last: i64, time: i64) -> i64 {
    time + (last - time + DAY / 2).div_euclid(DAY) * DAY
}

fn push(
    builder: &mut Builder,
    device: u32,
    t_us: u64,
    line: &Line,
    at: Position,
) -> Result<(), TraceError> {
    let Line { action, pointer, size, .. } = *line;
    let stream = match line.stream {
        Stream::Named(stream) => stream,
        Stream::OutOfRange => {
            builder.note(Oddity::StreamOutOfRange, at);
            0
        }
    };
    let event =
        |op: Op, key: Option<BlockKey>| Recorded { t_us, op, key, size, stream, device, pool: 0 };
    if action == Action::Failure {
        return builder.push(event(Op::OutOfMemory, None), at);
    }
    if pointer == 0 {
        builder.note(Oddity::NoAddress, at);
        return Ok(());
    }
    let key = Some((device + 1, pointer));
    if action == Action::Allocate {
        return builder.push(event(Op::Alloc, key), at);
    }
    if builder.is_live((device + 1, pointer)) != Some(true) {
        builder.note(Oddity::UnknownBlock, at);
        return Ok(());
    }
    builder.push(event(Op::FreeRequested, key), at)?;
    let completed =
        Recorded { size: crate::builder::SIZE_OF_BLOCK, ..event(Op::FreeCompleted, key) };
    builder.push(completed, at)
}

/// A log that is being read.
struct Log<'a> {
    lines: Lines<'a>,
    /// The time of the line before, with its day.
    last: Option<i64>,
}

impl<'a> Log<'a> {
    fn new(input: Input<'a>, limits: &Limits) -> Result<Self, TraceError> {
        let mut lines = Lines::new(input, limits);
        match lines.next()? {
            Some(line) if line == COLUMNS.as_bytes() => Ok(Log { lines, last: None }),
            other => {
                let found = shown(other.unwrap_or_default());
                let allowed = COLUMNS.to_owned();
                Err(TraceError::Csv { line: 1, column: "line", found, allowed })
            }
        }
    }

    /// The next line, its time in microseconds from midnight of the first line's day, and its place.
    fn next(&mut self) -> Result<Option<(i64, Line, Position)>, TraceError> {
        loop {
            let Some(text) = self.lines.next()? else { return Ok(None) };
            // Who starts a log anew writes its head once more.
            if text.is_empty() || text == COLUMNS.as_bytes() {
                continue;
            }
            let parsed = line::parse(text);
            let number = self.lines.number();
            let line = parsed.map_err(|wrong| wrong.at(number))?;
            let time = self.last.map_or(line.time, |last| nearest_day(last, line.time));
            self.last = Some(time);
            return Ok(Some((time, line, Position::Line(number))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_on_the_day_that_is_nearest() {
        const HOUR: i64 = DAY / 24;
        for (last, time, expected) in [
            (HOUR, 2 * HOUR, 2 * HOUR),
            (23 * HOUR, HOUR, 25 * HOUR),
            (25 * HOUR, 23 * HOUR, 23 * HOUR),
            (49 * HOUR, 2 * HOUR, 50 * HOUR),
            (HOUR, 0, 0),
        ] {
            assert_eq!(nearest_day(last, time), expected, "{time} after {last}");
        }
    }

    #[test]
    fn devices_are_in_the_names_as_rmm_writes_them() {
        assert_eq!(device_of(Path::new("logs/rmm.dev3.csv")), Some(3));
        assert_eq!(device_of(Path::new("rmm.dev12.csv.zst")), Some(12));
        assert_eq!(device_of(Path::new("develop.csv")), None);
        let devices = |paths: &[&str]| -> Result<Vec<u32>, String> {
            let found = devices_of(paths).map_err(|error| error.to_string())?;
            Ok(found.into_iter().map(|(device, _)| device).collect())
        };
        assert_eq!(devices(&["a.dev1.csv", "a.dev0.csv"]), Ok(vec![1, 0]));
        assert_eq!(devices(&["a.csv", "b.dev7.csv"]), Ok(vec![0, 1]));
        assert!(
            devices(&["a.dev1.csv", "b.dev1.csv"]).unwrap_err().contains("two logs of device 1")
        );
        assert!(devices(&["a.dev1024.csv"]).unwrap_err().contains("below 1024"));
    }
}
