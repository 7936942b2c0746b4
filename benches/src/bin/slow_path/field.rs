//! An allocator that holds so many pages, in a state as a long run leaves it: live blocks of random
//! sizes with free ones between them, pages that have moved, ghosts.

use std::sync::Arc;
use std::time::Instant;

use drystone_core::{Action, Allocator, Config};
use drystone_sim::{Costs, SimConfig, SimDriver};

use super::timed::{Asked, Timed};
use super::waited::Waited;
use super::{DEVICE, MIB, PAGE, STREAM};

/// No memory above the peak of live bytes without need, so that handles are hardly larger than
/// blocks, and there are as many of them as can be.
const CONFIG: &str = "reserve:lean,slack:0";
/// The part of the pages that is live after blocks were freed here and there.
const LIVE: f64 = 0.7;
/// How often new memory is taken before filling up ends.
const CREATES: u64 = 20;

/// One operation: its own real time, and what it asked of the driver.
pub(crate) struct Timing {
    /// Nanoseconds without the time in driver calls.
    pub(crate) own_ns: f64,
    pub(crate) asked: Asked,
    /// Whether pages came to the block, be it without a driver call.
    pub(crate) window: bool,
}

/// A live block.
struct Live {
    address: u64,
    bytes: u64,
}

/// The allocator, its blocks, and random numbers.
pub(crate) struct Field {
    allocator: Allocator<Arc<Timed>>,
    driver: Arc<Timed>,
    overhead_ns: f64,
    waited: Waited,
    /// Of one page or a few.
    blocks: Vec<Live>,
    /// Of many.
    windows: Vec<Live>,
    /// Bytes of both.
    live: u64,
    /// Bytes that are to be held.
    held: u64,
    random: u64,
}

impl Field {
    /// One that holds nothing yet, and is to hold so many pages.
    pub(crate) fn new(pages: u64, seed: u64) -> Self {
        let sim = SimConfig::default().capacity(1 << 40).costs(Costs::zero());
        let driver = Arc::new(Timed::new(SimDriver::new(sim).expect("a valid device")));
        let config = Config::parse(CONFIG).expect("a valid configuration");
        let allocator = Allocator::new(Arc::clone(&driver), config).expect("a valid configuration");
        allocator.set_history(2);
        Field {
            allocator,
            overhead_ns: driver.overhead_ns(),
            driver,
            waited: Waited::new(),
            blocks: Vec::new(),
            windows: Vec::new(),
            live: 0,
            held: pages * PAGE,
            random: 0x9e37_79b9_7f4a_7c15 ^ seed << 17,
        }
    }

    /// Handles held now.
    pub(crate) fn handles(&self) -> u64 {
        let asked = self.driver.asked();
        asked.creates - asked.releases
    }

    /// Mappings now, ghosts among them.
    pub(crate) fn mappings(&self) -> u64 {
        let asked = self.driver.asked();
        asked.maps - asked.unmaps
    }

    /// Live blocks now.
    pub(crate) fn live_blocks(&self) -> usize {
        self.blocks.len() + self.windows.len()
    }

    /// A random number below `end`.
    pub(crate) fn random(&mut self, end: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % end
    }

    /// The size of a block: mostly some pages, often an odd size around that, sometimes small.
    fn size(&mut self) -> u64 {
        match self.random(20) {
            0 => 512 + self.random(MIB - 512),
            1..=5 => MIB + 512 + self.random(7 * MIB),
            _ => (1 + self.random(4)) * PAGE,
        }
    }

    fn time<T>(&self, run: impl FnOnce(&Allocator<Arc<Timed>>) -> T) -> (T, Timing) {
        let waited = self.waited.ns();
        let (before, start) = (self.driver.asked(), Instant::now());
        let result = run(&self.allocator);
        let all = start.elapsed().as_nanos() as f64;
        let waited = (self.waited.ns() - waited) as f64;
        let asked = self.driver.asked().since(&before);
        let calls = asked.calls as f64 * self.overhead_ns + asked.inside_ns as f64;
        (result, Timing { own_ns: all - calls - waited, asked, window: false })
    }

    fn allocate(&mut self, bytes: u64) -> (Live, Timing) {
        let (address, mut timing) = self.time(|all| all.allocate(bytes, DEVICE, STREAM));
        // The allocation is the last event; the pages that came for it are right before it.
        let events = self.allocator.history();
        timing.window = events.first().is_some_and(|event| event.action == Action::SegmentMap);
        self.live += bytes;
        (Live { address: address.expect("the device is large enough"), bytes }, timing)
    }

    fn free(&mut self, block: Live) {
        self.allocator.free(block.address).expect("a live block");
        self.live -= block.bytes;
    }

    /// Allocates a block.
    pub(crate) fn allocate_block(&mut self) -> Timing {
        let bytes = self.size();
        let (block, timing) = self.allocate(bytes);
        self.blocks.push(block);
        timing
    }

    /// Frees a random block.
    pub(crate) fn free_block(&mut self) {
        let at = self.random(self.blocks.len() as u64) as usize;
        let block = self.blocks.swap_remove(at);
        self.free(block);
    }

    /// Allocates a window.
    pub(crate) fn allocate_window(&mut self, bytes: u64) -> Timing {
        let (window, timing) = self.allocate(bytes);
        self.windows.push(window);
        timing
    }

    /// Frees random windows, until there are only so many.
    pub(crate) fn free_windows(&mut self, left: usize) {
        while self.windows.len() > left {
            let at = self.random(self.windows.len() as u64) as usize;
            let window = self.windows.swap_remove(at);
            self.free(window);
        }
    }

    /// Allocates and frees blocks in turns until the pages are held; tells of every allocation.
    pub(crate) fn grow(&mut self, mut tell: impl FnMut(Timing)) {
        while self.driver.held() < self.held {
            tell(self.allocate_block());
            if self.random(4) == 0 {
                self.free_block();
            }
        }
    }

    /// Frees blocks here and there.
    pub(crate) fn scatter(&mut self) {
        let kept = (self.held as f64 * LIVE) as u64;
        while self.live > kept {
            self.free_block();
        }
    }

    /// Fills what is free with blocks, so that the next scatter leaves other places free; tells of
    /// every allocation.
    pub(crate) fn fill_up(&mut self, mut tell: impl FnMut(Timing)) {
        let mut created = 0;
        while created < CREATES && self.live < self.held {
            let timing = self.allocate_block();
            created += timing.asked.creates;
            tell(timing);
        }
    }

    /// Gives back what is free.
    pub(crate) fn empty_cache(&self) -> Timing {
        let (released, timing) = self.time(|all| all.empty_cache(DEVICE));
        released.expect("the device refuses nothing");
        timing
    }
}
