//! Each finding on a trace that has it; a trace that has none; odd inputs.

use drystone_trace::{
    BlockState, Op, OutOfMemory, Run, Segment, SegmentType, SnapshotBlock, StackId, read_run_bytes,
};

use super::*;

mod emptying;
mod limits;
mod pools;
mod scaling;

const MIB: u64 = 1 << 20;

/// Lines of a CSV, written by what happens.
#[derive(Default)]
struct Script {
    lines: String,
    now: u64,
    blocks: usize,
}

impl Script {
    fn alloc(&mut self, bytes: u64) -> usize {
        let id = self.blocks;
        self.blocks += 1;
        self.line(format_args!("a,{id},{bytes},0,0"));
        id
    }

    fn request_free(&mut self, id: usize) {
        self.line(format_args!("f,{id},0,0,0"));
    }

    fn free(&mut self, id: usize) {
        self.request_free(id);
        self.line(format_args!("c,{id},0,0,0"));
    }

    fn fail(&mut self, bytes: u64) {
        self.line(format_args!("o,,{bytes},0,0"));
    }

    fn line(&mut self, what: std::fmt::Arguments<'_>) {
        self.now += 100;
        self.lines += &format!("{},{what}\n", self.now);
    }

    /// The run; sizes of frees are left to the reader.
    fn run(&self) -> Run {
        let csv = format!("t_us,op,id,size,stream,device\n{}", self.lines);
        read_run_bytes("t", csv.as_bytes(), &Default::default()).unwrap()
    }
}

fn diagnosed(run: &Run, capacity: Option<u64>) -> DeviceDiagnosis {
    let mut found = diagnose(run, capacity, &mut |done, of| assert!(done <= of)).unwrap();
    assert_eq!(found.devices.len(), 1);
    found.devices.remove(0)
}

fn kinds(found: &DeviceDiagnosis) -> Vec<FindingKind> {
    found.findings.iter().map(|finding| finding.kind).collect()
}

/// A segment of 200 MiB in pieces of 20 MiB, of which every other one is free.
fn in_pieces() -> Script {
    let mut script = Script::default();
    let whole = script.alloc(200 * MIB);
    script.free(whole);
    let parts: Vec<_> = (0..10).map(|_| script.alloc(20 * MIB)).collect();
    parts.iter().step_by(2).for_each(|&part| script.free(part));
    script
}

/// What the recording knows of a failure at its last event.
fn failed(run: &mut Run, device_free: u64, segment: u64) {
    let event = run.trace.events.iter().rposition(|event| event.op == Op::OutOfMemory).unwrap();
    run.out_of_memory = vec![OutOfMemory { event, device_free, stack: StackId::default() }];
    let live = run.trace.events[..event].iter().fold(0u64, |live, event| match event.op {
        Op::Alloc => live.saturating_add(event.size),
        Op::FreeCompleted => live.saturating_sub(event.size),
        _ => live,
    });
    run.segments = vec![held(segment, segment.saturating_sub(live), (0, 0))];
}

fn held(bytes: u64, free: u64, pool: (u64, u64)) -> Segment {
    let block = |address, size, state| SnapshotBlock {
        address,
        size,
        requested_size: size,
        state,
        stack: StackId::default(),
    };
    Segment {
        device: 0,
        address: 1 << 30,
        total_size: bytes,
        allocated_size: bytes - free,
        active_size: bytes - free,
        requested_size: bytes - free,
        stream: 0,
        segment_type: SegmentType::Large,
        segment_pool_id: pool,
        is_expandable: false,
        blocks: vec![
            block(1 << 30, bytes - free, BlockState::Allocated),
            block((1 << 30) + bytes - free, free, BlockState::Inactive),
        ],
        stack: StackId::default(),
    }
}

#[test]
fn a_run_that_does_what_it_should_has_no_findings() {
    let mut script = Script::default();
    let weights = script.alloc(300 * MIB);
    for _ in 0..50 {
        let parts = [64, 32, 16].map(|mib| script.alloc(mib * MIB));
        parts.into_iter().for_each(|part| script.free(part));
    }
    script.free(weights);
    for capacity in [None, Some(512 * MIB)] {
        let found = diagnosed(&script.run(), capacity);
        assert_eq!(found.findings, [], "{capacity:?}");
        assert_eq!((found.failure, found.tried, found.as_it_was), (None, 0, None));
        assert_eq!((found.capacity_bytes, found.peak_live_bytes), (capacity, 412 * MIB));
    }
}

#[test]
fn more_than_there_is_is_an_excess_and_no_setting_is_tried() {
    let mut script = Script::default();
    script.alloc(100 * MIB);
    script.alloc(300 * MIB);
    let found = diagnosed(&script.run(), Some(350 * MIB));
    assert_eq!(kinds(&found), [FindingKind::Excess]);
    let excess = &found.findings[0];
    assert_eq!((excess.bytes, excess.evidence["peak_live"]), (50 * MIB, 400 * MIB));
    let holder = Holder { frame: None, bytes: 400 * MIB, blocks: 2, largest: 300 * MIB };
    assert_eq!(excess.holders, [holder]);
    let failure = found.failure.unwrap();
    assert_eq!((failure.asked, failure.live, failure.recorded), (300 * MIB, 100 * MIB, false));
    assert_eq!((found.tried, &found.remedies[..]), (0, &[][..]));
}

#[test]
fn a_recorded_failure_counts_with_what_was_asked_for() {
    let mut script = Script::default();
    script.alloc(100 * MIB);
    script.fail(300 * MIB);
    let mut run = script.run();
    failed(&mut run, 150 * MIB, 100 * MIB);
    let found = diagnosed(&run, None);
    assert_eq!(found.capacity_bytes, Some(250 * MIB));
    assert_eq!(kinds(&found), [FindingKind::Excess]);
    assert_eq!(found.findings[0].bytes, 150 * MIB);
    assert!(found.failure.unwrap().recorded);
}

#[test]
fn free_pieces_that_together_would_do_are_fragmentation_and_remedies_are_replayed() {
    let mut script = in_pieces();
    script.alloc(60 * MIB);
    let found = diagnosed(&script.run(), Some(250 * MIB));
    assert_eq!(kinds(&found), [FindingKind::Fragmentation]);
    let evidence = &found.findings[0].evidence;
    let figures = ["asked", "live", "reserved", "reserved_free", "largest_free", "device_free"];
    let mib = figures.map(|name| evidence[name] / MIB);
    assert_eq!(mib, [60, 100, 200, 100, 20, 50]);
    assert_eq!((evidence["free_pieces_count"], evidence["would_have_fit"]), (5, 50 * MIB));
    assert!(!found.as_it_was.as_ref().unwrap().completes);
    let helped: Vec<_> = found.remedies.iter().map(|remedy| remedy.setting.as_str()).collect();
    assert!(helped.contains(&"python -m drystone run train.py"), "{helped:?}");
    assert!(found.remedies.iter().all(|remedy| remedy.completes));
    let order = |remedy: &Remedy| (remedy.changes_program, remedy.peak_reserved_bytes);
    assert!(found.remedies.is_sorted_by_key(order));
    assert_eq!(found.tried, 14);
    let policies: Vec<_> = found.remedies.iter().map(|remedy| remedy.policy.as_str()).collect();
    assert!(policies.contains(&"pytorch + empty_cache"), "{policies:?}");
}

#[test]
fn a_recorded_failure_is_fragmentation_too() {
    let mut script = in_pieces();
    script.fail(60 * MIB);
    let mut run = script.run();
    failed(&mut run, 50 * MIB, 200 * MIB);
    // As it lay when it was recorded, which need not be as it lies in a replay.
    let block = run.segments[0].blocks[1];
    run.segments[0].blocks = (0..20)
        .map(|number| SnapshotBlock {
            address: (1 << 30) + number * 10 * MIB,
            size: 10 * MIB,
            state: [BlockState::Allocated, BlockState::Inactive][number as usize % 2],
            ..block
        })
        .collect();
    let found = diagnosed(&run, None);
    assert_eq!(
        (found.capacity_bytes, kinds(&found)),
        (Some(250 * MIB), vec![FindingKind::Fragmentation])
    );
    assert_eq!(found.findings[0].evidence["largest_free"], 10 * MIB);
    assert_eq!(found.findings[0].evidence["free_pieces_count"], 10);
    // Without a snapshot's figures the capacity has to be said.
    let found = diagnosed(&script.run(), Some(250 * MIB));
    assert_eq!(kinds(&found), [FindingKind::Fragmentation]);
    assert_eq!(found.findings[0].evidence["would_have_fit"], 50 * MIB);
    assert!(found.failure.unwrap().recorded);
    // What happened after the failure is in the segments: then the replay has to tell.
    script.free(2);
    let mut run = script.run();
    failed(&mut run, 50 * MIB, 200 * MIB);
    let found = diagnosed(&run, None);
    assert_eq!(found.findings[0].evidence["largest_free"], 20 * MIB);
}

#[test]
fn waste_without_a_failure_is_told_where_the_capacity_is_not_known() {
    let mut script = in_pieces();
    script.alloc(60 * MIB);
    let found = diagnosed(&script.run(), None);
    assert_eq!(kinds(&found)[0], FindingKind::Fragmentation);
    assert_eq!(found.findings[0].evidence["asked"], 60 * MIB);
    assert_eq!(found.findings[0].evidence["reserved_free"], 100 * MIB);
    assert!(found.failure.is_none() && found.as_it_was.unwrap().completes);
    let least = found.remedies[0].peak_reserved_bytes;
    assert!(least < 250 * MIB, "{least}");
}

#[test]
fn the_recorded_settings_are_replayed_and_not_recommended_again() {
    let mut script = in_pieces();
    script.alloc(60 * MIB);
    let mut run = script.run();
    run.settings = vec![("expandable_segments".into(), "True".into())];
    for (settings, policy, setting) in [
        (
            ("expandable_segments", "True".to_owned()),
            "pytorch-expandable",
            "expandable_segments:True",
        ),
        (
            ("max_split_size", (64 * MIB).to_string()),
            "pytorch:max_split_size_mb=64",
            "max_split_size_mb:64",
        ),
        // No limit, and what PyTorch would not take.
        (("max_split_size", "-1".to_owned()), "pytorch", "as it was"),
        (("max_split_size", MIB.to_string()), "pytorch", "as it was"),
    ] {
        run.settings = vec![(settings.0.to_owned(), settings.1)];
        let found = diagnosed(&run, None);
        let before = found.as_it_was.unwrap();
        assert_eq!((before.policy.as_str(), before.setting.as_str()), (policy, setting));
        assert!(found.remedies.iter().all(|remedy| remedy.policy != policy));
    }
}

#[test]
fn what_rises_with_every_iteration_is_growth() {
    let mut script = Script::default();
    script.alloc(100 * MIB);
    for _ in 0..200 {
        let parts = [64, 32].map(|mib| script.alloc(mib * MIB));
        script.alloc(MIB);
        parts.into_iter().for_each(|part| script.free(part));
    }
    let found = diagnosed(&script.run(), None);
    assert_eq!(kinds(&found)[0], FindingKind::Growth, "{found:?}");
    let growth = &found.findings[0];
    let stayed = growth.evidence["blocks_that_stayed_count"];
    assert!((120..=160).contains(&stayed), "{growth:?}");
    assert_eq!(growth.bytes, stayed * MIB);
    assert_eq!(growth.holders[0].largest, MIB);
    // Where it ends in a failure, the excess is what is certain.
    let found = diagnosed(&script.run(), Some(300 * MIB));
    assert_eq!(kinds(&found), [FindingKind::Excess, FindingKind::Growth]);
}

#[test]
fn loading_is_no_growth() {
    let mut script = Script::default();
    for _ in 0..400 {
        script.alloc(MIB);
    }
    assert_eq!(diagnosed(&script.run(), None).findings, []);
}

#[test]
fn memory_held_after_its_phase_is_an_idle_cache() {
    let mut script = Script::default();
    let large: Vec<_> = (0..4).map(|_| script.alloc(100 * MIB)).collect();
    large.into_iter().for_each(|block| script.free(block));
    for _ in 0..100 {
        let small = script.alloc(MIB);
        script.free(small);
    }
    let found = diagnosed(&script.run(), None);
    assert_eq!(kinds(&found), [FindingKind::IdleCache]);
    assert!(found.findings[0].bytes >= 400 * MIB, "{found:?}");
}

#[test]
fn a_snapshot_with_nothing_but_segments_is_diagnosed() {
    let mut run = Script::default().run();
    run.segments = vec![held(300 * MIB, 200 * MIB, (0, 0))];
    let found = diagnosed(&run, None);
    assert_eq!(kinds(&found), [FindingKind::IdleCache]);
    assert_eq!((found.findings[0].bytes, found.tried), (200 * MIB, 0));
}

#[test]
fn frees_that_wait_are_told_of() {
    let mut script = Script::default();
    let copy = script.alloc(100 * MIB);
    script.request_free(copy);
    let next = script.alloc(200 * MIB);
    script.line(format_args!("c,{copy},0,0,0"));
    script.free(next);
    let found = diagnosed(&script.run(), None);
    assert_eq!(kinds(&found), [FindingKind::PendingFrees]);
    assert_eq!(found.findings[0].evidence["pending"], 100 * MIB);
}

#[test]
fn private_pools_are_told_of() {
    let mut script = Script::default();
    script.alloc(MIB);
    let mut run = script.run();
    run.segments = vec![held(100 * MIB, 90 * MIB, (0, 1)), held(100 * MIB, 0, (0, 0))];
    let found = diagnosed(&run, None);
    assert_eq!(kinds(&found), [FindingKind::PrivatePools]);
    assert_eq!(found.findings[0].evidence["private_free"], 90 * MIB);
}

#[test]
fn a_limit_and_others_on_the_device_are_told_apart() {
    let mut script = Script::default();
    script.alloc(100 * MIB);
    script.fail(300 * MIB);
    let mut run = script.run();
    failed(&mut run, 1000 * MIB, 100 * MIB);
    assert_eq!(kinds(&diagnosed(&run, None)), [FindingKind::Limit]);
    // 16 GiB, of which this program could have had 250 MiB.
    failed(&mut run, 150 * MIB, 100 * MIB);
    let found = diagnosed(&run, Some(16 << 30));
    assert_eq!(kinds(&found), [FindingKind::OtherProcess]);
    assert_eq!(found.findings[0].bytes, (16 << 30) - 250 * MIB);
}

#[test]
fn without_a_history_nothing_is_replayed() {
    // Only what failed, and what was held then: enough, but in two pieces.
    let mut script = Script::default();
    script.fail(150 * MIB);
    let mut run = script.run();
    failed(&mut run, 10 * MIB, 200 * MIB);
    run.segments[0].blocks[0].size = 100 * MIB;
    run.segments[0].blocks[1].size = 100 * MIB;
    run.segments[0].blocks[0].state = BlockState::Inactive;
    let found = diagnosed(&run, None);
    assert_eq!(kinds(&found), [FindingKind::Fragmentation]);
    assert_eq!((found.tried, found.as_it_was), (0, None));
}

#[test]
fn each_device_is_diagnosed_for_itself() {
    let mut script = Script::default();
    script.alloc(100 * MIB);
    script.line(format_args!("a,9,{},0,1", 300 * MIB));
    script.blocks = 10;
    let found = diagnose(&script.run(), Some(200 * MIB), &mut |_, _| {}).unwrap();
    assert!(!found.is_clean());
    let devices: Vec<_> = found.devices.iter().map(|d| (d.device, kinds(d))).collect();
    assert_eq!(devices, [(0, vec![]), (1, vec![FindingKind::Excess])]);
}

#[test]
fn nothing_and_the_incredible_are_no_panic() {
    let empty = diagnose(&Script::default().run(), None, &mut |_, _| {}).unwrap();
    assert!(empty.is_clean() && empty.devices.is_empty());
    let mut script = Script::default();
    script.fail(1 << 60);
    let mut run = script.run();
    failed(&mut run, u64::MAX, 1 << 60);
    let found = diagnosed(&run, None);
    assert_eq!(found.capacity_bytes, None);
}

#[test]
fn the_same_run_gives_the_same_json() {
    let mut script = in_pieces();
    script.alloc(60 * MIB);
    let json = || {
        let found = diagnose(&script.run(), Some(250 * MIB), &mut |_, _| {}).unwrap();
        serde_json::to_string(&found).unwrap()
    };
    let first = json();
    assert_eq!(first, json());
    let begins = "{\"trace\":\"t\",\"devices\":[{\"device\":0,\"capacity_bytes\":262144000,";
    assert!(first.starts_with(begins), "{first}");
    assert!(first.contains("\"kind\":\"fragmentation\""), "{first}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

    #[test]
    fn no_run_makes_it_panic(
        operations in proptest::collection::vec((0u8..9, 0usize..8, 0u32..60), 0..120),
        repeats in 1usize..6,
        capacity in proptest::option::of(20u32..45),
    ) {
        let mut script = Script::default();
        let mut live = Vec::new();
        for &(operation, which, power) in operations.iter().cycle().take(repeats * operations.len()) {
            match operation {
                0..4 => live.push(script.alloc((1u64 << power) + which as u64)),
                4..7 if !live.is_empty() => script.free(live.remove(which % live.len())),
                7 => script.fail(1 << power),
                _ => script.line(format_args!("{},,{},0,0", ["S", "R"][which % 2], 1u64 << power)),
            }
        }
        let mut run = script.run();
        if run.trace.events.iter().any(|event| event.op == Op::OutOfMemory) {
            failed(&mut run, 1 << 30, 1 << 28);
        }
        let said = capacity.map(|power| 1u64 << power);
        let first = diagnose(&run, said, &mut |_, _| {}).unwrap();
        proptest::prop_assert_eq!(first, diagnose(&run, said, &mut |_, _| {}).unwrap());
    }
}
