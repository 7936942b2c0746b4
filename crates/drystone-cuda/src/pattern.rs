//! Marking device memory by a kernel and checking the marks, so that a test sees when two users
//! were given the same memory at once.

use drystone_core::{DeviceId, StreamId};

use crate::driver::CudaDriver;
use crate::error::CudaError;
use crate::ffi::{Kernel, LaunchShape};

/// The kernels behind [`Pattern`], as PTX text for compute capability 7.0 and above:
/// `stamp(address, words, value, spin)` and `check(address, words, value, errors)`, all parameters
/// of 64 bits, for a one-dimensional grid of any size.
pub const PATTERN_PTX: &str = include_str!("pattern.ptx");

/// Threads of a block.
const BLOCK_THREADS: u32 = 256;
/// Most blocks of a grid: few enough to run all at once, so that `stamp` waits once.
const MAX_BLOCKS: u64 = 256;
/// Bytes of a word.
const WORD: u64 = 8;

/// The pattern kernels, loaded on one device: word `i` of a range of 8-byte words is marked with
/// `value ^ i`.
///
/// Ranges must be within one live segment of the driver, or within mappings that follow one another
/// and that the device has access to, and begin at a multiple of 8; otherwise a call gives
/// [`CudaError::InvalidValue`]. No call waits. Dropping it waits for the device, as for
/// any [`Module`](crate::Module).
#[derive(Debug)]
pub struct Pattern<'d> {
    driver: &'d CudaDriver,
    device: DeviceId,
    stamp: Kernel,
    check: Kernel,
}

impl<'d> Pattern<'d> {
    /// Compiles the kernels for the device, which takes some milliseconds.
    pub fn load(driver: &'d CudaDriver, device: DeviceId) -> Result<Pattern<'d>, CudaError> {
        let module = driver.load_ptx(device, PATTERN_PTX)?;
        let (stamp, check) = (module.kernel(c"stamp")?, module.kernel(c"check")?);
        Ok(Pattern { driver, device, stamp, check })
    }

    /// Marks `words` words from `address` on, in the stream's order, after keeping the stream busy
    /// for about `spin_cycles` clock cycles of the device (some 1,700 a microsecond).
    pub fn stamp(
        &self,
        stream: StreamId,
        address: u64,
        words: u64,
        value: u64,
        spin_cycles: u64,
    ) -> Result<(), CudaError> {
        let arguments = [address, words, value, spin_cycles];
        // SAFETY: `stamp` has four parameters of 8 bytes and writes only words of the range.
        unsafe { self.run(&self.stamp, stream, &[(address, words)], words, &arguments) }
    }

    /// Adds the number of words from `address` on that do not have their mark to the 8-byte word
    /// at `errors`, in the stream's order. The word is to be set to 0 before.
    pub fn check(
        &self,
        stream: StreamId,
        address: u64,
        words: u64,
        value: u64,
        errors: u64,
    ) -> Result<(), CudaError> {
        let arguments = [address, words, value, errors];
        let touched = [(address, words), (errors, 1)];
        // SAFETY: `check` has four parameters of 8 bytes, reads only words of the range and writes
        // only the word at `errors`.
        unsafe { self.run(&self.check, stream, &touched, words, &arguments) }
    }

    /// Launches a kernel with enough threads for `words` words.
    ///
    /// # Safety
    ///
    /// The arguments must fit the kernel, and all that it touches must lie within `touched`, as
    /// pairs of address and number of words.
    unsafe fn run(
        &self,
        kernel: &Kernel,
        stream: StreamId,
        touched: &[(u64, u64)],
        words: u64,
        arguments: &[u64],
    ) -> Result<(), CudaError> {
        // Locked until the kernel is submitted: a later `segment_free` waits for it.
        let live = self.driver.state(self.device)?.live();
        for &(address, words) in touched {
            if !address.is_multiple_of(WORD) {
                let detail = format!("{address:#x} is no multiple of {WORD}");
                return Err(CudaError::InvalidValue(detail));
            }
            live.memory(address, words.saturating_mul(WORD))?;
        }
        let blocks = words.div_ceil(u64::from(BLOCK_THREADS)).clamp(1, MAX_BLOCKS) as u32;
        let shape =
            LaunchShape { grid: [blocks, 1, 1], block: [BLOCK_THREADS, 1, 1], shared_bytes: 0 };
        // SAFETY: the caller vouches for the arguments; what the kernel touches is live, segments
        // are given back only after the driver has waited for it, and whoever unmaps vouches that
        // it is done.
        unsafe { self.driver.launch(self.device, stream, kernel, shape, arguments) }
    }
}
