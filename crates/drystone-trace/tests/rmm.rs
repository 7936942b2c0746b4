//! Logs of RMM, as its logging adaptor writes them.

use std::fs;

use drystone_trace::{
    Event, Limits, NO_BLOCK, Oddity, Op, Trace, read_rmm_logs, read_trace_bytes, write_csv,
};
use proptest::prelude::*;

const HEAD: &str = "Thread,Time,Action,Pointer,Size,Stream\n";

fn read(lines: &str) -> Result<Trace, String> {
    let log = format!("{HEAD}{lines}");
    read_trace_bytes("log", log.as_bytes(), &Limits::default()).map_err(|e| e.to_string())
}

fn event(t_us: u64, op: Op, id: u32, size: u64, stream: u32) -> Event {
    Event { t_us, size, id, stream, device: 0, op }
}

#[test]
fn a_log_over_midnight_with_threads_streams_and_a_failure() {
    let trace = read(
        "13664,23:59:59.999990,allocate,0x7f0000000200,1000,0x55d0c0ffee00\n\
         13665,00:00:00.000010,allocate,0x7f0000000800,512,0x2\r\n\
         13664,00:00:00.000020,allocate failure,(nil),1099511627776,0x1\n\n\
         13666,00:00:00.000020,allocate,0x7f0000001000,512,0x2\n\
         13664,00:00:00.000030,free,0x7f0000000200,1000,0\n\
         13664,00:00:01.000000,allocate,0x7f0000000200,64,0x0\n",
    )
    .unwrap();
    let expected = [
        event(0, Op::Alloc, 0, 1000, 1),
        event(20, Op::Alloc, 1, 512, 2),
        event(30, Op::OutOfMemory, NO_BLOCK, 1 << 40, 0),
        event(30, Op::Alloc, 2, 512, 3),
        event(40, Op::FreeRequested, 0, 1000, 0),
        event(40, Op::FreeCompleted, 0, 1000, 0),
        event(1_000_010, Op::Alloc, 3, 64, 0),
    ];
    assert_eq!(trace.events, expected);
    assert_eq!((trace.blocks, trace.streams, trace.devices, trace.prelude), (4, 4, 1, 0));
    assert!(trace.dropped.is_empty(), "{:?}", trace.dropped);
}

#[test]
fn what_makes_no_sense_is_counted() {
    let trace = read(
        "1,10:00:00.000005,free,0x100,8,0\n\
         1,10:00:00.000009,allocate,0x100,8,0\n\
         2,10:00:00.000007,allocate,0x100,16,0\n\
         1,10:00:00.000010,free,0x100,99,0\n\
         1,10:00:00.000011,free,0x100,16,0\n\
         1,10:00:00.000012,allocate,(nil),0,0\n\
         1,10:00:00.000013,free,(nil),0,0\n",
    )
    .unwrap();
    for (oddity, count) in [
        (Oddity::UnknownBlock, 2),
        (Oddity::TimeWentBack, 1),
        (Oddity::AllocOfLive, 1),
        (Oddity::SizeMismatch, 1),
        (Oddity::NoAddress, 2),
    ] {
        assert_eq!(trace.dropped.count(oddity), count, "{oddity}");
    }
    assert_eq!(trace.dropped.findings().len(), 5, "{:?}", trace.dropped);
    assert_eq!(trace.blocks, 2);
}

#[test]
fn errors_name_the_line_the_column_and_what_is_allowed() {
    for (line, error) in [
        ("x,1:00:00,free,0x1,1,0", "line 2, Thread: found \"x\", expected a whole number"),
        (
            "1,1:00,free,0x1,1,0",
            "line 2, Time: found \"1:00\", expected a time of day, as in 04:22:48.103275",
        ),
        (
            "1,1:00:00,realloc,0x1,1,0",
            "line 2, Action: found \"realloc\", expected allocate, allocate failure or free",
        ),
        (
            "1,1:00:00,free,0xg,1,0",
            "line 2, Pointer: found \"0xg\", expected a hexadecimal number, or (nil)",
        ),
        (
            "1,1:00:00,free,0x1,-1,0",
            "line 2, Size: found \"-1\", expected a whole number from 0 to 1152921504606846976",
        ),
        ("1,1:00:00,free,0x1,1,", "line 2, Stream: found nothing, expected a hexadecimal number"),
        (
            "1,1:00:00,free,0x1,1",
            "line 2, line: found \"1,1:00:00,free,0x1,1\", expected \
             Thread,Time,Action,Pointer,Size,Stream",
        ),
        (
            "1,1:00:00,free,0x1,1,0,",
            "line 2, line: found \"1,1:00:00,free,0x1,1,0,\", expected \
             Thread,Time,Action,Pointer,Size,Stream",
        ),
    ] {
        assert_eq!(read(line).unwrap_err(), error);
    }
    let limits = Limits::default();
    let error = read_trace_bytes("log", b"Thread,Time,Action,Pointer\n", &limits).unwrap_err();
    assert!(error.to_string().starts_with("line 1, line: found \"Thread,Time,"), "{error}");
    assert_eq!(read("").unwrap().events, []);
}

#[test]
fn logs_of_several_devices_become_one_trace() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, lines: &str| {
        let path = folder.path().join(name);
        fs::write(&path, format!("{HEAD}{lines}")).unwrap();
        path
    };
    // The second begins after midnight; the same address is another block there.
    let paths = [
        write("r.dev1.csv", "1,23:59:59.9,allocate,0x100,1,0\n1,00:00:00.2,free,0x100,1,0\n"),
        write("r.dev0.csv", "1,00:00:00.1,allocate,0x100,2,0\n1,00:00:00.3,free,0x100,2,0\n"),
    ];
    let trace = read_rmm_logs("r", &paths, &Limits::default()).unwrap();
    let found: Vec<_> = trace.events.iter().map(|e| (e.t_us, e.op, e.device, e.size)).collect();
    let expected = [
        (0, Op::Alloc, 1, 1),
        (200_000, Op::Alloc, 0, 2),
        (300_000, Op::FreeRequested, 1, 1),
        (300_000, Op::FreeCompleted, 1, 1),
        (400_000, Op::FreeRequested, 0, 2),
        (400_000, Op::FreeCompleted, 0, 2),
    ];
    assert_eq!(found, expected);
    assert_eq!((trace.devices, trace.dropped.is_empty(), &trace.name[..]), (2, true, "r"));
    let few = Limits { max_events: 3, ..Limits::default() };
    assert!(read_rmm_logs("r", &paths, &few).unwrap_err().to_string().contains("3 events"));
    let twice = [&paths[0], &paths[0]];
    let error = read_rmm_logs("r", &twice, &Limits::default()).unwrap_err();
    assert!(error.to_string().contains("two logs of device 1"), "{error}");
}

proptest! {
    #[test]
    fn any_operations_make_a_trace_that_needs_no_repair(
        lines in prop::collection::vec((0u64..86_400, 0usize..3, 0u64..6, 0u64..3), 0..60),
    ) {
        let actions = ["allocate", "allocate failure", "free"];
        let text: String = lines
            .into_iter()
            .map(|(second, action, pointer, stream)| {
                let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
                let action = actions[action];
                format!("1,{hour:02}:{minute:02}:{second:02}.5,{action},{pointer:#x},8,{stream}\n")
            })
            .collect();
        let trace = read(&text).unwrap();
        let mut csv = Vec::new();
        write_csv(&trace, &mut csv).unwrap();
        let again = read_trace_bytes("log", &csv, &Limits::default()).unwrap();
        prop_assert!(again.dropped.is_empty());
        prop_assert_eq!(again.events, trace.events);
    }
}
