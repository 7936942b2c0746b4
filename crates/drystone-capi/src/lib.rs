//! Drystone for C: `libdrystone.so`, described by `include/drystone.h`, and torch's entry points.
//!
//! # Rules that every function keeps
//!
//! * It answers a status, or what cannot fail. Nothing but a status crosses the boundary: a panic is
//!   caught and becomes `DRYSTONE_INTERNAL`.
//! * Why a call failed is the thread's last error (`drystone_last_error`), which is built only then.
//! * A pointer that may not be NULL is checked for it.
//!
//! # Safety
//!
//! Functions that take pointers are `unsafe`, all for the same reasons, which is why they do not each
//! say so: a pointer that is not NULL must be to what its type says, alive and, where the function
//! writes, writable; texts end with a 0; an allocator is not destroyed while another thread uses it; a
//! stream is a live one of the device, and `drystone_stream_ends` is called before it is destroyed.
#![allow(non_camel_case_types, clippy::missing_safety_doc)]

pub mod allocator;
pub mod backend;
pub mod blocks;
pub mod callbacks;
pub mod config;
pub mod history;
pub mod limits;
pub mod pools;
pub mod process;
pub mod sharing;
pub mod snapshot;
pub mod stats;
pub mod status;
#[cfg(test)]
mod tests;
pub mod text;
pub mod torch;
pub mod version;
