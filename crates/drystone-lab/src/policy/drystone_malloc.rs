//! `drystone-malloc`: Drystone's allocator on segments from cudaMalloc.

use std::sync::Arc;

use drystone_core::config::KEYS;
use drystone_core::{AllocError, Allocator, Config, DeviceId, Driver, StreamId};

use super::{OptionInfo, Policy, PolicyInfo, PolicyMaker, PolicyOptions, Refusal};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "drystone-malloc",
    summary: "Drystone's allocator on segments from cudaMalloc",
    options,
    prepare,
};

/// The keys of a configuration string that change something.
fn options() -> Vec<OptionInfo> {
    let acting = KEYS.iter().filter(|key| key.has_effect);
    acting
        .map(|key| OptionInfo {
            name: key.name,
            help: key.help,
            allowed: key.allowed,
            default: key.default,
        })
        .collect()
}

fn prepare(options: &PolicyOptions) -> Result<PolicyMaker, String> {
    let mut config = Config::default();
    for (key, value) in options.iter() {
        config.set(key, value).map_err(|error| error.to_string())?;
    }
    Ok(Arc::new(move |driver| {
        let allocator = Allocator::new(driver, config.clone()).map_err(|e| e.to_string())?;
        Ok(Box::new(DrystoneMalloc { allocator }) as Box<dyn Policy>)
    }))
}

struct DrystoneMalloc {
    allocator: Allocator<Arc<dyn Driver>>,
}

impl Policy for DrystoneMalloc {
    fn allocate(&mut self, size: u64, device: DeviceId, stream: StreamId) -> Result<u64, Refusal> {
        self.allocator.allocate(size, device, stream).map_err(refusal)
    }

    fn free(&mut self, address: u64) -> Result<(), String> {
        self.allocator.free(address).map_err(|error| error.to_string())
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let devices = (0..self.allocator.device_count()).map(DeviceId);
        let all: Vec<_> = devices.filter_map(|id| self.allocator.stats(id).ok()).collect();
        vec![
            ("retries", all.iter().map(|s| s.num_alloc_retries).sum()),
            ("syncs", all.iter().map(|s| s.num_sync_all_streams).sum()),
            ("borrowed", all.iter().map(|s| s.num_borrowed).sum()),
            ("adopted", all.iter().map(|s| s.num_adopted).sum()),
        ]
    }
}

#[cold]
fn refusal(error: AllocError) -> Refusal {
    let text = error.to_string().into();
    match error {
        // Larger than any device: nothing has it, whoever is asked.
        AllocError::OutOfMemory(_) | AllocError::TooLarge { .. } => Refusal::OutOfMemory(text),
        _ => Refusal::Broken(text),
    }
}
