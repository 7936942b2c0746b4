//! What C cannot test: with work on the simulated device, and with the readers of what is written.

use std::ffi::c_void;
use std::io::Write;
use std::process::{Command, Stdio};
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use drystone_core::{Config, DeviceId, Driver, PoolId, Purpose, StreamId};
use drystone_sim::{Access, SimConfig, SimDriver};
use drystone_trace::{
    Event, Format, Limits, NO_BLOCK, Op, read_run_bytes, read_snapshot_bytes, read_trace_bytes,
};

use crate::allocator::{drystone_allocate, drystone_allocator_t, drystone_free};
use crate::backend::Backend;
use crate::blocks::drystone_record_stream;
use crate::snapshot::{
    DRYSTONE_FORMAT_JSON, DRYSTONE_FORMAT_PICKLE, drystone_snapshot, drystone_trace,
};
use crate::status::DRYSTONE_OK;
use crate::text::{drystone_text_data, drystone_text_free, drystone_text_size, drystone_text_t};

const DEVICE: DeviceId = DeviceId(0);

fn make(settings: &str) -> (drystone_allocator_t, Arc<SimDriver>) {
    let sim = Arc::new(SimDriver::new(SimConfig::default()).expect("a valid device"));
    let config = Config::parse(settings).expect("valid settings");
    let made = drystone_allocator_t::over(Backend::Sim(Arc::clone(&sim)), config);
    (made.expect("an allocator"), sim)
}

fn allocate(allocator: &mut drystone_allocator_t, size: usize) -> *mut c_void {
    let mut pointer = null_mut();
    // SAFETY: a live allocator and somewhere to write to.
    let status = unsafe { drystone_allocate(allocator, size, 0, 0, &raw mut pointer) };
    assert_eq!(status, DRYSTONE_OK);
    pointer
}

fn free(allocator: &mut drystone_allocator_t, pointer: *mut c_void) {
    // SAFETY: a live allocator.
    assert_eq!(unsafe { drystone_free(allocator, pointer) }, DRYSTONE_OK);
}

/// The bytes of a text that the library made.
fn bytes(make: impl FnOnce(*mut *mut drystone_text_t) -> i32) -> Vec<u8> {
    let mut text = null_mut();
    assert_eq!(make(&raw mut text), DRYSTONE_OK);
    // SAFETY: a text that was just made, and is freed once.
    unsafe {
        let data = drystone_text_data(text).cast::<u8>();
        let bytes = std::slice::from_raw_parts(data, drystone_text_size(text)).to_vec();
        assert_eq!(*data.add(bytes.len()), 0, "a C string");
        drystone_text_free(text);
        bytes
    }
}

fn snapshot(allocator: &mut drystone_allocator_t, format: i32) -> Vec<u8> {
    // SAFETY: a live allocator and somewhere to write to.
    bytes(|out| unsafe { drystone_snapshot(allocator, format, out) })
}

/// An allocator in use: blocks that are live, free and waited for, and a history.
fn in_use() -> (drystone_allocator_t, Arc<SimDriver>) {
    let (mut allocator, sim) = make("history:100,max_split_size_mb:64,roundup_power2_divisions:4");
    let (live, waited_for, gone) = (
        allocate(&mut allocator, 1000),
        allocate(&mut allocator, 3 << 20),
        allocate(&mut allocator, 5 << 20),
    );
    sim.launch(DEVICE, StreamId(9), &[(waited_for as u64, 3 << 20)], Access::Write)
        .expect("a live range");
    // SAFETY: a live allocator and a live block.
    assert_eq!(unsafe { drystone_record_stream(&mut allocator, waited_for, 9) }, DRYSTONE_OK);
    free(&mut allocator, waited_for);
    free(&mut allocator, gone);
    assert!(!live.is_null());
    (allocator, sim)
}

#[test]
fn a_recorded_stream_keeps_a_freed_block_until_it_has_passed() {
    let (mut allocator, sim) = make("");
    let block = allocate(&mut allocator, 3 << 20);
    sim.launch(DEVICE, StreamId(9), &[(block as u64, 3 << 20)], Access::Write)
        .expect("a live range");
    // SAFETY: a live allocator and a live block.
    assert_eq!(unsafe { drystone_record_stream(&mut allocator, block, 9) }, DRYSTONE_OK);
    free(&mut allocator, block);
    let other = allocate(&mut allocator, 3 << 20);
    assert_ne!(other, block);
    sim.device_synchronize(DEVICE).expect("no fault");
    allocator.core().empty_cache(DEVICE).expect("no fault");
    free(&mut allocator, other);
    drop(allocator);
    assert!(sim.finish().is_clean(), "{:?}", sim.finish());
}

#[test]
fn a_snapshot_reads_back_as_what_the_allocator_says() {
    let (mut allocator, _sim) = in_use();
    let pickle = snapshot(&mut allocator, DRYSTONE_FORMAT_PICKLE);
    let read = read_snapshot_bytes(&pickle, &Limits::default()).expect("a snapshot");
    let said = allocator.core().snapshot();
    assert_eq!(read.segments.len(), said.len());
    for (read, said) in read.segments.iter().zip(&said) {
        assert_eq!((read.address, read.total_size), (said.address, said.size));
        assert!(read.is_expandable);
        let blocks = read.blocks.iter().map(|b| (b.address, b.size, b.requested_size));
        let expected = said.blocks.iter().map(|b| (b.address, b.size, b.requested));
        assert!(blocks.eq(expected), "{read:?} is not {said:?}");
    }
    let sum =
        |of: fn(&drystone_trace::Segment) -> u64| -> u64 { read.segments.iter().map(of).sum() };
    // The requests round to 1024 B and 3 MiB; the second waits for stream 9.
    assert_eq!(sum(|s| s.allocated_size), 1024);
    assert_eq!(sum(|s| s.active_size), 1024 + (3 << 20));
    assert_eq!(sum(|s| s.requested_size), 1000 + (3 << 20));
    for (key, value) in [
        ("max_split_size", "67108864"),
        ("expandable_segments", "False"),
        ("garbage_collection_threshold", "0.0"),
        ("roundup_power2_divisions.1", "4"),
        ("roundup_power2_divisions.32768", "4"),
    ] {
        assert!(read.settings.contains(&(key.into(), value.into())), "{:?}", read.settings);
    }
}

#[test]
fn entries_have_the_time_of_the_wall() {
    let (mut allocator, _sim) = in_use();
    let pickle = snapshot(&mut allocator, DRYSTONE_FORMAT_PICKLE);
    let read = read_snapshot_bytes(&pickle, &Limits::default()).expect("a snapshot");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as u64;
    let [ring] = &read.device_traces[..] else { panic!("one device") };
    assert!(ring.is_sorted_by_key(|entry| entry.time_us));
    assert!(ring.iter().all(|entry| now - 60_000_000 < entry.time_us && entry.time_us <= now));
}

#[test]
fn a_trace_reads_back_with_what_was_live_before() {
    let (mut allocator, _sim) = make("");
    let before = allocate(&mut allocator, 4 << 20);
    allocator.core().set_history(100);
    let block = allocate(&mut allocator, 1000);
    free(&mut allocator, before);
    free(&mut allocator, block);
    // SAFETY: a live allocator and somewhere to write to.
    let csv = bytes(|out| unsafe { drystone_trace(&mut allocator, 0, out) });
    let trace = read_trace_bytes("history", &csv, &Limits::default()).expect("a trace");
    assert!(trace.dropped.is_empty(), "{:?}", trace.dropped);
    let blocks: Vec<_> = trace
        .events
        .iter()
        .filter(|event| event.op.has_block())
        .map(|event| (event.op, event.id, event.size))
        .collect();
    let expected = [
        (Op::Alloc, 0, 4 << 20),
        (Op::Alloc, 1, 1000),
        (Op::FreeRequested, 0, 4 << 20),
        (Op::FreeCompleted, 0, 4 << 20),
        (Op::FreeRequested, 1, 1000),
        (Op::FreeCompleted, 1, 1000),
    ];
    assert_eq!(trace.prelude, 1);
    assert_eq!(blocks, expected);
}

#[test]
fn a_history_is_the_same_run_in_every_format() {
    let (mut allocator, _sim) = in_use();
    let pickle = snapshot(&mut allocator, DRYSTONE_FORMAT_PICKLE);
    let history = allocator.core().history();
    // SAFETY: a live allocator and somewhere to write to.
    let csv = bytes(|out| unsafe { drystone_trace(&mut allocator, 0, out) });
    let limits = Limits::default();
    let run = read_run_bytes("history", &pickle, &limits).expect("a snapshot");
    assert!(run.trace.dropped.is_empty(), "{:?}", run.trace.dropped);
    // Events may be added after the snapshot, as the free that is waited for.
    let count = run.trace.events.len();
    assert_eq!(run.trace.prelude, 0);
    assert!((8..=history.len()).contains(&count), "{count} of {}", history.len());
    for (event, said) in run.trace.events.iter().zip(&history) {
        assert_eq!(event.size, said.size, "{event:?} is not {said:?}, of {history:?}");
        assert_eq!(event.op.has_block(), event.id != NO_BLOCK);
    }
    assert!(run.settings.contains(&("max_split_size".into(), "67108864".into())));
    // The second snapshot is an event more; times of the two differ by what they are rounded by.
    let said = |events: &[Event]| -> Vec<_> {
        events.iter().map(|event| (event.op, event.id, event.size, event.stream)).collect()
    };
    let trace = read_trace_bytes("history", &csv, &limits).expect("a trace");
    assert_eq!(said(&trace.events[..count]), said(&run.trace.events));
    for format in [Format::Csv, Format::CsvXz, Format::CsvZst, Format::Native, Format::Pickle] {
        let mut bytes = Vec::new();
        format.write(&run, &mut bytes).expect("a Vec takes all");
        let again = read_run_bytes("history", &bytes, &limits).expect("our own bytes");
        match format {
            Format::Native => assert_eq!(again, run),
            Format::Pickle => assert_eq!(again.trace.blocks, run.trace.blocks),
            _ => assert_eq!(again.trace, run.trace),
        }
    }
}

#[test]
fn a_history_over_a_released_pool_names_the_pool_of_each_block() {
    for backing in ["malloc", "vmm"] {
        let (mut allocator, _sim) = make(&format!("history:100,backing:{backing}"));
        let pool = PoolId(3, 9);
        let begin = |allocator: &drystone_allocator_t| {
            let begun = allocator.core().begin_pool(DEVICE, pool, Purpose::User, |_| true);
            begun.expect("a private pool");
        };
        let held = |allocator: &drystone_allocator_t| -> u64 {
            allocator.core().snapshot().iter().map(|segment| segment.size).sum()
        };
        begin(&allocator);
        let freed = allocate(&mut allocator, 4 << 20);
        let kept = allocate(&mut allocator, 6 << 20);
        allocator.core().end_pool(DEVICE, pool).expect("begun");
        free(&mut allocator, freed);
        allocator.core().release_pool(DEVICE, pool).expect("held once");
        // What the pool had serves the default one: at its address, or mapped elsewhere.
        let reserved = held(&allocator);
        allocate(&mut allocator, 4 << 20);
        free(&mut allocator, kept);
        allocate(&mut allocator, 6 << 20);
        assert_eq!(held(&allocator), reserved, "{backing}");
        // SAFETY: a live allocator and somewhere to write to.
        let csv = bytes(|out| unsafe { drystone_trace(&mut allocator, 0, out) });
        let limits = Limits::default();
        let trace = read_trace_bytes("history", &csv, &limits).expect("a trace");
        assert_eq!((trace.blocks, &trace.block_pools[..]), (4, &[1, 1][..]), "{backing}");
        for format in [DRYSTONE_FORMAT_JSON, DRYSTONE_FORMAT_PICKLE] {
            let text = snapshot(&mut allocator, format);
            let read = read_snapshot_bytes(&text, &limits).expect("a snapshot");
            // At the end all is the default pool's, so that the entries alone know.
            assert!(read.segments.iter().all(|segment| segment.segment_pool_id == (0, 0)));
            let again = read.to_trace("history", &limits).expect("a trace");
            assert_eq!(again.block_pools, trace.block_pools, "{backing}");
        }
        // From here on the ring begins with a block that the pool had and that the default one freed.
        begin(&allocator);
        let before = allocate(&mut allocator, 8 << 20);
        allocator.core().set_history(0);
        allocator.core().set_history(100);
        free(&mut allocator, before);
        allocator.core().end_pool(DEVICE, pool).expect("begun");
        allocator.core().release_pool(DEVICE, pool).expect("held once");
        allocate(&mut allocator, 8 << 20);
        // SAFETY: a live allocator and somewhere to write to.
        let csv = bytes(|out| unsafe { drystone_trace(&mut allocator, 0, out) });
        let trace = read_trace_bytes("history", &csv, &limits).expect("a trace");
        let pools = |size| -> Vec<u32> {
            let events = trace.events.iter();
            let blocks = events.filter(|event| event.op == Op::Alloc && event.size == size);
            blocks.map(|event| trace.pool_of(event.id)).collect()
        };
        assert_eq!(pools(8 << 20), [1, 0], "{backing}");
        assert_eq!(pools(4 << 20), [0], "{backing}: live all the while, in the default pool");
    }
}

#[test]
fn cpython_reads_a_snapshot_in_both_forms_alike() {
    let (mut allocator, _sim) = in_use();
    let pickle = snapshot(&mut allocator, DRYSTONE_FORMAT_PICKLE);
    let json = snapshot(&mut allocator, DRYSTONE_FORMAT_JSON);
    let script = "
import json, pickle, sys
size = int(sys.argv[1])
data = sys.stdin.buffer.read()
ours, text = pickle.loads(data[:size]), json.loads(data[size:])
assert ours['segments'][0]['segment_pool_id'] == (0, 0)
# Each snapshot is an event of the next one, so that the second has one more.
assert text['device_traces'][0][-1]['action'] == 'snapshot'
assert len(ours['device_traces'][0]) + 1 == len(text['device_traces'][0])
assert all(entry['pool_id'] == (0, 0) for entry in ours['device_traces'][0])
assert all(entry['pool_id'] == [0, 0] for entry in text['device_traces'][0])
for key in 'segments', 'allocator_settings', 'external_annotations':
    assert json.loads(json.dumps(ours[key])) == text[key], key
states = {block['state'] for segment in ours['segments'] for block in segment['blocks']}
assert states == {'active_allocated', 'active_pending_free', 'inactive'}, states
";
    let mut python = Command::new("python3");
    python.arg("-c").arg(script).arg(pickle.len().to_string()).stdin(Stdio::piped());
    let Ok(mut child) = python.spawn() else {
        eprintln!("skipped: there is no python3");
        return;
    };
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(&[pickle, json].concat()).expect("it reads");
    drop(input);
    assert!(child.wait().expect("it ends").success(), "python3 disagrees");
}
