//! The slow path over pages: a request that no free block serves gets a window of pages.
//!
//! A window is a range of hole in an arena of the request's heap, right behind a free block where
//! there is one. Its pages come from, cheapest first:
//!
//! 1. ghosts: the page's handle is mapped there already, and the page is free where it is at home;
//!    it only changes homes;
//! 2. aliases: free pages whose handles are mapped there a second time;
//! 3. new handles.
//!
//! Whether new handles come before aliases is the watermark ([`crate::policy`]). Nothing waits for
//! the device on the heap's own stream: the old mapping stays until its last use has passed, and
//! what is done through the new one is later in the stream's order. For pages that were last used
//! on another stream, this stream is made to wait for that one on the device.
//!
//! `place` chooses the window, `gather` the pages, `carry` tells the driver and keeps the book,
//! `shrink` takes ghosts away and gives handles back.

mod carry;
mod gather;
mod place;
mod shrink;

use std::sync::atomic::Ordering;

use super::Allocator;
use super::slow::{NoSegment, Quest};
use crate::config::CrossStream;
use crate::driver::Driver;
use crate::pages::PageStore;
use crate::stats::Metric;

/// How often a window is chosen again because another thread took a part of it.
const TRIES: u32 = 16;

/// Where the pages of a window may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sources {
    /// Ghosts, then new handles.
    New,
    /// Ghosts and aliases of the heap's own stream, then new handles.
    Own,
    /// Ghosts and aliases of all streams, then new handles.
    All,
}

/// Why no window could be had.
enum NoWindow {
    /// Another thread took a part of it.
    Lost,
    /// As in the slow path.
    Ended(NoSegment),
}

impl From<NoSegment> for NoWindow {
    fn from(why: NoSegment) -> Self {
        NoWindow::Ended(why)
    }
}

impl<D: Driver> Allocator<D> {
    /// Serves a request with pages.
    pub(super) fn seek_pages(&self, quest: &Quest<'_>, sources: Sources) -> Result<u64, NoSegment> {
        let found = self.seek_pages_locked(quest, sources);
        // The callbacks are the application's: told without the lock.
        self.tell_reserved(quest.device);
        found
    }

    /// Where pages may come from, as the watermark says.
    pub(super) fn sources(&self, quest: &Quest<'_>) -> Sources {
        let Quest { device, pool, fit, .. } = *quest;
        if pool.is_kept_for_replay() || device.is_capturing() {
            return Sources::New;
        }
        let needed = self.policy.least_segment(fit);
        let live = device.totals.stats(None).all(Metric::ActiveBytes);
        let peak = live.peak.max(live.current + needed);
        if device.reserved() + needed <= self.policy.allowed_reserve(peak) {
            Sources::New
        } else if self.policy.cross_stream == CrossStream::Wait {
            Sources::All
        } else {
            Sources::Own
        }
    }

    /// Once the device or the limit refuses new handles: pages of all streams, then the host waits
    /// for pending blocks.
    pub(super) fn seek_pages_under_pressure(&self, quest: &Quest<'_>) -> Result<u64, NoSegment> {
        let Quest { device, ref heap, .. } = *quest;
        let sources = match self.policy.cross_stream {
            CrossStream::Wait => Sources::All,
            _ => Sources::Own,
        };
        match self.seek_pages(quest, sources) {
            Err(NoSegment::Full) => {}
            other => return other,
        }
        if sources == Sources::All
            && let Some(address) = self.borrow_waiting(quest)?
        {
            return Ok(address);
        }
        let waited = self.wait_for_pending(device).unwrap_or(true);
        if waited {
            self.settle(device, heap);
        }
        device.counters.alloc_retries.fetch_add(1, Ordering::Relaxed);
        self.seek_pages(quest, sources)
    }

    fn seek_pages_locked(&self, quest: &Quest<'_>, sources: Sources) -> Result<u64, NoSegment> {
        let Some(store) = &quest.device.pages else { return Err(NoSegment::Full) };
        let mut store = store.lock();
        for _ in 0..TRIES {
            // What another thread's slow path left may do.
            if let Some(address) = self.take_cached(quest)? {
                return Ok(address);
            }
            match self.open_window(&mut store, quest, sources) {
                Ok(()) => self.trim(&mut store, quest.device),
                Err(NoWindow::Lost) => {}
                Err(NoWindow::Ended(why)) => return Err(why),
            }
        }
        Err(NoSegment::Full)
    }

    /// Opens the best window for a request: afterwards a free block serves it, unless another
    /// thread is faster.
    fn open_window(
        &self,
        store: &mut PageStore,
        quest: &Quest<'_>,
        sources: Sources,
    ) -> Result<(), NoWindow> {
        let window = self.place(store, quest)?;
        let mut filling = Vec::new();
        let mut new = window.empty;
        if new > 0 && sources != Sources::New {
            filling = self.gather(store, quest, &window, sources == Sources::All);
            new -= filling.iter().map(|piece| piece.count).sum::<u32>();
        }
        self.carry(store, quest, &window, filling, new)
    }
}
