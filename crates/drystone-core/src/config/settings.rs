//! The settings themselves: every field of a configuration, its unit and its default.

use super::backing::{Backing, Reserve};
use super::bytes::MIB;

/// torch's large segment, in bytes, where nothing else is said.
pub(super) const DEFAULT_LARGE_SEGMENT: u64 = 20 * MIB;
/// How often out-of-memory callbacks may cause another try.
pub(super) const DEFAULT_OOM_RETRIES: u32 = 8;

/// How an allocator is to behave. Sizes are in bytes.
///
/// The default is torch's default, with Drystone's own settings at the value named at each field.
/// A configuration comes from a string ([`Config::parse`], [`Config::from_env`]), from single keys
/// ([`Config::set`]) or from its fields; only the first two check ranges.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Blocks of this size and above are not split, and serve only requests of this size and above
    /// (`max_split_size_mb`). `None`: all blocks may be split.
    pub max_split_size: Option<u64>,
    /// A block that may not be split serves a request only if it is less than this much larger
    /// (`max_non_split_rounding_mb`, 20 MiB or `min_large_segment`).
    pub max_non_split_rounding: u64,
    /// Steps between powers of two to which requests are rounded up, by size: slot i is for sizes
    /// from 2^i MiB to below 2^(i+1) MiB, the first also for smaller and the last for larger ones
    /// (`roundup_power2_divisions`). 0 and 1 are no such rounding; the default is 0 throughout.
    pub roundup_power2_divisions: [u64; 16],
    /// Above this fraction of the allowed memory, idle memory is given back
    /// (`garbage_collection_threshold`, in (0, 1)). 0.0, the default, is off.
    pub garbage_collection_threshold: f64,
    /// Accepted and without effect: whether memory is mapped into reserved addresses says `backing`
    /// (`expandable_segments`, off).
    pub expandable_segments: bool,
    /// Accepted and without effect: blocks freed on other streams are reused while a graph is captured
    /// (`graph_capture_record_stream_reuse`, off).
    pub graph_capture_record_stream_reuse: bool,
    /// Accepted and without effect: no lock that allocations from the cache or frees wait for is
    /// held across a driver call (`release_lock_on_cudamalloc`, off).
    pub release_lock_on_cudamalloc: bool,
    /// No more than this is reserved on a device (`limit`). `None`: no limit.
    pub limit: Option<u64>,
    /// No more than this fraction of a device's memory is reserved (`memory_fraction`, in (0, 1],
    /// or torch's `per_process_memory_fraction`, which may be 0). `None`: no limit.
    pub memory_fraction: Option<f64>,
    /// Pressure callbacks are told when more than this is reserved on a device (`soft_limit`).
    pub soft_limit: Option<u64>,
    /// Segments for large requests are rounded up to a multiple of this (`segment_granularity`; a
    /// multiple of 2 MiB up to 1 GiB). `None`: the allocator chooses, more as it holds more. Only
    /// with [`Backing::Malloc`].
    pub segment_granularity: Option<u64>,
    /// What stands behind blocks (`backing`, [`Backing::Vmm`]).
    pub backing: Backing,
    /// When pages are remapped instead of new memory being taken (`reserve`,
    /// [`Reserve::Balanced`]).
    pub reserve: Reserve,
    /// How much more than the peak of live bytes may be reserved, as a part of it (`slack`, 0 to
    /// 100), before new memory is avoided: by remapping free pages, or with [`Backing::Malloc`] by
    /// paying with the idle segments that were too small for the request. `None`: as `reserve`
    /// says.
    pub slack: Option<f64>,
    /// The size of a segment for small requests (`small_segment_size`; a multiple of 2 MiB up to
    /// 64 MiB). `None`: the allocator chooses, 2 MiB and more as it holds more. Only with
    /// [`Backing::Malloc`].
    pub small_segment_size: Option<u64>,
    /// The least size of a segment for large requests, from torch's `large_segment_size_mb` or
    /// Drystone's `large_segment_size`, which are one setting. `None`: the allocator chooses; where
    /// torch bounds other settings by it, it then counts as 20 MiB.
    pub min_large_segment: Option<u64>,
    /// The least remainder of a large block that is split off (`min_split_remainder`). `None`: the
    /// allocator chooses.
    pub min_split_remainder: Option<u64>,
    /// Whether memory freed on one stream may serve another (`cross_stream`, [`CrossStream::Wait`]).
    pub cross_stream: CrossStream,
    /// How many of the latest events are kept for snapshots (`history`). 0, the default, is off.
    pub history: usize,
    /// How often out-of-memory callbacks that report progress may cause another try
    /// (`oom_retries`, 8).
    pub oom_retries: u32,
    /// How many bytes of a device's large blocks may lie in memory of the host once the device, or
    /// the limit, has no more (`spill_limit`): slower, but the run goes on. Only with
    /// [`Backing::Vmm`]. `None`: none.
    pub spill_limit: Option<u64>,
    /// What torch knows and Drystone has no use for.
    pub torch_only: TorchOnly,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_split_size: None,
            max_non_split_rounding: DEFAULT_LARGE_SEGMENT,
            roundup_power2_divisions: [0; 16],
            garbage_collection_threshold: 0.0,
            expandable_segments: false,
            graph_capture_record_stream_reuse: false,
            release_lock_on_cudamalloc: false,
            limit: None,
            memory_fraction: None,
            soft_limit: None,
            segment_granularity: None,
            backing: Backing::default(),
            reserve: Reserve::default(),
            slack: None,
            small_segment_size: None,
            min_large_segment: None,
            min_split_remainder: None,
            cross_stream: CrossStream::default(),
            history: 0,
            oom_retries: DEFAULT_OOM_RETRIES,
            spill_limit: None,
            torch_only: TorchOnly::default(),
        }
    }
}

impl Config {
    /// The steps between powers of two for a request of `size` bytes; 0 or 1 is no such rounding.
    #[must_use]
    pub fn roundup_divisions_for(&self, size: u64) -> u64 {
        let slot = size.checked_ilog2().unwrap_or(0).saturating_sub(MIB.ilog2()).min(15);
        self.roundup_power2_divisions[slot as usize]
    }
}

/// Whether memory freed on one stream may serve a request on another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CrossStream {
    /// Never.
    Off,
    /// Only once the host knows that the first stream has passed the free.
    Passed,
    /// As [`Passed`](Self::Passed); and when memory is short, also earlier, by making the other
    /// stream wait on the device for the first.
    #[default]
    Wait,
}

impl CrossStream {
    /// The value's name in a configuration string.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Passed => "passed",
            Self::Wait => "wait",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::Off, Self::Passed, Self::Wait].into_iter().find(|value| value.name() == name)
    }
}

/// Settings that torch accepts, and that are checked and kept here, but that do not concern a
/// device allocator: no field has an effect. [`Config::without_effect`] names those that were set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TorchOnly {
    /// Which of its own allocators torch uses (`backend`, native).
    pub backend: Backend,
    /// Pinned host memory comes from cudaHostRegister (`pinned_use_cuda_host_register`, off).
    pub pinned_use_host_register: bool,
    /// Threads that map such memory (`pinned_num_register_threads`, 1; a power of two up to 128).
    pub pinned_num_register_threads: u32,
    /// Events of pinned memory are polled in the background (`pinned_use_background_threads`, off).
    pub pinned_use_background_threads: bool,
    /// MiB of pinned memory taken at once (`pinned_reserve_segment_size_mb`). 0, the default: none.
    pub pinned_reserve_segment_size_mb: u64,
    /// How foreign pinned memory is freed (`pinned_free_catch_all`, off; torch after 2.11).
    pub pinned_free_catch_all: bool,
    /// MiB above which pinned memory is not rounded (`pinned_max_round_threshold_mb`; torch after
    /// 2.11).
    pub pinned_max_round_threshold_mb: Option<u64>,
    /// MiB above which freed pinned memory is not kept (`pinned_max_cached_size_mb`; torch after
    /// 2.11).
    pub pinned_max_cached_size_mb: Option<u64>,
    /// Requests above the fraction fail before the driver is asked (`throw_on_cudamalloc_oom`, off;
    /// torch after 2.11). Drystone always does so.
    pub throw_on_cudamalloc_oom: bool,
}

impl Default for TorchOnly {
    fn default() -> Self {
        Self {
            backend: Backend::Native,
            pinned_use_host_register: false,
            pinned_num_register_threads: 1,
            pinned_use_background_threads: false,
            pinned_reserve_segment_size_mb: 0,
            pinned_free_catch_all: false,
            pinned_max_round_threshold_mb: None,
            pinned_max_cached_size_mb: None,
            throw_on_cudamalloc_oom: false,
        }
    }
}

/// Which of its own allocators torch uses for device memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Backend {
    /// torch's caching allocator.
    #[default]
    Native,
    /// The driver's stream-ordered pools.
    CudaMallocAsync,
}
