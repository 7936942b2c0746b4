//! The picture is well-formed, says what it must, and draws where it must.

use crate::{Panel, PolicySpec, Recording, Replayed, SimTarget, Target, picture, replay};
use drystone_trace::{Trace, read_trace_bytes};

fn trace(name: &str) -> Trace {
    let csv = "t_us,op,id,size,stream\n0,S,,41943040,0\n0,a,0,2097152,0\n1000,a,1,4194304,0\n\
               2000,f,0,2097152,0\n2000,c,0,2097152,0\n4000,a,2,6291456,0\n";
    read_trace_bytes(name, csv.as_bytes(), &Default::default()).unwrap()
}

fn replayed(trace: &Trace, capacity: u64) -> Replayed {
    let policy: PolicySpec = "drystone-malloc".parse().unwrap();
    let target = Target::Sim(SimTarget { capacity, ..SimTarget::default() });
    replay(trace, &policy, &target, &mut |_| {}).unwrap()
}

/// The names of the open elements are matched and all text is escaped; not a whole XML parser.
fn check_well_formed(svg: &str) {
    let mut open = Vec::new();
    for part in svg.split('<').skip(1) {
        let (tag, text) = part.split_once('>').expect("a tag ends");
        assert!(!text.contains('>'), "{text}");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        for (at, _) in text.match_indices('&') {
            let entity = &text[at..];
            let known = ["&amp;", "&lt;", "&gt;", "&quot;"];
            assert!(known.iter().any(|name| entity.starts_with(name)), "{entity}");
        }
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap());
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn names_from_outside_do_not_break_the_file() {
    let trace = trace("</svg><script>&\"\u{7}");
    let recording = Recording::of(&trace);
    let replays = [replayed(&trace, 80 << 30)];
    let svg = picture(&[Panel { recording: &recording, replays: &replays }]);
    check_well_formed(&svg);
    assert!(!svg.contains("<script"), "{svg}");
    assert!(svg.contains("&lt;script&gt;&amp;&quot;\u{fffd}"), "{svg}");
}

#[test]
fn every_line_is_there_and_in_the_legend() {
    let trace = trace("tiny");
    let recording = Recording::of(&trace);
    let replays = [replayed(&trace, 80 << 30), replayed(&trace, 9 << 20)];
    let panel = Panel { recording: &recording, replays: &replays };
    let svg = picture(&[panel, panel]);
    check_well_formed(&svg);
    for (text, count) in [
        (">tiny</text>", 2),
        ("class=\"live\" d=", 2),
        // Each line and its sample; the policy without memory also has its cross.
        ("class=\"curve recorded\"", 4),
        ("class=\"curve c0\"", 4),
        ("class=\"curve c1\"", 6),
        (", then out of memory (×)<", 2),
        ("at most 40.00 MiB, 4.00 × live", 2),
        ("not yet freed, at most 10.00 MiB", 2),
        (">MiB<", 2),
        (">time, ms<", 2),
    ] {
        assert_eq!(svg.matches(text).count(), count, "{text} in {svg}");
    }
}

#[test]
fn the_area_has_the_heights_and_times_of_the_trace() {
    let trace = trace("tiny");
    let recording = Recording::of(&trace);
    let replays = [replayed(&trace, 80 << 30)];
    let svg = picture(&[Panel { recording: &recording, replays: &replays }]);
    // 40 MiB of the recording fill the 300 px above y = 384; 4 ms the 868 px from x = 64 on, in
    // steps of 3 µs. Live: 2 MiB, 6 from 999 µs on, 4 from 2,001 µs on (the step before has the
    // end of the 6 in it), 10 at 4 ms.
    let area = "M64 369.0H280.8V339.0H498.2V354.0H931.8V309.0H932.0V384.0H64Z";
    assert!(svg.contains(area), "{svg}");
}

#[test]
fn an_empty_trace_has_a_picture() {
    let csv = b"t_us,op,id,size,stream\n";
    let trace = read_trace_bytes("nothing", csv, &Default::default()).unwrap();
    let recording = Recording::of(&trace);
    let replays = [replayed(&trace, 1 << 30)];
    let svg = picture(&[Panel { recording: &recording, replays: &replays }]);
    check_well_formed(&svg);
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
}
