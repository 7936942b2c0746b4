//! The best settings for a run, found by replays: of PyTorch's own allocator, and of Drystone.
//!
//! | file | what it holds |
//! |---|---|
//! | `workload` | what is asked for, and of how many devices |
//! | `options` | the options that are searched, and their values |
//! | `bench` | replays of many settings on several threads |
//! | `order` | what is better, and what counts |
//! | `search` | how the best is found |
//! | `effects` | what each option of the best buys |

mod bench;
mod effects;
mod options;
mod order;
mod search;
#[cfg(test)]
mod tests;
mod workload;

use drystone_trace::Run;
use serde::Serialize;

use crate::min_capacity::MinCapacityError;
use crate::policy::PolicyError;
use crate::target::{ReplayError, SimTarget};
use bench::Bench;
pub use effects::{Effect, Part, Trial};
use options::Family;
use order::{Standing, Task};
use search::Search;
use workload::Workload;

/// The most memory that a simulated device has addresses for.
const MOST_CAPACITY: u64 = 1 << 40;
/// The most memory that is tried, where the floor is higher than what a device usually has.
const TIMES_FLOOR: u64 = 4;

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The memory of each device in bytes. None: what the recording shows of a device on which a
    /// request failed, or else that of `target`.
    pub capacity: Option<u64>,
    /// What matters most once the run completes. None: time if the capacity is known, and memory
    /// if it is not.
    pub goal: Option<Goal>,
    /// The part of the capacity that should stay free, from 0 to 1: the next run is not quite the
    /// same.
    pub headroom: f64,
    /// The one device of the trace that counts; none for all.
    pub device: Option<u32>,
    /// The simulated devices; their memory is the most that is tried, unless the capacity is more.
    pub target: SimTarget,
    /// How many replays at once. It does not change the answer.
    pub threads: usize,
}

/// What matters most, once the run completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// The least time in driver calls and waits.
    Time,
    /// The least memory reserved at the peak.
    Memory,
}

/// Where the capacity comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CapacityFrom {
    /// It was said.
    Said,
    /// The recording has it: bytes held and bytes free when a request failed.
    Recorded,
    /// Nobody knows: that of the simulated device.
    Unknown,
}

/// The best settings for a run. Sizes are in bytes, times in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// The trace's name.
    pub trace: String,
    /// The devices of the trace that count; one setting holds for all.
    pub devices: Vec<u32>,
    /// The memory of each device.
    pub capacity_bytes: u64,
    /// Who says so.
    pub capacity_from: CapacityFrom,
    /// What matters most once the run completes.
    pub goal: Goal,
    /// How much of the capacity should stay free.
    pub headroom_bytes: u64,
    /// From the submission of work to its completion, on the simulated device.
    pub host_lead_us: f64,
    /// The costs of calls there.
    pub costs: &'static str,
    /// The trace's own length.
    pub run_us: u64,
    /// The least memory of each device with which any allocator could do: the peak of live bytes,
    /// each block rounded up to 512 bytes and their sum to 2 MiB.
    pub floor_bytes: u64,
    /// Whether any setting that was found completes with the capacity.
    pub completes: bool,
    /// By how much the capacity is too small for the best setting; none if the run completes.
    pub lack_bytes: Option<u64>,
    /// The allocator to take: a name in `families`. Of equals PyTorch's own.
    pub best: &'static str,
    /// The best of each allocator, PyTorch's own first.
    pub families: Vec<FamilyAdvice>,
    /// How many times the trace was played.
    pub replays: u64,
}

/// The best setting of one allocator.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FamilyAdvice {
    /// `pytorch` or `drystone`.
    pub family: &'static str,
    /// The best setting; where none completes, the one that needs least.
    pub recommended: Trial,
    /// Without any option.
    pub default: Trial,
    /// What each option of the best one does, alone and by being left out; empty where there are
    /// fewer than two.
    pub effects: Vec<Effect>,
}

/// Why there is no advice.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdviseError {
    /// A replay had no result.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The same in a search for the least capacity.
    #[error(transparent)]
    MinCapacity(#[from] MinCapacityError),
    /// An option that is tried does not exist: an error in the table of options.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Nothing was asked for while the recording ran.
    #[error(
        "the recording has no history, only what was live when it was made: settings cannot be \
         compared with it; record with torch.cuda.memory._record_memory_history"
    )]
    NoHistory,
    /// The trace has nothing on the device that was asked for.
    #[error("nothing is asked of device {device} in the trace; devices are {}", listed(.used))]
    NoSuchDevice {
        /// Which was asked for.
        device: u32,
        /// Which there are.
        used: Vec<u32>,
    },
}

fn listed(devices: &[u32]) -> String {
    match devices {
        [] => "none".to_owned(),
        devices => devices.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// Searches for the best settings of PyTorch's allocator and of Drystone for a run. `progress` is
/// told now and then how many events of about how many are replayed. The same question about the
/// same run has the same answer, on any number of threads.
///
/// # Errors
/// [`AdviseError`].
pub fn advise(
    run: &Run,
    question: &Question,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Advice, AdviseError> {
    let workload = Workload::of(run, question.device)?;
    let usual = workload.floor.saturating_mul(TIMES_FLOOR).max(question.target.capacity);
    let usual = usual.min(MOST_CAPACITY);
    let (capacity, capacity_from) = match (question.capacity, workload.capacity) {
        (Some(said), _) => (said, CapacityFrom::Said),
        (None, Some(recorded)) => (recorded, CapacityFrom::Recorded),
        (None, None) => (usual, CapacityFrom::Unknown),
    };
    let known = capacity_from != CapacityFrom::Unknown;
    let headroom = (capacity as f64 * question.headroom.clamp(0.0, 1.0)) as u64;
    let task = Task {
        goal: question.goal.unwrap_or(if known { Goal::Time } else { Goal::Memory }),
        capacity,
        // A device has some memory.
        room: (capacity - headroom).max(1),
        floor: workload.floor,
        plenty: usual.max(capacity),
        run_us: workload.trace.duration_us(),
    };
    let target = SimTarget { capacity: task.plenty, ..question.target.clone() };
    let mut bench = Bench::new(&workload.trace, target, question.threads, progress);
    let families = [Family::pytorch(&workload), Family::drystone(&workload)];
    let mut found = Vec::new();
    for family in &families {
        let mut search = Search { family, bench: &mut bench, task };
        let (setting, standing) = search.best()?;
        found.push((effects::of(&mut search, &setting)?, standing));
    }
    let best = best(&found, &task);
    let completes = found[best].1.figures.completes;
    let nearest = found[best].1.least.unwrap_or(task.floor);
    Ok(Advice {
        trace: workload.trace.name.clone(),
        devices: workload.devices.clone(),
        capacity_bytes: capacity,
        capacity_from,
        goal: task.goal,
        headroom_bytes: headroom,
        host_lead_us: question.target.host_lead_ns as f64 / 1e3,
        costs: question.target.costs.name(),
        run_us: task.run_us,
        floor_bytes: task.floor,
        completes,
        lack_bytes: (!completes).then(|| nearest.saturating_sub(capacity)),
        best: found[best].0.family,
        replays: bench.replays(),
        families: found.into_iter().map(|(family, _)| family).collect(),
    })
}

/// The index of the best; of equals the first.
fn best(found: &[(FamilyAdvice, Standing)], task: &Task) -> usize {
    let mut best = 0;
    for (index, (_, standing)) in found.iter().enumerate() {
        if standing.beats(&found[best].1, task) {
            best = index;
        }
    }
    best
}
