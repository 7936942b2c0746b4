//! What reading may cost: the most memory that was held, counted below the allocator, for files that
//! are made to cost much and for those that are just dense.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::recorded;
use drystone_trace::{
    Event, Limits, NO_BLOCK, NativeWriter, Op, TraceError, read_run, read_run_bytes, write_csv,
    write_native,
};

/// Counts the bytes that are held, and the most of them.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system's; counting touches no memory that is handed out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(block, layout) }
    }

    // Large blocks are moved page by page: not both at once, as the default would count.
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        let held = HELD.fetch_add(size, Ordering::Relaxed) + size;
        MOST.fetch_max(held, Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What any reading takes: buffers, the decompressors' windows, tables that start small.
const FREE: usize = 4 << 20;

/// What was read, and the most bytes that were held for it.
fn measured<T>(read: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let found = read();
    (found, MOST.load(Ordering::Relaxed) - before)
}

fn limits() -> Limits {
    Limits { free_bytes: FREE as u64 / 2, ..Limits::default() }
}

/// Reads it; whether it is refused, with a place. Never is more held than 4 times the text.
fn within_four_times(what: &str, text: &[u8], refused: bool) {
    let (read, most) = measured(|| read_run_bytes("x", text, &limits()).map(drop));
    let times = most as f64 / text.len() as f64;
    println!("{what}: {} bytes, at most {most} held, {times:.2} times", text.len());
    assert!(most <= 4 * text.len() + FREE, "{what}: {most} for {}", text.len());
    match read {
        Ok(()) => assert!(!refused, "{what} was read"),
        Err(error) => {
            assert!(refused, "{what}: {error}");
            let text = error.to_string();
            let places = ["byte ", "line ", "the input", "snapshot, the whole"];
            assert!(places.iter().any(|place| text.contains(place)), "{what}: {text}");
        }
    }
}

fn csv(lines: impl Iterator<Item = String>) -> Vec<u8> {
    let mut text = "t_us,op,id,size,stream\n".to_owned();
    lines.for_each(|line| text.push_str(&line));
    text.into_bytes()
}

/// A pickle of protocol 4 whose one value is `body`.
fn pickle(body: &[u8]) -> Vec<u8> {
    [b"\x80\x04", body, b"."].concat()
}

/// A JSON list of these, each with a comma behind it.
fn json(items: &str) -> Vec<u8> {
    format!("[{items}0]").into_bytes()
}

/// A ring as [`ring`] makes them, in JSON.
fn json_ring(entries: usize) -> Vec<u8> {
    let entry = |entry: usize| {
        let action = ["alloc", "free_requested", "free_completed"][entry % 3];
        let (addr, time) = (0x7f00_0000_0000 + entry / 15 * 512, 1_795_235_396_754_851 + entry);
        format!(
            "{{\"action\":\"{action}\",\"addr\":{addr},\"size\":4096,\"stream\":0,\
             \"time_us\":{time}}}"
        )
    };
    let all: Vec<String> = (0..entries).map(entry).collect();
    format!("{{\"device_traces\":[[{}]]}}", all.join(",")).into_bytes()
}

/// A ring as an old torch writes it: entries without stacks, a fifth of the blocks at new addresses.
fn ring(entries: u64) -> Vec<u8> {
    let mut body = b"}\x8c\x0ddevice_traces\x94](](".to_vec();
    let kept = ["action", "addr", "size", "stream", "time_us"];
    let actions = ["alloc", "free_requested", "free_completed"];
    for text in kept.iter().chain(&actions) {
        body.extend([0x8c, text.len() as u8]);
        body.extend(text.as_bytes());
        body.extend([0x94, b'0']);
    }
    for entry in 0..entries {
        let action = 6 + (entry % 3) as u8;
        body.extend([b'}', 0x94, b'(', b'h', 1, b'h', action, b'h', 2, 0x8a, 8]);
        body.extend((0x7f00_0000_0000 + entry / 15 * 512).to_le_bytes());
        body.extend(b"h\x03M\x00\x10h\x04K\x00h\x05\x8a\x08");
        body.extend((1_795_235_396_754_851 + entry).to_le_bytes());
        body.extend(b"u");
    }
    body.extend(b"ees");
    pickle(&body)
}

/// A snapshot of segments, each in a pool of its own, as torch writes them but for the keys of no use.
fn segments(count: usize) -> Vec<u8> {
    let segment = |at: usize| {
        format!(
            "{{\"device\":0,\"address\":{},\"total_size\":2097152,\"stream\":0,\
             \"segment_pool_id\":[0,{}],\"is_expandable\":false,\"blocks\":[]}}",
            0x7f00_0000_0000 + at * (2 << 20),
            at + 1,
        )
    };
    let all: Vec<String> = (0..count).map(segment).collect();
    format!("{{\"segments\":[{}]}}", all.join(",")).into_bytes()
}

// One test: what others hold at the same time would be counted, too.
#[test]
fn memory_is_bounded_by_what_the_file_has() {
    const MANY: usize = 400_000;
    // Pickles.
    within_four_times("a pickle of empty lists", &pickle(&b"]".repeat(16 * MANY)), true);
    within_four_times("a pickle of numbers", &pickle(&b"K\x01".repeat(16 * MANY)), true);
    within_four_times("a pickle of None", &pickle(&b"N".repeat(16 * MANY)), true);
    within_four_times("lists in lists", &pickle(&b"](".repeat(4 * MANY)), true);
    within_four_times("a length that lies", &pickle(b"\x8d\xff\xff\xff\xff\xff\xff\0\0"), true);
    let keys = [&b"}("[..], &b"\x8c\x01aK\x01".repeat(2 * MANY), b"u"].concat();
    within_four_times("a dict of one key", &pickle(&keys), true);
    let memo = |n: u32| [&b"Nr"[..], &(n * 7).to_le_bytes()].concat();
    let memo: Vec<u8> = (0..MANY as u32).flat_map(memo).collect();
    within_four_times("a sparse memo", &pickle(&memo), true);
    let text = recorded("prefetch_streams.pickle.xz");
    let text = liblzma::decode_all(&std::fs::read(text).unwrap()[..]).unwrap();
    within_four_times("a recorded snapshot", &text, false);
    within_four_times("a recorded snapshot, cut", &text[..text.len() - 9], true);
    within_four_times("a ring without stacks", &ring(MANY as u64), false);
    within_four_times("segments of private pools", &segments(MANY / 4), false);

    // JSON: the same, and what repeats itself.
    within_four_times("a JSON of empty lists", &json(&"[],".repeat(8 * MANY)), true);
    within_four_times("a JSON of numbers", &json(&"1,".repeat(16 * MANY)), true);
    within_four_times("lists in lists, in JSON", "[".repeat(4 * MANY).as_bytes(), true);
    let strings: String = (0..MANY).map(|n| format!("\"{n:x}\",")).collect();
    within_four_times("a JSON of strings", &json(&strings), true);
    let escaped: String = (0..MANY).map(|n| format!("\"\\n{n:x}\",")).collect();
    within_four_times("a JSON of strings with escapes", &json(&escaped), true);
    let keys: String = (0..MANY).map(|n| format!("\"{n:x}\":[],")).collect();
    let again = format!("{{{}\"\":0}}", "\"a\":[],".repeat(2 * MANY));
    within_four_times("a JSON dict of one key", again.as_bytes(), true);
    within_four_times("a JSON dict", format!("{{\"frames\":{{{keys}\"\":0}}}}").as_bytes(), true);
    let snapshot = drystone_trace::read_snapshot_bytes(&text, &Limits::default()).unwrap();
    let mut as_json = Vec::new();
    snapshot.write_json(&mut as_json).unwrap();
    drop(snapshot);
    within_four_times("a recorded snapshot as JSON", &as_json, false);
    within_four_times("the same, cut", &as_json[..as_json.len() - 9], true);
    within_four_times("a JSON ring without stacks", &json_ring(MANY), false);

    // CSV and logs.
    let dense = csv((0..MANY).map(|id| format!("{id},a,{id},1,0\n")));
    within_four_times("a dense CSV", &dense, false);
    let sparse = csv((0..MANY).map(|id| format!("0,a,{},1,0\n", id * 9 + 7)));
    within_four_times("a CSV of scattered numbers", &sparse, true);
    within_four_times("a CSV of one block", &csv((0..MANY).map(|_| "0,a,1,1,0\n".into())), true);
    within_four_times("a CSV of streams", &csv((0..MANY).map(|n| format!("0,s,,0,{n}\n"))), true);
    within_four_times("a line without end", &csv((0..MANY).map(|_| "0,a,1,1,0".into())), true);
    let head = "Thread,Time,Action,Pointer,Size,Stream\n";
    let mut log = head.to_owned();
    (1..MANY).for_each(|n| writeln!(log, "1,0:0:0,allocate,{n:x},1,0").unwrap());
    within_four_times("a log of blocks", log.as_bytes(), true);
    within_four_times("a log of blocks, cut", &log.as_bytes()[..log.len() - 9], true);
    let thread = |n: usize| format!("{n},0:0:0,free,{n:x},1,0\n");
    let frees: String = (1..MANY).map(thread).collect();
    within_four_times("a log of unknown frees", format!("{head}{frees}").as_bytes(), false);

    native_heads_that_lie_take_little();
    windows_are_taken_as_they_fill();

    bombs_end();
    a_snapshot_of_300_000_events_takes_little();
}

/// A native trace says before each chunk how much follows, and in it how much it unfolds to.
fn native_heads_that_lie_take_little() {
    let run = read_run(recorded("stanza_pos.pickle.xz"), &Limits::default()).unwrap();
    let mut whole = Vec::new();
    write_native(&run, &mut whole).unwrap();
    drop(run);
    // The start is 12 bytes; a head has the kind, the items, the size and a checksum.
    let head = |kind: u8, items: u32, size: u32| {
        [&[kind][..], &items.to_le_bytes(), &size.to_le_bytes(), &[0; 4]].concat()
    };
    let lie = |kind, items, size| [&whole[..12], &head(kind, items, size)].concat();
    let mut cases = vec![
        ("a head of much", lie(1, u32::MAX, 32 << 20)),
        ("a head of all that can be said", lie(1, u32::MAX, u32::MAX)),
        ("chunks that nobody knows", lie(200, 0, 32 << 20)),
    ];
    cases.extend((20..whole.len()).step_by(997).map(|cut| ("a cut", whole[..cut].to_vec())));
    for (what, bytes) in cases {
        let (read, most) = measured(|| read_run_bytes("x", &bytes, &limits()).map(drop));
        let error = read.unwrap_err();
        assert!(matches!(error, TraceError::Native { .. }), "{what}: {error}");
        // One chunk of events and its columns; what is kept of the events read so far.
        assert!(most <= FREE + 4 * whole.len() + (2 << 20), "{what}: {most}");
    }
}

/// The greatest windows that headers may claim. They are not taken by our allocator, so what counts is
/// what the process holds.
fn windows_are_taken_as_they_fill() {
    use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
    let mut options = LzmaOptions::new_preset(0).unwrap();
    options.dict_size(1536 << 20).match_finder(liblzma::stream::MatchFinder::HashChain3);
    let text = csv((0..1000).map(|id| format!("{id},a,{id},1,0\n")));
    let mut filters = Filters::new();
    filters.lzma2(&options);
    let stream = Stream::new_stream_encoder(&filters, Check::Crc32).unwrap();
    let mut xz = Vec::new();
    let mut reader = liblzma::read::XzEncoder::new_stream(&text[..], stream);
    std::io::Read::read_to_end(&mut reader, &mut xz).unwrap();
    drop(reader);
    // A frame without a length, whose window is 2^27 bytes, and one of 2^41, with an empty block each.
    let frame = |window: u8| [0x28, 0xb5, 0x2f, 0xfd, 0, window << 3, 1, 0, 0];
    for (what, bytes, read) in [
        ("xz of 1.5 GiB", &xz[..], true),
        ("zstd of 128 MiB", &frame(17), false),
        ("zstd of 2 TiB", &frame(31), false),
    ] {
        let Some(before) = peak_after_reset() else { return };
        let found = read_run_bytes("x", bytes, &limits()).map(drop);
        let most = peak().unwrap_or(0).saturating_sub(before);
        println!("a window of {what}: at most {most} held");
        assert_eq!(found.is_ok(), read, "{what}: {found:?}");
        assert!(most < FREE, "{what}: {most}");
    }
}

/// The most bytes that the process held since they were last reset; Linux alone tells.
fn peak() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<usize>().ok()? << 10)
}

fn peak_after_reset() -> Option<usize> {
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    peak()
}

/// Compressed files are bounded by their own length and what is free.
fn bombs_end() {
    let limits = Limits { free_bytes: 32 << 20, max_expansion: 64, ..Limits::default() };
    let comments = b"#\n".repeat(40 << 20);
    let event =
        |t_us| Event { t_us, size: 8, id: NO_BLOCK, stream: 0, device: 0, op: Op::Snapshot };
    let mut writer = NativeWriter::new(Vec::new(), 0, &[]).unwrap();
    (0..8 << 20).for_each(|t_us| writer.entry(event(t_us).into()).unwrap());
    let native = writer.finish(&Default::default()).unwrap();
    let log = "Thread,Time,Action,Pointer,Size,Stream\n".to_owned()
        + &"1,0:0:0,free,1,1,0\n".repeat(8 << 20);
    let pickle = [&b"\x80\x04"[..], &b"N0".repeat(40 << 20), b"N."].concat();
    for (what, bomb) in [
        ("zstd of a CSV", zstd::encode_all(&comments[..], 3).unwrap()),
        ("xz of a CSV", liblzma::encode_all(&comments[..], 1).unwrap()),
        ("zstd of a pickle", zstd::encode_all(&pickle[..], 3).unwrap()),
        ("zstd of a JSON", zstd::encode_all(&json(&"1,".repeat(40 << 20))[..], 3).unwrap()),
        ("xz of a log", liblzma::encode_all(log.as_bytes(), 1).unwrap()),
        ("a native trace", native),
    ] {
        let (read, most) = measured(|| read_run_bytes("x", &bomb, &limits));
        let error = read.map(drop).unwrap_err();
        println!("{what}: {} bytes, at most {most} held: {error}", bomb.len());
        assert!(matches!(error, TraceError::Limit { .. }), "{what}: {error}");
        // The events and, for a snapshot, what they are made of.
        let allowed = limits.free_bytes as usize + 64 * (bomb.len() + (64 << 10));
        assert!(most <= allowed + allowed / 4 + FREE, "{what}: {most}, of {allowed}");
    }
}

/// The recorded ring fifty times over, each entry with a list of its own.
fn a_snapshot_of_300_000_events_takes_little() {
    let run = read_run(recorded("stanza_pos.pickle.xz"), &Limits::default()).unwrap();
    let mut snapshot = run.to_snapshot().unwrap();
    let ring = snapshot.device_traces[0].clone();
    let span = ring.last().unwrap().time_us + 1;
    for turn in 1..50 {
        let later = ring.iter().map(|entry| drystone_trace::TraceEntry {
            time_us: entry.time_us + turn * span,
            ..*entry
        });
        snapshot.device_traces[0].extend(later);
    }
    let mut text = Vec::new();
    snapshot.write_pickle(&mut text).unwrap();
    let mut json = Vec::new();
    snapshot.write_json(&mut json).unwrap();
    let times = json.len() / text.len();
    let (run, most) = measured(|| read_run_bytes("x", &text, &Limits::default()).unwrap());
    println!("{} events, {} bytes: at most {most} held", run.trace.events.len(), text.len());
    assert!(run.trace.events.len() >= 300_000);
    assert!(most < 300 << 20);
    // In JSON the frames stand in every entry, and the text is that much longer.
    let (again, most) = measured(|| read_run_bytes("x", &json, &Limits::default()).unwrap());
    println!("as JSON {} bytes, {times} times: at most {most} held", json.len());
    assert!(again == run && most < (300 << 20) + json.len());
    drop((again, json));
    let mut sink = Vec::new();
    write_csv(&run.trace, &mut sink).unwrap();
    let mut native = Vec::new();
    let (_, most) = measured(|| write_native(&run, &mut native).unwrap());
    assert!(most < 16 << 20, "the writer holds one chunk: {most}");
}
