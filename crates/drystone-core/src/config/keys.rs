//! The table of keys: one entry drives parsing, error messages, help and printing.

use super::backing::{Backing, Reserve};
use super::bytes::{MIB, format_bytes_exact};
use super::key::{
    KeyInfo, Origin, at_least_large, is_torch_large_segment, large_segment, put, set_large_segment,
    show_bool, show_unless,
};
use super::settings::{Backend, CrossStream, DEFAULT_OOM_RETRIES};
use super::values::show_divisions;

const BOOL: &str = "True or False, spelled so";
const SIZE: &str = "a size of at least 1 byte, such as 12GiB, 512MiB or 1.5GB";
const AT_LEAST_LARGE: &str =
    "a whole number of MiB, at least the large segment size (20, or large_segment_size_mb)";

/// Every key, torch's first.
pub static KEYS: &[KeyInfo] = &[
    KeyInfo {
        name: "large_segment_size_mb",
        origin: Origin::Torch,
        help: "least size of a segment for requests above 1 MiB; also the least \
               max_split_size_mb, and max_non_split_rounding_mb where that is not given",
        allowed: "a whole number of MiB above 10 (and not above sizes set before it)",
        default: "the allocator's choice; 20 where it bounds other keys",
        has_effect: true,
        apply: |c, v| set_large_segment(c, v.torch_mib().filter(|&size| size > 10 * MIB)?),
        show: |c| {
            let size = c.min_large_segment.filter(|&size| is_torch_large_segment(size))?;
            Some((size / MIB).to_string())
        },
    },
    KeyInfo {
        name: "max_split_size_mb",
        origin: Origin::Torch,
        help: "blocks of this size and above are not split",
        allowed: AT_LEAST_LARGE,
        default: "no limit",
        has_effect: true,
        apply: |c, v| put(at_least_large(c, v).map(Some), &mut c.max_split_size),
        show: |c| c.max_split_size.map(|size| (size / MIB).to_string()),
    },
    KeyInfo {
        name: "max_non_split_rounding_mb",
        origin: Origin::Torch,
        help: "how much larger than the request a block may be that is too large to be split",
        allowed: AT_LEAST_LARGE,
        default: "the large segment size",
        has_effect: true,
        apply: |c, v| put(at_least_large(c, v), &mut c.max_non_split_rounding),
        show: |c| {
            let size = c.max_non_split_rounding;
            (size != large_segment(c)).then(|| (size / MIB).to_string())
        },
    },
    KeyInfo {
        name: "roundup_power2_divisions",
        origin: Origin::Torch,
        help: "round requests up to the next of this many steps between powers of two, for all \
               sizes or by size in MiB",
        allowed: "a power of two, or a list such as [256:1,512:2,1024:4,>:8] whose sizes (MiB) \
                  are powers of two and whose divisions are powers of two or 0",
        default: "no such rounding",
        has_effect: true,
        apply: |c, v| {
            put(v.torch_divisions(&c.roundup_power2_divisions), &mut c.roundup_power2_divisions)
        },
        show: |c| show_divisions(&c.roundup_power2_divisions),
    },
    KeyInfo {
        name: "garbage_collection_threshold",
        origin: Origin::Torch,
        help: "free idle memory once this fraction of the allowed memory is reserved",
        allowed: "a fraction above 0 and below 1",
        default: "off",
        has_effect: true,
        apply: |c, v| {
            let fraction = v.torch_float().filter(|&x| x > 0.0 && x < 1.0);
            put(fraction, &mut c.garbage_collection_threshold)
        },
        show: |c| show_unless(c.garbage_collection_threshold, 0.0),
    },
    KeyInfo {
        name: "expandable_segments",
        origin: Origin::Torch,
        help: "no effect: memory is mapped where it is needed anyway, see backing",
        allowed: BOOL,
        default: "False",
        has_effect: false,
        apply: |c, v| put(v.torch_bool(), &mut c.expandable_segments),
        show: |c| show_bool(c.expandable_segments),
    },
    KeyInfo {
        name: "graph_capture_record_stream_reuse",
        origin: Origin::Torch,
        help: "no effect: blocks used on other streams wait for the end of a capture",
        allowed: BOOL,
        default: "False",
        has_effect: false,
        apply: |c, v| put(v.torch_bool(), &mut c.graph_capture_record_stream_reuse),
        show: |c| show_bool(c.graph_capture_record_stream_reuse),
    },
    KeyInfo {
        name: "per_process_memory_fraction",
        origin: Origin::Torch,
        help: "torch's name for memory_fraction; 0 allows nothing",
        allowed: "a fraction from 0 to 1",
        default: "no limit",
        has_effect: true,
        apply: |c, v| {
            put(
                v.torch_float().filter(|x| (0.0..=1.0).contains(x)).map(Some),
                &mut c.memory_fraction,
            )
        },
        // Its other name cannot say 0.
        show: |c| c.memory_fraction.filter(|&x| x == 0.0).map(|x| x.to_string()),
    },
    KeyInfo {
        name: "release_lock_on_cudamalloc",
        origin: Origin::Torch,
        help: "no effect: no lock that the cache needs is held across a driver call",
        allowed: BOOL,
        default: "False",
        has_effect: false,
        apply: |c, v| put(v.torch_bool(), &mut c.release_lock_on_cudamalloc),
        show: |c| show_bool(c.release_lock_on_cudamalloc),
    },
    KeyInfo {
        name: "release_lock_on_hipmalloc",
        origin: Origin::Torch,
        help: "another name of release_lock_on_cudamalloc",
        allowed: BOOL,
        default: "False",
        has_effect: false,
        apply: |c, v| put(v.torch_bool(), &mut c.release_lock_on_cudamalloc),
        show: |_| None,
    },
    KeyInfo {
        name: "backend",
        origin: Origin::Torch,
        help: "no effect: which of its own allocators torch uses",
        allowed: "native or cudaMallocAsync, spelled so",
        default: "native",
        has_effect: false,
        apply: |c, v| {
            let backend = match v.word()? {
                "native" => Some(Backend::Native),
                "cudaMallocAsync" => Some(Backend::CudaMallocAsync),
                _ => None,
            };
            put(backend, &mut c.torch_only.backend)
        },
        show: |c| {
            (c.torch_only.backend == Backend::CudaMallocAsync).then(|| "cudaMallocAsync".to_owned())
        },
    },
    KeyInfo {
        name: "pinned_use_cuda_host_register",
        origin: Origin::Torch,
        help: "no effect: torch's pinned host memory through cudaHostRegister",
        allowed: BOOL,
        default: "False",
        has_effect: false,
        apply: |c, v| put(v.torch_bool(), &mut c.torch_only.pinned_use_host_register),
        show: |c| show_bool(c.torch_only.pinned_use_host_register),
    },
    KeyInfo {
        name: "pinned_use_hip_host_register",
        origin: Origin::Torch,
        help: "another name of pinned_use_cuda_host_register",
        allowed: BOOL,
        default: "False",
        has_effect: false,
        apply: |c, v| put(v.torch_bool(), &mut c.torch_only.pinned_use_host_register),
        show: |_| None,
    },
    KeyInfo {
        name: "pinned_num_register_threads",
        origin: Origin::Torch,
        help: "no effect: threads that map torch's pinned host memory",
        allowed: "a power of two from 1 to 128",
        default: "1",
        has_effect: false,
        apply: |c, v| {
            let threads = v.torch_unsigned().filter(|&n| n.is_power_of_two() && n <= 128);
            put(threads.map(|n| n as u32), &mut c.torch_only.pinned_num_register_threads)
        },
        show: |c| show_unless(c.torch_only.pinned_num_register_threads, 1),
    },
    KeyInfo {
        name: "pinned_use_background_threads",
        origin: Origin::Torch,
        help: "no effect: poll the events of torch's pinned host memory in the background",
        allowed: BOOL,
        default: "False",
        has_effect: false,
        apply: |c, v| put(v.torch_bool(), &mut c.torch_only.pinned_use_background_threads),
        show: |c| show_bool(c.torch_only.pinned_use_background_threads),
    },
    KeyInfo {
        name: "pinned_reserve_segment_size_mb",
        origin: Origin::Torch,
        help: "no effect: pinned host memory that torch takes at once for small requests",
        allowed: "a whole number of MiB above 0",
        default: "none",
        has_effect: false,
        apply: |c, v| {
            let size = v.torch_unsigned().filter(|&mib| mib > 0);
            put(size, &mut c.torch_only.pinned_reserve_segment_size_mb)
        },
        show: |c| show_unless(c.torch_only.pinned_reserve_segment_size_mb, 0),
    },
    KeyInfo {
        name: "pinned_free_catch_all",
        origin: Origin::LaterTorch,
        help: "no effect: how torch frees pinned host memory that it did not hand out",
        allowed: BOOL,
        default: "False",
        has_effect: false,
        apply: |c, v| put(v.torch_bool(), &mut c.torch_only.pinned_free_catch_all),
        show: |c| show_bool(c.torch_only.pinned_free_catch_all),
    },
    KeyInfo {
        name: "pinned_max_round_threshold_mb",
        origin: Origin::LaterTorch,
        help: "no effect: pinned host memory above this size is not rounded to a power of two",
        allowed: "a whole number of MiB",
        default: "no limit",
        has_effect: false,
        apply: |c, v| {
            put(v.torch_unsigned().map(Some), &mut c.torch_only.pinned_max_round_threshold_mb)
        },
        show: |c| c.torch_only.pinned_max_round_threshold_mb.map(|mib| mib.to_string()),
    },
    KeyInfo {
        name: "pinned_max_cached_size_mb",
        origin: Origin::LaterTorch,
        help: "no effect: pinned host memory above this size is not kept once freed",
        allowed: "a whole number of MiB",
        default: "no limit",
        has_effect: false,
        apply: |c, v| {
            put(v.torch_unsigned().map(Some), &mut c.torch_only.pinned_max_cached_size_mb)
        },
        show: |c| c.torch_only.pinned_max_cached_size_mb.map(|mib| mib.to_string()),
    },
    KeyInfo {
        name: "throw_on_cudamalloc_oom",
        origin: Origin::LaterTorch,
        help: "no effect: Drystone always refuses a request above its limit before the driver is \
               asked",
        allowed: BOOL,
        default: "False",
        has_effect: false,
        apply: |c, v| put(v.torch_bool(), &mut c.torch_only.throw_on_cudamalloc_oom),
        show: |c| show_bool(c.torch_only.throw_on_cudamalloc_oom),
    },
    KeyInfo {
        name: "limit",
        origin: Origin::Drystone,
        help: "reserve no more than this on a device",
        allowed: SIZE,
        default: "no limit",
        has_effect: true,
        apply: |c, v| put(v.bytes(1).map(Some), &mut c.limit),
        show: |c| c.limit.map(format_bytes_exact),
    },
    KeyInfo {
        name: "memory_fraction",
        origin: Origin::Drystone,
        help: "reserve no more than this fraction of a device's memory",
        allowed: "a fraction above 0, at most 1",
        default: "no limit",
        has_effect: true,
        apply: |c, v| put(v.fraction().map(Some), &mut c.memory_fraction),
        show: |c| c.memory_fraction.filter(|&x| x != 0.0).map(|x| x.to_string()),
    },
    KeyInfo {
        name: "soft_limit",
        origin: Origin::Drystone,
        help: "tell the pressure callbacks when more than this is reserved on a device",
        allowed: SIZE,
        default: "off",
        has_effect: true,
        apply: |c, v| put(v.bytes(1).map(Some), &mut c.soft_limit),
        show: |c| c.soft_limit.map(format_bytes_exact),
    },
    KeyInfo {
        name: "segment_granularity",
        origin: Origin::Drystone,
        help: "round segments for large requests up to a multiple of this",
        allowed: "a multiple of 2MiB from 2MiB to 1GiB",
        default: "the allocator's choice, more as it holds more",
        has_effect: true,
        apply: |c, v| put(v.pages(1 << 30).map(Some), &mut c.segment_granularity),
        show: |c| c.segment_granularity.map(format_bytes_exact),
    },
    KeyInfo {
        name: "backing",
        origin: Origin::Drystone,
        help: "what stands behind blocks: pages that are mapped where they are needed (on devices \
               that can), or segments that stay as they are",
        allowed: "vmm or malloc",
        default: "vmm",
        has_effect: true,
        apply: |c, v| put(Backing::from_name(v.word()?), &mut c.backing),
        show: |c| show_unless(c.backing.name(), Backing::default().name()),
    },
    KeyInfo {
        name: "reserve",
        origin: Origin::Drystone,
        help: "when free pages are remapped instead of new memory being taken: always; once the \
               slack is reserved; or only when there is no more",
        allowed: "lean, balanced or fast",
        default: "balanced",
        has_effect: true,
        apply: |c, v| put(Reserve::from_name(v.word()?), &mut c.reserve),
        show: |c| show_unless(c.reserve.name(), Reserve::default().name()),
    },
    KeyInfo {
        name: "slack",
        origin: Origin::Drystone,
        help: "how much more than the peak of live bytes may be reserved (0.1 is 10%) before new \
               memory is avoided",
        allowed: "a number from 0 to 100",
        default: "as reserve says; 0.1 with backing:malloc",
        has_effect: true,
        apply: |c, v| put(v.number(100.0).map(Some), &mut c.slack),
        show: |c| c.slack.map(|slack| slack.to_string()),
    },
    KeyInfo {
        name: "small_segment_size",
        origin: Origin::Drystone,
        help: "size of a segment for requests up to 1 MiB",
        allowed: "a multiple of 2MiB from 2MiB to 64MiB",
        default: "the allocator's choice, 2MiB and more as it holds more",
        has_effect: true,
        apply: |c, v| put(v.pages(64 * MIB).map(Some), &mut c.small_segment_size),
        show: |c| c.small_segment_size.map(format_bytes_exact),
    },
    KeyInfo {
        name: "large_segment_size",
        origin: Origin::Drystone,
        help: "large_segment_size_mb in bytes, and from 2MiB",
        allowed: "a multiple of 2MiB of at least 2MiB (and not above sizes set before it)",
        default: "the allocator's choice; 20MiB where it bounds other keys",
        has_effect: true,
        apply: |c, v| set_large_segment(c, v.pages(u64::MAX)?),
        show: |c| {
            let size = c.min_large_segment.filter(|&size| !is_torch_large_segment(size))?;
            Some(format_bytes_exact(size))
        },
    },
    KeyInfo {
        name: "min_split_remainder",
        origin: Origin::Drystone,
        help: "split a large block only if at least this much remains",
        allowed: "a size of at least 512 bytes, such as 64KiB or 1MiB",
        default: "the allocator's choice",
        has_effect: true,
        apply: |c, v| put(v.bytes(512).map(Some), &mut c.min_split_remainder),
        show: |c| c.min_split_remainder.map(format_bytes_exact),
    },
    KeyInfo {
        name: "cross_stream",
        origin: Origin::Drystone,
        help: "whether memory freed on one stream may serve another: never; once the first has \
               passed the free; or also by making the other wait for it when memory is short",
        allowed: "off, passed or wait",
        default: "wait",
        has_effect: true,
        apply: |c, v| put(CrossStream::from_name(v.word()?), &mut c.cross_stream),
        show: |c| show_unless(c.cross_stream.name(), CrossStream::default().name()),
    },
    KeyInfo {
        name: "history",
        origin: Origin::Drystone,
        help: "how many of the latest events to keep, for snapshots",
        allowed: "a whole number of events, at most 4294967295; 0 is off",
        default: "0",
        has_effect: true,
        apply: |c, v| put(v.count().and_then(|n| n.try_into().ok()), &mut c.history),
        show: |c| show_unless(c.history, 0),
    },
    KeyInfo {
        name: "oom_retries",
        origin: Origin::Drystone,
        help: "how often callbacks that freed something may cause another try before a request \
               fails",
        allowed: "a whole number, at most 4294967295",
        default: "8",
        has_effect: true,
        apply: |c, v| put(v.count(), &mut c.oom_retries),
        show: |c| show_unless(c.oom_retries, DEFAULT_OOM_RETRIES),
    },
    KeyInfo {
        name: "spill_limit",
        origin: Origin::Drystone,
        help: "once a device has no more, put large blocks of up to so much into memory of the \
               host (only with backing:vmm)",
        allowed: SIZE,
        default: "off",
        has_effect: true,
        apply: |c, v| put(v.bytes(1).map(Some), &mut c.spill_limit),
        show: |c| c.spill_limit.map(format_bytes_exact),
    },
];
