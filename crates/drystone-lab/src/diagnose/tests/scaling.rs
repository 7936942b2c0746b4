//! What halving would give: right where iterations of other sizes show it, and silence where not.

use super::*;
use crate::generate::GeneratorSpec;

/// Iterations of these sizes n over 100 MiB that stay: 8 n and n²/4 MiB that stay until the end of
/// the iteration, and something constant.
fn iterations(sizes: &[u64], parts: &[(u64, u64)]) -> Script {
    let mut script = Script::default();
    script.alloc(100 * MIB);
    for &n in sizes {
        let bytes = parts.iter().map(|&(factor, power)| factor * n.pow(power as u32) * MIB / 4);
        let blocks: Vec<_> = bytes.map(|bytes| script.alloc(bytes)).collect();
        blocks.into_iter().rev().for_each(|block| script.free(block));
    }
    script
}

fn evidence(run: &Run, capacity: u64) -> BTreeMap<&'static str, u64> {
    let mut found = diagnosed(run, Some(capacity * MIB));
    assert_eq!(found.findings[0].kind, FindingKind::Excess);
    found.findings.swap_remove(0).evidence
}

#[test]
fn the_share_that_is_linear_and_the_one_that_is_quadratic_are_found() {
    // Factors of n^power, in MiB/4.
    let both = [(32, 1), (1, 2), (40, 0)];
    for (sizes, parts, capacity, expected) in [
        // 100 + 10 MiB, 128 of n = 16, and 64 of its square: halved 110 + 64 + 16.
        (&[4, 8, 16, 8][..], &both[..], 250, Some([110, 128, 64, 190])),
        // The same where the largest is underway when it fails.
        (&[4, 8, 4, 16], &both, 250, Some([110, 128, 64, 190])),
        (&[4, 8, 16, 8], &[(32, 1), (40, 0)], 200, Some([110, 128, 0, 174])),
        // All the same, or twice as much of everything: nothing scales, or all does.
        (&[16, 16, 16, 16], &both, 250, None),
        (&[8, 8, 16, 8, 8], &[(32, 1), (16, 1)], 250, Some([100, 192, 0, 196])),
        // Of one iteration nothing can be said.
        (&[16], &both, 250, None),
    ] {
        let found = evidence(&iterations(sizes, parts).run(), capacity);
        let figures = ["constant", "linear", "quadratic", "halved_peak"];
        let figures = figures.map(|name| found.get(name).map(|bytes| bytes / MIB));
        assert_eq!(figures, expected.map_or([None; 4], |all| all.map(Some)), "{sizes:?} {parts:?}");
    }
}

#[test]
fn sizes_that_follow_no_rule_say_nothing() {
    // Each block goes its own way.
    let mut script = Script::default();
    script.alloc(100 * MIB);
    for parts in [[30, 70, 20], [60, 50, 90], [80, 75, 120]] {
        let blocks = parts.map(|mib| script.alloc(mib * MIB));
        blocks.into_iter().for_each(|block| script.free(block));
    }
    let found = evidence(&script.run(), 300);
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), ["capacity", "peak_live"]);
}

#[test]
fn halving_the_batch_of_a_made_run_gives_what_was_said() {
    let make = |texts: u32| {
        let spec = format!("train:texts={texts},steps=8,layers=4,evaluate=0");
        let spec: GeneratorSpec = spec.parse().unwrap();
        Run::from(spec.generate(3).unwrap())
    };
    let found = diagnosed(&make(4), Some(256 * MIB));
    let excess = &found.findings[0];
    let said = excess.evidence["halved_peak"] as f64;
    let half = diagnosed(&make(2), None).peak_live_bytes as f64;
    assert!((said / half - 1.0).abs() < 0.02, "{said} was said, {half} it is");
    assert!(excess.evidence["iterations_checked_count"] >= 3, "{excess:?}");
    assert!(excess.text.contains("Halving the batch"), "{}", excess.text);
}

/// The same, and then the first requests of one more, with MiB held and free; the last one fails.
fn cut_off(sizes: &[u64], parts: &[u64], held: u64, free: u64) -> Run {
    let mut script = iterations(sizes, &[(32, 1), (1, 2), (40, 0)]);
    let (last, rest) = parts.split_last().unwrap();
    for mib in rest {
        script.alloc(mib * MIB);
    }
    script.fail(last * MIB);
    let mut run = script.run();
    failed(&mut run, free * MIB, held * MIB);
    run
}

#[test]
fn an_iteration_that_was_cut_off_is_told_with_the_peak_that_it_would_have_had() {
    // 292 of 295 MiB with the request that failed, and 10 more were to come.
    let run = cut_off(&[4, 8, 4, 8], &[128, 64], 240, 55);
    let found = diagnosed(&run, None);
    assert_eq!(kinds(&found)[0], FindingKind::Excess, "{found:?}");
    let excess = &found.findings[0];
    let figures = ["peak_live", "capacity", "predicted_peak", "constant", "linear", "quadratic"];
    assert_eq!(figures.map(|name| excess.evidence[name] / MIB), [292, 295, 302, 110, 128, 64]);
    assert_eq!((excess.evidence["halved_peak"], excess.bytes), (190 * MIB, 7 * MIB));
    assert_eq!(excess.holders[0].bytes, 302 * MIB, "the sizes that would have been");
    assert!(excess.text.contains("That is a prediction"), "{}", excess.text);
    // What meets the request is tried all the same, and said to be no more than that.
    assert!(found.tried > 0 && found.meets_recorded_only);
    // Where it would have fitted, it is no excess; halving is told of the whole iteration.
    let found = diagnosed(&cut_off(&[4, 8, 4, 8], &[128, 64], 280, 30), None);
    assert_eq!(kinds(&found), [FindingKind::Fragmentation]);
    let evidence = &found.findings[0].evidence;
    assert_eq!((evidence["predicted_peak"], evidence["halved_peak"]), (302 * MIB, 190 * MIB));
    // Certain is what is live.
    let found = diagnosed(&cut_off(&[4, 8, 4, 8], &[128, 64], 228, 55), None);
    let excess = &found.findings[0];
    assert_eq!((found.tried, excess.evidence["predicted_peak"]), (0, 302 * MIB));
    assert!(excess.text.starts_with("The program needs 292.00 MiB at once"), "{}", excess.text);
}

#[test]
fn an_iteration_that_was_cut_off_and_is_like_no_other_is_not_predicted() {
    for (what, sizes, parts) in [
        ("of one size nothing is known", &[8, 8, 8][..], &[128, 64][..]),
        ("other sizes", &[4, 8, 4, 8], &[100, 92]),
        ("no iteration before", &[], &[128, 64]),
    ] {
        let found = diagnosed(&cut_off(sizes, parts, 240, 55), None);
        assert_eq!(kinds(&found), [FindingKind::Fragmentation], "{what}: {found:?}");
        let told = &found.findings[0].evidence;
        assert!(
            !told.contains_key("halved_peak") && !told.contains_key("predicted_peak"),
            "{what}"
        );
    }
    // The same sizes, but it gives back earlier: another program.
    let mut script = iterations(&[4, 8, 4, 8], &[(32, 1), (1, 2), (40, 0)]);
    let first = script.alloc(128 * MIB);
    script.free(first);
    script.fail(64 * MIB);
    let mut run = script.run();
    failed(&mut run, 20 * MIB, 240 * MIB);
    let found = diagnosed(&run, None);
    let mut told = found.findings.iter().flat_map(|finding| finding.evidence.keys());
    assert!(told.all(|&name| name != "predicted_peak"), "{found:?}");
}
