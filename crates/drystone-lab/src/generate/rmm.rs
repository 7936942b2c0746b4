//! `rmm-random` and `rmm-multi-stream`: two benchmarks of RMM, the RAPIDS Memory Manager.
//!
//! RANDOM_ALLOCATIONS is repeated choice by choice, with the random numbers of the C++ library that
//! it is built with. Follows `benchmarks/random_allocations` and `benchmarks/multi_stream_allocations`
//! of <https://github.com/rapidsai/rmm>, whose defaults are ours. The benchmarks have no time of
//! their own; here an operation takes a microsecond, a kernel as long as is asked for.

use drystone_trace::{Dropped, Event, Op, Trace};

use super::GeneratorInfo;
use super::libstdcxx::MinStdRand0;
use super::options::{Values, number};

const MIB: u64 = 1 << 20;

pub(super) const RANDOM: GeneratorInfo = GeneratorInfo {
    name: "rmm-random",
    summary: "RMM's benchmark RANDOM_ALLOCATIONS, the same choices; its own run has seed 1",
    options: &[
        number(
            "allocations",
            "how many allocations, in twice as many steps",
            (1, 5_000_000),
            "1000",
        ),
        number("max_size", "the largest size, in MiB", (1, 1_048_576), "1"),
        number("max_usage", "live bytes stay below it, in MiB", (1, 1_048_576), "16000"),
    ],
    make: random,
};

pub(super) const MULTI_STREAM: GeneratorInfo = GeneratorInfo {
    name: "rmm-multi-stream",
    summary: "RMM's benchmark MULTI_STREAM_ALLOCATIONS: a buffer and a kernel on each stream in turn",
    options: &[
        number("streams", "streams in turn", (1, 1_000), "4"),
        number("kernels", "kernels in a round, each with a buffer of 8 bytes", (1, 10_000), "4"),
        number("rounds", "how often all of it is repeated", (1, 10_000), "1000"),
        number("kernel_us", "until the next kernel is launched, in µs", (1, 1_000_000), "8"),
    ],
    make: multi_stream,
};

/// What of a hundred steps allocates.
const ALLOCATES: u64 = 73;

/// Events in their order, an operation each microsecond.
struct Steps {
    events: Vec<Event>,
    blocks: u32,
}

impl Steps {
    fn push(&mut self, t_us: u64, op: Op, id: u32, size: u64, stream: u32) {
        self.events.push(Event { t_us, size, id, stream, device: 0, op });
    }

    fn alloc(&mut self, t_us: u64, size: u64, stream: u32) -> u32 {
        let id = self.blocks;
        self.blocks += 1;
        self.push(t_us, Op::Alloc, id, size, stream);
        id
    }

    fn free(&mut self, t_us: u64, id: u32, size: u64, stream: u32) {
        self.push(t_us, Op::FreeRequested, id, size, stream);
        self.push(t_us, Op::FreeCompleted, id, size, stream);
    }

    fn finish(self, name: &str, streams: u32) -> Trace {
        Trace {
            name: name.to_owned(),
            events: self.events,
            blocks: self.blocks,
            streams,
            devices: 1,
            prelude: 0,
            block_pools: Vec::new(),
            dropped: Dropped::default(),
        }
    }
}

fn random(values: &Values, seed: u64) -> Result<Trace, String> {
    let allocations = values.number("allocations");
    let (largest, cap) = (values.number("max_size") * MIB, values.number("max_usage") * MIB);
    let mut engine = MinStdRand0::new(seed);
    let mut steps = Steps { events: Vec::new(), blocks: 0 };
    let mut live: Vec<(u32, u64)> = Vec::new();
    let (mut made, mut live_bytes) = (0, 0);
    for step in 0..2 * allocations {
        let size = engine.uniform(1, largest);
        let allocates = live.is_empty()
            || (engine.uniform(0, 99) < ALLOCATES && made < allocations && live_bytes + size < cap);
        if allocates {
            live.push((steps.alloc(step, size, 0), size));
            made += 1;
            live_bytes += size;
        } else {
            let index = engine.uniform(0, allocations - 1) as usize % live.len();
            let (id, size) = live.swap_remove(index);
            steps.free(step, id, size, 0);
            live_bytes -= size;
        }
    }
    Ok(steps.finish(RANDOM.name, 1))
}

fn multi_stream(values: &Values, _: u64) -> Result<Trace, String> {
    let (streams, kernels) = (values.number("streams"), values.number("kernels"));
    let mut steps = Steps { events: Vec::new(), blocks: 0 };
    let count = kernels * values.number("rounds");
    if count > 5_000_000 {
        return Err(format!("{count} kernels in all; at most 5000000 are allowed"));
    }
    for kernel in 0..count {
        // The pool's streams; the default stream is none of them.
        let stream = 1 + (kernel % kernels % streams) as u32;
        let t_us = kernel * values.number("kernel_us");
        let id = steps.alloc(t_us, 8, stream);
        steps.free(t_us, id, 8, stream);
    }
    Ok(steps.finish(MULTI_STREAM.name, streams.min(kernels) as u32 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::GeneratorSpec;

    fn peak_blocks(trace: &Trace) -> u64 {
        let (mut live, mut peak) = (0, 0);
        for event in &trace.events {
            match event.op {
                Op::Alloc => live += 1,
                Op::FreeCompleted => live -= 1,
                _ => {}
            }
            peak = peak.max(live);
        }
        peak
    }

    /// What the benchmark itself reaches, counted in runs of it.
    #[test]
    fn live_blocks_peak_where_the_benchmarks_do() {
        for (allocations, max_size, peak) in [
            (1_000, 1, 638),
            (10_000, 1, 6_204),
            (100_000, 1, 36_071),
            (100_000, 4, 9_714),
            (100_000, 64, 644),
        ] {
            let text = format!("rmm-random:allocations={allocations},max_size={max_size}");
            let trace = text.parse::<GeneratorSpec>().unwrap().generate(1).unwrap();
            assert_eq!(peak_blocks(&trace), peak, "{text}");
            assert!(trace.peak_live_bytes() < 16_000 * MIB, "{text}");
        }
    }

    #[test]
    fn a_size_range_beyond_the_engines_is_drawn_from_too() {
        let spec: GeneratorSpec = "rmm-random:max_size=4096".parse().unwrap();
        let trace = spec.generate(1).unwrap();
        let largest = trace.events.iter().map(|event| event.size).max().unwrap();
        assert!(largest > 1 << 31 && largest <= 4096 * MIB, "{largest}");
        assert!(trace.peak_live_bytes() < 16_000 * MIB);
    }

    #[test]
    fn kernels_go_round_the_streams() {
        let spec: GeneratorSpec = "rmm-multi-stream:streams=2,rounds=2".parse().unwrap();
        let trace = spec.generate(1).unwrap();
        let streams: Vec<_> = trace.events.iter().step_by(3).map(|event| event.stream).collect();
        assert_eq!(streams, [1, 2, 1, 2, 1, 2, 1, 2]);
        assert_eq!((trace.streams, trace.blocks, trace.events[3].t_us), (3, 8, 8));
    }
}
