//! Kernels: compiled images, the functions in them, and launches.

use std::ffi::{CStr, c_void};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::{CUfunction, CUmodule, CUstream};

use super::context::Context;
use super::stream::Stream;
use super::table::call;
use crate::error::CudaError;

/// The greatest number of parameters a launch takes here.
const MAX_PARAMETERS: usize = 32;

/// A compiled image in one device's context. When it and all its kernels are dropped, it is
/// unloaded, after all work of the device is done: not while a stream is captured, which the wait
/// may spoil.
#[derive(Debug)]
pub struct Module {
    inner: Arc<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    context: Arc<Context>,
    raw: usize,
}

impl Module {
    /// Compiles and loads PTX text without control characters.
    pub(crate) fn load_ptx(context: &Arc<Context>, ptx: &CStr) -> Result<Module, CudaError> {
        // SAFETY: a text without control characters, with a zero byte after it, can only be read as
        // PTX: the other image forms begin with bytes that no such text has.
        unsafe { Module::load_image(context, ptx.to_bytes_with_nul()) }
    }

    /// Loads an image.
    ///
    /// # Safety
    ///
    /// `image` is a whole image: PTX text with a zero byte at its end, a cubin, or a fat binary.
    pub(crate) unsafe fn load_image(
        context: &Arc<Context>,
        image: &[u8],
    ) -> Result<Module, CudaError> {
        let _entered = context.enter()?;
        let mut raw: CUmodule = ptr::null_mut();
        // SAFETY: the driver writes one handle to the address of a live one, and finds the end of
        // the image in the image, which the caller vouches for.
        unsafe { call!(context.api, cuModuleLoadData(&mut raw, image.as_ptr().cast())) }?;
        Ok(Module { inner: Arc::new(Loaded { context: context.clone(), raw: raw as usize }) })
    }

    /// Finds a kernel by the name of its entry in the image.
    ///
    /// Errors: [`CudaError::Call`] with code 500 (`CUDA_ERROR_NOT_FOUND`) where there is none.
    pub fn kernel(&self, name: &CStr) -> Result<Kernel, CudaError> {
        let context = &self.inner.context;
        let _entered = context.enter()?;
        let mut raw: CUfunction = ptr::null_mut();
        let module = self.inner.raw as CUmodule;
        // SAFETY: the driver writes one handle to the address of a live one; the module lives as
        // long as this value, and the name is a C string.
        unsafe { call!(context.api, cuModuleGetFunction(&mut raw, module, name.as_ptr())) }?;
        Ok(Kernel { module: self.inner.clone(), raw: raw as usize })
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // Code that may still run is not taken away: where the wait fails (a capture is under way,
        // the device is lost) the module stays until the context goes.
        if self.context.synchronize().is_err() {
            return;
        }
        if let Ok(_entered) = self.context.enter() {
            // SAFETY: the module is this value's own and is unloaded once, with no kernel of it
            // left that could be launched, and no launched one still running.
            let _ = unsafe { call!(self.context.api, cuModuleUnload(self.raw as CUmodule)) };
        }
    }
}

/// How many threads a launch has, and how they share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchShape {
    /// Blocks in each of the three directions, at least 1.
    pub grid: [u32; 3],
    /// Threads of a block in each of the three directions, at least 1; at most 1,024 in all.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
}

/// A kernel; keeps its module loaded.
#[derive(Debug)]
pub struct Kernel {
    module: Arc<Loaded>,
    raw: usize,
}

impl Kernel {
    /// Submits one run of the kernel to the stream.
    ///
    /// # Safety
    ///
    /// `arguments` fit the kernel's parameters: as many of them, none wider than 8 bytes. What the
    /// kernel does with them must be allowed until it is done, and the kernel must live that long
    /// (or its module wait for it when dropped, as it does).
    pub(crate) unsafe fn launch(
        &self,
        stream: &Stream,
        shape: LaunchShape,
        arguments: &[u64],
    ) -> Result<(), CudaError> {
        let mut parameters = [ptr::null_mut::<c_void>(); MAX_PARAMETERS];
        if arguments.len() > MAX_PARAMETERS {
            let detail = format!("{} kernel arguments, at most 32 are taken", arguments.len());
            return Err(CudaError::InvalidValue(detail));
        }
        for (parameter, argument) in parameters.iter_mut().zip(arguments) {
            *parameter = ptr::from_ref(argument).cast_mut().cast();
        }
        let context = &self.module.context;
        let _entered = context.enter()?;
        let ([gx, gy, gz], [bx, by, bz]) = (shape.grid, shape.block);
        let (function, stream) = (self.raw as CUfunction, stream.raw() as CUstream);
        // SAFETY: the function's module is loaded, the stream is valid, and each parameter points
        // to 8 live bytes that the driver only reads, before the call returns; the caller vouches
        // for their number and for what the kernel does.
        unsafe {
            call!(
                context.api,
                cuLaunchKernel(
                    function,
                    gx,
                    gy,
                    gz,
                    bx,
                    by,
                    bz,
                    shape.shared_bytes,
                    stream,
                    parameters.as_mut_ptr(),
                    ptr::null_mut(),
                )
            )
        }
    }
}
