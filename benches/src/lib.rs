//! What the benchmarks share: the operations that are timed, for Drystone on a simulated device and
//! for the C library's `malloc` and `free` over the same sizes.
//!
//! * one size: allocate and free a block of it, again and again;
//! * random sizes: with a fixed number of live blocks, free a random one and allocate another of a
//!   random size, log-uniform from 512 B to 1 MiB; or, large ones, from 1 to 64 MiB.

use std::hint::black_box;
use std::sync::Arc;

use drystone_core::{Allocator, Config, DeviceId, StreamId};
use drystone_sim::{SimConfig, SimDriver};

/// The device and stream of all benchmarks.
const DEVICE: DeviceId = DeviceId(0);
const STREAM: StreamId = StreamId(0);

/// Random steps that are drawn beforehand and gone through again and again, so that drawing them
/// is not timed.
const STEPS: usize = 1 << 20;

/// Something that hands out memory.
pub trait Memory {
    /// A block.
    type Block;
    /// Hands out `size` bytes.
    fn allocate(&self, size: u64) -> Self::Block;
    /// Takes a block back.
    fn free(&self, block: Self::Block);
}

/// Drystone over a simulated device of 1 TiB whose calls cost nothing.
pub struct Drystone(Allocator<Arc<SimDriver>>);

impl Drystone {
    /// An allocator that holds nothing yet.
    pub fn new() -> Self {
        let sim = SimConfig::default().capacity(1 << 40).costs(drystone_sim::Costs::zero());
        let driver = Arc::new(SimDriver::new(sim).expect("a valid device"));
        Drystone(Allocator::new(driver, Config::default()).expect("a valid configuration"))
    }
}

impl Default for Drystone {
    fn default() -> Self {
        Drystone::new()
    }
}

impl Memory for Drystone {
    type Block = u64;
    #[inline]
    fn allocate(&self, size: u64) -> u64 {
        self.0.allocate(size, DEVICE, STREAM).expect("the device is large enough")
    }
    #[inline]
    fn free(&self, block: u64) {
        self.0.free(block).expect("a live block");
    }
}

/// The C library's heap, through Rust's system allocator. Blocks are never written to.
pub struct Malloc;

impl Memory for Malloc {
    type Block = Vec<u8>;
    #[inline]
    fn allocate(&self, size: u64) -> Vec<u8> {
        Vec::with_capacity(size as usize)
    }
    #[inline]
    fn free(&self, block: Vec<u8>) {
        drop(block);
    }
}

/// One size, again and again.
pub struct OneSize<M: Memory> {
    memory: M,
    size: u64,
}

impl<M: Memory> OneSize<M> {
    /// Blocks of `size` bytes; warm.
    pub fn new(memory: M, size: u64) -> Self {
        let this = OneSize { memory, size };
        (0..1000).for_each(|_| this.pair());
        this
    }

    /// One allocation and its free.
    #[inline]
    pub fn pair(&self) {
        let block = self.memory.allocate(black_box(self.size));
        self.memory.free(black_box(block));
    }
}

/// Random sizes over a fixed number of live blocks.
pub struct RandomSizes<M: Memory> {
    memory: M,
    live: Vec<Option<M::Block>>,
    steps: Vec<(u32, u32)>,
    at: usize,
}

/// Sizes on a logarithmic scale: the least, in bytes, and how many doublings there are.
#[derive(Clone, Copy, Debug)]
pub struct Sizes(u64, u64);

impl Sizes {
    /// From 512 B to 1 MiB.
    pub const SMALL: Sizes = Sizes(512, 11);
    /// From 1 MiB to 64 MiB: blocks that are placed with regard to what they strand.
    pub const LARGE: Sizes = Sizes(1 << 20, 6);
}

impl<M: Memory> RandomSizes<M> {
    /// `live` blocks (at least 1), each replaced some times already.
    pub fn new(memory: M, sizes: Sizes, live: usize) -> Self {
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let mut size = move || {
            let low = sizes.0 << (next() % sizes.1);
            (low + next() % low) as u32
        };
        let blocks = (0..live).map(|_| Some(memory.allocate(u64::from(size())))).collect();
        let mut random = 0x2545_f491_4f6c_dd1du64;
        let steps = (0..STEPS).map(|_| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (((random >> 33) as usize % live) as u32, size())
        });
        let mut this = RandomSizes { memory, live: blocks, steps: steps.collect(), at: 0 };
        (0..STEPS).for_each(|_| this.pair());
        this
    }

    /// Frees a random block and allocates another.
    #[inline]
    pub fn pair(&mut self) {
        let (victim, size) = self.steps[self.at % STEPS];
        self.at += 1;
        let slot = &mut self.live[victim as usize];
        if let Some(block) = slot.take() {
            self.memory.free(block);
        }
        *slot = Some(self.memory.allocate(u64::from(size)));
    }
}

/// The README's examples, so that they are compiled and run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
