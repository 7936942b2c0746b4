//! A trace being written: tensors are taken and given back, time goes by, and each becomes a line of
//! our CSV.

use std::collections::VecDeque;
use std::fmt::Write;

/// The stream of the program's computation.
pub(crate) const COMPUTE: u32 = 0;
/// Until work that was submitted is done: a tensor that another stream used too is free then.
const LEAD_NS: u64 = 5_000_000;
/// What the host takes to launch a kernel.
const LAUNCH_NS: u64 = 8_000;
/// Bytes that the device writes in a microsecond: fewer where it multiplies matrices, more elsewhere.
const BYTES_PER_US: u64 = 250_000;

/// A live block.
#[must_use = "it is live until it is given back"]
#[derive(Debug)]
pub(crate) struct Tensor {
    id: u32,
    pub(crate) bytes: u64,
    stream: u32,
}

/// The trace, and random numbers.
pub(crate) struct Tape {
    csv: String,
    now_ns: u64,
    tensors: u32,
    /// Tensors that were given back, and when that is complete.
    later: VecDeque<(u64, Tensor)>,
    random: u64,
}

impl Tape {
    pub(crate) fn new(seed: u64) -> Self {
        Tape {
            csv: "t_us,op,id,size,stream\n".to_owned(),
            now_ns: 0,
            tensors: 0,
            later: VecDeque::new(),
            random: seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }

    /// A random number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        let next = self.random.wrapping_mul(6_364_136_223_846_793_005);
        self.random = next.wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % end
    }

    /// A length from `least` to `most` of which few are long.
    pub(crate) fn heavy_tail(&mut self, least: u64, most: u64) -> u64 {
        let part = (self.below(1 << 20) + 1) as f64 / (1u64 << 20) as f64;
        ((least as f64 * part.powf(-1.0 / 1.3)) as u64).min(most)
    }

    fn line(&mut self, op: char, tensor: &Tensor) {
        let (t_us, Tensor { id, bytes, stream }) = (self.now_ns / 1_000, tensor);
        let _ = writeln!(self.csv, "{t_us},{op},{id},{bytes},{stream}");
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
    pub(crate) fn wait_us(&mut self, us: u64) {
        let end = self.now_ns + us * 1_000;
        while let Some((done_ns, tensor)) = self.due(end) {
            self.now_ns = self.now_ns.max(done_ns);
            self.line('c', &tensor);
        }
        self.now_ns = end;
    }

    /// The result of a kernel.
    pub(crate) fn take(&mut self, bytes: u64) -> Tensor {
        self.take_on(bytes, COMPUTE)
    }

    /// Likewise on another stream.
    pub(crate) fn take_on(&mut self, bytes: u64, stream: u32) -> Tensor {
        let tensor = Tensor { id: self.tensors, bytes: bytes.max(1), stream };
        self.tensors += 1;
        self.line('a', &tensor);
        self.now_ns += LAUNCH_NS;
        self.wait_us(bytes / BYTES_PER_US);
        tensor
    }

    /// Several of them.
    pub(crate) fn take_all(&mut self, sizes: &[u64]) -> Vec<Tensor> {
        sizes.iter().map(|&bytes| self.take(bytes)).collect()
    }

    /// A tensor that is not needed any more.
    pub(crate) fn give(&mut self, tensor: Tensor) {
        self.line('f', &tensor);
        self.line('c', &tensor);
    }

    /// Several of them.
    pub(crate) fn give_all(&mut self, tensors: impl IntoIterator<Item = Tensor>) {
        tensors.into_iter().for_each(|tensor| self.give(tensor));
    }

    /// A tensor that another stream than its own may still be using.
    pub(crate) fn give_later(&mut self, tensor: Tensor) {
        self.line('f', &tensor);
        self.later.push_back((self.now_ns + LEAD_NS, tensor));
    }

    /// A kernel that reads one tensor, which then goes, and writes another.
    pub(crate) fn replace(&mut self, old: Tensor, bytes: u64) -> Tensor {
        let new = self.take(bytes);
        self.give(old);
        new
    }

    /// A kernel whose result goes at once.
    pub(crate) fn pass(&mut self, bytes: u64) {
        let tensor = self.take(bytes);
        self.give(tensor);
    }

    /// Backward through what was kept: each tensor gets a gradient, and then both it and the
    /// gradient before go. The gradient of the first.
    pub(crate) fn backward(&mut self, from: Tensor, kept: Vec<Tensor>) -> Tensor {
        kept.into_iter().rev().fold(from, |gradient, tensor| {
            let next = self.take(tensor.bytes);
            self.give(tensor);
            self.give(gradient);
            next
        })
    }

    /// The trace.
    pub(crate) fn finish(mut self) -> String {
        self.wait_us(LEAD_NS / 1_000);
        self.csv
    }
}
