//! Drystone for Rust programs: a caching CUDA allocator whose buffers work with [`cudarc`].
//!
//! A [`Pool`] serves one device, through cudarc's context of it. A [`PoolBuf`] is typed memory out of
//! the pool. It goes where a [`CudaSlice`](cudarc::driver::CudaSlice) goes: into copies, fills and
//! kernel launches. Dropped, it goes back to the pool in the order of its stream, without a wait.
//!
//! ```
//! use drystone::{Error, Pool};
//!
//! fn doubled() -> Result<Vec<f32>, Error> {
//!     let pool = Pool::open(0)?;
//!     let stream = pool.context().default_stream();
//!     let mut numbers = pool.clone_htod(&stream, &[1.0_f32, 2.0, 3.0])?;
//!     let copy = numbers.try_clone()?;
//!     stream.memset_zeros(&mut numbers)?;
//!     Ok(stream.clone_dtoh(&copy)?)
//! }
//!
//! match doubled() {
//!     Ok(numbers) => assert_eq!(numbers, [1.0, 2.0, 3.0]),
//!     Err(error) if error.is_no_device() => eprintln!("{error}"), // "no CUDA device: ..."
//!     Err(error) => panic!("{error}"),
//! }
//! ```
//!
//! # Without a GPU
//!
//! The [`Allocator`] below is generic over a [`Driver`], and [`sim`] is a device that runs anywhere,
//! with streams that lag, failing calls, and a watch for misuse:
//!
//! ```
//! use drystone::sim::{SimConfig, SimDriver};
//! use drystone::{Allocator, Config, DeviceId, StreamId};
//!
//! let device = SimDriver::new(SimConfig::default().capacity(1 << 30))?;
//! let allocator = Allocator::new(device, Config::parse("reserve:lean")?)?;
//! let address = allocator.allocate(10 << 20, DeviceId(0), StreamId(0))?;
//! allocator.free(address)?;
//! assert_eq!(allocator.allocate(10 << 20, DeviceId(0), StreamId(0))?, address);
//! # allocator.free(address)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is where
//!
//! | name | what it is |
//! |---|---|
//! | [`Pool`], [`PoolBuf`], [`GraphMemory`], [`Error`] | this crate's own |
//! | [`core`] | the allocator, its configuration, statistics, errors; the most used names are here too |
//! | [`cuda`] | the CUDA device as a [`Driver`] |
//! | [`sim`] | the simulated device |
//! | [`cudarc`] | the cudarc that these types belong to |

mod buf;
mod error;
mod graph;
mod pool;
mod streams;

pub use buf::PoolBuf;
pub use error::Error;
pub use graph::GraphMemory;
pub use pool::Pool;

pub use cudarc;
pub use drystone_core as core;
pub use drystone_core::{
    AllocError, Allocator, CallbackId, Config, ConfigError, Defragment, Defragmented, DeviceId,
    DeviceStats, Driver, Metric, OutOfMemory, PointerError, PoolError, Pressure, Request, StreamId,
    Watermark,
};
pub use drystone_cuda as cuda;
pub use drystone_sim as sim;
