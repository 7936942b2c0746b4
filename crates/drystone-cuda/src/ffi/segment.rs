//! Device memory from `cuMemAlloc`: taken and given back whole.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;

use super::context::Context;
use super::memory::ADDRESS_END;
use super::table::call;
use crate::error::CudaError;

/// Every segment begins at a multiple of this, in bytes.
const ALIGNMENT: u64 = 512;

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

    /// The context that it lives in.
    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Whether `bytes` from `address` on lie within it.
    pub(crate) fn holds(&self, address: u64, bytes: u64) -> bool {
        let end = self.address + self.bytes;
        address >= self.address && address <= end && bytes <= end - address
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
