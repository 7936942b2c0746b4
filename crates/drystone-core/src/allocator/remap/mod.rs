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
//! `place` chooses the window, with what `survey` says of candidates and `gather` has found of free
//! pages; `carry` tells the driver and keeps the book; `shrink` takes ghosts away and gives handles
//! back; `compact` makes one window of all that is free, on demand.

mod carry;
mod compact;
mod gather;
mod home;
mod make;
mod place;
mod shrink;
mod survey;

use std::sync::atomic::Ordering;

use place::Plan;

use super::Allocator;
use super::slow::{NoSegment, Quest};
use crate::config::CrossStream;
use crate::driver::Driver;
use crate::pages::PageStore;

/// How often a window is chosen again because another thread took a part of it.
const TRIES: u32 = 16;

/// Where the pages of a window may come from, besides ghosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sources {
    /// New handles only.
    New,
    /// New handles below the watermark, aliases above it.
    Watermark,
    /// Aliases, and new handles for what is missing.
    Aliases,
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

    /// Where pages may come from at first.
    pub(super) fn sources(&self, quest: &Quest<'_>) -> Sources {
        let kept = quest.pool.is_kept_for_replay() || quest.device.is_capturing();
        if kept { Sources::New } else { Sources::Watermark }
    }

    /// Once the device or the limit refuses new handles: pages of all streams, then the host waits
    /// for pending blocks.
    pub(super) fn seek_pages_under_pressure(&self, quest: &Quest<'_>) -> Result<u64, NoSegment> {
        let Quest { device, ref heap, .. } = *quest;
        match self.seek_pages(quest, Sources::Aliases) {
            Err(NoSegment::Full) => {}
            other => return other,
        }
        if self.policy.cross_stream == CrossStream::Wait
            && let Some(address) = self.borrow_waiting(quest)?
        {
            return Ok(address);
        }
        let waited = self.wait_for_pending(device).unwrap_or(true);
        if waited {
            self.settle(device, heap);
            // What was pending in other heaps can be lent now.
            if self.policy.cross_stream == CrossStream::Wait
                && let Some(address) = self.borrow_waiting(quest)?
            {
                return Ok(address);
            }
        }
        device.counters.alloc_retries.fetch_add(1, Ordering::Relaxed);
        match self.seek_pages(quest, Sources::Aliases) {
            Err(NoSegment::Full) => {}
            other => return other,
        }
        // What others have cached, and this request may not remap, makes room for new memory. More
        // each time, since more may be held than the limit allows, or than the device has.
        let mut most = self.policy.least_segment(quest.fit);
        for _ in 0..TRIES {
            let released = self.release_pages(device, |pool| self.may_release(device, pool), most);
            most = most.saturating_mul(2);
            self.retire_released_pools(device);
            match released.map_err(NoSegment::Failed)? {
                0 => break,
                _ => match self.seek_pages(quest, Sources::Aliases) {
                    Err(NoSegment::Full) => {}
                    other => return other,
                },
            }
        }
        self.tell_reserved(device);
        self.spill(quest)
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
                Ok(address) => {
                    self.trim(&mut store, quest.device);
                    return Ok(address);
                }
                Err(NoWindow::Lost) => {}
                Err(NoWindow::Ended(why)) => return Err(why),
            }
        }
        Err(NoSegment::Full)
    }

    /// Opens the best window for a request, and hands the block out of it.
    fn open_window(
        &self,
        store: &mut PageStore,
        quest: &Quest<'_>,
        sources: Sources,
    ) -> Result<u64, NoWindow> {
        let Plan { window, parts, .. } = self.place(store, quest, sources)?;
        if !window.dead.is_empty() {
            let _awake = quest.device.outside_captures().ok_or(NoWindow::Lost)?;
            for &at in &window.dead {
                self.unmap(store, quest.device, at).map_err(NoSegment::Failed)?;
            }
        }
        let address = self.carry(store, quest, &window, parts)?;
        quest.heap.lock().has_strays();
        let Quest { heap, fit, .. } = quest;
        store.remember(heap.id, fit.kind, window.units, (window.arena, window.start));
        Ok(address)
    }
}
