//! Physical memory without an address of its own: made, shared, given back.

use std::os::fd::RawFd;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::driver::sys::{
    CUdevice_attribute, CUmemAllocationGranularity_flags, CUmemAllocationHandleType,
    CUmemAllocationProp, CUmemAllocationProp_st__bindgen_ty_1, CUmemAllocationType,
    CUmemGenericAllocationHandle, CUmemLocation, CUmemLocationType,
};
use drystone_core::{DriverErrorKind, HandleId, HandleKind};

use super::context::{Context, Device};
use super::memory::ADDRESS_END;
use super::table::call;
use crate::error::CudaError;

/// How a handle is exported.
const FILE_DESCRIPTOR: CUmemAllocationHandleType =
    CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;

/// Bytes in a page: what sizes and addresses are multiples of.
pub(crate) fn page_bytes(device: Device, context: &Context) -> Result<u64, CudaError> {
    use CUdevice_attribute::CU_DEVICE_ATTRIBUTE_VIRTUAL_ADDRESS_MANAGEMENT_SUPPORTED as SUPPORTED;
    if device.attribute(SUPPORTED)? == 0 {
        return Err(CudaError::NotSupported("the device cannot map memory".to_owned()));
    }
    let properties = properties(device, HandleKind::Device)?;
    let recommended = CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_RECOMMENDED;
    let _entered = context.enter()?;
    let mut bytes = 0_usize;
    // SAFETY: the driver writes one size to the address of a live one and reads live properties.
    unsafe {
        call!(context.api, cuMemGetAllocationGranularity(&mut bytes, &properties, recommended))
    }?;
    if bytes.is_power_of_two() {
        return Ok(bytes as u64);
    }
    let detail = format!("{bytes} bytes are no power of two");
    Err(CudaError::contract("cuMemGetAllocationGranularity", detail))
}

/// What the driver wants to know of physical memory before it makes some.
fn properties(device: Device, kind: HandleKind) -> Result<CUmemAllocationProp, CudaError> {
    let on_device = device_location(device);
    let none = CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE;
    let (location, exported_as) = match kind {
        HandleKind::Device => (on_device, none),
        HandleKind::Exportable => (on_device, FILE_DESCRIPTOR),
        HandleKind::Host => (host_location(device)?, none),
        other => return Err(CudaError::NotSupported(format!("handles of the kind {other:?}"))),
    };
    Ok(CUmemAllocationProp {
        type_: CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
        requestedHandleTypes: exported_as,
        location,
        win32HandleMetaData: ptr::null_mut(),
        allocFlags: CUmemAllocationProp_st__bindgen_ty_1 {
            compressionType: 0,
            gpuDirectRDMACapable: 0,
            usage: 0,
            reserved: [0; 4],
        },
    })
}

pub(super) fn device_location(device: Device) -> CUmemLocation {
    CUmemLocation { type_: CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE, id: device.raw }
}

/// The host memory nearest to the device.
fn host_location(device: Device) -> Result<CUmemLocation, CudaError> {
    // A driver before CUDA 12.2 does not know the attribute, nor such memory.
    match device.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID) {
        Ok(id) if id >= 0 => {
            Ok(CUmemLocation { type_: CUmemLocationType::CU_MEM_LOCATION_TYPE_HOST_NUMA, id })
        }
        Err(error) if error.kind() != DriverErrorKind::InvalidValue => Err(error),
        _ => Err(CudaError::NotSupported("the driver names no host memory".to_owned())),
    }
}

/// Physical memory. Dropping it gives nothing back: only [`Handle::release`] does.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(super) context: Arc<Context>,
    pub(super) raw: CUmemGenericAllocationHandle,
    /// A number of our own, used once in the process: the driver uses its numbers again.
    id: HandleId,
    bytes: u64,
    pub(super) kind: HandleKind,
}

impl Handle {
    fn new(context: &Arc<Context>, raw: u64, bytes: u64, kind: HandleKind) -> Handle {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = HandleId(NEXT.fetch_add(1, Ordering::Relaxed));
        Handle { context: context.clone(), raw, id, bytes, kind }
    }

    /// Makes physical memory; `bytes` is a multiple of the page.
    pub(crate) fn create(
        context: &Arc<Context>,
        device: Device,
        bytes: u64,
        kind: HandleKind,
    ) -> Result<Handle, CudaError> {
        below_end(bytes)?;
        let properties = properties(device, kind)?;
        let _entered = context.enter()?;
        let mut raw: CUmemGenericAllocationHandle = 0;
        // SAFETY: the driver writes one handle to the address of a live one and reads live
        // properties; no flag is set.
        let made =
            unsafe { call!(context.api, cuMemCreate(&mut raw, bytes as usize, &properties, 0)) };
        made.map_err(|error| cannot_make(bytes, kind, error))?;
        Ok(Handle::new(context, raw, bytes, kind))
    }

    /// Makes a handle to memory that was exported as `descriptor`, which stays open.
    pub(crate) fn import(
        context: &Arc<Context>,
        descriptor: RawFd,
        bytes: u64,
    ) -> Result<Handle, CudaError> {
        let _entered = context.enter()?;
        let mut raw: CUmemGenericAllocationHandle = 0;
        let shared = ptr::without_provenance_mut(descriptor as usize);
        // SAFETY: the driver writes one handle to the address of a live one. A file descriptor is
        // passed by value where other kinds of share are passed by address.
        let made = unsafe {
            call!(context.api, cuMemImportFromShareableHandle(&mut raw, shared, FILE_DESCRIPTOR))
        };
        made.map_err(|error| no_share(descriptor, error))?;
        Ok(Handle::new(context, raw, bytes, HandleKind::Exportable))
    }

    /// A new file descriptor by which the memory can be imported.
    pub(crate) fn export(&self) -> Result<RawFd, CudaError> {
        if self.kind != HandleKind::Exportable {
            let detail = format!("handle {} was not created as exportable", self.id.0);
            return Err(CudaError::InvalidValue(detail));
        }
        let _entered = self.context.enter()?;
        let mut descriptor: RawFd = -1;
        let address = (&raw mut descriptor).cast();
        // SAFETY: the driver writes one int to the address of a live one; the handle lives as long
        // as this value.
        unsafe {
            call!(
                self.context.api,
                cuMemExportToShareableHandle(address, self.raw, FILE_DESCRIPTOR, 0)
            )
        }?;
        if descriptor < 0 {
            let detail = format!("the file descriptor {descriptor}");
            return Err(CudaError::contract("cuMemExportToShareableHandle", detail));
        }
        Ok(descriptor)
    }

    /// Gives the memory back; it is mapped nowhere, since a mapping keeps it. On an error the
    /// handle is still there.
    pub(crate) fn release(self) -> Result<(), (Handle, CudaError)> {
        let released = self.context.enter().and_then(|_entered| {
            // SAFETY: this value owns the handle, from the driver, and goes with it.
            unsafe { call!(self.context.api, cuMemRelease(self.raw)) }
        });
        released.map_err(|error| (self, error))
    }

    /// Its name.
    pub(crate) fn id(&self) -> HandleId {
        self.id
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Refuses what no address range can hold.
pub(super) fn below_end(bytes: u64) -> Result<(), CudaError> {
    if bytes < ADDRESS_END {
        return Ok(());
    }
    Err(CudaError::OutOfMemory(format!("{bytes} bytes are more than there are addresses")))
}

/// The error of a creation. The size was checked before: what the driver finds invalid is how much
/// it is, or the kind where that is not the plain one.
fn cannot_make(bytes: u64, kind: HandleKind, error: CudaError) -> CudaError {
    match (error.kind(), kind) {
        (DriverErrorKind::InvalidValue, HandleKind::Device) => too_much(bytes, &error),
        (DriverErrorKind::InvalidValue | DriverErrorKind::InvalidDevice, kind)
            if kind != HandleKind::Device =>
        {
            CudaError::NotSupported(format!("handles of the kind {kind:?}: {error}"))
        }
        _ => error,
    }
}

/// The error of asking for more than there can be.
pub(super) fn too_much(bytes: u64, error: &CudaError) -> CudaError {
    CudaError::OutOfMemory(format!("{bytes} bytes: {error}"))
}

/// The error of an import. The driver has several codes for a descriptor that is not of its making.
fn no_share(descriptor: RawFd, error: CudaError) -> CudaError {
    match error.kind() {
        DriverErrorKind::InvalidDevice | DriverErrorKind::Other => {
            CudaError::InvalidValue(format!("{descriptor} is no exported memory: {error}"))
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_mean_what_the_contract_says() {
        use DriverErrorKind::{DeviceLost, InvalidValue, NotSupported, OutOfMemory};
        use HandleKind::{Device, Exportable, Host};
        let refusal = |code| CudaError::Call { function: "cuMemCreate", code };
        let cases = [
            (Device, 2, OutOfMemory),
            (Device, 1, OutOfMemory),
            (Device, 801, NotSupported),
            (Device, 700, DeviceLost),
            (Exportable, 1, NotSupported),
            (Exportable, 2, OutOfMemory),
            (Host, 101, NotSupported),
            (Host, 801, NotSupported),
            (Host, 700, DeviceLost),
        ];
        for (kind, code, expected) in cases {
            let found = cannot_make(512, kind, refusal(code)).kind();
            assert_eq!(found, expected, "{kind:?}, code {code}");
        }
        for (code, expected) in [(999, InvalidValue), (101, InvalidValue), (801, NotSupported)] {
            assert_eq!(no_share(3, refusal(code)).kind(), expected, "code {code}");
        }
        assert_eq!(below_end(ADDRESS_END - 1), Ok(()));
        assert_eq!(below_end(ADDRESS_END).map_err(|error| error.kind()), Err(OutOfMemory));
    }
}
