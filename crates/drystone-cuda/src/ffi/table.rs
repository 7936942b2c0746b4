//! The table of driver functions, found one by one in the driver library, each with a result that
//! is an integer.
//!
//! `CUresult` is an exhaustive Rust enum in cudarc, and a driver newer than the enum may return a
//! code that it does not have: such a value must never exist as the enum. So the functions are not
//! called through cudarc's wrappers (which also panic on a missing symbol): their addresses are
//! looked up in the library that cudarc opened, with the C type's own ABI, `int`. That the
//! arguments agree with NVIDIA's header is checked by the compiler against cudarc's bindings.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUfunction, CUgraph,
    CUgraphExec, CUmemAccessDesc, CUmemAllocationGranularity_flags, CUmemAllocationHandleType,
    CUmemAllocationProp, CUmemGenericAllocationHandle, CUmemPool_attribute, CUmemPoolProps,
    CUmemoryPool, CUmodule, CUresult, CUstream, CUstreamCaptureMode, CUstreamCaptureStatus,
};

use crate::error::{CudaError, NoDevice};

macro_rules! driver_functions {
    ($($name:ident($($argument:ty),*);)*) => {
        /// The driver functions that this crate calls; a call gives the driver's code, 0 for
        /// success.
        #[allow(non_snake_case)]
        pub(super) struct Api {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) -> c_int,)*
        }

        impl Api {
            /// Finds every function in the driver library.
            fn load() -> Result<Api, NoDevice> {
                // SAFETY: opening libcuda runs its initialisers, as in every CUDA program; they
                // have no precondition.
                if !unsafe { sys::is_culib_present() } {
                    return Err(NoDevice::LibraryNotFound);
                }
                // SAFETY: as above; cudarc keeps this library open for the life of the process.
                let library = unsafe { sys::culib() };
                Ok(Api {
                    $($name: {
                        // SAFETY: the symbol is the driver function of that name. Its arguments
                        // are those of cudarc's binding (checked below), and C's `CUresult` is an
                        // enum with the size and ABI of `int`.
                        let symbol = unsafe { library.get(stringify!($name).as_bytes()) };
                        *symbol.map_err(|_| NoDevice::DriverTooOld {
                            function: stringify!($name),
                        })?
                    },)*
                })
            }
        }

        // The argument types above are those of cudarc's binding, or this does not compile.
        $(const _: unsafe fn($($argument),*) -> CUresult = sys::$name;)*
    };
}

const _: () = assert!(size_of::<CUresult>() == size_of::<c_int>());
const _: () = assert!(size_of::<CUstreamCaptureMode>() == size_of::<u32>());
const _: () = assert!(size_of::<CUstreamCaptureStatus>() == size_of::<u32>());

driver_functions! {
    cuInit(c_uint);
    cuDriverGetVersion(*mut c_int);
    cuDeviceGetCount(*mut c_int);
    cuDeviceGet(*mut CUdevice, c_int);
    cuDeviceGetName(*mut c_char, c_int, CUdevice);
    cuDeviceGetAttribute(*mut c_int, CUdevice_attribute, CUdevice);
    cuDeviceCanAccessPeer(*mut c_int, CUdevice, CUdevice);
    cuDevicePrimaryCtxRetain(*mut CUcontext, CUdevice);
    cuDevicePrimaryCtxRelease_v2(CUdevice);
    cuCtxGetCurrent(*mut CUcontext);
    cuCtxSetCurrent(CUcontext);
    cuCtxSynchronize();
    cuThreadExchangeStreamCaptureMode(*mut CUstreamCaptureMode);

    cuMemAlloc_v2(*mut CUdeviceptr, usize);
    cuMemFree_v2(CUdeviceptr);
    cuMemGetInfo_v2(*mut usize, *mut usize);
    cuMemsetD8Async(CUdeviceptr, u8, usize, CUstream);
    cuMemsetD32Async(CUdeviceptr, c_uint, usize, CUstream);
    cuMemcpyHtoD_v2(CUdeviceptr, *const c_void, usize);
    cuMemcpyDtoH_v2(*mut c_void, CUdeviceptr, usize);

    cuMemGetAllocationGranularity(
        *mut usize, *const CUmemAllocationProp, CUmemAllocationGranularity_flags
    );
    cuMemAddressReserve(*mut CUdeviceptr, usize, usize, CUdeviceptr, c_ulonglong);
    cuMemAddressFree(CUdeviceptr, usize);
    cuMemCreate(
        *mut CUmemGenericAllocationHandle, usize, *const CUmemAllocationProp, c_ulonglong
    );
    cuMemRelease(CUmemGenericAllocationHandle);
    cuMemExportToShareableHandle(
        *mut c_void, CUmemGenericAllocationHandle, CUmemAllocationHandleType, c_ulonglong
    );
    cuMemImportFromShareableHandle(
        *mut CUmemGenericAllocationHandle, *mut c_void, CUmemAllocationHandleType
    );
    cuMemMap(CUdeviceptr, usize, usize, CUmemGenericAllocationHandle, c_ulonglong);
    cuMemSetAccess(CUdeviceptr, usize, *const CUmemAccessDesc, usize);
    cuMemUnmap(CUdeviceptr, usize);

    cuMemPoolCreate(*mut CUmemoryPool, *const CUmemPoolProps);
    cuMemPoolDestroy(CUmemoryPool);
    cuMemPoolSetAttribute(CUmemoryPool, CUmemPool_attribute, *mut c_void);
    cuMemPoolGetAttribute(CUmemoryPool, CUmemPool_attribute, *mut c_void);
    cuMemAllocFromPoolAsync(*mut CUdeviceptr, usize, CUmemoryPool, CUstream);
    cuMemFreeAsync(CUdeviceptr, CUstream);

    cuEventCreate(*mut CUevent, c_uint);
    cuEventDestroy_v2(CUevent);
    cuEventRecord(CUevent, CUstream);
    cuEventQuery(CUevent);
    cuEventSynchronize(CUevent);

    cuStreamCreate(*mut CUstream, c_uint);
    cuStreamDestroy_v2(CUstream);
    cuStreamSynchronize(CUstream);
    cuStreamWaitEvent(CUstream, CUevent, c_uint);
    cuStreamIsCapturing(CUstream, *mut CUstreamCaptureStatus);
    cuStreamBeginCapture_v2(CUstream, CUstreamCaptureMode);
    cuStreamEndCapture(CUstream, *mut CUgraph);

    cuGraphInstantiateWithFlags(*mut CUgraphExec, CUgraph, c_ulonglong);
    cuGraphLaunch(CUgraphExec, CUstream);
    cuGraphExecDestroy(CUgraphExec);
    cuGraphDestroy(CUgraph);

    cuModuleLoadData(*mut CUmodule, *const c_void);
    cuModuleUnload(CUmodule);
    cuModuleGetFunction(*mut CUfunction, CUmodule, *const c_char);
    cuLaunchKernel(
        CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, CUstream,
        *mut *mut c_void, *mut *mut c_void
    );
}

impl Api {
    /// The table, loaded at the first call; the answer does not change in the life of the process.
    pub(super) fn get() -> Result<&'static Api, NoDevice> {
        static API: OnceLock<Result<Api, NoDevice>> = OnceLock::new();
        API.get_or_init(Api::load).as_ref().map_err(Clone::clone)
    }
}

/// Turns a driver's code into a result.
pub(super) fn check(function: &'static str, code: c_int) -> Result<(), CudaError> {
    if code == 0 { Ok(()) } else { Err(CudaError::Call { function, code }) }
}

/// Calls one function of the table and checks its code; to be used inside an `unsafe` block.
macro_rules! call {
    ($api:expr, $name:ident($($argument:expr),* $(,)?)) => {
        $crate::ffi::table::check(stringify!($name), ($api.$name)($($argument),*))
    };
}
pub(super) use call;
