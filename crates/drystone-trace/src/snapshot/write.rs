//! A snapshot as torch writes it: what goes where, in either form.

use std::io::{self, BufWriter, Write};

use crate::form::{Form, Json};
use crate::pickle::Pickler;
use crate::snapshot::actions::name_of;
use crate::snapshot::keys::Key;
use crate::snapshot::{
    Action, BlockState, Segment, SegmentType, Snapshot, SnapshotBlock, StackId, Stacks, TraceEntry,
};

impl Snapshot {
    /// Writes the snapshot as `torch.cuda.memory._dump_snapshot` does: a pickle that torch's tools
    /// and [`read_snapshot`](crate::read_snapshot) read. Settings whose text is a number, True, False or
    /// None are written as such; one named `table.key` goes into an inner table.
    ///
    /// # Errors
    /// What `out` answers to a write.
    pub fn write_pickle(&self, out: impl Write) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(BUFFER, out);
        let mut pickler = Pickler::new(&mut out)?;
        snapshot(&mut pickler, self)?;
        pickler.finish()
    }

    /// Writes the same as JSON, which torch's viewer opens as well.
    ///
    /// # Errors
    /// What `out` answers to a write.
    pub fn write_json(&self, out: impl Write) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(BUFFER, out);
        snapshot(&mut Json::new(&mut out), self)?;
        out.flush()
    }
}

// Keys of ours, which others leave alone.
const PRELUDE: &str = Key::Prelude.name();
const POOL_ID: &str = Key::PoolId.name();

/// Bytes that are written at once.
const BUFFER: usize = 1 << 16;

fn snapshot<F: Form>(form: &mut F, snapshot: &Snapshot) -> io::Result<()> {
    let stacks = &snapshot.stacks;
    form.begin_dict()?;
    entry(form, "segments", |form| {
        list(form, &snapshot.segments, |form, one| segment(form, one, stacks))
    })?;
    entry(form, "device_traces", |form| {
        list(form, &snapshot.device_traces, |form, ring| {
            list(form, ring, |form, one| trace_entry(form, one, snapshot))
        })
    })?;
    entry(form, "allocator_settings", |form| settings(form, &snapshot.settings))?;
    entry(form, "external_annotations", |form| list(form, &[(); 0], |form, ()| form.none()))?;
    if !snapshot.prelude.is_empty() {
        entry(form, PRELUDE, |form| {
            list(form, &snapshot.prelude, |form, &count| form.int(count.into()))
        })?;
    }
    form.end_dict()
}

fn segment<F: Form>(form: &mut F, segment: &Segment, stacks: &Stacks) -> io::Result<()> {
    form.begin_dict()?;
    number(form, "device", segment.device.into())?;
    number(form, "address", segment.address)?;
    number(form, "total_size", segment.total_size)?;
    number(form, "allocated_size", segment.allocated_size)?;
    number(form, "active_size", segment.active_size)?;
    number(form, "requested_size", segment.requested_size)?;
    handle(form, "stream", segment.stream)?;
    let kind = match segment.segment_type {
        SegmentType::Small => "small",
        SegmentType::Large => "large",
    };
    entry(form, "segment_type", |form| form.text(kind))?;
    let (first, second) = segment.segment_pool_id;
    entry(form, "segment_pool_id", |form| form.pair(first, second))?;
    entry(form, "is_expandable", |form| form.bool(segment.is_expandable))?;
    entry(form, "frames", |form| frames(form, segment.stack, stacks))?;
    entry(form, "blocks", |form| {
        list(form, &segment.blocks, |form, one| block(form, one, stacks))
    })?;
    form.end_dict()
}

fn block<F: Form>(form: &mut F, block: &SnapshotBlock, stacks: &Stacks) -> io::Result<()> {
    form.begin_dict()?;
    number(form, "address", block.address)?;
    number(form, "size", block.size)?;
    number(form, "requested_size", block.requested_size)?;
    let state = match block.state {
        BlockState::Allocated => "active_allocated",
        BlockState::PendingFree => "active_pending_free",
        BlockState::Inactive => "inactive",
    };
    entry(form, "state", |form| form.text(state))?;
    entry(form, "frames", |form| frames(form, block.stack, stacks))?;
    form.end_dict()
}

fn trace_entry<F: Form>(form: &mut F, one: &TraceEntry, snapshot: &Snapshot) -> io::Result<()> {
    form.begin_dict()?;
    entry(form, "action", |form| form.text(name_of(one.action)))?;
    let addr = if one.action == Action::OutOfMemory { "device_free" } else { "addr" };
    number(form, addr, one.addr)?;
    number(form, "size", one.size)?;
    handle(form, "stream", one.stream)?;
    number(form, "time_us", one.time_us)?;
    // What torch says where nothing was compiled or noted.
    entry(form, "compile_context", |form| form.text("N/A"))?;
    entry(form, "user_metadata", |form| form.text(""))?;
    if one.stack != StackId::default() {
        entry(form, "frames", |form| frames(form, one.stack, &snapshot.stacks))?;
    }
    if let Some((first, second)) = snapshot.entry_pools.get(one.pool) {
        entry(form, POOL_ID, |form| form.pair(first, second))?;
    }
    form.end_dict()
}

fn frames<F: Form>(form: &mut F, id: StackId, stacks: &Stacks) -> io::Result<()> {
    // Few stacks stand in very many entries: each is one object, as torch has it.
    if form.same_list(id.number())? {
        return Ok(());
    }
    form.begin_list()?;
    form.keep_list(id.number())?;
    for frame in stacks.frames(id) {
        form.item()?;
        form.begin_dict()?;
        entry(form, "name", |form| form.text(frame.name))?;
        entry(form, "filename", |form| form.text(frame.filename))?;
        number(form, "line", frame.line.into())?;
        form.end_dict()?;
        form.end_item()?;
    }
    form.end_list()
}

fn settings<F: Form>(form: &mut F, settings: &[(String, String)]) -> io::Result<()> {
    form.begin_dict()?;
    let table = |key: &str| key.split_once('.').map(|(table, _)| table.to_owned());
    for group in settings.chunk_by(|(a, _), (b, _)| table(a).is_some() && table(a) == table(b)) {
        let Some(name) = table(&group[0].0) else {
            entry(form, &group[0].0, |form| setting(form, &group[0].1))?;
            continue;
        };
        entry(form, &name, |form| {
            form.begin_dict()?;
            for (key, value) in group {
                entry(form, &key[name.len() + 1..], |form| setting(form, value))?;
            }
            form.end_dict()
        })?;
    }
    form.end_dict()
}

fn setting<F: Form>(form: &mut F, text: &str) -> io::Result<()> {
    match text {
        "True" => form.bool(true),
        "False" => form.bool(false),
        "None" => form.none(),
        _ => match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(int), _) if int.to_string() == text => form.int(int.into()),
            (_, Ok(real)) if format!("{real:?}") == text => form.real(real),
            _ => form.text(text),
        },
    }
}

fn number<F: Form>(form: &mut F, key: &str, value: u64) -> io::Result<()> {
    entry(form, key, |form| form.int(value.into()))
}

/// A stream's handle: signed in torch's snapshots.
fn handle<F: Form>(form: &mut F, key: &str, value: u64) -> io::Result<()> {
    entry(form, key, |form| form.int((value as i64).into()))
}

fn entry<F: Form>(
    form: &mut F,
    key: &str,
    value: impl FnOnce(&mut F) -> io::Result<()>,
) -> io::Result<()> {
    form.key(key)?;
    value(form)?;
    form.end_entry()
}

fn list<F: Form, T>(
    form: &mut F,
    items: &[T],
    mut value: impl FnMut(&mut F, &T) -> io::Result<()>,
) -> io::Result<()> {
    form.begin_list()?;
    for item in items {
        form.item()?;
        value(form, item)?;
        form.end_item()?;
    }
    form.end_list()
}
