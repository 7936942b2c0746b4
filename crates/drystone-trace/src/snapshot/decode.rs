//! From the values of a pickle or a JSON text to a [`Snapshot`]: what is missing has a default, what has a wrong
//! type is an error that names the path to it.

use crate::arena::{Arena, NodeId, Value, Word};
use crate::error::TraceError;
use crate::event::{MAX_DEVICES, MAX_SIZE};
use crate::limits::{Budget, Exceeded, LimitKind, Limits};
use crate::snapshot::actions::action_of;
use crate::snapshot::keys::{Key, Keys};
use crate::snapshot::stacks::Interner;
use crate::snapshot::view::{Failure, View};
use crate::snapshot::{
    Action, BlockState, EntryPool, EntryPools, Frame, Segment, SegmentType, Snapshot,
    SnapshotBlock, StackId, TraceEntry,
};

const MAX_DEVICE: u64 = MAX_DEVICES as u64 - 1;

pub(super) fn decode(
    arena: &Arena<'_>,
    top: Word,
    limits: &Limits,
    budget: &mut Budget,
) -> Result<Snapshot, TraceError> {
    budget.charge(arena.str_count() as u64).map_err(Failure::from)?;
    let mut decoder = Decoder {
        view: View::new(arena),
        keys: Keys::new(arena.str_count()),
        interner: Interner::default(),
        pools: EntryPools::default(),
        frames: Vec::new(),
        budget,
        entries_left: limits.max_events,
        max_entries: limits.max_events,
    };
    let mut snapshot = decoder.snapshot(top)?;
    snapshot.stacks = decoder.interner.finish();
    snapshot.entry_pools = decoder.pools;
    Ok(snapshot)
}

struct Decoder<'a, 'b> {
    view: View<'a>,
    keys: Keys,
    interner: Interner,
    pools: EntryPools,
    /// The frame that a dict is, or the stack that a list is, where that is known; empty until there
    /// is one.
    frames: Vec<Option<Interned>>,
    budget: &'b mut Budget,
    entries_left: u64,
    max_entries: u64,
}

#[derive(Clone, Copy)]
enum Interned {
    Frame(u32),
    Stack(StackId),
}

impl<'a> Decoder<'a, '_> {
    fn snapshot(&mut self, top: Word) -> Result<Snapshot, Failure> {
        let mut snapshot = Snapshot::default();
        // What torch.cuda.memory_snapshot() returns: the segments alone.
        if self.view.list(top).is_ok() {
            let segments = self.each(top, Self::segment);
            snapshot.segments = segments.map_err(|f| f.under(Key::Segments.name()))?;
            return Ok(snapshot);
        }
        // Any text in JSON may come this far.
        let mut is_snapshot = self.view.arena.len(self.view.dict(top)?) == 0;
        self.for_each_key(top, |this, key, word| {
            is_snapshot |= !matches!(key, Key::Other);
            match key {
                Key::Segments => snapshot.segments = this.each(word, Self::segment)?,
                Key::DeviceTraces => {
                    let count = this.view.arena.len(this.view.list(word)?) as u64;
                    if count > MAX_DEVICE + 1 {
                        let expected = format!("a list of at most {MAX_DEVICES}");
                        return Err(this.view.mismatch(word, &expected));
                    }
                    snapshot.device_traces =
                        this.each(word, |this, ring| this.each(ring, Self::entry))?;
                }
                Key::AllocatorSettings => {
                    snapshot.settings.clear();
                    this.settings(word, "", &mut snapshot.settings)?;
                }
                Key::Prelude => {
                    snapshot.prelude =
                        this.each(word, |this, word| this.view.number(word, u64::MAX))?;
                }
                _ => {}
            }
            Ok(())
        })?;
        if !is_snapshot {
            return Err(self.view.mismatch(top, "a dict with segments or device_traces"));
        }
        Ok(snapshot)
    }

    fn segment(&mut self, word: Word) -> Result<Segment, Failure> {
        let mut segment = Segment {
            device: 0,
            address: 0,
            total_size: 0,
            allocated_size: 0,
            active_size: 0,
            requested_size: 0,
            stream: 0,
            segment_type: SegmentType::default(),
            segment_pool_id: (0, 0),
            is_expandable: false,
            blocks: Vec::new(),
            stack: StackId::default(),
        };
        let mut has_address = false;
        self.for_each_key(word, |this, key, word| {
            match key {
                Key::Device => segment.device = this.view.number(word, MAX_DEVICE)? as u32,
                Key::Address => {
                    segment.address = this.address(word)?;
                    has_address = true;
                }
                Key::TotalSize => segment.total_size = this.size(word)?,
                Key::AllocatedSize => segment.allocated_size = this.size(word)?,
                Key::ActiveSize => segment.active_size = this.size(word)?,
                Key::RequestedSize => segment.requested_size = this.size(word)?,
                Key::Stream => segment.stream = this.view.handle(word)?,
                Key::SegmentType => segment.segment_type = this.segment_type(word)?,
                Key::SegmentPoolId => segment.segment_pool_id = this.pair(word)?,
                Key::IsExpandable => segment.is_expandable = this.view.bool(word)?,
                Key::Blocks => segment.blocks = this.each(word, Self::block)?,
                Key::Frames => segment.stack = this.stack(word)?,
                _ => {}
            }
            Ok(())
        })?;
        if !has_address {
            return Err(self.view.missing(Key::Address.name()));
        }
        place_blocks(&mut segment);
        Ok(segment)
    }

    fn block(&mut self, word: Word) -> Result<SnapshotBlock, Failure> {
        let (mut size, mut requested, mut state) = (None, None, None);
        let mut block = SnapshotBlock {
            address: NO_ADDRESS,
            size: 0,
            requested_size: 0,
            state: BlockState::default(),
            stack: StackId::default(),
        };
        self.for_each_key(word, |this, key, word| {
            match key {
                Key::Address => block.address = this.address(word)?,
                Key::Size => size = Some(this.size(word)?),
                Key::RequestedSize => requested = Some(this.size(word)?),
                Key::State => state = Some(this.block_state(word)?),
                Key::Frames => block.stack = this.stack(word)?,
                Key::History => {
                    let before = this.each(word, Self::past_request)?;
                    if let Some(&(real_size, stack)) = before.first() {
                        requested = requested.or(real_size);
                        block.stack = stack;
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
        block.size = size.ok_or_else(|| self.view.missing(Key::Size.name()))?;
        block.state = state.ok_or_else(|| self.view.missing(Key::State.name()))?;
        // Snapshots before torch 2.1 have the size alone, or a history.
        block.requested_size = requested.unwrap_or(block.size);
        Ok(block)
    }

    /// A request in the history of a block, the latest first, as torch 2.0 kept it.
    fn past_request(&mut self, word: Word) -> Result<(Option<u64>, StackId), Failure> {
        let (mut real_size, mut stack) = (None, StackId::default());
        self.for_each_key(word, |this, key, word| {
            match key {
                Key::RealSize => real_size = Some(this.size(word)?),
                Key::Frames => stack = this.stack(word)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok((real_size, stack))
    }

    fn entry(&mut self, word: Word) -> Result<TraceEntry, Failure> {
        self.entries_left = self.entries_left.checked_sub(1).ok_or(Failure::Limit(Exceeded {
            kind: LimitKind::Events,
            allowed: self.max_entries,
        }))?;
        let (mut action, mut addr, mut size) = (None, None, None);
        let (mut device_free, mut stream, mut time_us) = (0, 0, 0);
        let (mut stack, mut pool) = (StackId::default(), EntryPool::default());
        self.for_each_key(word, |this, key, word| {
            match key {
                Key::Action => action = Some(action_of(this.view.str(word)?)),
                Key::Addr => addr = Some(this.address(word)?),
                Key::DeviceFree => device_free = this.view.number(word, u64::MAX)?,
                Key::Size => size = Some(this.size(word)?),
                Key::Stream => stream = this.view.handle(word)?,
                Key::TimeUs => time_us = this.view.number(word, u64::MAX)?,
                Key::PoolId => {
                    let id = this.pair(word)?;
                    pool = this.pools.number_within(id, this.budget)?;
                }
                Key::Frames => stack = this.stack(word)?,
                _ => {}
            }
            Ok(())
        })?;
        let action = action.ok_or_else(|| self.view.missing(Key::Action.name()))?;
        let is_block =
            matches!(action, Action::Alloc | Action::FreeRequested | Action::FreeCompleted);
        if is_block && size.is_none() {
            return Err(self.view.missing(Key::Size.name()));
        }
        let addr = match (action, addr) {
            (Action::OutOfMemory, None) => device_free,
            (_, Some(addr)) => addr,
            (_, None) if is_block => return Err(self.view.missing(Key::Addr.name())),
            (_, None) => 0,
        };
        Ok(TraceEntry { action, addr, size: size.unwrap_or(0), stream, time_us, stack, pool })
    }

    fn stack(&mut self, word: Word) -> Result<StackId, Failure> {
        let node = self.view.list(word)?;
        if let Some(Some(Interned::Stack(id))) = self.frames.get(node.index()) {
            return Ok(*id);
        }
        let numbers = self.each(word, Self::frame)?;
        let id = self.interner.stack(&numbers, self.budget)?;
        self.budget.release(numbers);
        self.intern(node, Interned::Stack(id))?;
        Ok(id)
    }

    fn frame(&mut self, word: Word) -> Result<u32, Failure> {
        let node = self.view.dict(word)?;
        if let Some(Some(Interned::Frame(number))) = self.frames.get(node.index()) {
            return Ok(*number);
        }
        let (mut filename, mut name, mut line) = (&b""[..], &b""[..], 0);
        self.for_each_key(word, |this, key, word| {
            match key {
                Key::Filename => filename = this.view.str(word)?,
                Key::Name => name = this.view.str(word)?,
                // Python says -1 where it does not know the line.
                Key::Line => match this.view.arena.value(word) {
                    Value::Int(..=-1) => line = 0,
                    _ => line = this.view.number(word, u64::from(u32::MAX))? as u32,
                },
                _ => {}
            }
            Ok(())
        })?;
        let filename = String::from_utf8_lossy(filename);
        let name = String::from_utf8_lossy(name);
        let frame = Frame { filename: &filename, line, name: &name };
        let number = self.interner.frame(frame, self.budget)?;
        self.intern(node, Interned::Frame(number))?;
        Ok(number)
    }

    fn intern(&mut self, node: NodeId, what: Interned) -> Result<(), Failure> {
        if self.frames.is_empty() {
            let nodes = self.view.arena.node_count();
            self.budget.reserve(&mut self.frames, nodes)?;
            self.frames.resize_with(nodes, || None);
        }
        self.frames[node.index()] = Some(what);
        Ok(())
    }

    /// Settings as text; tables in tables once, which is all that torch writes.
    fn settings(
        &mut self,
        word: Word,
        prefix: &str,
        settings: &mut Vec<(String, String)>,
    ) -> Result<(), Failure> {
        for (key, value) in self.pairs(word)? {
            let Value::Str(_, key) = self.view.arena.value(key) else { continue };
            let key = format!("{prefix}{}", String::from_utf8_lossy(key));
            let text = match self.view.arena.value(value) {
                Value::Dict(_) if prefix.is_empty() => {
                    self.settings(value, &format!("{key}."), settings)?;
                    continue;
                }
                Value::None => "None".to_owned(),
                Value::Bool(bool) => (if bool { "True" } else { "False" }).to_owned(),
                Value::Int(int) => int.to_string(),
                Value::Float(float) => format!("{float:?}"),
                Value::Str(_, text) => String::from_utf8_lossy(text).into_owned(),
                _ => continue,
            };
            self.budget.charge(64 + (key.len() + text.len()) as u64)?;
            settings.push((key, text));
        }
        Ok(())
    }

    fn segment_type(&self, word: Word) -> Result<SegmentType, Failure> {
        match self.view.str(word)? {
            b"small" => Ok(SegmentType::Small),
            b"large" => Ok(SegmentType::Large),
            _ => Err(self.view.mismatch(word, "\"small\" or \"large\"")),
        }
    }

    fn block_state(&self, word: Word) -> Result<BlockState, Failure> {
        match self.view.str(word)? {
            b"active_allocated" => Ok(BlockState::Allocated),
            // The second is what torch's viewer and some versions say.
            b"active_pending_free" | b"active_awaiting_free" => Ok(BlockState::PendingFree),
            b"inactive" => Ok(BlockState::Inactive),
            _ => {
                let expected = "\"active_allocated\", \"active_pending_free\" or \"inactive\"";
                Err(self.view.mismatch(word, expected))
            }
        }
    }

    fn pair(&self, word: Word) -> Result<(u64, u64), Failure> {
        let mut items = self.view.arena.items(self.view.list(word)?);
        match (items.next(), items.next(), items.next()) {
            (Some(first), Some(second), None) => Ok((
                self.view.number(first, u64::MAX).map_err(|f| f.at(0))?,
                self.view.number(second, u64::MAX).map_err(|f| f.at(1))?,
            )),
            _ => Err(self.view.mismatch(word, "a pair of numbers")),
        }
    }

    fn size(&self, word: Word) -> Result<u64, Failure> {
        self.view.number(word, MAX_SIZE)
    }

    fn address(&self, word: Word) -> Result<u64, Failure> {
        self.view.number(word, u64::MAX)
    }

    // Going over containers.

    fn each<T>(
        &mut self,
        list: Word,
        mut item: impl FnMut(&mut Self, Word) -> Result<T, Failure>,
    ) -> Result<Vec<T>, Failure> {
        let node = self.view.list(list)?;
        self.view.visit(node)?;
        let mut items = Vec::new();
        self.budget.reserve(&mut items, self.view.arena.len(node))?;
        for (index, word) in self.view.arena.items(node).enumerate() {
            items.push(item(self, word).map_err(|failure| failure.at(index))?);
        }
        Ok(items)
    }

    fn for_each_key(
        &mut self,
        dict: Word,
        mut visit: impl FnMut(&mut Self, Key, Word) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for (key, value) in self.pairs(dict)? {
            let key = match self.view.arena.value(key) {
                Value::Str(id, name) => self.keys.get(id, name),
                _ => Key::Other,
            };
            visit(self, key, value).map_err(|failure| failure.under(key.name()))?;
        }
        Ok(())
    }

    fn pairs(
        &mut self,
        dict: Word,
    ) -> Result<impl Iterator<Item = (Word, Word)> + use<'a>, Failure> {
        let node: NodeId = self.view.dict(dict)?;
        self.view.visit(node)?;
        let mut items = self.view.arena.items(node);
        Ok(std::iter::from_fn(move || Some((items.next()?, items.next()?))))
    }
}

/// The address of a block that does not say: no block begins on the last byte there is.
const NO_ADDRESS: u64 = u64::MAX;

/// Blocks without an address follow the one before.
fn place_blocks(segment: &mut Segment) {
    let mut next = segment.address;
    for block in &mut segment.blocks {
        if block.address == NO_ADDRESS {
            block.address = next;
        }
        next = block.address.saturating_add(block.size);
    }
}
