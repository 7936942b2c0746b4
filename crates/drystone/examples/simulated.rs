//! The allocator on a simulated device: what a program does, without a GPU.
//!
//! ```text
//! cargo run -p drystone --example simulated
//! ```

use std::sync::Arc;

use drystone::sim::{Access, SimConfig, SimDriver};
use drystone::{AllocError, Allocator, Config, DeviceId, StreamId};

const DEVICE: DeviceId = DeviceId(0);
const STREAM: StreamId = StreamId(0);
const SIDE_STREAM: StreamId = StreamId(1);
const MIB: u64 = 1 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Arc::new(SimDriver::new(SimConfig::default().capacity(256 * MIB))?);
    let allocator = Allocator::new(Arc::clone(&device), Config::default())?;

    // Ten blocks; every second one goes. No free run is larger than 20 MiB.
    let blocks = (0..10).map(|_| allocator.allocate(20 * MIB, DEVICE, STREAM));
    let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
    for block in blocks.iter().step_by(2) {
        allocator.free(*block)?;
    }
    // Yet 100 MiB fit: the free pages are mapped once more, side by side.
    let large = allocator.allocate(100 * MIB, DEVICE, STREAM)?;
    let reserved = allocator.reserved_bytes(DEVICE)? / MIB;
    println!("100 MiB out of five gaps of 20 MiB; reserved: {reserved} MiB of 256 MiB");

    // Work of another stream uses a block, which is freed while it may run.
    let side_work = [(large, 100 * MIB)];
    device.launch(DEVICE, SIDE_STREAM, &side_work, Access::Read)?;
    allocator.record_stream(large, SIDE_STREAM)?;
    allocator.free(large)?;

    // More than there is: an error with figures and advice, and the program goes on.
    match allocator.allocate(300 * MIB, DEVICE, STREAM) {
        Err(AllocError::OutOfMemory(figures)) => println!("{figures}"),
        other => return Err(format!("300 MiB of 256 MiB gave {other:?}").into()),
    }

    for block in blocks.iter().skip(1).step_by(2) {
        allocator.free(*block)?;
    }
    let back = allocator.empty_cache(DEVICE)? / MIB;
    println!("{back} MiB went back to the device");
    drop(allocator);
    let report = device.finish();
    if !report.is_clean() {
        return Err(format!("the device saw misuse or leaks: {report}").into());
    }
    println!("the device saw no misuse and no leaks");
    Ok(())
}
