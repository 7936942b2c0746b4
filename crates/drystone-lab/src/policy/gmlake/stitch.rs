//! Stitching: pages of several primitive blocks at other addresses, side by side.

use drystone_core::{DriverError, DriverErrorKind, StreamId};

use super::Config;
use super::pages::{PAGE, Pages, Stitched, StitchedId, Used};
use crate::policy::parts::Event;

impl Pages {
    /// Stitches free primitive blocks, from the largest on, to a block of `bytes`, which is handed
    /// out; nothing if all of them are too few, or one would do.
    pub(super) fn stitch(
        &mut self,
        config: &Config,
        bytes: u64,
        stream: StreamId,
    ) -> Result<Option<Used>, DriverError> {
        let mut pages = Vec::new();
        let mut blocks = 0;
        for span in self.free_of(stream).largest_first() {
            let missing = bytes - pages.len() as u64 * PAGE;
            if missing == 0 {
                break;
            }
            let part = span.bytes.min(missing);
            pages.extend((span.address..span.address + part).step_by(PAGE as usize));
            blocks += 1;
        }
        if blocks < 2 || pages.len() as u64 * PAGE < bytes {
            return Ok(None);
        }
        let event = Event::new(&self.driver, self.device)?;
        let address = self.reserve(bytes)?;
        if let Err(error) = self.map_all(address, &pages) {
            // If a mapping stays behind, so do its addresses.
            let _ = self.mapped.unreserve(address);
            return Err(error);
        }
        self.clock += 1;
        let (free, since) = (pages.len(), self.clock);
        let block = Stitched { address, stream, pages, free, active: false, since, event };
        let id = self.stitched.insert(block);
        for index in 0..free {
            let at = self.stitched[id].pages[index];
            if let Some(page) = self.page(at) {
                page.stitched.push(id);
            }
        }
        self.stitches += 1;
        self.stitched_bytes += bytes;
        let used = self.use_stitched(id, bytes);
        if self.stitched_bytes > config.most_stitched {
            // The block is there, whatever becomes of the others.
            let _ = self.dissolve_unused(2, 0);
        }
        Ok(Some(used))
    }

    /// Maps pages at consecutive addresses; all or, as far as the driver lets it, none.
    fn map_all(&mut self, address: u64, pages: &[u64]) -> Result<(), DriverError> {
        let mut done = Ok(());
        for (index, &page) in pages.iter().enumerate() {
            let Some(handle) = self.page(page).map(|page| page.handle) else { continue };
            done = done.and_then(|()| self.mapped.map(address + index as u64 * PAGE, handle));
        }
        let bytes = pages.len() as u64 * PAGE;
        done = done.and_then(|()| self.mapped.access(address, bytes));
        if done.is_err() {
            self.mapped.strip(address, bytes, PAGE);
        }
        done
    }

    /// Reserves addresses. If there are none, stitched blocks go, more at each of three times.
    pub(super) fn reserve(&mut self, bytes: u64) -> Result<u64, DriverError> {
        for time in 0..3 {
            match self.mapped.reserve(bytes) {
                Err(error) if error.kind == DriverErrorKind::OutOfMemory => {
                    self.dissolve_unused(time, bytes)?;
                }
                reserved => return reserved,
            }
        }
        self.mapped.reserve(bytes)
    }

    /// Dissolves stitched blocks that nothing uses and that their stream has passed: those of which
    /// other blocks use pages, and from the second time on the free ones too. The first two times
    /// it ends when 4 or 16 times `bytes` are dissolved.
    fn dissolve_unused(&mut self, time: u32, bytes: u64) -> Result<(), DriverError> {
        let enough = if time < 2 && bytes > 0 { bytes << (2 * (time + 1)) } else { u64::MAX };
        let mut sum = 0;
        for free in [false, true].into_iter().take(if time == 0 { 1 } else { 2 }) {
            let unused = self.stitched.iter().filter(|(_, b)| !b.active && b.is_free() == free);
            let mut unused: Vec<_> = unused.map(|(id, block)| (block.since, id)).collect();
            unused.sort_unstable();
            for (_, id) in unused {
                if sum >= enough || !self.stitched[id].event.is_done()? {
                    break;
                }
                sum += self.stitched[id].bytes();
                self.dissolve(id)?;
            }
        }
        Ok(())
    }

    /// Unmaps a stitched block that is not in use and that its stream has passed.
    pub(super) fn dissolve(&mut self, id: StitchedId) -> Result<(), DriverError> {
        let Some(block) = self.stitched.get(id) else { return Ok(()) };
        let (address, stream, bytes) = (block.address, block.stream, block.bytes());
        self.mapped.unmap(address, bytes)?;
        self.free_stitched.remove(&(stream, bytes, address, id));
        for at in self.stitched.remove(id).pages {
            if let Some(page) = self.page(at) {
                page.stitched.retain(|&other| other != id);
            }
        }
        self.stitched_bytes -= bytes;
        self.dissolved += 1;
        let _ = self.mapped.unreserve(address);
        Ok(())
    }
}
