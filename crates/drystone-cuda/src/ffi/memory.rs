//! Device memory that can be used: fills and copies, within bounds.

use std::mem;
use std::sync::Arc;

use cudarc::driver::sys::CUstream;

use super::context::Context;
use super::mapping::Mapping;
use super::segment::Segment;
use super::stream::Stream;
use super::table::call;
use crate::error::CudaError;

/// No memory and no address range goes beyond this address.
pub(super) const ADDRESS_END: u64 = 1 << 48;

/// Bytes of one device that exist, and that it may use, as long as this borrow of what they are in.
#[derive(Debug)]
pub(crate) struct Memory<'a> {
    context: &'a Arc<Context>,
    address: u64,
    bytes: usize,
}

impl<'a> Memory<'a> {
    /// Bytes of a segment; `None` if they are not all in it.
    pub(crate) fn of_segment(segment: &'a Segment, address: u64, bytes: u64) -> Option<Memory<'a>> {
        let size = usize::try_from(bytes).ok()?;
        let held = segment.holds(address, bytes);
        held.then(|| Memory { context: segment.context(), address, bytes: size })
    }

    /// Bytes of mappings that follow one another; `None` if they are not all in them, or the device
    /// was not given access to all of them.
    pub(crate) fn of_mappings(
        mappings: &[&'a Arc<Mapping>],
        address: u64,
        bytes: u64,
    ) -> Option<Memory<'a>> {
        let size = usize::try_from(bytes).ok()?;
        let first = mappings.first()?;
        let context = first.reached_by()?;
        let mut reached = first.address();
        for mapping in mappings {
            if mapping.address() != reached || mapping.reached_by().is_none() {
                return None;
            }
            reached += mapping.bytes();
        }
        let within = address >= first.address() && address <= reached && bytes <= reached - address;
        within.then_some(Memory { context, address, bytes: size })
    }

    /// Sets every byte to `value`, in the stream's order.
    pub(crate) fn fill_u8(&self, value: u8, stream: &Stream) -> Result<(), CudaError> {
        let _entered = self.context.enter()?;
        let (address, bytes, stream) = (self.address, self.bytes, stream.raw() as CUstream);
        // SAFETY: the memory exists when the fill is submitted; a segment is given back only after
        // the driver has waited for the fill, and whoever unmaps vouches that it is done. The
        // stream is valid.
        unsafe { call!(self.context.api, cuMemsetD8Async(address, value, bytes, stream)) }
    }

    /// Sets every 4-byte word to `value`, in the stream's order.
    pub(crate) fn fill_u32(&self, value: u32, stream: &Stream) -> Result<(), CudaError> {
        let word = mem::size_of::<u32>();
        if !(self.address | self.bytes as u64).is_multiple_of(word as u64) {
            let (address, bytes) = (self.address, self.bytes);
            let detail = format!("{bytes} bytes at {address:#x}: not multiples of {word}");
            return Err(CudaError::InvalidValue(detail));
        }
        let _entered = self.context.enter()?;
        let (address, words, stream) = (self.address, self.bytes / word, stream.raw() as CUstream);
        // SAFETY: as for fill_u8; begin and length are multiples of 4.
        unsafe { call!(self.context.api, cuMemsetD32Async(address, value, words, stream)) }
    }

    /// Copies as many host bytes here; done when it returns.
    pub(crate) fn copy_from_host(&self, source: &[u8]) -> Result<(), CudaError> {
        let bytes = self.bytes.min(source.len());
        let api = self.context.api;
        let _entered = self.context.enter()?;
        // SAFETY: the memory and the source have at least `bytes` bytes, which the driver has read
        // when the call returns.
        unsafe { call!(api, cuMemcpyHtoD_v2(self.address, source.as_ptr().cast(), bytes)) }?;
        // The last part may still be on its way from the driver's own staging buffer.
        // SAFETY: 0 is the default stream, on which the copy went.
        unsafe { call!(api, cuStreamSynchronize(std::ptr::null_mut())) }
    }

    /// Copies as many bytes from here to the host; done when it returns.
    pub(crate) fn copy_to_host(&self, target: &mut [u8]) -> Result<(), CudaError> {
        let bytes = self.bytes.min(target.len());
        let _entered = self.context.enter()?;
        let target = target.as_mut_ptr().cast();
        // SAFETY: the memory and the target have at least `bytes` bytes, which the driver no longer
        // touches when the call returns.
        unsafe { call!(self.context.api, cuMemcpyDtoH_v2(target, self.address, bytes)) }
    }
}
