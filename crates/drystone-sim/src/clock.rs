//! The virtual clock, and the counters of calls and of the time they took.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use drystone_core::driver::DriverCall;

const KINDS: usize = DriverCall::ALL.len();

/// Nanoseconds since the driver was made. Relaxed order is enough: each thread sees a single
/// atomic move in one direction only.
#[derive(Debug, Default)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    pub(crate) fn now(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Moves on by `ns`, stopping at the end of time; returns the new time.
    pub(crate) fn advance(&self, ns: u64) -> u64 {
        let mut now = self.now();
        loop {
            let then = now.saturating_add(ns);
            match self.0.compare_exchange_weak(now, then, Relaxed, Relaxed) {
                Ok(_) => return then,
                Err(seen) => now = seen,
            }
        }
    }

    /// Moves on to `ns` if that is later; returns how far it moved.
    pub(crate) fn advance_to(&self, ns: u64) -> u64 {
        ns.saturating_sub(self.0.fetch_max(ns, Relaxed))
    }
}

/// What calls of one kind have taken so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallStats {
    /// Calls, failed ones included; calls that named no device of ours are not.
    pub calls: u64,
    /// Calls that returned an error.
    pub failed: u64,
    /// Nanoseconds of driver time, waiting left out.
    pub driver_ns: u64,
    /// Nanoseconds of waiting for the device: all the time of the calls that are made for waiting
    /// ([`DriverCall::waits`]), and the wait hidden in `segment_free`.
    pub wait_ns: u64,
}

impl CallStats {
    fn add(&mut self, other: &CallStats) {
        self.calls += other.calls;
        self.failed += other.failed;
        self.driver_ns = self.driver_ns.saturating_add(other.driver_ns);
        self.wait_ns = self.wait_ns.saturating_add(other.wait_ns);
    }
}

/// The counters of all kinds of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimStats {
    by_call: [CallStats; KINDS],
}

impl SimStats {
    /// The counters of one kind.
    pub fn of(&self, call: DriverCall) -> CallStats {
        self.by_call[call as usize]
    }

    /// The sum over all kinds.
    pub fn total(&self) -> CallStats {
        let mut total = CallStats::default();
        self.by_call.iter().for_each(|one| total.add(one));
        total
    }

    pub(crate) fn add(&mut self, other: &SimStats) {
        self.by_call.iter_mut().zip(&other.by_call).for_each(|(to, from)| to.add(from));
    }

    pub(crate) fn note(&mut self, call: DriverCall, failed: bool, spent: Spent) {
        let waits = call.waits();
        self.by_call[call as usize].add(&CallStats {
            calls: 1,
            failed: u64::from(failed),
            driver_ns: if waits { 0 } else { spent.driver_ns },
            wait_ns: spent.wait_ns.saturating_add(if waits { spent.driver_ns } else { 0 }),
        });
    }
}

/// The virtual time that one call has taken.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) driver_ns: u64,
    pub(crate) wait_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_goes_back() {
        let clock = Clock::default();
        assert_eq!(clock.advance(5), 5);
        assert_eq!(clock.advance_to(12), 7);
        assert_eq!(clock.advance_to(3), 0);
        assert_eq!(clock.now(), 12);
        assert_eq!(clock.advance(u64::MAX), u64::MAX);
        assert_eq!(clock.advance(1), u64::MAX);
    }

    #[test]
    fn waiting_is_kept_apart_from_driver_time() {
        let mut stats = SimStats::default();
        stats.note(DriverCall::SegmentFree, false, Spent { driver_ns: 30, wait_ns: 500 });
        stats.note(DriverCall::EventSynchronize, true, Spent { driver_ns: 2, wait_ns: 9 });
        let free = CallStats { calls: 1, failed: 0, driver_ns: 30, wait_ns: 500 };
        let sync = CallStats { calls: 1, failed: 1, driver_ns: 0, wait_ns: 11 };
        assert_eq!(stats.of(DriverCall::SegmentFree), free);
        assert_eq!(stats.of(DriverCall::EventSynchronize), sync);
        let total = CallStats { calls: 2, failed: 1, driver_ns: 30, wait_ns: 511 };
        assert_eq!(stats.total(), total);
    }
}
