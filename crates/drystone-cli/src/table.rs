//! The figures of replays as tables that fit the terminal.

use std::ops::Range;

use comfy_table::{
    CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle,
};
use drystone_core::config::format_bytes;
use drystone_lab::{Holder, Metrics, MinCapacity, Pool, Recording, Remedy, Trial};
use drystone_trace::{Op, Trace};

use crate::output::columns;
use crate::play::Played;

/// What a trace is, in a line.
pub(crate) fn headline(played: &Played) -> String {
    let Played { run, recording, replays, .. } = played;
    let at = replays.first().map(|replay| replay.metrics.peak_live_at_us as f64);
    let at = at.map(|us| format!(", after {}", time(us))).unwrap_or_default();
    format!("{}{at}", extent(&run.trace, recording.peak_live))
}

/// How much there is of a trace.
pub(crate) fn extent(trace: &Trace, peak_live: u64) -> String {
    format!(
        "{}: {} events in {}; at most {} live",
        trace.name,
        grouped(trace.events.len() as u64),
        time(trace.duration_us() as f64),
        format_bytes(peak_live),
    )
}

/// The columns, most important first: a narrow terminal shows only the first ones.
const HEADER: [&str; 13] = [
    "policy",
    "reserved",
    "× live",
    "needs",
    "mean ×",
    "in driver",
    "waits",
    "rounding",
    "free",
    "of run",
    "of run",
    "calls",
    "ns/event",
];

/// The order in which they are shown: shares of the run stand beside their times.
const SHOWN: [usize; HEADER.len()] = [0, 1, 2, 3, 4, 5, 9, 6, 10, 7, 8, 11, 12];

/// A row for each policy, and one for the allocator that was recorded, if that is known.
pub(crate) fn figures(played: &Played) -> String {
    let mut rows: Vec<_> = played.replays.iter().map(|replay| row(&replay.metrics)).collect();
    if let Some(row) = recorded(&played.recording) {
        rows.push(row);
    }
    let chosen = fitting(&rows);
    let mut table = new();
    table.set_header(chosen.iter().map(|&column| HEADER[column]));
    for row in &rows {
        table.add_row(chosen.iter().map(|&column| &row[column]));
    }
    finished(table, &[])
}

type Row = [String; HEADER.len()];

/// The columns that the terminal has room for, at least the first three. What nobody measured has
/// none.
fn fitting(rows: &[Row]) -> Vec<usize> {
    let mut room = usize::from(columns()) - MARGIN;
    let mut chosen = Vec::new();
    for column in 0..HEADER.len() {
        let cells = rows.iter().map(|row| row[column].as_str());
        if rows.iter().all(|row| row[column] == none()) {
            continue;
        }
        let longest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        let width = longest.max(HEADER[column].chars().count());
        // Options are broken between them; and each column has a margin.
        let width = 3 + if column == 0 { width.min(LONGEST_NAME) } else { width };
        if width > room && chosen.len() >= 3 {
            break;
        }
        room = room.saturating_sub(width);
        chosen.push(column);
    }
    SHOWN.into_iter().filter(|column| chosen.contains(column)).collect()
}

/// Left and right of a table.
const MARGIN: usize = 2;
/// Names of policies with options that are longer than this are broken.
const LONGEST_NAME: usize = 24;
/// So much room a text has beside numbers, before some of them are left out.
const LEAST_TEXT: u16 = 16;

/// A row for each policy: the least memory that it completes with.
pub(crate) fn capacities(found: &[MinCapacity]) -> String {
    let mut table = new();
    table.set_header(["policy", "completes with", "× live", "replays"]);
    for found in found {
        table.add_row([
            named(&found.policy, &found.options),
            format_bytes(found.min_capacity_bytes),
            times(found.ratio),
            grouped(found.runs),
        ]);
    }
    finished(table, &[3, 2])
}

/// The table of a policy in each row, with numbers behind it.
fn finished(mut table: Table, expendable: &[usize]) -> String {
    let numbers = 1..table.column_count();
    beside(table, 0, numbers, expendable)
}

/// A table of one column that is broken into lines, `text`, and `numbers`, which are not. Where it
/// is wider than the terminal, the expendable columns are left out, the first one first, until the
/// text has room.
fn beside(mut table: Table, text: usize, numbers: Range<usize>, expendable: &[usize]) -> String {
    let mut widths = table.column_max_content_widths();
    widths[text] = widths[text].min(LEAST_TEXT);
    // Each column has a margin.
    let mut needed = widths.iter().fold(MARGIN, |sum, &width| sum + usize::from(width) + 3);
    let mut hidden = Vec::new();
    for &column in expendable {
        if needed > usize::from(columns()) {
            needed -= usize::from(widths[column]) + 3;
            hidden.push(column);
        }
    }
    for index in numbers {
        let Some(column) = table.column_mut(index) else { continue };
        column.set_cell_alignment(CellAlignment::Right);
        column.set_constraint(match hidden.contains(&index) {
            true => ColumnConstraint::Hidden,
            false => ColumnConstraint::ContentWidth,
        });
    }
    table.to_string()
}

/// A policy with its options; with spaces, so that long ones are broken between them.
fn named(policy: &str, options: &str) -> String {
    match options {
        "" => policy.to_owned(),
        options => format!("{policy}: {}", options.replace(',', ", ")),
    }
}

fn row(metrics: &Metrics) -> Row {
    let ratio = match metrics.oom {
        // Of a part of the run: it is no match for the others.
        Some(_) => "OOM".to_owned(),
        None => times(metrics.ratio),
    };
    [
        named(&metrics.policy, &metrics.options),
        format_bytes(metrics.peak_reserved_bytes),
        ratio,
        metrics.min_capacity_bytes.map_or_else(none, format_bytes),
        times(metrics.mean_ratio),
        time(metrics.driver_us),
        time(metrics.wait_us),
        metrics.rounding_at_peak_bytes.map_or_else(none, format_bytes),
        metrics.free_at_peak_bytes.map_or_else(none, format_bytes),
        metrics.driver_percent.map_or_else(none, percent),
        metrics.wait_percent.map_or_else(none, percent),
        grouped(metrics.driver_calls.values().sum()),
        format!("{:.0}", metrics.ns_per_event),
    ]
}

/// What the recorded allocator held, if that is known.
fn recorded(recording: &Recording) -> Option<Row> {
    let peak = recording.peak_reserved?;
    let live = recording.peak_live;
    let mut row: Row = std::array::from_fn(|_| none());
    row[0] = "as recorded".to_owned();
    row[1] = format_bytes(peak);
    row[2] = times((live > 0).then(|| peak as f64 / live as f64));
    row[4] = times(recording.mean_ratio);
    Some(row)
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or_else(none, |ratio| format!("{ratio:.3}"))
}

fn none() -> String {
    "–".to_owned()
}

/// What stands behind `--policy`: names that are never broken, and what they mean.
pub(crate) fn meanings<'a>(rows: impl Iterator<Item = (&'a str, String)>) -> String {
    let mut table = new();
    for (name, meaning) in rows {
        table.add_row([name, &meaning]);
    }
    if let Some(names) = table.column_mut(0) {
        names.set_constraint(ColumnConstraint::ContentWidth);
    }
    table.to_string()
}

/// A paragraph as wide as the terminal.
pub(crate) fn paragraph(text: &str) -> String {
    let mut table = new();
    table.add_row([text]);
    let lines: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// Who holds blocks, a row each.
pub(crate) fn holders(holders: &[Holder]) -> String {
    let mut table = new();
    table.set_header(["bytes", "blocks", "largest", "from"]);
    for holder in holders {
        table.add_row([
            format_bytes(holder.bytes),
            grouped(holder.blocks),
            format_bytes(holder.largest),
            holder.frame.clone().unwrap_or_else(|| "not recorded".to_owned()),
        ]);
    }
    beside(table, 3, 0..3, &[1, 2])
}

/// Private pools, a row each; of whose blocks they hold most the first.
pub(crate) fn pools(pools: &[Pool]) -> String {
    let mut table = new();
    table.set_header(["pool", "reserved", "idle", "segments", "most is from"]);
    for pool in pools {
        let holder = pool.holders.first().and_then(|holder| holder.frame.clone());
        table.add_row([
            format!("({}, {})", pool.id.0, pool.id.1),
            format_bytes(pool.reserved),
            format_bytes(pool.idle),
            grouped(pool.segments),
            holder.unwrap_or_else(|| "not recorded".to_owned()),
        ]);
    }
    beside(table, 4, 0..4, &[3, 1])
}

/// What was tried and helped, under what was there before.
pub(crate) fn remedies(before: &Remedy, helped: &[Remedy]) -> String {
    let mut table = new();
    table.set_header(["policy", "reserved", "in driver", "result"]);
    for remedy in std::iter::once(before).chain(helped) {
        let (policy, options) = remedy.policy.split_once(':').unwrap_or((&remedy.policy, ""));
        let same = if std::ptr::eq(remedy, before) { " (as it was)" } else { "" };
        table.add_row([
            named(policy, options) + same,
            format_bytes(remedy.peak_reserved_bytes),
            time(remedy.driver_us),
            if remedy.completes { "completes" } else { "out of memory" }.to_owned(),
        ]);
    }
    finished(table, &[2, 1])
}

/// Settings and what they do, each under a name.
pub(crate) fn trials<'a>(trials: impl Iterator<Item = (String, &'a Trial)>) -> String {
    let mut table = new();
    table.set_header(["setting", "needs", "reserved", "× live", "in driver"]);
    for (name, trial) in trials {
        // Of a part of the run: it is no match for the others.
        let ratio = if trial.completes { times(trial.ratio) } else { "OOM".to_owned() };
        table.add_row([
            name,
            trial.min_capacity_bytes.map_or_else(none, format_bytes),
            format_bytes(trial.peak_reserved_bytes),
            ratio,
            time(trial.driver_us + trial.wait_us),
        ]);
    }
    finished(table, &[4, 2, 3])
}

/// Why a policy's replay ended early, in a paragraph; nothing if it did not.
pub(crate) fn stopped(metrics: &Metrics) -> Option<String> {
    let oom = metrics.oom.as_ref()?;
    Some(format!(
        "{} stopped after {} of the run, at event {}, with {} requested and live:\n  {}",
        metrics.label(),
        time(oom.t_us as f64),
        grouped(oom.at_event),
        format_bytes(oom.live),
        oom.message,
    ))
}

/// What replays leave out of a recording in which requests failed, in a paragraph; nothing if none
/// did.
pub(crate) fn refused(trace: &Trace) -> Option<String> {
    let mut failed = trace.events.iter().filter(|event| event.op == Op::OutOfMemory);
    let last = failed.next_back()?;
    let before = failed.count();
    let others = if before > 0 { format!(", and {before} before it") } else { String::new() };
    Some(paragraph(&format!(
        "A request of {} failed in the recording{others}; replays go on without it. `drystone \
         diagnose` and `drystone advise` ask for it.",
        format_bytes(last.size)
    )))
}

/// What contradicts an answer, in a line; nothing if nothing does.
pub(crate) fn contradicted(found: &MinCapacity) -> Option<String> {
    let fails_at = found.fails_at_bytes?;
    Some(format!(
        "{} fails with {}, more than it completes with: more memory is not always better for it.",
        named(&found.policy, &found.options),
        format_bytes(fails_at),
    ))
}

/// A table without contents, as wide as the terminal at most.
fn new() -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::new(' ', '─', '─', ' ')));
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(columns());
    table
}

/// Microseconds in the unit that fits.
pub(crate) fn time(us: f64) -> String {
    match us {
        _ if us == 0.0 => "0".to_owned(),
        _ if us < 999.5 => format!("{us:.0} µs"),
        _ if us < 999_950.0 => format!("{:.1} ms", us / 1e3),
        _ if us < 600e6 => format!("{:.1} s", us / 1e6),
        _ => format!("{:.1} min", us / 60e6),
    }
}

/// A percentage with as many digits as matter.
pub(crate) fn percent(percent: f64) -> String {
    match percent {
        _ if percent == 0.0 => "0".to_owned(),
        _ if percent < 0.005 => "<0.01%".to_owned(),
        _ if percent < 9.995 => format!("{percent:.2}%"),
        _ if percent < 99.95 => format!("{percent:.1}%"),
        _ => format!("{percent:.0}%"),
    }
}

/// `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        let times = [0.0, 0.4, 999.4, 999.5, 1_500.0, 999_960.0, 6.7e6, 900e6].map(time);
        let shown = ["0", "0 µs", "999 µs", "1.0 ms", "1.5 ms", "1.0 s", "6.7 s", "15.0 min"];
        assert_eq!(times, shown);
        let parts = [0.0, 0.004, 0.005, 0.804, 9.994, 9.996, 99.94, 99.96, 1234.5].map(percent);
        let shown = ["0", "<0.01%", "0.01%", "0.80%", "9.99%", "10.0%", "99.9%", "100%", "1234%"];
        assert_eq!(parts, shown);
    }
}
