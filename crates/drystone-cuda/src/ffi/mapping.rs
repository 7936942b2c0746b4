//! Addresses without memory, and the mappings that put memory behind them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cudarc::driver::sys::{CUdeviceptr, CUmemAccess_flags, CUmemAccessDesc};
use drystone_core::{DriverErrorKind, HandleKind};

use super::context::{Context, Device};
use super::handle::{Handle, below_end, device_location, too_much};
use super::memory::ADDRESS_END;
use super::table::call;
use crate::error::CudaError;

/// Addresses set aside. Dropping them gives nothing back: only [`Addresses::free`] does.
#[derive(Debug)]
pub(crate) struct Addresses {
    context: Arc<Context>,
    address: u64,
    bytes: u64,
}

impl Addresses {
    /// Sets addresses aside; `bytes` is a multiple of the page.
    pub(crate) fn reserve(
        context: &Arc<Context>,
        bytes: u64,
        page: u64,
    ) -> Result<Addresses, CudaError> {
        below_end(bytes)?;
        let _entered = context.enter()?;
        let mut address: CUdeviceptr = 0;
        let (size, alignment) = (bytes as usize, page as usize);
        // SAFETY: the driver writes one address to the address of a live one; address 0 asks for
        // any, and no flag is set.
        let reserved =
            unsafe { call!(context.api, cuMemAddressReserve(&mut address, size, alignment, 0, 0)) };
        reserved.map_err(|error| match error.kind() {
            DriverErrorKind::InvalidValue => too_much(bytes, &error),
            _ => error,
        })?;
        let range = Addresses { context: context.clone(), address, bytes };
        let end = address.checked_add(bytes);
        let fits = address.is_multiple_of(page) && end.is_some_and(|end| end <= ADDRESS_END);
        if address != 0 && fits {
            return Ok(range);
        }
        let mut detail = format!("{bytes} bytes at {address:#x}");
        if let Err((_, error)) = range.free() {
            detail = format!("{detail}, not given back: {error}");
        }
        Err(CudaError::contract("cuMemAddressReserve", detail))
    }

    /// Gives the addresses back; nothing is mapped there, since a mapping keeps them. On an error
    /// they are still set aside.
    pub(crate) fn free(self) -> Result<(), (Addresses, CudaError)> {
        let freed = self.context.enter().and_then(|_entered| {
            // SAFETY: this value owns the range, from cuMemAddressReserve, and goes with it.
            unsafe { call!(self.context.api, cuMemAddressFree(self.address, self.bytes as usize)) }
        });
        freed.map_err(|error| (self, error))
    }

    /// Its first address.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}

/// A handle at an address. Dropping it unmaps nothing: only [`Mapping::unmap`] does.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// Kept, so that the addresses are not given back.
    _range: Arc<Addresses>,
    handle: Arc<Handle>,
    address: u64,
    /// Whether its own device was given access.
    reachable: AtomicBool,
}

impl Mapping {
    /// Maps the whole handle; the caller has found its bytes from `address` on to be in the range
    /// and not mapped.
    pub(crate) fn map(
        range: Arc<Addresses>,
        handle: Arc<Handle>,
        address: u64,
    ) -> Result<Mapping, CudaError> {
        let context = &handle.context;
        let entered = context.enter()?;
        let (size, raw) = (handle.bytes() as usize, handle.raw);
        // SAFETY: the addresses and the handle live as long as the mapping; the driver refuses
        // what does not fit them.
        let mapped = unsafe { call!(context.api, cuMemMap(address, size, 0, raw, 0)) };
        drop(entered);
        match mapped {
            Ok(()) => {
                Ok(Mapping { _range: range, handle, address, reachable: AtomicBool::new(false) })
            }
            // The driver's word for a part of a handle: an import said less than it is.
            Err(error) if error.kind() == DriverErrorKind::NotSupported => {
                let detail = format!("{size} bytes are not the whole handle: {error}");
                Err(CudaError::InvalidValue(detail))
            }
            Err(error) => Err(error),
        }
    }

    /// Lets the accessors read and write neighbouring mappings of `device`, in the order of their
    /// addresses.
    pub(crate) fn set_access(
        mappings: &[Arc<Mapping>],
        device: Device,
        accessors: &[Device],
    ) -> Result<(), CudaError> {
        let Some((address, size)) = extent(mappings.iter().map(Arc::as_ref)) else { return Ok(()) };
        let on_device = mappings.iter().any(|mapping| mapping.handle.kind != HandleKind::Host);
        for accessor in accessors {
            if on_device && !accessor.reaches(&device)? {
                let detail = format!("{accessor:?} has no access to memory of {device:?}");
                return Err(CudaError::NotSupported(detail));
            }
        }
        let access: Vec<CUmemAccessDesc> = accessors
            .iter()
            .map(|&accessor| CUmemAccessDesc {
                location: device_location(accessor),
                flags: CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
            })
            .collect();
        let context = &mappings[0].handle.context;
        let _entered = context.enter()?;
        // SAFETY: the driver reads as many descriptions as there are; the mappings live.
        unsafe {
            call!(context.api, cuMemSetAccess(address, size, access.as_ptr(), access.len()))
        }?;
        if accessors.contains(&device) {
            for mapping in mappings {
                mapping.reachable.store(true, Ordering::Release);
            }
        }
        Ok(())
    }

    /// Takes neighbouring mappings away, in the order of their addresses. On an error all of them
    /// are still there.
    pub(crate) fn unmap(mappings: Vec<Mapping>) -> Result<(), (Vec<Mapping>, CudaError)> {
        let Some((address, size)) = extent(&mappings) else { return Ok(()) };
        let context = &mappings[0].handle.context;
        let unmapped = context.enter().and_then(|_entered| {
            // SAFETY: these values own the mappings of which the range consists, and go with them.
            // Work in flight on the range faults; that there is none the caller of the contract
            // vouches for.
            unsafe { call!(context.api, cuMemUnmap(address, size)) }
        });
        unmapped.map_err(|error| (mappings, error))
    }

    /// Its first address.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// Its size, that of the handle.
    pub(crate) fn bytes(&self) -> u64 {
        self.handle.bytes()
    }

    /// The context, if the device may use the mapping.
    pub(super) fn reached_by(&self) -> Option<&Arc<Context>> {
        self.reachable.load(Ordering::Acquire).then_some(&self.handle.context)
    }
}

/// Address and size of neighbouring mappings; `None` for no mapping.
fn extent<'a>(mappings: impl IntoIterator<Item = &'a Mapping>) -> Option<(u64, usize)> {
    let mut mappings = mappings.into_iter().peekable();
    let address = mappings.peek()?.address;
    Some((address, mappings.map(|mapping| mapping.handle.bytes() as usize).sum()))
}
