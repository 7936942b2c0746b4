//! Writes native traces, chunk by chunk.

use std::io::{self, Write};

use super::chunk::{ChunkWriter, Kind, write_start};
use super::columns::{COLUMNS, REQUIRED, encode};
use super::tables::{self, Totals, Written, end_of};
use super::{Entry, MOST_EVENTS};
use crate::dropped::Dropped;
use crate::event::{MAX_DEVICES, MAX_SIZE, NO_BLOCK, Op};
use crate::run::Run;
use crate::snapshot::{Segment, Stacks};

/// A table's chunk is written once it has so many bytes.
const FULL_TABLE: usize = 1 << 20;

/// Writes a run as a native trace (`.dst`). What [`read_run`](crate::read_run) reads back is the
/// same run, but for the trace's name, which is the file's.
///
/// # Errors
/// What `out` answers to a write, and [`InvalidInput`](io::ErrorKind::InvalidInput) for events that
/// break the promises of [`Trace`](crate::Trace).
pub fn write_native(run: &Run, out: impl Write) -> io::Result<()> {
    let trace = &run.trace;
    let mut writer = NativeWriter::new(out, trace.prelude as u64, &run.settings)?;
    writer.stacks(&run.stacks)?;
    let mut refused = run.out_of_memory.iter().peekable();
    for (index, &event) in trace.events.iter().enumerate() {
        let mut entry = Entry::from(event);
        if event.op == Op::Alloc {
            entry.stack = run.stack_of_block(event.id);
            entry.pool = trace.pool_of(event.id);
        }
        if let Some(refused) = refused.next_if(|refused| refused.event == index) {
            (entry.stack, entry.device_free) = (refused.stack, Some(refused.device_free));
        }
        writer.entry(entry)?;
    }
    writer.segments(&run.segments)?;
    writer.finish(&trace.dropped)?;
    Ok(())
}

/// Writes a native trace while it comes about: holds the events of one chunk and nothing else.
pub struct NativeWriter<W: Write> {
    out: W,
    chunks: ChunkWriter,
    pending: Vec<Entry>,
    columns: [Vec<u8>; COLUMNS],
    table: Vec<u8>,
    written: Written,
    last_t: u64,
    /// Blocks of the events that were given, and of those that were written.
    blocks: u32,
    blocks_written: u32,
    events: u64,
}

impl<W: Write> NativeWriter<W> {
    /// Begins a trace whose first `prelude` events will be allocations of blocks that were live
    /// before the recording began.
    ///
    /// # Errors
    /// What `out` answers to a write.
    pub fn new(out: W, prelude: u64, settings: &[(String, String)]) -> io::Result<Self> {
        let mut this = NativeWriter {
            out,
            chunks: ChunkWriter::new()?,
            pending: Vec::new(),
            columns: Default::default(),
            table: Vec::new(),
            written: Written::default(),
            last_t: 0,
            blocks: 0,
            blocks_written: 0,
            events: 0,
        };
        write_start(&mut this.out)?;
        tables::put_head(&mut this.table, prelude, settings);
        this.table_chunk(Kind::Head, settings.len())?;
        Ok(this)
    }

    /// Writes the stacks that were added since the last call; those of an event come before it.
    ///
    /// # Errors
    /// What the output answers to a write.
    pub fn stacks(&mut self, stacks: &Stacks) -> io::Result<()> {
        // Stacks that come later may not stand behind events that use them.
        self.flush()?;
        let mut items = 0;
        while self.written.put_next(&mut self.table, stacks) {
            items += 1;
            if self.table.len() >= FULL_TABLE {
                self.table_chunk(Kind::Stacks, std::mem::take(&mut items))?;
            }
        }
        if items > 0 { self.table_chunk(Kind::Stacks, items) } else { Ok(()) }
    }

    /// Writes an event. Blocks are numbered from 0 in order of allocation; a free's size is that of
    /// its block, and not written.
    ///
    /// # Errors
    /// What the output answers to a write, and [`InvalidInput`](io::ErrorKind::InvalidInput) for a
    /// time before the last event's, another number than the next one for a new block, a free of a
    /// block that was not there, a size above [`MAX_SIZE`], or a device from [`MAX_DEVICES`] on.
    pub fn entry(&mut self, entry: Entry) -> io::Result<()> {
        let event = &entry.event;
        let (index, blocks) = (self.events, self.blocks);
        let wrong = |what: String| {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("event {index}: {what}")))
        };
        match event.op {
            Op::Alloc if event.id != blocks || blocks == NO_BLOCK => {
                return wrong(format!("block {} allocated, expected {blocks}", event.id));
            }
            Op::FreeRequested | Op::FreeCompleted if event.id >= blocks => {
                return wrong(format!("block {} freed, of {blocks}", event.id));
            }
            _ if event.t_us < self.last_t => {
                return wrong(format!("time {} after {}", event.t_us, self.last_t));
            }
            _ if event.size > MAX_SIZE => {
                return wrong(format!("size {}, at most {MAX_SIZE} is allowed", event.size));
            }
            _ if event.device >= MAX_DEVICES => {
                return wrong(format!("device {}, allowed is below {MAX_DEVICES}", event.device));
            }
            _ => {}
        }
        self.last_t = event.t_us;
        self.blocks += u32::from(event.op == Op::Alloc);
        self.events += 1;
        self.pending.push(entry);
        if self.pending.len() == MOST_EVENTS { self.flush() } else { Ok(()) }
    }

    /// Writes segments as they were when the recording ended.
    ///
    /// # Errors
    /// What the output answers to a write.
    pub fn segments(&mut self, segments: &[Segment]) -> io::Result<()> {
        let mut items = 0;
        for segment in segments {
            tables::put_segment(&mut self.table, segment);
            items += 1;
            let mut end = segment.address;
            for block in &segment.blocks {
                if self.table.len() >= FULL_TABLE {
                    self.table_chunk(Kind::Segments, std::mem::take(&mut items))?;
                }
                tables::put_block(&mut self.table, block, end);
                items += 1;
                end = end_of(block);
            }
            if self.table.len() >= FULL_TABLE {
                self.table_chunk(Kind::Segments, std::mem::take(&mut items))?;
            }
        }
        if items > 0 { self.table_chunk(Kind::Segments, items) } else { Ok(()) }
    }

    /// Ends the trace, with what the recording's reader dropped or repaired, and hands `out` back.
    ///
    /// # Errors
    /// What the output answers to a write.
    pub fn finish(mut self, dropped: &Dropped) -> io::Result<W> {
        self.flush()?;
        let totals = Totals { events: self.events, blocks: u64::from(self.blocks) };
        tables::put_end(&mut self.table, totals, dropped);
        self.table_chunk(Kind::End, dropped.findings().len())?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        encode(&self.pending, self.blocks_written, &mut self.columns);
        let pieces = self.columns.each_ref().map(|column| &column[..]);
        let kept = if pieces[REQUIRED].is_empty() { REQUIRED } else { COLUMNS };
        let items = self.pending.len() as u32;
        self.chunks.write(&mut self.out, Kind::Events, items, &pieces[..kept])?;
        self.pending.clear();
        self.blocks_written = self.blocks;
        Ok(())
    }

    fn table_chunk(&mut self, kind: Kind, items: usize) -> io::Result<()> {
        let items = u32::try_from(items).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.chunks.write(&mut self.out, kind, items, &[&self.table])?;
        self.table.clear();
        Ok(())
    }
}
