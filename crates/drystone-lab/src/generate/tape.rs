//! A trace being made: tensors are taken and given back, time goes by, and each becomes an event.

use std::collections::VecDeque;

use drystone_trace::{Dropped, Event, Op, Trace};

/// The stream of the program's computation.
pub(super) const COMPUTE: u32 = 0;
/// The most events of a made trace: 640 MB of them.
const MAX_EVENTS: usize = 20_000_000;
/// Until work that was submitted is done: a tensor that another stream used too is free then.
const LEAD_NS: u64 = 5_000_000;
/// What the host takes to launch a kernel.
const LAUNCH_NS: u64 = 8_000;
/// Bytes that the device writes in a microsecond: fewer where it multiplies matrices, more elsewhere.
const BYTES_PER_US: u64 = 250_000;

/// A live block.
#[must_use = "it is live until it is given back"]
#[derive(Debug)]
pub(super) struct Tensor {
    id: u32,
    pub(super) bytes: u64,
    stream: u32,
}

/// The trace, and random numbers.
pub(super) struct Tape {
    events: Vec<Event>,
    /// More events were made than are kept.
    overflowed: bool,
    now_ns: u64,
    tensors: u32,
    streams: u32,
    /// Tensors that were given back, and when that is complete.
    later: VecDeque<(u64, Tensor)>,
    random: u64,
}

impl Tape {
    pub(super) fn new(seed: u64) -> Self {
        Tape {
            events: Vec::new(),
            overflowed: false,
            now_ns: 0,
            tensors: 0,
            streams: 1,
            later: VecDeque::new(),
            random: seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }

    /// A random number below `end`: the upper bits of a linear congruential generator modulo 2^64
    /// (Knuth's MMIX).
    pub(super) fn below(&mut self, end: u64) -> u64 {
        let next = self.random.wrapping_mul(6_364_136_223_846_793_005);
        self.random = next.wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % end
    }

    /// A length from `least` to `most` of which few are long.
    pub(super) fn heavy_tail(&mut self, least: u64, most: u64) -> u64 {
        let part = (self.below(1 << 20) + 1) as f64 / (1u64 << 20) as f64;
        ((least as f64 * part.powf(-1.0 / 1.3)) as u64).min(most)
    }

    /// Nothing that is still made will be kept: there will be no trace.
    pub(super) fn is_full(&self) -> bool {
        self.overflowed
    }

    fn event(&mut self, op: Op, tensor: &Tensor) {
        if self.events.len() == MAX_EVENTS {
            self.overflowed = true;
            return;
        }
        let (t_us, &Tensor { id, bytes: size, stream }) = (self.now_ns / 1_000, tensor);
        self.streams = self.streams.max(stream + 1);
        self.events.push(Event { t_us, size, id, stream, device: 0, op });
    }

    /// The first tensor whose free is complete by then, and when that is.
    fn due(&mut self, end_ns: u64) -> Option<(u64, Tensor)> {
        let first = self.later.front();
        if first.is_some_and(|(done_ns, _)| *done_ns <= end_ns) {
            self.later.pop_front()
        } else {
            None
        }
    }

    /// Lets time go by.
    pub(super) fn wait_us(&mut self, us: u64) {
        let end = self.now_ns + us * 1_000;
        while let Some((done_ns, tensor)) = self.due(end) {
            self.now_ns = self.now_ns.max(done_ns);
            self.event(Op::FreeCompleted, &tensor);
        }
        self.now_ns = end;
    }

    /// The result of a kernel.
    pub(super) fn take(&mut self, bytes: u64) -> Tensor {
        self.take_on(bytes, COMPUTE)
    }

    /// Likewise on another stream.
    pub(super) fn take_on(&mut self, bytes: u64, stream: u32) -> Tensor {
        let tensor = Tensor { id: self.tensors, bytes: bytes.max(1), stream };
        // Where the numbers wrap around, no event is kept any more.
        self.tensors = self.tensors.wrapping_add(1);
        self.event(Op::Alloc, &tensor);
        self.now_ns += LAUNCH_NS;
        self.wait_us(bytes / BYTES_PER_US);
        tensor
    }

    /// Several of them.
    pub(super) fn take_all(&mut self, sizes: &[u64]) -> Vec<Tensor> {
        sizes.iter().map(|&bytes| self.take(bytes)).collect()
    }

    /// A tensor that is not needed any more.
    pub(super) fn give(&mut self, tensor: Tensor) {
        self.event(Op::FreeRequested, &tensor);
        self.event(Op::FreeCompleted, &tensor);
    }

    /// Several of them.
    pub(super) fn give_all(&mut self, tensors: impl IntoIterator<Item = Tensor>) {
        tensors.into_iter().for_each(|tensor| self.give(tensor));
    }

    /// A tensor that another stream than its own may still be using.
    pub(super) fn give_later(&mut self, tensor: Tensor) {
        self.event(Op::FreeRequested, &tensor);
        self.later.push_back((self.now_ns + LEAD_NS, tensor));
    }

    /// A kernel that reads one tensor, which then goes, and writes another.
    pub(super) fn replace(&mut self, old: Tensor, bytes: u64) -> Tensor {
        let new = self.take(bytes);
        self.give(old);
        new
    }

    /// A kernel whose result goes at once.
    pub(super) fn pass(&mut self, bytes: u64) {
        let tensor = self.take(bytes);
        self.give(tensor);
    }

    /// Backward through what was kept: each tensor gets a gradient, and then both it and the
    /// gradient before go. The gradient of the first.
    pub(super) fn backward(&mut self, from: Tensor, kept: Vec<Tensor>) -> Tensor {
        kept.into_iter().rev().fold(from, |gradient, tensor| {
            let next = self.take(tensor.bytes);
            self.give(tensor);
            self.give(gradient);
            next
        })
    }

    /// The trace under this name, when all work is done; an error if it has too many events.
    pub(super) fn finish(mut self, name: &str) -> Result<Trace, String> {
        self.wait_us(LEAD_NS / 1_000);
        if self.overflowed {
            return Err(format!("more than {MAX_EVENTS} events: ask for fewer steps or layers"));
        }
        Ok(Trace {
            name: name.to_owned(),
            events: self.events,
            blocks: self.tensors,
            streams: self.streams,
            devices: 1,
            prelude: 0,
            block_pools: Vec::new(),
            dropped: Dropped::default(),
        })
    }
}
