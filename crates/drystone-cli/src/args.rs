//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use drystone_lab::{CostModel, GeneratorSpec, Goal, PolicySpec};
use drystone_trace::Format;

use crate::values::{self, DeviceName};

const TRACES: &str = "\
Traces:
  A trace is a memory snapshot of PyTorch (a pickle or JSON), a log of RMM,
  a CSV with the columns t_us,op,id,size,stream, or a .dst that `drystone
  convert` wrote; each as it is or compressed with xz or zstd. To record one,
  in the program that is to be studied:
    torch.cuda.memory._record_memory_history(max_entries=1_000_000)
    ...
    torch.cuda.memory._dump_snapshot(\"run.pickle\")";

const EXIT: &str = "\
Exit codes:
  0  done
  1  something failed: a trace could not be read, a policy ran out of memory, no such GPU
  2  wrong usage

Environment:
  DRYSTONE_LOG  what is logged to stderr: error, warn (default), info, debug, trace";

const TOP: &str = "\
Examples:
  drystone                                        compare on a trace that drystone carries
  drystone compare run.pickle                     all policies: a table, and a picture
  drystone diagnose run.pickle                    why did it run out of memory?
  drystone advise run.pickle --capacity 12GiB     which settings are best there?
  drystone replay run.pickle --json               one line of figures for each policy
  drystone replay run.pickle --capacity 12GiB     would it fit?
  drystone min-capacity run.pickle                the least memory with which it does";

const REPLAY: &str = "\
Examples:
  drystone replay run.pickle
  drystone replay a.csv.xz b.csv.xz --policy drystone-malloc --json
  drystone replay run.pickle --policy drystone:reserve=lean,limit=12GiB
  drystone replay run.pickle --capacity 12GiB --host-lead 2ms
  drystone replay run.pickle --device cuda:0";

const CONVERT: &str = "\
Examples:
  drystone convert run.pickle run.dst                 a tenth of the size, and all that Drystone uses
  drystone convert run.dst run.csv.xz
  drystone convert run.csv.xz run.pickle              for torch's viewer; addresses are made up
  drystone convert rmm.dev0.csv rmm.dev1.csv both.dst
What a format has no place for is told. OUT comes about as a whole or not at all.";

const COMPARE: &str = "\
Examples:
  drystone compare run.pickle
  drystone compare run.pickle --report run.html    a page to look into, in any browser
  drystone compare run.pickle --svg run.svg --capacity 24GiB
  drystone compare a.csv.xz b.csv.xz --min-capacity --csv figures.csv --no-svg
  drystone compare run.pickle --policy drystone:reserve=lean --policy drystone:reserve=fast

Columns, as far as the terminal is wide:
  reserved   the most bytes held of the device at once; × live: as a multiple of the peak of live
             bytes, and OOM where the run ended for lack of memory
  needs      the least device memory with which the trace completes (--min-capacity)
  mean ×     bytes held on the average of the run's time, as a multiple of the bytes live
  in driver  time in driver calls; waits: time in which the host waited for the device
  rounding   when most was held: bytes that rounding adds to blocks; free: bytes in no block";

const DIAGNOSE: &str = "\
Examples:
  drystone diagnose run.pickle
  drystone diagnose run.pickle --capacity 12GiB    on such a device
  drystone diagnose run.pickle --json

For a snapshot of the moment of death, in the program that is to be studied:
  torch.cuda.memory._record_memory_history(max_entries=1_000_000)
  try:
      ...
  except torch.OutOfMemoryError:
      torch.cuda.memory._dump_snapshot(\"run.pickle\")
      raise
The exit code is 0 whatever is found.";

const ADVISE: &str = "\
Examples:
  drystone advise run.pickle --capacity 12GiB
  drystone advise run.pickle                       with how little memory?
  drystone advise run.pickle --capacity 12GiB --goal memory --headroom 10%

Settings of PyTorch's allocator and of Drystone are searched; each is replayed on the simulated
device. First the run has to complete, with some memory to spare; then the goal decides, time or
memory, and then the other one. An option that buys nothing is left out. docs/advise.md has it all.
The exit code is 1 if no setting completes; the one that comes nearest is shown.";

const MIN_CAPACITY: &str = "\
Examples:
  drystone min-capacity run.pickle
  drystone min-capacity a.csv.xz b.csv.xz --policy drystone:reserve=lean --json
  drystone min-capacity run.pickle --capacity 512GiB --tolerance 1%

The answer was played and completed. Some capacities around it are played as well: a policy may \
fail with more memory than it can do with, and that is told (in JSON monotone is false). No answer \
is below what was live, not even for a policy that spills to the host.";

const GENERATE: &str = "\
Examples:
  drystone generate                                   what there is, and its options
  drystone generate train --seed 7 -o train.csv
  drystone generate rmm-random:allocations=100000,max_size=4 -o rmm.csv
  drystone generate serve:cache=paged,adapters=8 -o serve.dst";

/// What an allocation policy would have reserved: replays recorded allocation traces through
/// policies, on a simulated GPU or a real one.
///
/// Without a command: `compare`, on a real trace that drystone carries.
#[derive(Debug, Parser)]
#[command(name = "drystone", version, max_term_width = 100)]
#[command(after_help = TOP, after_long_help = format!("{TOP}\n\n{TRACES}\n\n{EXIT}"))]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Replay traces through policies and print the figures
    #[command(after_help = REPLAY, after_long_help = format!("{REPLAY}\n\n{TRACES}\n\n{EXIT}"))]
    Replay(ReplayArgs),
    /// Compare policies on a trace: a table, and a picture of memory over time
    #[command(after_help = COMPARE, after_long_help = format!("{COMPARE}\n\n{TRACES}\n\n{EXIT}"))]
    Compare(CompareArgs),
    /// Say why a run died or wasted memory, and what would have helped
    #[command(after_help = DIAGNOSE, after_long_help = format!("{DIAGNOSE}\n\n{TRACES}\n\n{EXIT}"))]
    Diagnose(DiagnoseArgs),
    /// Search for the best settings of PyTorch's allocator and of Drystone
    #[command(after_help = ADVISE, after_long_help = format!("{ADVISE}\n\n{TRACES}\n\n{EXIT}"))]
    Advise(AdviseArgs),
    /// Find the least device memory with which traces complete
    #[command(after_help = MIN_CAPACITY)]
    #[command(after_long_help = format!("{MIN_CAPACITY}\n\n{TRACES}\n\n{EXIT}"))]
    MinCapacity(MinCapacityArgs),
    /// Make a trace from a seed: benchmarks, training and serving loops
    #[command(after_help = GENERATE)]
    Generate(GenerateArgs),
    /// Write a trace in another format
    #[command(after_help = CONVERT, after_long_help = format!("{CONVERT}\n\n{TRACES}\n\n{EXIT}"))]
    Convert(ConvertArgs),
    /// List the policies and their options
    Policies,
}

#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// The trace; or logs of RMM that were written together, one a device
    #[arg(required = true, value_name = "IN")]
    pub(crate) inputs: Vec<PathBuf>,

    /// Where it is written; the ending says the format: .csv, .csv.xz, .csv.zst, .dst, .pickle, .json
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,

    /// The format, whatever the ending says
    #[arg(long, value_name = "FORMAT", value_parser = values::format)]
    pub(crate) to: Option<Format>,

    /// Replace OUT if it is there
    #[arg(long)]
    pub(crate) force: bool,

    /// Print one JSON object, and nothing else, to stdout
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// What to make, with options as in NAME:key=value,key=value [default: list all there is]
    #[arg(value_name = "KIND[:key=value,…]", value_parser = values::generator)]
    pub(crate) kind: Option<GeneratorSpec>,

    /// The same seed gives the same trace
    #[arg(long, value_name = "N", default_value_t = 1, requires = "kind")]
    pub(crate) seed: u64,

    /// Where it is written; the ending says the format: .csv, .csv.xz, .csv.zst, .dst, .pickle,
    /// .json, and any other one stands for CSV [default: CSV to stdout]
    #[arg(short, long, value_name = "PATH", requires = "kind")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The traces: PyTorch memory snapshots, or any other traces
    #[arg(required = true, value_name = "TRACE")]
    pub(crate) traces: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) options: Options,
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The traces: PyTorch memory snapshots, or any other traces [default: one that drystone carries]
    #[arg(value_name = "TRACE")]
    pub(crate) traces: Vec<PathBuf>,

    /// Where the picture is written
    #[arg(long, value_name = "PATH", default_value = "drystone-compare.svg")]
    pub(crate) svg: PathBuf,

    /// Write no picture
    #[arg(long, conflicts_with = "svg")]
    pub(crate) no_svg: bool,

    /// Write a page that shows memory over time, what lay where, and the figures; any browser
    /// shows it, without a network
    #[arg(long, value_name = "PATH")]
    pub(crate) report: Option<PathBuf>,

    /// Write the figures as CSV, a line for each trace and policy
    #[arg(long, value_name = "PATH")]
    pub(crate) csv: Option<PathBuf>,

    /// Also find the least device memory with which the trace completes: some twenty replays for
    /// each policy
    #[arg(long)]
    pub(crate) min_capacity: bool,

    #[command(flatten)]
    pub(crate) options: Options,
}

#[derive(Debug, Args)]
pub(crate) struct DiagnoseArgs {
    /// A PyTorch memory snapshot, with most to say; or any other trace
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) snapshot: PathBuf,

    /// The device's memory, as in 12GiB, 512MiB or 1.5GB [default: what the recording says of it,
    /// if a request failed]
    #[arg(long, value_name = "SIZE", value_parser = values::capacity)]
    pub(crate) capacity: Option<u64>,

    /// Print one JSON object, and nothing else, to stdout
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AdviseArgs {
    /// A PyTorch memory snapshot, or any other trace
    #[arg(value_name = "TRACE")]
    pub(crate) trace: PathBuf,

    /// The memory of each device, as in 12GiB, 512MiB or 1.5GB [default: what the recording says of
    /// it, if a request failed; else 80GiB, and the goal is memory]
    #[arg(long, value_name = "SIZE", value_parser = values::capacity)]
    pub(crate) capacity: Option<u64>,

    /// What matters most once the run completes: the least time in driver calls and waits, or the
    /// least memory reserved [default: time if the capacity is known, else memory]
    #[arg(long, value_enum)]
    pub(crate) goal: Option<GoalName>,

    /// The part of the capacity that should stay free: the next run is not quite the same
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = values::part)]
    pub(crate) headroom: f64,

    /// Only what is asked of this device of the trace, from 0 [default: all devices; a setting
    /// holds for all of a process]
    #[arg(long, value_name = "N")]
    pub(crate) device_index: Option<u32>,

    /// How many replays at once; the answer is the same [default: one for each processor]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,

    /// How long after its submission work is done on the simulated device, as in 500us, 5ms or 1s
    #[arg(long, value_name = "TIME", default_value = "5ms", value_parser = values::duration_ns)]
    pub(crate) host_lead: u64,

    /// What calls cost on the simulated device: as measured while it was busy, or idle
    #[arg(long, value_enum, default_value = "busy")]
    pub(crate) costs: CostsName,

    /// Print one JSON object, and nothing else, to stdout
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum GoalName {
    Time,
    Memory,
}

impl From<GoalName> for Goal {
    fn from(name: GoalName) -> Goal {
        match name {
            GoalName::Time => Goal::Time,
            GoalName::Memory => Goal::Memory,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct MinCapacityArgs {
    /// The traces: PyTorch memory snapshots, or any other traces
    #[arg(required = true, value_name = "TRACE")]
    pub(crate) traces: Vec<PathBuf>,

    /// How exact the answer is, as a part of the peak of live bytes; it is a multiple of 2MiB
    #[arg(long, value_name = "PERCENT", default_value = "0.1%", value_parser = values::part)]
    pub(crate) tolerance: f64,

    #[command(flatten)]
    pub(crate) options: Options,
}

/// What the commands that play traces have in common.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// A policy, with options as in NAME:key=value,key=value; may be given several times [default:
    /// all, see `drystone policies`]
    #[arg(long = "policy", value_name = "NAME[:key=value,…]", value_parser = values::policy)]
    pub(crate) policies: Vec<PolicySpec>,

    /// The device's memory, or the most that is tried, as in 12GiB, 512MiB or 1.5GB [default: 80GiB
    /// simulated, all of a real device]
    #[arg(long, value_name = "SIZE", value_parser = values::capacity)]
    pub(crate) capacity: Option<u64>,

    /// How long after its submission work is done on the simulated device, as in 500us, 5ms or 1s
    #[arg(long, value_name = "TIME", default_value = "5ms", value_parser = values::duration_ns)]
    pub(crate) host_lead: u64,

    /// The device: `sim`, or a real one as in `cuda:0`, which takes no account of the trace's times
    #[arg(long, value_name = "sim|cuda:N", default_value = "sim", value_parser = values::device)]
    pub(crate) device: DeviceName,

    /// What calls cost on the simulated device: as measured while it was busy, or idle
    #[arg(long, value_enum, default_value = "busy")]
    pub(crate) costs: CostsName,

    /// How many replays at once on the simulated device; a real one has one at a time. The results
    /// are the same, but for `ns_per_event`, the time that a replay took: with more than one, replays
    /// are in each other's way [default: one for each processor]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,

    /// Print one JSON object a line for each trace and policy, and nothing else, to stdout
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CostsName {
    Busy,
    Idle,
}

impl From<CostsName> for CostModel {
    fn from(name: CostsName) -> CostModel {
        match name {
            CostsName::Busy => CostModel::Busy,
            CostsName::Idle => CostModel::Idle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
