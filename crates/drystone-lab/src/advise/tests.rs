//! Tests of the advice, on traces of which the answer is known.

use std::collections::BTreeSet;

use drystone_core::config::KEYS;
use drystone_trace::{Event, Op, OutOfMemory, Run, Trace};

use super::options::{Family, Setting};
use super::workload::Workload;
use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A trace being written: a block at a time, with a millisecond between events.
#[derive(Default)]
struct Tape {
    events: Vec<Event>,
    blocks: u32,
    device: u32,
}

impl Tape {
    fn put(&mut self, op: Op, id: u32, size: u64) {
        let t_us = 1_000 * self.events.len() as u64;
        self.events.push(Event { t_us, size, id, stream: 0, device: self.device, op });
    }

    fn take(&mut self, mib: u64) -> u32 {
        self.put(Op::Alloc, self.blocks, mib * MIB);
        self.blocks += 1;
        self.blocks - 1
    }

    fn give(&mut self, id: u32, mib: u64) {
        self.put(Op::FreeRequested, id, mib * MIB);
        self.put(Op::FreeCompleted, id, mib * MIB);
    }

    fn run(self) -> Run {
        let devices = self.events.iter().map(|event| event.device + 1).max().unwrap_or(1);
        Run::from(Trace {
            name: "made".to_owned(),
            events: self.events,
            blocks: self.blocks,
            streams: 1,
            devices,
            prelude: 0,
            block_pools: Vec::new(),
            dropped: Default::default(),
        })
    }
}

fn question(capacity: impl Into<Option<u64>>) -> Question {
    Question {
        capacity: capacity.into(),
        goal: None,
        headroom: 0.05,
        device: None,
        target: SimTarget::default(),
        threads: 2,
    }
}

fn ask(run: &Run, question: &Question) -> Advice {
    advise(run, question, &mut |_, _| {}).unwrap()
}

/// A block that grows a little from step to step, freed before the next.
fn growing() -> Run {
    let mut tape = Tape::default();
    for step in 0..60 {
        let mib = 1040 + 2 * step;
        let block = tape.take(mib);
        tape.give(block, mib);
    }
    tape.run()
}

/// A large block goes, small ones that stay come, and it comes again.
fn pinned() -> Run {
    let mut tape = Tape::default();
    let mut large = tape.take(1024);
    for _ in 0..3 {
        tape.give(large, 1024);
        tape.take(16);
        large = tape.take(1024);
    }
    tape.run()
}

/// The same blocks in each step.
fn steady() -> Run {
    let mut tape = Tape::default();
    for _ in 0..200 {
        let (one, other) = (tape.take(64), tape.take(128));
        tape.give(one, 64);
        tape.give(other, 128);
    }
    tape.run()
}

#[test]
fn the_option_that_a_trace_needs_is_found() {
    for (run, capacity, option) in [
        (growing(), 3 * GIB, "roundup_power2_divisions:"),
        (pinned(), 1200 * MIB, "max_split_size_mb:"),
        (pinned(), 1200 * MIB, "expandable_segments:True"),
    ] {
        let workload = Workload::of(&run, None).unwrap();
        let family = Family::pytorch(&workload).with_only(option);
        let task = Task {
            goal: Goal::Time,
            capacity,
            room: capacity / 100 * 95,
            floor: workload.floor,
            plenty: 80 * GIB,
            run_us: workload.trace.duration_us(),
        };
        let mut progress = |_, _| {};
        let mut bench = Bench::new(&workload.trace, SimTarget::default(), 2, &mut progress);
        let mut search = Search { family: &family, bench: &mut bench, task };
        let (setting, standing) = search.best().unwrap();
        assert!(family.text(&setting).starts_with(option), "{standing:?}");
        assert!(standing.roomy && standing.figures.completes);
        let default = search.standing(&family.default()).unwrap();
        let time = |standing: &Standing| Goal::Time.of(&standing.figures);
        let slow = time(&default) > 2.0 * time(&standing);
        assert!(slow || !default.figures.completes, "{default:?}");

        // Among all options the answer is at least as good.
        let advice = ask(&run, &question(capacity));
        let best = &advice.families[0].recommended;
        assert_eq!(best.line, format!("PYTORCH_ALLOC_CONF={}", best.setting));
        let time = time(&standing);
        let most = time + task.counts(Goal::Time, time);
        assert!(best.has_headroom && best.driver_us + best.wait_us <= most, "{best:#?}");
    }
}

#[test]
fn nothing_useless_is_recommended() {
    for goal in [Goal::Time, Goal::Memory] {
        let advice = ask(&steady(), &Question { goal: Some(goal), ..question(GIB) });
        for family in &advice.families {
            assert_eq!(family.recommended, family.default, "{goal:?}");
            assert!(family.effects.is_empty() && family.default.has_headroom);
        }
        // Of equals PyTorch's own.
        assert_eq!((advice.best, advice.lack_bytes), ("pytorch", None));
        assert_eq!(advice.floor_bytes, 192 * MIB);
    }
}

#[test]
fn options_of_the_answer_each_buy_something() {
    let mut shown = 0;
    for (run, capacity) in [(mixed(), GIB), (mixed(), 900 * MIB), (pinned(), 1200 * MIB)] {
        let advice = ask(&run, &question(capacity));
        for family in &advice.families {
            let best = &family.recommended;
            let time = |trial: &Trial| trial.driver_us + trial.wait_us;
            for effect in family.effects.iter().filter(|effect| effect.part == Part::Without) {
                let less = &effect.trial;
                let buys = !less.has_headroom
                    || time(best) < 0.95 * time(less)
                    || best.peak_reserved_bytes < less.peak_reserved_bytes / 100 * 99;
                assert!(buys, "{effect:#?}\n{best:#?}");
                assert!(best.setting.contains(&effect.option));
                shown += 1;
            }
        }
    }
    assert!(shown > 0);
}

/// Blocks of any size that come and go in any order.
fn mixed() -> Run {
    let mut tape = Tape::default();
    let (mut live, mut random) = (Vec::new(), 1u64);
    for _ in 0..250 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let number = random >> 33;
        if live.len() > 12 {
            let (block, mib) = live.swap_remove((number % 12) as usize);
            tape.give(block, mib);
        }
        let mib = 1 + number % 90;
        live.push((tape.take(mib), mib));
    }
    tape.run()
}

#[test]
fn what_lacks_is_said() {
    // The peak is 1024 + 48 MiB.
    let advice = ask(&pinned(), &question(1000 * MIB));
    assert!(!advice.completes);
    assert_eq!(advice.floor_bytes, 1072 * MIB);
    let nearest = advice.families.iter().find(|family| family.family == advice.best).unwrap();
    let trial = &nearest.recommended;
    assert!(!trial.completes && !trial.has_headroom && trial.spare_bytes.is_none());
    let least = trial.min_capacity_bytes;
    assert_eq!(advice.lack_bytes.map(|lack| lack + 1000 * MIB), least);
    assert!(least >= Some(1072 * MIB) && least < Some(1100 * MIB), "{least:?}");
}

#[test]
fn the_answer_does_not_depend_on_threads() {
    let run = mixed();
    for capacity in [Some(700 * MIB), None] {
        let answers = [1, 2].map(|threads| {
            let mut told = Vec::new();
            let question = Question { threads, ..question(capacity) };
            let advice = advise(&run, &question, &mut |done, of| told.push((done, of))).unwrap();
            assert!(told.is_sorted() && told.iter().all(|(done, of)| done <= of));
            assert!(!told.is_empty() && advice.replays < 1_000, "{}", advice.replays);
            advice
        });
        assert!(answers[0] == answers[1]);
    }
}

#[test]
fn all_devices_have_one_setting_unless_one_is_chosen() {
    let mut tape = Tape::default();
    tape.take(100);
    tape.device = 2;
    tape.take(300);
    let run = tape.run();
    let advice = ask(&run, &question(GIB));
    assert_eq!((advice.devices.as_slice(), advice.floor_bytes), (&[0, 2][..], 300 * MIB));
    let least = advice.families[0].recommended.min_capacity_bytes;
    assert_eq!(least, Some(300 * MIB));
    let one = ask(&run, &Question { device: Some(0), ..question(GIB) });
    assert_eq!((one.devices.as_slice(), one.floor_bytes), (&[0][..], 100 * MIB));
    let none = Question { device: Some(1), ..question(GIB) };
    let error = advise(&run, &none, &mut |_, _| {}).unwrap_err().to_string();
    assert_eq!(error, "nothing is asked of device 1 in the trace; devices are 0, 2");
}

#[test]
fn a_request_that_failed_has_to_be_met() {
    let mut tape = Tape::default();
    for device in [0, 1] {
        tape.device = device;
        tape.put(Op::SegmentAlloc, drystone_trace::NO_BLOCK, 200 * MIB);
        tape.take(200);
        tape.put(Op::OutOfMemory, drystone_trace::NO_BLOCK, (100 + 200 * u64::from(device)) * MIB);
    }
    let mut run = tape.run();
    let failed = (0..).zip(&run.trace.events).filter(|(_, event)| event.op == Op::OutOfMemory);
    run.out_of_memory = failed
        .map(|(event, _)| OutOfMemory { event, device_free: 400 * MIB, stack: Default::default() })
        .collect();
    let workload = Workload::of(&run, None).unwrap();
    assert_eq!((workload.capacity, workload.floor), (Some(600 * MIB), 500 * MIB));
    let mut ids: Vec<_> = workload.trace.events.iter().filter(|e| e.op == Op::Alloc).collect();
    ids.sort_by_key(|event| event.id);
    let asked: Vec<_> = ids.iter().map(|event| (event.id, event.size / MIB)).collect();
    assert_eq!(asked, [(0, 200), (1, 200), (2, 100), (3, 300)]);
    assert_eq!(workload.trace.blocks, 4);
    let advice = ask(&run, &question(None));
    let said = (advice.capacity_from, advice.capacity_bytes, advice.goal);
    assert_eq!(said, (CapacityFrom::Recorded, 600 * MIB, Goal::Time));
    assert!(advice.completes);
}

#[test]
fn without_a_history_there_is_no_answer() {
    let mut run = steady();
    run.trace.events.retain(|event| event.op == Op::Alloc);
    run.trace.prelude = run.trace.events.len();
    let found = advise(&run, &question(None), &mut |_, _| {});
    assert!(matches!(found, Err(AdviseError::NoHistory)), "{found:?}");
}

#[test]
fn a_trace_without_requests_needs_nothing() {
    let advice = ask(&Tape::default().run(), &question(None));
    let said = (advice.capacity_from, advice.capacity_bytes, advice.goal);
    assert_eq!(said, (CapacityFrom::Unknown, 80 * GIB, Goal::Memory));
    assert!(advice.completes && advice.devices.is_empty() && advice.floor_bytes == 0);
    // A device that is too small for a page is not the end either.
    assert!(!ask(&steady(), &question(1)).completes);
}

/// All settings with at most two options.
fn pairs(family: &Family) -> Vec<Setting> {
    let singles = family.neighbours(&family.default());
    let more = singles.iter().flat_map(|single| family.neighbours(single));
    let all: BTreeSet<_> = more.chain(singles.iter().cloned()).collect();
    all.into_iter().collect()
}

#[test]
fn no_two_options_beat_the_answer() {
    let run = mixed();
    let workload = Workload::of(&run, None).unwrap();
    let target = question(None).target;
    for (capacity, families) in [
        (GIB, [Family::pytorch(&workload), Family::drystone(&workload)]),
        (900 * MIB, [Family::pytorch(&workload), Family::drystone(&workload)]),
    ] {
        let advice = ask(&run, &question(capacity));
        let room = capacity - advice.headroom_bytes;
        let mut progress = |_, _| {};
        let mut bench = Bench::new(&workload.trace, target.clone(), 2, &mut progress);
        for (family, answer) in families.iter().zip(&advice.families) {
            let best = &answer.recommended;
            assert!(best.has_headroom, "{best:#?}");
            let time = best.driver_us + best.wait_us;
            let counts = (time * 0.05).max(advice.run_us as f64 * 0.001);
            let all = pairs(family);
            let all: Vec<_> = all.iter().map(|setting| family.policy(setting).unwrap()).collect();
            let figures = bench.at(&all, capacity).unwrap();
            let mut faster: Vec<_> = all.into_iter().zip(figures).collect();
            faster.retain(|(_, found)| found.completes && Goal::Time.of(found) + counts < time);
            let faster: Vec<_> = faster.into_iter().map(|(policy, _)| policy).collect();
            let roomy = bench.at(&faster, room).unwrap();
            assert!(roomy.iter().all(|found| !found.completes), "{best:#?} {faster:#?}");
        }
    }
}

#[test]
fn every_value_that_is_tried_is_one_that_the_allocator_takes() {
    let mut run = pinned();
    run.trace.streams = 3;
    let workload = Workload::of(&run, None).unwrap();
    for (family, keys) in [(Family::pytorch(&workload), 7), (Family::drystone(&workload), 11)] {
        let mut known = BTreeSet::new();
        for setting in pairs(&family) {
            let text = family.text(&setting);
            known.extend(
                text.split([',', ':'])
                    .filter_map(|key| KEYS.iter().map(|info| info.name).find(|&name| name == key)),
            );
            for option in setting.given() {
                family.policy(&family.only(&setting, option)).unwrap();
                assert!(family.without(&setting, option).given().all(|other| other != option));
            }
        }
        assert_eq!(known.len(), keys, "{known:?}");
        // Above the largest block a bound of split blocks would do nothing.
        let singles = family.neighbours(&family.default());
        let singles: Vec<_> = singles.iter().map(|setting| family.text(setting)).collect();
        assert!(singles.contains(&"max_split_size_mb:1024".to_owned()));
        assert!(!singles.contains(&"max_split_size_mb:2048".to_owned()));
    }
}
