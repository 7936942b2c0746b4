//! Giving cached memory back to the device.

use drystone_core::DriverError;

use super::blocks::{FreeKey, NONE};
use super::device::{Device, Request};

impl Device {
    /// Gives back old large segments until less than the threshold is reserved: those that are at
    /// least as old as the mean, by searches since they became free, and again.
    pub(super) fn collect_garbage(&mut self) -> Result<(), DriverError> {
        let Some(allowed) = self.allowed()? else { return Ok(()) };
        let threshold = (self.settings.gc_threshold * allowed as f64) as u64;
        let target = self.reserved.saturating_sub(threshold);
        let mut reclaimed = 0;
        while reclaimed < target {
            let pool = self.blocks.pool(0, false);
            let age = |key: &FreeKey| pool.searches - self.blocks.get(key.3).searches;
            let whole: Vec<_> = self.whole(false).map(|key| (key, age(&key))).collect();
            let sum: u64 = whole.iter().map(|(_, age)| age).sum();
            let mean = sum as f64 / whole.len() as f64;
            let old = whole.into_iter().filter(|&(_, age)| age as f64 >= mean);
            let old: Vec<_> = old.map(|(key, _)| key).collect();
            if old.is_empty() {
                break;
            }
            reclaimed += old.iter().map(|key| key.1).sum::<u64>();
            self.release(&old)?;
        }
        Ok(())
    }

    /// Free blocks of the default pool that are whole segments from cudaMalloc, in their order.
    fn whole(&self, small: bool) -> impl Iterator<Item = FreeKey> {
        let whole =
            |key: &&FreeKey| self.blocks.is_whole(key.3) && self.blocks.get(key.3).segment == NONE;
        self.blocks.pool(0, small).free.iter().filter(whole).copied()
    }

    /// Gives back the block that fits best of those too large to be split; or as many of them as
    /// make up its size, from the largest down. Whether that was enough.
    pub(super) fn release_oversize(&mut self, request: &Request) -> Result<bool, DriverError> {
        let &Request { size, stream, pool, small, .. } = request;
        let max_split = self.settings.max_split;
        if max_split == u64::MAX {
            return Ok(false);
        }
        let enough = size.max(max_split);
        let free = &self.blocks.pool(pool, small).free;
        let whole = |key: &&FreeKey| self.blocks.get(key.3).segment == NONE;
        let best = free.range((stream, enough, 0, 0)..).next().filter(|key| key.0 == stream);
        if let Some(&best) = best.filter(whole) {
            self.release(&[best])?;
            return Ok(true);
        }
        let oversize = free.range((stream, max_split, 0, 0)..(stream, enough, 0, 0));
        let (mut chosen, mut released) = (Vec::new(), 0);
        for key in oversize.rev().filter(whole) {
            if released >= enough {
                break;
            }
            released += key.1;
            chosen.push(*key);
        }
        self.release(&chosen)?;
        Ok(released >= enough)
    }

    /// Gives back all that is free in the default pool: whole segments, and handles in free blocks. Private
    /// pools keep theirs, since graphs that were captured there use it.
    pub(super) fn release_all(&mut self) -> Result<(), DriverError> {
        self.counts.syncs += 1;
        for small in [false, true] {
            let growing = |key: &&FreeKey| self.blocks.get(key.3).segment != NONE;
            let growing: Vec<_> =
                self.blocks.pool(0, small).free.iter().filter(growing).map(|key| key.3).collect();
            let whole: Vec<_> = self.whole(small).collect();
            self.release(&whole)?;
            for block in growing {
                self.unmap(block)?;
            }
        }
        Ok(())
    }

    /// Gives segments back.
    fn release(&mut self, segments: &[FreeKey]) -> Result<(), DriverError> {
        if !segments.is_empty() {
            // cudaFree waits for the whole device by itself, and after the first there is nothing
            // more to wait for.
            self.driver.device_synchronize(self.id)?;
        }
        for &(_, size, address, block) in segments {
            self.driver.segment_free(self.id, address)?;
            self.blocks.unlist(block);
            self.blocks.all.remove(block as usize);
            self.reserved -= size;
            self.counts.device_frees += 1;
        }
        Ok(())
    }

    /// For the end: whatever is in use goes too, and a failing call does not hold up the others.
    pub(super) fn give_everything_back(&mut self) {
        let holds = !self.blocks.all.is_empty() || self.event.is_some();
        if holds {
            let _ = self.driver.device_synchronize(self.id);
        }
        for (_, block) in &self.blocks.all {
            if block.prev == NONE && block.segment == NONE {
                let _ = self.driver.segment_free(self.id, block.address);
            }
        }
        let growing = self.segments.iter_mut().map(|(_, segment)| segment);
        for segment in growing.chain(&mut self.given_up) {
            let _ = segment.give_back(&*self.driver, self.id);
        }
        if let Some(event) = self.event {
            let _ = self.driver.event_destroy(self.id, event);
        }
    }
}
