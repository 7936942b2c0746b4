//! Emptying the cache between phases: where phases are found, and what replays of it give.

use super::*;
use crate::diagnose::emptying::Emptying;
use crate::diagnose::laps::{laps, phases};
use crate::generate::GeneratorSpec;
use crate::replay::replay;
use crate::target::{SimTarget, Target};

/// Phases, each of iterations with these blocks in MiB.
fn phased(phases: &[(usize, &[u64])]) -> Script {
    let mut script = Script::default();
    script.alloc(100 * MIB);
    for &(iterations, blocks) in phases {
        for _ in 0..iterations {
            let blocks: Vec<_> = blocks.iter().map(|mib| script.alloc(mib * MIB)).collect();
            blocks.into_iter().for_each(|block| script.free(block));
        }
    }
    script
}

#[test]
fn laps_are_what_comes_and_goes_and_phases_are_laps_of_other_sizes() {
    for (what, phased_run, expected) in [
        ("one phase", phased(&[(6, &[64, 32])]), (6, 0)),
        ("two", phased(&[(6, &[64, 32]), (4, &[80])]), (10, 1)),
        ("there and back", phased(&[(3, &[64]), (2, &[80, 40]), (3, &[64])]), (8, 2)),
        ("small changes", phased(&[(3, &[64, 2]), (3, &[64, 4])]), (6, 0)),
        ("nothing of a size", phased(&[(9, &[1, 2])]), (0, 0)),
        ("quiet at the end", phased(&[(3, &[64]), (9, &[1, 2])]), (3, 1)),
    ] {
        let run = phased_run.run();
        let view = View::of(&run, 0, None);
        // The last lap is underway when most was live for the last time.
        assert_eq!((laps(&view).len(), phases(&view).len()), expected, "{what}");
    }
}

#[test]
fn what_stays_and_what_grows_does_not_hide_laps() {
    let mut script = Script::default();
    for step in 0..20 {
        let parts = [64, 32].map(|mib| script.alloc(mib * MIB));
        // As an optimizer's state in the first step, and a leak after it.
        script.alloc(if step == 0 { 200 * MIB } else { MIB });
        parts.into_iter().for_each(|part| script.free(part));
    }
    script.alloc(64 * MIB);
    let run = script.run();
    let found = laps(&View::of(&run, 0, None));
    assert_eq!(found.iter().filter(|lap| lap.ends).count(), 20);
    assert!(!found[20].ends && found[20].events.end == run.trace.events.len());
    assert!(found.windows(2).all(|two| two[0].events.end == two[1].events.start));
}

#[test]
fn a_phase_that_left_its_segments_is_a_case_for_empty_cache() {
    // Segments of 200 MiB would be cut for the blocks of 30 MiB that stay.
    let mut script = phased(&[(3, &[200])]);
    let kept: Vec<_> = (0..4).map(|_| [30, 30].map(|mib| script.alloc(mib * MIB))).collect();
    kept.iter().for_each(|pair| script.free(pair[0]));
    script.alloc(120 * MIB);
    let mut run = script.run();
    let found = diagnosed(&run, Some(400 * MIB));
    assert_eq!(kinds(&found), [FindingKind::Fragmentation]);
    let emptied = |found: &DeviceDiagnosis| {
        let all = &found.remedies;
        all.iter().find(|remedy| remedy.policy.ends_with(" + empty_cache")).cloned()
    };
    let remedy = emptied(&found).unwrap();
    assert!(remedy.completes && remedy.setting.starts_with("torch.cuda.empty_cache() after 0.0 s"));
    // It stands on the recorded settings.
    run.settings = vec![("max_split_size".into(), (256 * MIB).to_string())];
    let found = diagnosed(&run, Some(400 * MIB));
    assert_eq!(emptied(&found).unwrap().policy, "pytorch:max_split_size_mb=256 + empty_cache");
}

#[test]
fn an_idle_cache_can_be_given_back_where_its_phase_ends() {
    let found = diagnosed(&phased(&[(3, &[400, 100]), (60, &[1, 2])]).run(), None);
    assert_eq!(kinds(&found), [FindingKind::IdleCache]);
    let before = found.as_it_was.unwrap();
    assert!(before.end_reserved_bytes >= 600 * MIB, "{before:?}");
    let remedy = found.remedies.iter().find(|remedy| remedy.changes_program).unwrap();
    assert!(remedy.end_reserved_bytes <= 130 * MIB, "{remedy:?}");
    assert!(
        before.peak_reserved_bytes - remedy.peak_reserved_bytes <= 2 * MIB,
        "the peak was before"
    );
}

#[test]
fn every_policy_that_has_the_step_gives_its_cache_back() {
    let run = phased(&[(2, &[300]), (2, &[40, 8])]).run();
    let view = View::of(&run, 0, None);
    let emptying = Emptying::of(&view).unwrap();
    let target = Target::Sim(SimTarget::default());
    for name in ["pytorch", "pytorch-expandable", "drystone", "drystone-malloc"] {
        let policy = remedies::policy(name, "").unwrap();
        let end = |policy| replay(&view.trace, policy, &target, &mut |_| {}).unwrap().metrics;
        let (plain, emptied) = (end(&policy), end(&emptying.on(&policy)));
        assert!(plain.end_reserved_bytes >= 400 * MIB, "{name}: {}", plain.end_reserved_bytes);
        assert!(emptied.end_reserved_bytes <= 160 * MIB, "{name}: {}", emptied.end_reserved_bytes);
        assert!(emptied.driver_us + emptied.wait_us > plain.driver_us + plain.wait_us, "{name}");
    }
    // A policy without it goes on as it was.
    let policy = remedies::policy("cudamalloc", "").unwrap();
    let replayed = replay(&view.trace, &emptying.on(&policy), &target, &mut |_| {}).unwrap();
    assert_eq!(replayed.metrics.end_reserved_bytes, 100 * MIB);
}

#[test]
fn made_training_with_evaluation_has_phases() {
    let spec: GeneratorSpec = "train:texts=2,steps=12,layers=4,evaluate=4".parse().unwrap();
    let run = Run::from(spec.generate(1).unwrap());
    let view = View::of(&run, 0, None);
    let (laps, phases) = (laps(&view).len(), phases(&view).len());
    assert!(laps >= 12 && phases >= 3 && phases < laps, "{laps} laps, {phases} phases");
    assert!(Emptying::of(&view).unwrap().places.starts_with("after "));
}
