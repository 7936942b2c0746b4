//! Training loops whose every iteration asks for the same sizes in the same order: after some
//! iterations memory is where it is needed, and the driver is not called for it any more.

use std::sync::Arc;

use drystone_core::{Allocator, Config, DeviceId, DriverCall, StreamId};
use drystone_sim::{Access, SimConfig, SimDriver};

const DEVICE: DeviceId = DeviceId(0);
const COMPUTE: StreamId = StreamId(0);
const COPY: StreamId = StreamId(0xc0);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Between two operations of the program; the device is 5 ms behind.
const STEP_NS: u64 = 20_000;
const SEEDS: u64 = 20;
const ITERATIONS: usize = 22;

/// What a program does with its memory. Blocks have numbers.
#[derive(Clone, Copy, Debug)]
enum Op {
    Take { block: usize, bytes: u64, stream: StreamId },
    Give { block: usize },
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// A number of bytes between two, on a logarithmic scale.
    fn bytes(&mut self, least: u64, most: u64) -> u64 {
        let octaves = u64::from((most / least).ilog2());
        let low = least << self.below(octaves);
        low + self.below(low)
    }

    fn sizes(&mut self, count: u64, least: u64, most: u64) -> Vec<u64> {
        (0..self.below(count + 1)).map(|_| self.bytes(least, most)).collect()
    }
}

/// The sizes that belong to a layer, in bytes.
#[derive(Clone)]
struct Layer {
    weights: Vec<u64>,
    kept: Vec<u64>,
    forward: Vec<u64>,
    backward: Vec<u64>,
}

/// A model and how it is trained.
struct Loop {
    layers: Vec<Layer>,
    input: u64,
    /// Whether gradients stay from iteration to iteration.
    keeps_gradients: bool,
    /// Whether the optimizer's temporaries for all weights are there at once.
    foreach: bool,
    /// Whether the next input is made on a stream of its own meanwhile.
    prefetches: bool,
}

impl Loop {
    fn random(seed: u64, prefetches: bool) -> Loop {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d);
        let mut layers: Vec<Layer> = Vec::new();
        for _ in 0..4 + random.below(13) {
            // Many models repeat a layer.
            let again = layers.last().filter(|_| random.below(5) < 3).cloned();
            layers.push(again.unwrap_or_else(|| Layer {
                weights: random.sizes(4, 4 * KIB, 64 * MIB),
                kept: random.sizes(4, 64 * KIB, 128 * MIB),
                forward: random.sizes(4, 16 * KIB, 64 * MIB),
                backward: random.sizes(4, 16 * KIB, 128 * MIB),
            }));
        }
        Loop {
            layers,
            input: random.bytes(MIB, 32 * MIB),
            keeps_gradients: random.below(2) == 0,
            foreach: random.below(2) == 0,
            prefetches,
        }
    }

    fn weights(&self) -> impl Iterator<Item = u64> + '_ {
        self.layers.iter().flat_map(|layer| layer.weights.iter().copied())
    }
}

/// A program being written down.
#[derive(Default)]
struct Script {
    ops: Vec<Op>,
    blocks: usize,
}

impl Script {
    fn take_on(&mut self, bytes: u64, stream: StreamId) -> usize {
        let block = self.blocks;
        self.blocks += 1;
        self.ops.push(Op::Take { block, bytes, stream });
        block
    }

    fn take(&mut self, bytes: u64) -> usize {
        self.take_on(bytes, COMPUTE)
    }

    fn take_all(&mut self, sizes: &[u64]) -> Vec<usize> {
        sizes.iter().map(|&bytes| self.take(bytes)).collect()
    }

    fn give(&mut self, blocks: impl IntoIterator<Item = usize>) {
        self.ops.extend(blocks.into_iter().map(|block| Op::Give { block }));
    }
}

/// The operations of a training run, before the first iteration and in each; and how many blocks.
fn write(training: &Loop) -> (Vec<Vec<Op>>, usize) {
    let mut script = Script::default();
    let mut parts = Vec::new();
    for bytes in training.weights() {
        script.take(bytes);
    }
    let mut gradients: Vec<Vec<usize>> = Vec::new();
    let mut input = prefetch(training, &mut script);
    parts.push(std::mem::take(&mut script.ops));
    for iteration in 0..ITERATIONS {
        let next = prefetch(training, &mut script);
        let mut kept = Vec::new();
        for layer in &training.layers {
            let temporary = script.take_all(&layer.forward);
            kept.push(script.take_all(&layer.kept));
            script.give(temporary);
        }
        let mut from_above = script.take(training.input);
        let first = gradients.is_empty();
        for (at, layer) in training.layers.iter().enumerate().rev() {
            let temporary = script.take_all(&layer.backward);
            if first {
                gradients.push(script.take_all(&layer.weights));
            }
            let below = script.take(layer.kept.first().copied().unwrap_or(training.input));
            script.give(temporary);
            script.give(std::mem::take(&mut kept[at]));
            script.give([from_above]);
            from_above = below;
        }
        script.give([from_above, input]);
        input = next;
        if iteration == 0 {
            // The optimizer's two moments.
            training.weights().for_each(|bytes| drop(script.take_all(&[bytes, bytes])));
        }
        let mut temporary = Vec::new();
        for bytes in training.weights() {
            temporary.push(script.take(bytes));
            if !training.foreach {
                script.give(temporary.drain(..));
            }
        }
        script.give(temporary);
        if !training.keeps_gradients {
            script.give(gradients.drain(..).flatten());
        }
        parts.push(std::mem::take(&mut script.ops));
    }
    (parts, script.blocks)
}

/// Makes an input, out of what was read.
fn prefetch(training: &Loop, script: &mut Script) -> usize {
    let stream = if training.prefetches { COPY } else { COMPUTE };
    let read = script.take_on(training.input / 4, stream);
    let input = script.take_on(training.input, stream);
    script.give([read]);
    input
}

/// Whether a call does something to memory or streams, and does not only ask how far they are.
fn matters(call: DriverCall) -> bool {
    use DriverCall::{EventCreate, EventQuery, EventRecord};
    ![EventCreate, EventRecord, EventQuery].contains(&call)
}

/// Plays a training run: the iteration, from 1, after which no call was made that matters.
fn settles_after(config: &str, training: &Loop) -> usize {
    let sim = Arc::new(SimDriver::new(SimConfig::default()).unwrap());
    let allocator = Allocator::new(Arc::clone(&sim), Config::parse(config).unwrap()).unwrap();
    let (parts, blocks) = write(training);
    let mut live = vec![(0, COMPUTE); blocks];
    let (mut before, mut last) = (0, 0);
    for (iteration, part) in parts.into_iter().enumerate() {
        for op in part {
            sim.advance(STEP_NS);
            let (block, bytes) = match op {
                Op::Take { block, bytes, stream } => {
                    live[block] = (allocator.allocate(bytes, DEVICE, stream).unwrap(), stream);
                    (block, bytes)
                }
                Op::Give { block } => {
                    allocator.free(live[block].0).unwrap();
                    (block, 0)
                }
            };
            // A block is used until it is freed.
            let (address, stream) = live[block];
            sim.launch(DEVICE, stream, &[(address, bytes)], Access::Write).unwrap();
        }
        let stats = allocator.driver_stats();
        let all = DriverCall::ALL.into_iter().filter(|&call| matters(call));
        let calls: u64 = all.map(|call| stats.calls_of(call)).sum();
        if calls > before {
            (before, last) = (calls, iteration);
        }
    }
    last
}

/// Plays all training runs: how many have settled after the second iteration, and after the sixth.
fn settled(config: &str, prefetches: bool) -> [usize; 2] {
    let all = (0..SEEDS).map(|seed| settles_after(config, &Loop::random(seed, prefetches)));
    let all: Vec<usize> = all.collect();
    println!("{config}, prefetching: {prefetches}: settled after {all:?}");
    [2, 6].map(|iterations| all.iter().filter(|&&last| last <= iterations).count())
}

#[track_caller]
fn assert_settled(reserve: &str, prefetches: bool, least: [usize; 2]) {
    let counts = settled(&format!("reserve:{reserve}"), prefetches);
    assert!(counts[0] >= least[0] && counts[1] >= least[1], "{reserve}: {counts:?} of {SEEDS}");
}

#[test]
fn one_stream_settles() {
    assert_settled("lean", false, [4, 18]);
    assert_settled("balanced", false, [9, 19]);
    assert_settled("fast", false, [13, 19]);
}

#[test]
fn two_streams_settle() {
    assert_settled("lean", true, [5, 13]);
    assert_settled("balanced", true, [5, 16]);
    assert_settled("fast", true, [10, 19]);
}
