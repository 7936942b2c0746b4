//! Writes a trace as CSV.

use std::io::{self, Write};

use crate::csv::{Columns, PRELUDE};
use crate::event::{Op, Trace};

/// Writes `trace` so that [`read_trace`](crate::read_trace) reads the same one back, except for its
/// name and [`Trace::dropped`]: what was dropped is not written, what was repaired is written
/// repaired.
///
/// `out` is given whole blocks of text; it needs no buffer of its own.
///
/// # Errors
/// What `out` answers to a write.
pub fn write_csv(trace: &Trace, mut out: impl Write) -> io::Result<()> {
    const BLOCK: usize = 1 << 16;
    let mut text = Vec::with_capacity(BLOCK + 128);
    let columns = Columns { device: trace.devices > 1, pool: trace.pools() > 1 };
    if trace.prelude > 0 {
        writeln!(text, "{PRELUDE}{}", trace.prelude)?;
    }
    writeln!(text, "{}", columns.header())?;
    for event in &trace.events {
        write!(text, "{},{},", event.t_us, event.op.letter())?;
        if event.op.has_block() {
            write!(text, "{}", event.id)?;
        }
        write!(text, ",{},{}", event.size, event.stream)?;
        if columns.device {
            write!(text, ",{}", event.device)?;
        }
        if columns.pool {
            let pool = if event.op == Op::Alloc { trace.pool_of(event.id) } else { 0 };
            write!(text, ",{pool}")?;
        }
        text.push(b'\n');
        if text.len() >= BLOCK {
            out.write_all(&text)?;
            text.clear();
        }
    }
    out.write_all(&text)?;
    out.flush()
}
