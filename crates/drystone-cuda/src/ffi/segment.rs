//! Device memory from `cuMemAlloc`: taken and given back whole, filled and copied within bounds.

use std::mem;
use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::sys::{CUdeviceptr, CUstream};

use super::context::Context;
use super::stream::Stream;
use super::table::call;
use crate::error::CudaError;

/// Every segment begins at a multiple of this, in bytes.
const ALIGNMENT: u64 = 512;
/// No segment goes beyond this address.
const ADDRESS_END: u64 = 1 << 48;

/// Memory of one device. Dropping it gives nothing back: only [`Segment::free`] does.
#[derive(Debug)]
pub(crate) struct Segment {
    context: Arc<Context>,
    address: u64,
    bytes: u64,
}

impl Segment {
    /// Takes memory; `bytes` is above 0.
    pub(crate) fn alloc(context: &Arc<Context>, bytes: u64) -> Result<Segment, CudaError> {
        let size = usize::try_from(bytes)
            .map_err(|_| CudaError::InvalidValue(format!("a segment of {bytes} bytes")))?;
        let _entered = context.enter()?;
        let mut address: CUdeviceptr = 0;
        // SAFETY: the driver writes one address to the address of a live one.
        unsafe { call!(context.api, cuMemAlloc_v2(&mut address, size)) }?;
        let segment = Segment { context: context.clone(), address, bytes };
        if keeps_contract(address, bytes) {
            return Ok(segment);
        }
        let mut detail = format!("{bytes} bytes at {address:#x}");
        if let Err((_, error)) = segment.free() {
            detail = format!("{detail}, not given back: {error}");
        }
        Err(CudaError::contract("cuMemAlloc_v2", detail))
    }

    /// Gives the memory back; waits for all running work of the device first. On an error the
    /// segment is still there.
    pub(crate) fn free(self) -> Result<(), (Segment, CudaError)> {
        let freed = self.context.enter().and_then(|_entered| {
            // SAFETY: this value owns the memory, from cuMemAlloc in this context, and goes with
            // it; the driver waits for work that still uses it.
            unsafe { call!(self.context.api, cuMemFree_v2(self.address)) }
        });
        freed.map_err(|error| (self, error))
    }

    /// Its first address.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// Whether `bytes` from `address` on lie within it.
    pub(crate) fn holds(&self, address: u64, bytes: u64) -> bool {
        let end = self.address + self.bytes;
        address >= self.address && address <= end && bytes <= end - address
    }

    /// Sets every byte of the range to `value`, in the stream's order.
    pub(crate) fn fill_u8(
        &self,
        range: Range<u64>,
        value: u8,
        stream: &Stream,
    ) -> Result<(), CudaError> {
        let (address, bytes) = self.checked(range, mem::align_of::<u8>())?;
        let _entered = self.context.enter()?;
        let stream = stream.raw() as CUstream;
        // SAFETY: the range lies in this segment, whose memory only the driver gives back, after
        // waiting for work on it; the stream is valid.
        unsafe { call!(self.context.api, cuMemsetD8Async(address, value, bytes, stream)) }
    }

    /// Sets every 4-byte word of the range to `value`, in the stream's order.
    pub(crate) fn fill_u32(
        &self,
        range: Range<u64>,
        value: u32,
        stream: &Stream,
    ) -> Result<(), CudaError> {
        let (address, bytes) = self.checked(range, mem::align_of::<u32>())?;
        let _entered = self.context.enter()?;
        let (words, stream) = (bytes / mem::size_of::<u32>(), stream.raw() as CUstream);
        // SAFETY: as for fill_u8; begin and length are multiples of 4.
        unsafe { call!(self.context.api, cuMemsetD32Async(address, value, words, stream)) }
    }

    /// Copies host bytes to `address`; done when it returns.
    pub(crate) fn copy_from_host(&self, address: u64, source: &[u8]) -> Result<(), CudaError> {
        let range = address..address.saturating_add(source.len() as u64);
        let (address, bytes) = self.checked(range, 1)?;
        let api = self.context.api;
        let _entered = self.context.enter()?;
        // SAFETY: the range lies in this segment and the source is a slice of `bytes` bytes, which
        // the driver has read when the call returns.
        unsafe { call!(api, cuMemcpyHtoD_v2(address, source.as_ptr().cast(), bytes)) }?;
        // The last part may still be on its way from the driver's own staging buffer.
        // SAFETY: 0 is the default stream, on which the copy went.
        unsafe { call!(api, cuStreamSynchronize(std::ptr::null_mut())) }
    }

    /// Copies the bytes at `address` to the host; done when it returns.
    pub(crate) fn copy_to_host(&self, address: u64, target: &mut [u8]) -> Result<(), CudaError> {
        let range = address..address.saturating_add(target.len() as u64);
        let (address, bytes) = self.checked(range, 1)?;
        let _entered = self.context.enter()?;
        let target = target.as_mut_ptr().cast();
        // SAFETY: the range lies in this segment and the target is a slice of `bytes` bytes, which
        // the driver no longer touches when the call returns.
        unsafe { call!(self.context.api, cuMemcpyDtoH_v2(target, address, bytes)) }
    }

    /// Address and length of a range that lies in this segment, both multiples of `align`.
    fn checked(&self, range: Range<u64>, align: usize) -> Result<(u64, usize), CudaError> {
        let bytes = range.end.saturating_sub(range.start);
        let aligned = (range.start | bytes).is_multiple_of(align as u64);
        match usize::try_from(bytes) {
            Ok(size) if aligned && self.holds(range.start, bytes) => Ok((range.start, size)),
            _ => Err(CudaError::InvalidValue(format!(
                "{bytes} bytes at {:#x}: not within a segment, or not a multiple of {align}",
                range.start
            ))),
        }
    }
}

/// Whether an address from the driver is what the allocator's contract promises.
fn keeps_contract(address: u64, bytes: u64) -> bool {
    let end = address.checked_add(bytes);
    address != 0 && address.is_multiple_of(ALIGNMENT) && end.is_some_and(|end| end <= ADDRESS_END)
}

#[cfg(test)]
mod tests {
    use super::keeps_contract;

    #[test]
    fn addresses_outside_the_contract_are_seen() {
        assert!(keeps_contract(512, 1));
        assert!(keeps_contract((1 << 48) - 512, 512));
        assert!(!keeps_contract(0, 512));
        assert!(!keeps_contract(768, 512));
        assert!(!keeps_contract((1 << 48) - 512, 513));
        assert!(!keeps_contract(u64::MAX - 511, 1024));
    }
}
