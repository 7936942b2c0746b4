//! What segments cost.

use drystone_core::{Driver, DriverErrorKind};

use crate::bench::{Bench, Samples, State};
use crate::{Failure, GIB, MIB};

/// Sizes of the segments that are taken and given back.
const SIZES: [u64; 5] = [512, 2 * MIB, 20 * MIB, 128 * MIB, GIB];

impl Bench<'_> {
    /// All rows of segments.
    pub(crate) fn segments(&mut self, state: State) -> Result<(), Failure> {
        for bytes in SIZES {
            self.takes_and_frees(state, bytes)?;
        }
        self.refused_segments(state)?;
        if state == State::Busy {
            for bytes in SIZES {
                self.frees_behind_work(bytes)?;
            }
        }
        Ok(())
    }

    /// `segment_alloc` in the state, and `segment_free` with the device idle: after its work, if it
    /// was busy.
    fn takes_and_frees(&mut self, state: State, bytes: u64) -> Result<(), Failure> {
        let (driver, device) = (self.driver, self.device);
        let mut freed = Samples::default();
        let taken = self.repeat(self.samples, |bench, samples| {
            let address = bench.timed(state, samples, || driver.segment_alloc(device, bytes))??;
            bench.timed(State::Idle, &mut freed, || driver.segment_free(device, address))??;
            Ok(())
        })?;
        self.rows_of("segment_alloc", bytes, state, taken);
        self.rows_of("segment_free", bytes, state, freed);
        Ok(())
    }

    /// `segment_free` while work is in flight.
    fn frees_behind_work(&mut self, bytes: u64) -> Result<(), Failure> {
        let (driver, device) = (self.driver, self.device);
        let samples = self.repeat(self.samples, |bench, samples| {
            bench.prepare(State::Busy)?;
            let address = driver.segment_alloc(device, bytes)?;
            bench.timed(State::Busy, samples, || driver.segment_free(device, address))??;
            Ok(())
        })?;
        // Contrary to what the contract says of CUDA, but for the reader to judge.
        self.row("segment_free_without_wait", bytes, State::Busy, samples.kept);
        self.row("segment_free_behind_work", bytes, State::Busy, samples.outlasted);
        Ok(())
    }

    /// `segment_alloc` of more than the device has.
    fn refused_segments(&mut self, state: State) -> Result<(), Failure> {
        let (driver, device) = (self.driver, self.device);
        let bytes = driver.device_memory(device)?.total + GIB;
        let samples = self.repeat(self.samples, |bench, samples| {
            match bench.timed(state, samples, || driver.segment_alloc(device, bytes))? {
                Err(error) if error.kind == DriverErrorKind::OutOfMemory => Ok(()),
                Err(error) => Err(error.into()),
                Ok(address) => {
                    driver.segment_free(device, address)?;
                    Err(format!("the device gave {bytes} bytes, more than it has").into())
                }
            }
        })?;
        self.rows_of("segment_alloc_out_of_memory", bytes, state, samples);
        Ok(())
    }
}
