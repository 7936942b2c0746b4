//! Reads native traces, chunk by chunk.

use super::chunk::{Chunk, ChunkReader, Kind, at_most};
use super::columns::{COLUMNS, REQUIRED, Wrong, decode};
use super::tables::{self, Bad, Head, Totals};
use super::{Entry, MOST_EVENTS};
use crate::builder::{Builder, Recorded, SIZE_OF_BLOCK};
use crate::dropped::Dropped;
use crate::error::{NativeProblem, Position, TraceError};
use crate::event::{Event, Op};
use crate::input::Input;
use crate::limits::{Budget, Exceeded, LimitKind, Limits};
use crate::run::{OutOfMemory, Run};
use crate::snapshot::{Segment, StackId, Stacks};

/// Reads a whole native trace. Its events are trusted no more than those of other formats.
pub(crate) fn read(input: Input<'_>, name: &str, limits: &Limits) -> Result<Run, TraceError> {
    let mut reader = NativeReader::begin(input, limits)?;
    let mut builder = Builder::new(limits);
    let (mut block_stacks, mut out_of_memory) = (Vec::new(), Vec::new());
    let mut index = 0;
    while reader.next_chunk()? {
        for entry in &reader.entries {
            let at = Position::Event(index);
            index += 1;
            note(entry, builder.len(), &mut block_stacks, &mut out_of_memory, &mut reader.budget)
                .map_err(|exceeded| exceeded.at(at))?;
            builder.push(recorded(entry), at)?;
        }
    }
    let NativeReader { head, stacks, segments, dropped, .. } = reader;
    let prelude = usize::try_from(head.prelude).unwrap_or(usize::MAX);
    let mut trace = builder.finish(name, prelude);
    let first = trace.events.get(..prelude);
    if !first.is_some_and(|first| first.iter().all(|event| event.op == Op::Alloc)) {
        let problem = NativeProblem::Content {
            what: "the prelude",
            found: "something else".to_owned(),
            expected: format!("{prelude} allocations at the beginning"),
        };
        return Err(TraceError::Native { offset: 0, problem });
    }
    let here = std::mem::replace(&mut trace.dropped, dropped);
    here.findings().iter().for_each(|&finding| trace.dropped.add(finding));
    if stacks.is_empty() {
        block_stacks = Vec::new();
    }
    let Head { settings, .. } = head;
    Ok(Run { trace, settings, stacks, block_stacks, out_of_memory, segments })
}

/// Keeps what is known of an event that will be number `event`.
fn note(
    entry: &Entry,
    event: usize,
    block_stacks: &mut Vec<StackId>,
    out_of_memory: &mut Vec<OutOfMemory>,
    budget: &mut Budget,
) -> Result<(), Exceeded> {
    let stack = entry.stack;
    match (entry.event.op, entry.device_free) {
        (Op::Alloc, _) => budget.push(block_stacks, stack),
        (Op::OutOfMemory, Some(device_free)) => {
            budget.push(out_of_memory, OutOfMemory { event, device_free, stack })
        }
        _ => Ok(()),
    }
}

fn recorded(entry: &Entry) -> Recorded {
    let Event { t_us, size, id, stream, device, op } = entry.event;
    let is_free = matches!(op, Op::FreeRequested | Op::FreeCompleted);
    Recorded {
        t_us,
        op,
        key: op.has_block().then_some((0, u64::from(id))),
        size: if is_free { SIZE_OF_BLOCK } else { size },
        stream: u64::from(stream),
        device,
        pool: u64::from(entry.pool),
    }
}

/// Reads a native trace while it is used: holds the events of one chunk, and the stacks so far.
pub struct NativeReader<'a> {
    chunks: ChunkReader<'a>,
    memory: Vec<u8>,
    columns: [Vec<u8>; COLUMNS],
    table: [Vec<u8>; 1],
    pub(super) entries: Vec<Entry>,
    head: Head,
    stacks: Stacks,
    segments: Vec<Segment>,
    dropped: Dropped,
    read: Totals,
    ended: bool,
    budget: Budget,
    limits: Limits,
}

impl<'a> NativeReader<'a> {
    /// Begins to read the bytes of a native trace.
    ///
    /// # Errors
    /// [`TraceError`] if they do not begin as one, or as one of a newer version.
    pub fn from_bytes(bytes: &'a [u8], limits: &Limits) -> Result<Self, TraceError> {
        let input = Input::from_bytes(bytes, limits)?;
        if !super::is_native(input.head()) {
            return Err(crate::read::unknown(&input));
        }
        Self::begin(input, limits)
    }

    /// Begins to read a file.
    ///
    /// # Errors
    /// As [`from_bytes`](Self::from_bytes), and where the file cannot be read.
    pub fn open(path: impl AsRef<std::path::Path>, limits: &Limits) -> Result<Self, TraceError> {
        let input = Input::open(path.as_ref(), limits)?;
        if !super::is_native(input.head()) {
            return Err(crate::read::unknown(&input));
        }
        Self::begin(input, limits)
    }

    fn begin(input: Input<'a>, limits: &Limits) -> Result<Self, TraceError> {
        let mut this = NativeReader {
            chunks: ChunkReader::new(input)?,
            memory: Vec::new(),
            columns: Default::default(),
            table: Default::default(),
            entries: Vec::new(),
            head: Head { prelude: 0, settings: Vec::new() },
            stacks: Stacks::default(),
            segments: Vec::new(),
            dropped: Dropped::default(),
            read: Totals::default(),
            ended: false,
            budget: Budget::new(limits),
            limits: limits.clone(),
        };
        let chunk = this.chunks.next(Vec::new())?;
        if chunk.kind != Kind::Head {
            return Err(chunk.misplaced());
        }
        this.table(&chunk)?;
        let head = tables::head(&this.table[0], chunk.items, &mut this.budget);
        this.head = head.map_err(|bad| refused(bad, &chunk))?;
        this.memory = chunk.into_memory();
        Ok(this)
    }

    /// How many of the first events are allocations of blocks that were live before.
    pub fn prelude(&self) -> u64 {
        self.head.prelude
    }

    /// The recording allocator's settings.
    pub fn settings(&self) -> &[(String, String)] {
        &self.head.settings
    }

    /// The stacks of all events so far.
    pub fn stacks(&self) -> &Stacks {
        &self.stacks
    }

    /// The segments at the end of the recording; all of them once the last event was read.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// What the recording's reader dropped or repaired; known once the last event was read.
    pub fn dropped(&self) -> &Dropped {
        &self.dropped
    }

    /// The events of the next chunk; none at the end. The size of a free is 0: its block's
    /// allocation has it. The events are as written, also where that makes no sense.
    ///
    /// # Errors
    /// [`TraceError`] where the file is damaged, cut short or passes a limit.
    pub fn next_entries(&mut self) -> Result<Option<&[Entry]>, TraceError> {
        Ok(self.next_chunk()?.then_some(&self.entries))
    }

    /// Reads on up to the next events; false at the end.
    pub(super) fn next_chunk(&mut self) -> Result<bool, TraceError> {
        while !self.ended {
            let chunk = self.chunks.next(std::mem::take(&mut self.memory))?;
            let is_events = chunk.kind == Kind::Events;
            match chunk.kind {
                Kind::Head => return Err(chunk.misplaced()),
                Kind::Events => self.events(&chunk)?,
                Kind::Stacks => {
                    self.table(&chunk)?;
                    let (table, stacks) = (&self.table[0], &mut self.stacks);
                    tables::stacks(table, chunk.items, stacks, &mut self.budget)
                        .map_err(|bad| refused(bad, &chunk))?;
                }
                Kind::Segments => {
                    self.table(&chunk)?;
                    let (table, segments) = (&self.table[0], &mut self.segments);
                    tables::segments(table, chunk.items, segments, &mut self.budget)
                        .map_err(|bad| refused(bad, &chunk))?;
                }
                Kind::End => self.end(&chunk)?,
            }
            self.memory = chunk.into_memory();
            if is_events {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn table(&mut self, chunk: &Chunk) -> Result<(), TraceError> {
        self.chunks.unpack(chunk, 1, &mut self.table)
    }

    fn events(&mut self, chunk: &Chunk) -> Result<(), TraceError> {
        if chunk.items as usize > MOST_EVENTS {
            return Err(chunk.content("events of a chunk", chunk.items, at_most(MOST_EVENTS)));
        }
        self.chunks.unpack(chunk, REQUIRED, &mut self.columns)?;
        self.entries.clear();
        let decoded = decode(&self.columns, &mut self.entries);
        decoded.map_err(|Wrong(what)| chunk.content(what, "nonsense", "what a writer writes"))?;
        if self.entries.len() != chunk.items as usize {
            return Err(chunk.content("events of a chunk", self.entries.len(), chunk.items));
        }
        let known = self.stacks.len();
        if self.entries.iter().any(|entry| entry.stack.number() as usize >= known) {
            return Err(chunk.content("a stack", "one that is not there yet", "a known one"));
        }
        self.read.events += self.entries.len() as u64;
        let allowed = self.limits.unfolded(self.chunks.offset());
        if self.read.events.saturating_mul(size_of::<Event>() as u64) > allowed {
            let exceeded = Exceeded { kind: LimitKind::DecompressedBytes, allowed };
            return Err(exceeded.at(Position::Byte(chunk.offset)));
        }
        let blocks = self.entries.iter().filter(|entry| entry.event.op == Op::Alloc).count();
        self.read.blocks += blocks as u64;
        Ok(())
    }

    fn end(&mut self, chunk: &Chunk) -> Result<(), TraceError> {
        self.table(chunk)?;
        let end = tables::end(&self.table[0], chunk.items).map_err(|bad| refused(bad, chunk))?;
        let (totals, dropped) = end;
        if totals != self.read {
            let Totals { events, blocks } = self.read;
            let found = format!("{events} events and {blocks} blocks");
            let expected = format!("{} and {}", totals.events, totals.blocks);
            return Err(chunk.content("the whole", found, expected));
        }
        self.dropped = dropped;
        self.ended = true;
        let known = self.stacks.len();
        let is_known = |stack: StackId| (stack.number() as usize) < known;
        let all = self.segments.iter().all(|segment| {
            is_known(segment.stack) && segment.blocks.iter().all(|block| is_known(block.stack))
        });
        if all { Ok(()) } else { Err(chunk.content("a segment's stack", "none", "a known one")) }
    }
}

fn refused(bad: Bad, chunk: &Chunk) -> TraceError {
    match bad {
        Bad::Content(what) => chunk.content(what, "nonsense", "what a writer writes"),
        Bad::Limit(exceeded) => exceeded.at(Position::Byte(chunk.offset)),
    }
}
