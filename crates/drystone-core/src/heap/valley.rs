//! Valleys: when much less is live than before, as between two iterations of a program.
//!
//! A program of fixed shapes asks for the same again and again. It gets it without driver calls if
//! what it leaves free lies where it lay the time before. So after pages have been mapped elsewhere
//! for blocks in need, the free ones go home in the next valley, where most of them are free.

use super::HeapCore;
use crate::stats::Metric;
use crate::stats::counters::HeapCounters;
use crate::units::Kind;

/// The part of what was live at most, since pages last went home, below which there is a valley.
/// Found by replaying loops of fixed shapes: at a half one of four does not settle, at 0.8 none.
const VALLEY: f64 = 0.7;

/// What is known of the way to the next valley.
#[derive(Debug, Default)]
pub(super) struct Valley {
    /// Whether pages are away from where their handle was mapped first.
    strays: bool,
    /// The most bytes that were live in large blocks since pages last went home.
    high: u64,
    /// Whether a valley was seen and pages have not gone home yet.
    seen: bool,
}

fn live(counters: &HeapCounters) -> u64 {
    counters.of(Kind::Large).current()[Metric::ActiveBytes as usize]
}

impl HeapCore {
    /// Before a large block is handed out: whether pages should go home first. Says so once.
    #[inline]
    pub(super) fn sees_valley(&mut self, counters: &HeapCounters) -> bool {
        if !self.valley.strays {
            return false;
        }
        let live = live(counters);
        self.valley.high = self.valley.high.max(live);
        if live as f64 >= self.valley.high as f64 * VALLEY {
            return false;
        }
        self.valley.strays = false;
        self.valley.seen = true;
        true
    }

    /// Whether a valley was seen since this was last asked.
    pub(crate) fn take_valley(&mut self) -> bool {
        std::mem::take(&mut self.valley.seen)
    }

    /// Pages have been mapped elsewhere.
    pub(crate) fn has_strays(&mut self) {
        self.valley.strays = true;
    }

    /// Free pages have gone home; some may still be away.
    pub(crate) fn went_home(&mut self, counters: &HeapCounters, strays: bool) {
        self.valley = Valley { strays, high: live(counters), seen: false };
    }
}
