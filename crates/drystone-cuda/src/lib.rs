//! The CUDA device behind Drystone: the driver contract over the CUDA driver API.
//!
//! [`CudaDriver`] implements [`drystone_core::Driver`] on the devices of this machine. The driver
//! library is opened when the first [`CudaDriver`] is made, so the crate builds, and programs with
//! it start, on machines without CUDA; there [`CudaDriver::new`] gives an error that says why.
//!
//! ```
//! match drystone_cuda::CudaDriver::new() {
//!     Ok(driver) => println!("{}", driver.device_name(drystone_core::DeviceId(0))?),
//!     Err(error) => eprintln!("{error}"), // "no CUDA device: ..."
//! }
//! # Ok::<(), drystone_cuda::CudaError>(())
//! ```
//!
//! Beside the contract there is what tests and replays need to give a device work: streams, fills,
//! copies, kernels and captures (functions of [`CudaDriver`]), and [`Pattern`].
//!
//! | file | what it holds |
//! |---|---|
//! | `driver` | [`CudaDriver`], the contract |
//! | `pools` | the driver's own pools |
//! | `work`, `pattern` | work for tests and replays |
//! | `space` | addresses, handles and mappings of one device |
//! | `registry`, `spans` | what is alive: by handle, by address |
//! | `error`, `codes` | errors, the driver's result codes |
//! | `ffi` | the driver calls; all raw handles |

mod codes;
mod driver;
mod error;
mod ffi;
mod pattern;
mod pools;
mod registry;
mod space;
mod spans;
mod work;

pub use driver::CudaDriver;
pub use error::{CudaError, NoDevice};
pub use ffi::{CaptureMode, Graph, GraphExec, Kernel, LaunchShape, Module};
pub use pattern::{PATTERN_PTX, Pattern};
pub use work::ComputeCapability;
