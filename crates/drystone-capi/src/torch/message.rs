//! What torch's users read when memory is out: torch's own first sentence, by which programs know the
//! error, then Drystone's.

use drystone_core::{AllocError, Allocator, DeviceId, Driver};

use crate::backend::Backend;
use crate::status::Failure;

/// The bytes from which torch says "more than 1EB".
const EXBIBYTE: u64 = 1 << 60;

/// A failed request in words; out of memory as torch begins it.
#[cold]
pub(super) fn failure(core: &Allocator<Backend>, device: DeviceId, error: AllocError) -> Failure {
    let beginning = match &error {
        AllocError::TooLarge { size } if *size >= EXBIBYTE => {
            "CUDA out of memory. Tried to allocate more than 1EB memory.".to_owned()
        }
        AllocError::TooLarge { size } => {
            let memory = core.driver().device_memory(device).ok();
            let (total, free) = memory.map_or((0, 0), |memory| (memory.total, memory.free));
            beginning(*size, device, total, free)
        }
        AllocError::OutOfMemory(error) => {
            beginning(error.asked, error.device, error.device_total, error.device_free)
        }
        _ => return error.into(),
    };
    let Failure { status, text } = error.into();
    Failure { status, text: format!("{beginning} Drystone: {text}") }
}

fn beginning(size: u64, device: DeviceId, total: u64, free: u64) -> String {
    let [size, total, free] = [size, total, free].map(bytes);
    format!(
        "CUDA out of memory. Tried to allocate {size}. GPU {} has a total capacity of {total} of \
         which {free} is free.",
        device.0
    )
}

/// Bytes as torch writes them.
fn bytes(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (shift, unit) in units {
        if bytes > 1 << shift {
            return format!("{:.2} {unit}", bytes as f64 / (1_u64 << shift) as f64);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_as_torch_writes_them() {
        let cases = [
            (0, "0 bytes"),
            (1024, "1024 bytes"),
            (1025, "1.00 KiB"),
            (3 << 20, "3.00 MiB"),
            (1 << 30, "1024.00 MiB"),
            (800_000_000 << 30, "800000000.00 GiB"),
        ];
        for (size, text) in cases {
            assert_eq!(bytes(size), text);
        }
    }
}
