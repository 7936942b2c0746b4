//! What holds for every generator.

use drystone_trace::{Limits, Op, read_trace_bytes, write_csv};

use super::*;

/// Small variants of all generators.
const SMALL: [&str; 10] = [
    "rmm-random:allocations=500",
    "rmm-multi-stream:rounds=20",
    "train:layers=2,width=64,vocabulary=1000,steps=4,evaluate=2",
    "train:layers=2,width=64,vocabulary=1000,steps=3,evaluate=0,recompute=on",
    "zero3:layers=2,width=96,vocabulary=1000,steps=2",
    "serve:requests=6,batch=3,layers=2,width=64,answer=40",
    "serve:requests=6,batch=3,layers=2,width=64,answer=40,cache=paged,adapters=5,loaded=2",
    "diffusion:steps=2,sample=1",
    "diffusion:steps=1,sample=0,pixels=65536",
    "zero3:layers=1,steps=1,texts=1",
];

fn csv(text: &str, seed: u64) -> Vec<u8> {
    let spec: GeneratorSpec = text.parse().unwrap_or_else(|error| panic!("{error}"));
    let mut out = Vec::new();
    write_csv(&spec.generate(seed).unwrap(), &mut out).unwrap();
    out
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_one_others() {
    for text in SMALL {
        assert_eq!(csv(text, 7), csv(text, 7), "{text}");
        // One that is without chance.
        let same = text.starts_with("rmm-multi-stream");
        assert_eq!(csv(text, 7) == csv(text, 8), same, "{text}");
    }
}

#[test]
fn a_reader_has_nothing_to_repair_and_reads_the_same_trace() {
    for text in SMALL {
        let spec: GeneratorSpec = text.parse().unwrap();
        let trace = spec.generate(3).unwrap();
        let name = spec.info.name;
        let read = read_trace_bytes(name, &csv(text, 3), &Limits::default()).unwrap();
        assert_eq!(read, trace, "{text}");
        assert_eq!(read.dropped, Default::default(), "{text}");
        let count = |op| trace.events.iter().filter(|event| event.op == op).count();
        let left = count(Op::Alloc) - count(Op::FreeCompleted);
        // RMM's benchmark stops where it is after so many steps.
        assert!(left == 0 || name == "rmm-random", "{text}: {left} blocks are left");
    }
}

#[test]
fn every_generator_is_tried_and_its_options_are_as_documented() {
    for info in GENERATORS {
        assert!(SMALL.iter().any(|text| text.starts_with(info.name)), "{}", info.name);
        for option in info.options {
            let parse = |value: &str| {
                format!("{}:{}={value}", info.name, option.name).parse::<GeneratorSpec>()
            };
            assert!(parse(option.default).is_ok(), "{} of {}", option.name, info.name);
            let (good, bad) = match option.allowed {
                Allowed::Number(least, most) => {
                    let below = least.checked_sub(1).map(|value| value.to_string());
                    (
                        vec![least.to_string(), most.to_string()],
                        vec![
                            below.unwrap_or("-1".to_owned()),
                            (most + 1).to_string(),
                            "x".to_owned(),
                        ],
                    )
                }
                Allowed::Word(words) => {
                    (words.iter().map(|word| (*word).to_owned()).collect(), vec!["1".to_owned()])
                }
            };
            assert!(good.iter().all(|value| parse(value).is_ok()), "{}", option.name);
            for value in bad {
                let error = parse(&value).unwrap_err().to_string();
                assert!(error.contains(&option.allowed.to_string()), "{error}");
            }
        }
    }
}

#[test]
fn what_is_wrong_is_said() {
    for (text, why) in [
        ("trian", "did you mean `train`?"),
        ("zzz", "the generators are rmm-random, rmm-multi-stream"),
        ("train:depth=3", "there is no option `depth`; the options are layers"),
        ("train:layers", "`layers` is no option: the form is key=value"),
        ("serve:cache=linear", "allowed is concatenated or paged"),
    ] {
        let error = text.parse::<GeneratorSpec>().unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
    let many: GeneratorSpec = "rmm-multi-stream:kernels=10000,rounds=10000".parse().unwrap();
    assert!(many.generate(1).unwrap_err().to_string().contains("at most 5000000"));
    let long: GeneratorSpec = "train:layers=1000,steps=10000".parse().unwrap();
    assert!(long.generate(1).unwrap_err().to_string().contains("more than 20000000 events"));
}

#[test]
fn recomputing_keeps_less() {
    let peak =
        |text: &str| text.parse::<GeneratorSpec>().unwrap().generate(5).unwrap().peak_live_bytes();
    let base = "train:layers=12,width=128,vocabulary=1000,steps=2,evaluate=0,recompute=";
    assert!(peak(&format!("{base}on")) < peak(&format!("{base}off")));
}
