//! PyTorch's words at out of memory, which users know and search for.

use drystone_core::{DeviceMemory, DriverError};

use super::Failed;
use super::device::{Device, Request};

pub(super) const MORE_THAN_AN_EXABYTE: &str =
    "CUDA out of memory. Tried to allocate more than 1EB memory.";

impl Device {
    pub(super) fn out_of_memory(&mut self, request: &Request) -> Result<Failed, DriverError> {
        let DeviceMemory { free, total } = self.driver.device_memory(self.id)?;
        let allowed = self.allowed()?.map(|bytes| format!("{} allowed; ", size(bytes)));
        // PyTorch says that what private pools have free is allocated.
        let private = self.blocks.free_in_private();
        let in_private = (private > 0).then(|| {
            format!("with {} allocated in private pools (e.g., CUDA Graphs), ", size(private))
        });
        let allocated = self.allocated + private;
        let message = format!(
            "CUDA out of memory. Tried to allocate {}. GPU {} has a total capacity of {} of which \
             {} is free. {}Of the allocated memory {} is allocated by PyTorch, {}and {} is reserved \
             by PyTorch but unallocated. If reserved but unallocated memory is large try setting \
             PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See \
             documentation for Memory Management  (https://docs.pytorch.org/docs/stable/notes/\
             cuda.html#optimizing-memory-usage-with-pytorch-cuda-alloc-conf)",
            size(request.segment),
            self.id.0,
            size(total),
            size(free),
            allowed.unwrap_or_default(),
            size(allocated),
            in_private.unwrap_or_default(),
            size(self.reserved - allocated),
        );
        Ok(Failed::OutOfMemory(message.into()))
    }
}

/// A size as PyTorch writes it.
fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|&(power, _)| bytes > 1 << power) {
        Some((power, name)) => format!("{:.2} {name}", bytes as f64 / (1u64 << power) as f64),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_written_as_pytorch_does() {
        let sizes = [0, 1024, 1025, 1 << 20, 21 << 20, 1 << 30, 80 << 30].map(size);
        let expected = [
            "0 bytes",
            "1024 bytes",
            "1.00 KiB",
            "1024.00 KiB",
            "21.00 MiB",
            "1024.00 MiB",
            "80.00 GiB",
        ];
        assert_eq!(sizes, expected);
    }
}
