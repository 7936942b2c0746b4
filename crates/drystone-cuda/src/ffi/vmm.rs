//! CUDA's virtual memory management: addresses, physical memory, and the mappings between them.

use std::os::fd::RawFd;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cudarc::driver::sys::{
    CUdevice_attribute, CUdeviceptr, CUmemAccess_flags, CUmemAccessDesc,
    CUmemAllocationGranularity_flags, CUmemAllocationHandleType, CUmemAllocationProp,
    CUmemAllocationProp_st__bindgen_ty_1, CUmemAllocationType, CUmemGenericAllocationHandle,
    CUmemLocation, CUmemLocationType,
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

fn device_location(device: Device) -> CUmemLocation {
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
        let none_left = || CudaError::OutOfMemory(format!("no {bytes} bytes of addresses"));
        if bytes >= ADDRESS_END {
            return Err(none_left());
        }
        let _entered = context.enter()?;
        let mut address: CUdeviceptr = 0;
        let (size, alignment) = (bytes as usize, page as usize);
        // SAFETY: the driver writes one address to the address of a live one; address 0 asks for
        // any, and no flag is set.
        unsafe { call!(context.api, cuMemAddressReserve(&mut address, size, alignment, 0, 0)) }?;
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

/// Physical memory. Dropping it gives nothing back: only [`Handle::release`] does.
#[derive(Debug)]
pub(crate) struct Handle {
    context: Arc<Context>,
    raw: CUmemGenericAllocationHandle,
    /// A number of our own, used once in the process: the driver uses its numbers again.
    id: HandleId,
    bytes: u64,
    kind: HandleKind,
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
        if bytes >= ADDRESS_END {
            return Err(CudaError::OutOfMemory(format!("no {bytes} bytes of memory")));
        }
        let properties = properties(device, kind)?;
        let _entered = context.enter()?;
        let mut raw: CUmemGenericAllocationHandle = 0;
        // SAFETY: the driver writes one handle to the address of a live one and reads live
        // properties; no flag is set.
        let made =
            unsafe { call!(context.api, cuMemCreate(&mut raw, bytes as usize, &properties, 0)) };
        made.map_err(|error| cannot_make(kind, error))?;
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

/// The error of a creation. The size was checked before: what the driver finds invalid about a
/// kind other than the plain one is the kind.
fn cannot_make(kind: HandleKind, error: CudaError) -> CudaError {
    match error.kind() {
        DriverErrorKind::InvalidValue | DriverErrorKind::InvalidDevice
            if kind != HandleKind::Device =>
        {
            CudaError::NotSupported(format!("handles of the kind {kind:?}: {error}"))
        }
        _ => error,
    }
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
        let (size, raw) = (handle.bytes as usize, handle.raw);
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
        self.handle.bytes
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
    Some((address, mappings.map(|mapping| mapping.handle.bytes as usize).sum()))
}
