//! Policies: what one is, and the table of all by name.
//!
//! To add a policy, write a file beside `drystone.rs` that ends in a [`PolicyInfo`], and
//! name it in [`POLICIES`].

mod bfc;
mod buddy;
mod cub;
mod cuda_async;
mod cudamalloc;
mod cupy;
mod dali_vm;
mod drystone;
mod gmlake;
mod optimal;
mod paddle_vmm;
mod parts;
mod pytorch;
mod rmm_arena;
mod rmm_binning;
mod rmm_pool;
mod spec;
mod tlsf;

use std::sync::Arc;

use drystone_core::{DeviceId, Driver, StreamId};

pub use spec::{PolicyError, PolicyOptions, PolicySpec};

/// Every policy, in the order in which they are listed and compared.
pub static POLICIES: &[PolicyInfo] = &[
    drystone::VMM,
    drystone::MALLOC,
    pytorch::NATIVE,
    pytorch::EXPANDABLE,
    cuda_async::INFO,
    bfc::INFO,
    rmm_pool::INFO,
    rmm_arena::INFO,
    rmm_binning::INFO,
    cub::INFO,
    cupy::INFO,
    gmlake::INFO,
    paddle_vmm::INFO,
    dali_vm::INFO,
    buddy::INFO,
    tlsf::INFO,
    cudamalloc::INFO,
    optimal::INFO,
];

/// A way of turning requests for memory into calls of a driver.
///
/// A policy gets its driver, its clock among it ([`Driver::now_ns`]), when it is made. What it
/// holds of the device, and what that takes, is measured at the driver. Dropping a policy gives
/// all its memory and events back.
pub trait Policy {
    /// Hands out `size` bytes of `device` for use on `stream`: an address, or 0 for 0 bytes.
    fn allocate(&mut self, size: u64, device: DeviceId, stream: StreamId) -> Result<u64, Refusal>;

    /// The same from a pool: 0 is the default one, from 1 on are private ones, such as those of captured
    /// graphs ([`Trace::block_pools`]). What lies in a private one serves no other and is kept until the end; in PyTorch and
    /// Drystone, that is: others have no pools, and serve it as any other request.
    ///
    /// [`Trace::block_pools`]: drystone_trace::Trace::block_pools
    fn allocate_in(
        &mut self,
        pool: u32,
        size: u64,
        device: DeviceId,
        stream: StreamId,
    ) -> Result<u64, Refusal> {
        let _ = pool;
        self.allocate(size, device, stream)
    }

    /// Takes the block at `address` back: no work that is still to be submitted uses it. Or says
    /// what is wrong.
    fn free(&mut self, address: u64) -> Result<(), String>;

    /// Gives back to the device what is cached, as `torch.cuda.empty_cache()` does. Whether the
    /// policy has such a step.
    fn empty_cache(&mut self) -> Result<bool, Refusal> {
        Ok(false)
    }

    /// Bytes that the block at `address` occupies, what rounding adds among them; `None` where the
    /// policy does not tell.
    fn block_bytes(&self, address: u64) -> Option<u64> {
        let _ = address;
        None
    }

    /// Counts of the policy's own, by name, as in `counters` of `drystone replay --json`.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// Why a policy handed out nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no memory left; in the policy's own words.
    OutOfMemory(Box<str>),
    /// Anything else, which ends a replay with an error.
    Broken(Box<str>),
}

/// Makes a policy over a driver, as its options say; any number of times. Or says why not.
pub type PolicyMaker =
    Arc<dyn Fn(Arc<dyn Driver>) -> Result<Box<dyn Policy>, String> + Send + Sync>;

/// A policy's entry in [`POLICIES`].
#[derive(Debug)]
pub struct PolicyInfo {
    /// The name on the command line.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub summary: &'static str,
    /// What it needs of the device.
    pub needs: Needs,
    /// The options that it takes.
    pub options: fn() -> Vec<OptionInfo>,
    /// Checks options and keeps them; an error says what is wrong and what is allowed.
    pub prepare: fn(&PolicyOptions) -> Result<PolicyMaker, String>,
}

/// What a policy needs of the device below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: it is a bound, which no allocator passes. A replay is on a simulated device where
    /// no call costs anything, of as much memory as the target has, and makes no work on it.
    Nothing,
    /// Any device.
    Device,
    /// A real one: it measures what is part of that and not modelled.
    RealDevice,
}

/// An option of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionInfo {
    /// The key, as in `key=value`.
    pub name: &'static str,
    /// What it does.
    pub help: &'static str,
    /// The values allowed, with unit and range.
    pub allowed: &'static str,
    /// What holds without it.
    pub default: &'static str,
}
