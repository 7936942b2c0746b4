//! Memory of other streams and pools: idle segments that change heaps, and blocks that are lent.
//!
//! A segment whose stream is known to have passed its last use can go to any heap, and nobody
//! waits. Under pressure a stream also takes memory that another stream may still be using, and is
//! made to wait for that stream on the GPU; the host goes on. A block lent in this way stays in the
//! lender's segment, with the borrower as a recorded stream, so it comes back to the lender only
//! when the borrower has passed its free.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Allocator;
use super::slow::{NoSegment, Quest};
use crate::device::Device;
use crate::driver::{Driver, DriverCall, DriverError, DriverErrorKind};
use crate::heap::{Heap, IdleSegment, Located, Segment};
use crate::pool::PoolId;
use crate::ticket::Ticker;

/// How many times the least segment an adopted one may be, so that a small request does not take
/// the segment that the other stream will need again for a large one.
const ADOPT_UP_TO: u64 = 2;

/// An idle segment of another heap.
struct Offer {
    heap: Arc<Heap>,
    ticker: Arc<Ticker>,
    segment: IdleSegment,
}

impl<D: Driver> Allocator<D> {
    /// Takes over an idle segment that this stream may use at once.
    pub(super) fn adopt_passed(&self, quest: &Quest<'_>) -> Result<Option<u64>, NoSegment> {
        let Quest { device, fit, request, .. } = *quest;
        let most = self.policy.least_segment(fit).saturating_mul(ADOPT_UP_TO);
        let mut offers = self.offers(quest, most);
        let events = &device.tickers.events;
        let awake = device.outside_captures();
        offers.retain(|offer| {
            if offer.ticker.stream == request.stream || offer.ticker.has_passed(offer.segment.stamp)
            {
                return true;
            }
            if awake.is_none() {
                return false;
            }
            // Not known to have passed: have it found out by the next time at least.
            let asked = offer
                .ticker
                .request(&self.driver, events, offer.segment.stamp)
                .and_then(|()| offer.ticker.poll(&self.driver, events));
            if let Err(error) = asked {
                tracing::warn!(%error, "cannot tell how far {} has come", offer.ticker.stream);
            }
            offer.ticker.has_passed(offer.segment.stamp)
        });
        drop(awake);
        for offer in offers {
            if let Some(segment) = self.detach(device, &offer.heap, &offer.segment) {
                // It may have been used again, and freed again, since it was looked at.
                if offer.ticker.stream != request.stream
                    && !offer.ticker.has_passed(segment.idle_stamp())
                {
                    self.put_back(&offer.heap, segment);
                    continue;
                }
                device.counters.adopted.fetch_add(1, Ordering::Relaxed);
                return self.attach(quest, &offer.heap, segment).map(Some);
            }
        }
        Ok(None)
    }

    /// Takes memory over that another stream may still be using, and makes this stream wait.
    pub(super) fn borrow_waiting(&self, quest: &Quest<'_>) -> Result<Option<u64>, NoSegment> {
        let Quest { device, request, .. } = *quest;
        for offer in self.offers(quest, u64::MAX) {
            let Some(segment) = self.detach(device, &offer.heap, &offer.segment) else { continue };
            let waits = offer.ticker.stream == request.stream
                || self
                    .wait_on_gpu(quest, &offer.ticker)
                    .map_err(|error| {
                        tracing::warn!(%error, "{} cannot wait", request.stream);
                    })
                    .is_ok();
            if !waits {
                self.put_back(&offer.heap, segment);
                continue;
            }
            device.counters.adopted.fetch_add(1, Ordering::Relaxed);
            return self.attach(quest, &offer.heap, segment).map(Some);
        }
        self.borrow_block(quest, self.lenders(quest, false))
    }

    /// Hands out a free block of a pool of which [`Allocator::set_use_on_oom`] said so. It goes back to that pool
    /// when it is freed.
    pub(super) fn borrow_on_oom(&self, quest: &Quest<'_>) -> Result<Option<u64>, NoSegment> {
        let Quest { device, pool, .. } = *quest;
        if device.is_capturing() {
            return Ok(None);
        }
        let mut heaps = device.totals.heaps();
        heaps.retain(|(id, heap)| {
            *id != pool.id
                && device.pool(*id).is_some_and(|pool| pool.serves_on_oom())
                && !heap.lock().spills()
        });
        self.borrow_block(quest, heaps)
    }

    pub(super) fn wait_on_gpu(
        &self,
        quest: &Quest<'_>,
        lender: &Ticker,
    ) -> Result<(), DriverError> {
        let _awake = quest.device.outside_captures().ok_or_else(|| DriverError {
            call: DriverCall::StreamWaitEvent,
            kind: DriverErrorKind::NotPermitted,
            code: 0,
            detail: "a capture has begun".into(),
        })?;
        lender.make_wait(&self.driver, &quest.device.tickers.events, quest.request.stream)
    }

    /// The heaps whose free memory of the device this request may use: those of its pool, unless graphs replay
    /// over it, and with `released` also those of pools that nobody holds any more.
    pub(super) fn lenders(&self, quest: &Quest<'_>, released: bool) -> Vec<(PoolId, Arc<Heap>)> {
        let Quest { device, pool, ref heap, .. } = *quest;
        let own = !pool.is_kept_for_replay();
        let heaps = device.totals.heaps().into_iter().filter(|(id, other)| {
            other.id != heap.id
                && !other.lock().spills()
                && if *id == pool.id { own } else { released && device.is_orphaned(*id) }
        });
        heaps.collect()
    }

    /// The idle segments of other heaps that would serve the request, smallest first.
    fn offers(&self, quest: &Quest<'_>, most: u64) -> Vec<Offer> {
        let fit = quest.fit;
        let mut offers = Vec::new();
        for (id, heap) in self.lenders(quest, true) {
            let mut core = heap.lock();
            if !core.serves(quest.device.id, id) || core.is_sealed() {
                continue;
            }
            let Some(ticker) = core.ticker().cloned() else { continue };
            for segment in core.idle_segments() {
                let units = (segment.bytes >> crate::units::GRANULE_SHIFT) as u32;
                if segment.kind == fit.kind && segment.bytes <= most && fit.accepts(units) {
                    let (heap, ticker) = (Arc::clone(&heap), Arc::clone(&ticker));
                    offers.push(Offer { heap, ticker, segment });
                }
            }
        }
        offers.sort_by_key(|offer| (offer.segment.bytes, offer.segment.base));
        offers
    }

    /// Takes an idle segment out of its heap, if it is still idle, and no graph was captured over
    /// it since it was looked at.
    pub(super) fn detach(
        &self,
        device: &Device,
        heap: &Heap,
        idle: &IdleSegment,
    ) -> Option<Segment> {
        let mut core = heap.lock();
        if device.is_kept_for_replay(core.key?.pool) {
            return None;
        }
        let segment = heap.let_go(&mut core, idle)?;
        self.table.remove(segment.base, segment.bytes());
        Some(segment)
    }

    /// Puts a detached segment back where it was.
    pub(super) fn put_back(&self, heap: &Heap, segment: Segment) {
        let mut core = heap.lock();
        self.enter(heap, &mut core, segment);
        core.came_to_rest();
    }

    /// Enters a segment that another heap has let go, and hands a block of it out.
    fn attach(&self, quest: &Quest<'_>, from: &Heap, segment: Segment) -> Result<u64, NoSegment> {
        let Quest { device, pool, ref heap, term, fit, .. } = *quest;
        let mut core = heap.lock();
        if !core.is_term(term) {
            drop(core);
            self.put_back(from, segment);
            return Err(NoSegment::Retired);
        }
        let bytes = segment.bytes();
        let block = self.enter(heap, &mut core, segment);
        let handed = heap.hand_out(&mut core, block, fit);
        device.totals.sum_up(heap, &mut core.thresholds);
        self.note_allocation(device, &core, handed);
        drop(core);
        let mut lender = from.lock();
        if let Some(key) = lender.key
            && key.pool != pool.id
        {
            device.totals.segment_left(key.pool, fit.kind, bytes);
        }
        lender.came_to_rest();
        Ok(handed.address)
    }

    /// Hands out a block of one of these heaps; this stream waits for that heap's.
    fn borrow_block(
        &self,
        quest: &Quest<'_>,
        lenders: Vec<(PoolId, Arc<Heap>)>,
    ) -> Result<Option<u64>, NoSegment> {
        let Quest { device, fit, request, .. } = *quest;
        let borrower = device.tickers.of(request.stream);
        for (id, heap) in lenders {
            let whole = device.is_unsplit(id).then(|| self.policy.whole(fit));
            let fit = whole.as_ref().unwrap_or(fit);
            let mut core = heap.lock();
            // It may serve others by now, or a graph.
            let serves = core.serves(device.id, id) && !core.is_sealed();
            if !serves || device.is_kept_for_replay(id) {
                continue;
            }
            let Some(lender) = core.ticker().cloned() else { continue };
            let Some(index) = core.find(fit) else { continue };
            // What is free in an arena is no block of a size of its own.
            let cut = core.lies_in_arena(index).then(|| fit.in_arena());
            let handed = heap.hand_out(&mut core, index, cut.as_ref().unwrap_or(fit));
            if lender.stream == request.stream {
                drop(core);
            } else {
                // Until this stream waits, only this thread knows the address.
                core.add_use(handed.index, Arc::clone(&borrower));
                drop(core);
                if let Err(error) = self.wait_on_gpu(quest, &lender) {
                    tracing::warn!(%error, "{} cannot wait", request.stream);
                    self.take_back_lent(&heap, handed);
                    continue;
                }
            }
            device.counters.borrowed.fetch_add(1, Ordering::Relaxed);
            let mut core = heap.lock();
            device.totals.after_allocation(&heap, &mut core.thresholds, fit.kind);
            self.note_allocation(device, &core, handed);
            return Ok(Some(handed.address));
        }
        Ok(None)
    }

    /// Makes a block free again that was carved for a stream that then could not wait for it. It
    /// counts as never handed out.
    fn take_back_lent(&self, heap: &Heap, block: Located) {
        let mut core = heap.lock();
        core.take_uses(block.index);
        heap.give(&mut core, block);
        heap.counters.of(block.kind).was_not_handed_out(block.bytes, block.requested);
    }
}
