//! Configuration strings: what torch accepts and refuses, Drystone's own keys, errors, round trips.

use drystone_core::config::{
    Backend, Backing, Config, ConfigError, CrossStream, KEYS, KeyInfo, Origin, Reserve, TorchOnly,
};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

/// What a string must change in the default configuration.
type Change = fn(&mut Config);

const ACCEPTED: &[(&str, Change)] = &[
    ("", |_| {}),
    (" \t\n\x0b\x0c\r", |_| {}),
    ("expandable_segments:True", |c| c.expandable_segments = true),
    ("expandable_segments:True,", |c| c.expandable_segments = true),
    ("expandable_segments:True,expandable_segments:False", |_| {}),
    (" expandable _segments : Tr ue ", |c| c.expandable_segments = true),
    ("max_split_size_mb:20", |c| c.max_split_size = Some(20 * MIB)),
    ("max_split_size_mb:40,max_split_size_mb:30", |c| c.max_split_size = Some(30 * MIB)),
    // The C library's numbers: a prefix, a sign, and wrapping round.
    ("max_split_size_mb:512MB", |c| c.max_split_size = Some(512 * MIB)),
    ("max_split_size_mb:+20.9", |c| c.max_split_size = Some(20 * MIB)),
    ("max_split_size_mb:-1", |c| c.max_split_size = Some(u64::MAX / MIB * MIB)),
    ("max_split_size_mb:17592186044416", |c| c.max_split_size = Some(u64::MAX / MIB * MIB)),
    ("max_non_split_rounding_mb:30", |c| c.max_non_split_rounding = 30 * MIB),
    // The large segment size bounds the other two wherever it stands, and moves the rounding.
    ("large_segment_size_mb:11", |c| {
        c.min_large_segment = Some(11 * MIB);
        c.max_non_split_rounding = 11 * MIB;
    }),
    ("max_split_size_mb:12,large_segment_size_mb:12", |c| {
        c.max_split_size = Some(12 * MIB);
        c.min_large_segment = Some(12 * MIB);
        c.max_non_split_rounding = 12 * MIB;
    }),
    ("max_non_split_rounding_mb:64,large_segment_size_mb:40,large_segment_size_mb:20", |c| {
        c.min_large_segment = Some(20 * MIB);
        c.max_non_split_rounding = 64 * MIB;
    }),
    ("garbage_collection_threshold:0.8", |c| c.garbage_collection_threshold = 0.8),
    ("garbage_collection_threshold:.5e0x", |c| c.garbage_collection_threshold = 0.5),
    ("roundup_power2_divisions:4", |c| c.roundup_power2_divisions = [4; 16]),
    ("roundup_power2_divisions:1", |c| c.roundup_power2_divisions = [1; 16]),
    ("roundup_power2_divisions:[]", |_| {}),
    ("roundup_power2_divisions:[256:1,512:2,1024:4,>:8]", |c| {
        c.roundup_power2_divisions = [1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 8, 8, 8, 8, 8];
    }),
    ("roundup_power2_divisions:[64:8,256:4,1024:4,>:1,]", |c| {
        c.roundup_power2_divisions = [8, 8, 8, 8, 8, 8, 8, 0, 4, 0, 4, 1, 1, 1, 1, 1];
    }),
    ("roundup_power2_divisions:[64:0,128:2]", |c| c.roundup_power2_divisions[7] = 2),
    ("roundup_power2_divisions:[>:2]", |c| c.roundup_power2_divisions[1..].fill(2)),
    ("roundup_power2_divisions:[1048576:2]", |c| c.roundup_power2_divisions = [2; 16]),
    // A second value is laid over the first.
    ("roundup_power2_divisions:4,roundup_power2_divisions:[2:8]", |c| {
        c.roundup_power2_divisions = [4; 16];
        c.roundup_power2_divisions[..2].fill(8);
    }),
    ("graph_capture_record_stream_reuse:True", |c| c.graph_capture_record_stream_reuse = true),
    ("release_lock_on_cudamalloc:True", |c| c.release_lock_on_cudamalloc = true),
    ("release_lock_on_hipmalloc:True", |c| c.release_lock_on_cudamalloc = true),
    ("per_process_memory_fraction:0.5", |c| c.memory_fraction = Some(0.5)),
    ("per_process_memory_fraction:0", |c| c.memory_fraction = Some(0.0)),
    ("per_process_memory_fraction:1.0", |c| c.memory_fraction = Some(1.0)),
    ("backend:native", |_| {}),
    ("backend:cudaMallocAsync", |c| c.torch_only.backend = Backend::CudaMallocAsync),
    (
        "pinned_use_cuda_host_register:True,pinned_num_register_threads:128,\
         pinned_use_background_threads:True,pinned_reserve_segment_size_mb:2048",
        |c| {
            c.torch_only = TorchOnly {
                pinned_use_host_register: true,
                pinned_num_register_threads: 128,
                pinned_use_background_threads: true,
                pinned_reserve_segment_size_mb: 2048,
                ..TorchOnly::default()
            }
        },
    ),
    ("pinned_use_hip_host_register:True", |c| c.torch_only.pinned_use_host_register = true),
    ("throw_on_cudamalloc_oom:True,pinned_max_cached_size_mb:0", |c| {
        c.torch_only.throw_on_cudamalloc_oom = true;
        c.torch_only.pinned_max_cached_size_mb = Some(0);
    }),
    // Drystone's own.
    ("limit:12 GiB,soft_limit:1.5gb,history:4096,oom_retries:0", |c| {
        c.limit = Some(12 << 30);
        c.soft_limit = Some(1_500_000_000);
        c.history = 4096;
        c.oom_retries = 0;
    }),
    ("memory_fraction:0.9", |c| c.memory_fraction = Some(0.9)),
    ("memory_fraction:0.9,per_process_memory_fraction:0.5", |c| c.memory_fraction = Some(0.5)),
    ("segment_granularity:1GiB,small_segment_size:4MiB", |c| {
        c.segment_granularity = Some(1 << 30);
        c.small_segment_size = Some(4 * MIB);
    }),
    ("large_segment_size:4MiB,max_split_size_mb:4", |c| {
        c.min_large_segment = Some(4 * MIB);
        c.max_non_split_rounding = 4 * MIB;
        c.max_split_size = Some(4 * MIB);
    }),
    ("spill_limit:8GiB", |c| c.spill_limit = Some(8 << 30)),
    ("min_split_remainder:512", |c| c.min_split_remainder = Some(512)),
    ("backing:malloc", |c| c.backing = Backing::Malloc),
    ("backing:vmm", |c| c.backing = Backing::Vmm),
    ("reserve:lean", |c| c.reserve = Reserve::Lean),
    ("reserve:fast", |c| c.reserve = Reserve::Fast),
    ("cross_stream:off", |c| c.cross_stream = CrossStream::Off),
    ("cross_stream:passed", |c| c.cross_stream = CrossStream::Passed),
    ("cross_stream:wait", |_| {}),
];

#[test]
fn strings_that_are_accepted() {
    for (text, change) in ACCEPTED {
        let mut expected = Config::default();
        change(&mut expected);
        assert_eq!(Config::parse(text), Ok(expected.clone()), "{text}");
        assert_eq!(Config::parse(&expected.to_string()), Ok(expected), "{text}");
    }
}

#[test]
fn values_that_are_refused() {
    for (key, values) in [
        ("max_split_size_mb", "19 0 0x80 abc 18446744073709551616 [256:1]"),
        ("max_non_split_rounding_mb", "19 x"),
        ("large_segment_size_mb", "10 0 x"),
        ("garbage_collection_threshold", "0 1 1.2 -0.5 nan inf x"),
        ("roundup_power2_divisions", "0 3 x [256:3] [256:x] [3:1] [0:1] [x:1] [>:3]"),
        ("expandable_segments", "true TRUE 1 0 Yes False."),
        ("graph_capture_record_stream_reuse", "false"),
        ("release_lock_on_cudamalloc", "none"),
        ("release_lock_on_hipmalloc", "1"),
        ("per_process_memory_fraction", "-0.1 1.1 nan x"),
        ("backend", "Native hipMallocAsync async"),
        ("pinned_use_cuda_host_register", "none"),
        ("pinned_num_register_threads", "none 0 3 256"),
        ("pinned_reserve_segment_size_mb", "0 x"),
        ("limit", "0 12G 16777216TiB -1 0.5B [1:2]"),
        ("memory_fraction", "0 1.1 0.9x nan 90%"),
        ("soft_limit", "0 many"),
        ("segment_granularity", "0 1MiB 3MiB 2GiB"),
        ("small_segment_size", "0 3MiB 66MiB"),
        ("large_segment_size", "0 1MiB 5MiB"),
        ("min_split_remainder", "0 511"),
        ("backing", "cuda VMM"),
        ("reserve", "slim 1"),
        ("cross_stream", "Off true"),
        ("history", "-1 1.5 4294967296 1k +1"),
        ("oom_retries", "-1 4294967296"),
        ("slack", "-0.1 100.5 nan 10%"),
        ("spill_limit", "0 -1 1% GiB"),
    ] {
        for value in values.split(' ') {
            let text = format!("history:0,{key}:{value}");
            let error = Config::parse(&text).expect_err(&text);
            assert!(
                matches!(&error, ConfigError::BadValue { key: k, value: v, position, .. }
                    if *k == key && v == value && *position == Some(text.len() - value.len())),
                "{text}: {error:?}"
            );
        }
    }
}

#[test]
fn bounds_follow_the_large_segment_size() {
    for text in [
        "max_split_size_mb:20,large_segment_size_mb:21",
        "large_segment_size_mb:21,max_non_split_rounding_mb:20",
        "large_segment_size:22MiB,max_split_size_mb:20",
    ] {
        let error = Config::parse(text).expect_err(text).to_string();
        assert!(error.contains("`20`") && error.contains("at byte"), "{error}");
    }
}

#[test]
fn malformed_strings() {
    for (text, position, expected) in [
        (",", 0, "a key"),
        ("history:1,,limit:1", 10, "a key"),
        ("history", 7, "`:`"),
        ("history:", 8, "a value"),
        ("history:,", 8, "a value"),
        ("history::1", 8, "a value"),
        ("history:1:2", 9, "`,`"),
        ("history,1", 7, "`:`"),
        ("[", 0, "a key"),
        ("limit = 1GiB", 6, "`:`"),
        ("roundup_power2_divisions:[", 26, "`]`"),
        ("roundup_power2_divisions:[256", 29, "`:`"),
        ("roundup_power2_divisions:[256:", 30, "divisions"),
        ("roundup_power2_divisions:[256:1", 31, "`]`"),
        ("roundup_power2_divisions:[,]", 26, "`]`"),
        ("roundup_power2_divisions:[256:1>:2]", 32, "`]`"),
        ("roundup_power2_divisions:[1:1]2", 30, "`,`"),
    ] {
        let error = Config::parse(text).expect_err(text);
        let at =
            matches!(&error, ConfigError::Syntax { position: Some(at), .. } if *at == position);
        assert!(at && error.to_string().contains(expected), "{text}: {error}");
    }
}

#[test]
fn unknown_keys() {
    for (text, position, suggestion) in [
        ("max_split_size:128", 0, Some("max_split_size_mb")),
        ("limit:1GiB, expandable_segment:True", 12, Some("expandable_segments")),
        ("Limit:1GiB", 0, Some("limit")),
        ("foo_bar_baz:1", 0, None),
    ] {
        let error = Config::parse(text).expect_err(text);
        assert!(
            matches!(&error, ConfigError::UnknownKey { nearest, position: at, .. }
                if *nearest == suggestion && *at == Some(position)),
            "{text}: {error:?}"
        );
        let message = error.to_string();
        assert!(KEYS.iter().all(|info| message.contains(info.name)), "{message}");
    }
}

#[test]
fn one_key_at_a_time() {
    let mut config = Config::default();
    let mut set = |key, value| config.set(key, value).map(|()| config.clone());

    assert_eq!(set("limit", "12 GiB").map(|c| c.limit), Ok(Some(12 << 30)));
    assert_eq!(set("large_segment_size_mb", "40").map(|c| c.max_non_split_rounding), Ok(40 * MIB));
    assert!(set("max_split_size_mb", "30").is_err());
    assert!(set("max_split_size_mb", "50").is_ok());
    assert!(set("large_segment_size_mb", "60").is_err(), "above max_split_size_mb");
    let before = set("roundup_power2_divisions", "[256:1,>:8]").expect("a list");

    for (key, value) in [
        ("limit", ""),
        ("limit", "1GiB,history:1"),
        ("limit", "12G"),
        ("roundup_power2_divisions", "[2:4,3:1]"),
        ("limits", "1GiB"),
    ] {
        let error = config.set(key, value).expect_err(value).to_string();
        assert!(error.contains(key) && !error.contains("at byte"), "{error}");
    }
    assert_eq!(config, before);
}

/// A value of each key that is allowed and is not its default.
fn sample(info: &KeyInfo) -> &'static str {
    match info.name {
        "backend" => "cudaMallocAsync",
        "backing" => "malloc",
        "cross_stream" => "passed",
        "garbage_collection_threshold"
        | "memory_fraction"
        | "per_process_memory_fraction"
        | "slack" => "0.5",
        "pinned_num_register_threads" => "64",
        "reserve" => "lean",
        "roundup_power2_divisions" => "[256:1,>:8]",
        _ if info.allowed.starts_with("True") => "True",
        _ if info.allowed.starts_with("a multiple of 2MiB") => "4MiB",
        _ => "1024",
    }
}

#[test]
fn every_key_explains_itself() {
    for (index, info) in KEYS.iter().enumerate() {
        let KeyInfo { name, allowed, help, default, .. } = info;
        assert!(KEYS[..index].iter().all(|earlier| earlier.name != *name), "{name} twice");
        assert!(!help.is_empty() && !default.is_empty(), "{name}");

        let text = format!("{name}:{}", sample(info));
        let config = Config::parse(&text).unwrap_or_else(|error| panic!("{error}"));
        assert_ne!(config, Config::default(), "{text}");
        assert_eq!(Config::parse(&config.to_string()), Ok(config.clone()), "{text}");
        assert_eq!(config.without_effect().count(), usize::from(!info.has_effect), "{text}");
        assert!(info.has_effect || info.origin != Origin::Drystone, "{name}");

        let message = Config::parse(&format!("{name}:?")).expect_err("no value").to_string();
        for part in [*name, "`?`", *allowed, &format!("byte {}", name.len() + 1)] {
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn only_what_is_set_is_printed() {
    for text in ["", "roundup_power2_divisions:[256:1,512:2,1024:4,>:8],limit:12GiB,history:5"] {
        assert_eq!(Config::parse(text).map(|config| config.to_string()), Ok(text.to_owned()));
    }
}

#[test]
fn divisions_by_size() {
    let config = Config::parse("roundup_power2_divisions:[256:1,512:2,1024:4,>:8]")
        .expect("the example of torch's documentation");
    for (size, divisions) in [
        (0, 1),
        (1, 1),
        (MIB, 1),
        (512 * MIB - 1, 1),
        (512 * MIB, 2),
        (1024 * MIB, 4),
        (2048 * MIB - 1, 4),
        (2048 * MIB, 8),
        (u64::MAX, 8),
    ] {
        assert_eq!(config.roundup_divisions_for(size), divisions, "{size}");
    }
}

/// A setting that may be accepted, of any key.
fn setting() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("True".to_owned()),
        Just("cudaMallocAsync".to_owned()),
        Just("passed".to_owned()),
        any::<u64>().prop_map(|n| n.to_string()),
        (0u32..64).prop_map(|shift| (1u64 << shift).to_string()),
        (0u64..200).prop_map(|n| n.to_string()),
        (0u64..200).prop_map(|n| format!("{n}MiB")),
        (0.0..=1.0).prop_map(|x: f64| x.to_string()),
        prop::collection::vec((0u32..18, 0u32..5), 0..5).prop_map(|pairs| {
            let pairs: Vec<_> = pairs
                .into_iter()
                .map(|(slot, power)| match slot {
                    17 => format!(">:{}", 1u64 << power),
                    _ => format!("{}:{}", 1u64 << slot, (1u64 << power) & !1),
                })
                .collect();
            format!("[{}]", pairs.join(","))
        }),
    ];
    (prop::sample::select(KEYS), value).prop_map(|(info, value)| format!("{}:{value}", info.name))
}

proptest! {
    #[test]
    fn a_configuration_reads_back(settings in prop::collection::vec(setting(), 0..40)) {
        // By far not every value suits its key, so only those that do are kept.
        let kept: Vec<String> =
            settings.into_iter().filter(|one| Config::parse(one).is_ok()).collect();
        if let Ok(config) = Config::parse(&kept.join(",")) {
            let text = config.to_string();
            prop_assert_eq!(Config::parse(&text).map_err(|e| e.to_string()), Ok(config), "{}", text);
        }
    }

    #[test]
    fn configurations_set_key_by_key_read_back(settings in prop::collection::vec(setting(), 0..40)) {
        let mut config = Config::default();
        for setting in settings {
            let before = config.clone();
            let (key, value) = setting.split_once(':').expect("a key and a value");
            if config.set(key, value).is_err() {
                prop_assert_eq!(&config, &before);
            }
        }
        let text = config.to_string();
        prop_assert_eq!(Config::parse(&text).map_err(|e| e.to_string()), Ok(config), "{}", text);
    }

    #[test]
    fn every_distribution_of_divisions_reads_back(powers in prop::array::uniform16(0u32..4)) {
        let config = Config {
            roundup_power2_divisions: powers.map(|power| (1u64 << power) & !1),
            ..Config::default()
        };
        prop_assert_eq!(Config::parse(&config.to_string()), Ok(config));
    }

    #[test]
    fn no_text_panics(text in "\\PC*") {
        let _ = Config::parse(&text);
    }

    #[test]
    fn no_order_of_tokens_panics(
        parts in prop::collection::vec(
            prop_oneof![
                Just(",".to_owned()), Just(":".to_owned()), Just("[".to_owned()),
                Just("]".to_owned()), Just(">".to_owned()), Just("=".to_owned()),
                prop::sample::select(KEYS).prop_map(|info| info.name.to_owned()),
                "[-+0-9.e ]{0,25}", setting(),
            ],
            0..20,
        ),
    ) {
        if let Err(error) = Config::parse(&parts.concat()) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
