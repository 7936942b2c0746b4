//! The allocator over the simulated device: behaviour by name, and random programs against a
//! shadow of what must be live.

#[path = "../common/mod.rs"]
mod common;

mod blocks;
mod defragment;
mod errors;
mod faults;
mod history;
mod orderings;
mod page_faults;
mod page_races;
mod pages;
mod pins;
mod pool_options;
mod pools;
mod pressure;
mod races;
mod random;
mod relocate;
mod restore;
mod retune;
mod share;
mod spill;
mod statistics;
mod streams;
mod threads;
mod windows;

use common::world::World;
use common::{A, B, C, D0, D1, KIB, MIB};
