//! `drystone` and `drystone-malloc`: Drystone's allocator, over mapped pages and over segments.

use std::sync::Arc;

use drystone_core::config::{Backing, KEYS, KeyInfo};
use drystone_core::{
    AllocError, Allocator, Config, DeviceId, Driver, PoolError, PoolId, Purpose, StreamId,
};

use super::{Needs, OptionInfo, Policy, PolicyInfo, PolicyMaker, PolicyOptions, Refusal};

pub(super) const VMM: PolicyInfo = PolicyInfo {
    name: "drystone",
    summary: "Drystone's allocator on pages that it maps where they are needed",
    needs: Needs::Device,
    options: || acting(|_| true),
    prepare: |options| prepare(Config::default(), options),
};

pub(super) const MALLOC: PolicyInfo = PolicyInfo {
    name: "drystone-malloc",
    summary: "Drystone's allocator on segments from cudaMalloc",
    needs: Needs::Device,
    options: || acting(|key| !of_pages(key)),
    prepare: |options| {
        if let Some((key, _)) = options.iter().find(|(key, _)| of_pages(key)) {
            return Err(format!("`{key}` is about pages, and here are segments: see `drystone`"));
        }
        prepare(Config { backing: Backing::Malloc, ..Config::default() }, options)
    },
};

/// The keys that mean nothing without pages.
fn of_pages(key: &str) -> bool {
    ["backing", "reserve", "spill_limit"].contains(&key)
}

/// The keys of a configuration string that change something, of those chosen.
fn acting(chosen: fn(&str) -> bool) -> Vec<OptionInfo> {
    let acting = KEYS.iter().filter(|key| key.has_effect && chosen(key.name));
    let option = |&KeyInfo { name, help, allowed, default, .. }: &KeyInfo| OptionInfo {
        name,
        help,
        allowed,
        default,
    };
    acting.map(option).collect()
}

fn prepare(mut config: Config, options: &PolicyOptions) -> Result<PolicyMaker, String> {
    for (key, value) in options.iter() {
        config.set(key, value).map_err(|error| error.to_string())?;
    }
    Ok(Arc::new(move |driver| {
        let allocator = Allocator::new(driver, config.clone()).map_err(|e| e.to_string())?;
        Ok(Box::new(Drystone { allocator }) as Box<dyn Policy>)
    }))
}

struct Drystone {
    allocator: Allocator<Arc<dyn Driver>>,
}

impl Policy for Drystone {
    fn allocate(&mut self, size: u64, device: DeviceId, stream: StreamId) -> Result<u64, Refusal> {
        self.allocator.allocate(size, device, stream).map_err(refusal)
    }

    fn allocate_in(
        &mut self,
        pool: u32,
        size: u64,
        device: DeviceId,
        stream: StreamId,
    ) -> Result<u64, Refusal> {
        if pool == 0 {
            return self.allocate(size, device, stream);
        }
        let pool = PoolId(0, u64::from(pool));
        let broken = |error: PoolError| Refusal::Broken(error.to_string().into());
        self.allocator.begin_pool(device, pool, Purpose::Capture, |_| true).map_err(broken)?;
        let given = self.allocate(size, device, stream);
        self.allocator.end_pool(device, pool).map_err(broken)?;
        // Each beginning holds it once more, and one hold keeps it.
        if self.allocator.pool_use_count(device, pool) > Some(1) {
            self.allocator.release_pool(device, pool).map_err(broken)?;
        }
        given
    }

    fn free(&mut self, address: u64) -> Result<(), String> {
        self.allocator.free(address).map_err(|error| error.to_string())
    }

    fn empty_cache(&mut self) -> Result<bool, Refusal> {
        for device in (0..self.allocator.device_count()).map(DeviceId) {
            let done = self.allocator.empty_cache(device);
            done.map_err(|error| Refusal::Broken(error.to_string().into()))?;
        }
        Ok(true)
    }

    fn block_bytes(&self, address: u64) -> Option<u64> {
        self.allocator.block_info(address).ok().map(|block| block.size)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let devices = (0..self.allocator.device_count()).map(DeviceId);
        let all: Vec<_> = devices.filter_map(|id| self.allocator.stats(id).ok()).collect();
        vec![
            ("retries", all.iter().map(|s| s.num_alloc_retries).sum()),
            ("syncs", all.iter().map(|s| s.num_sync_all_streams).sum()),
            ("borrowed", all.iter().map(|s| s.num_borrowed).sum()),
            ("adopted", all.iter().map(|s| s.num_adopted).sum()),
            ("spills", all.iter().map(|s| s.num_spills).sum()),
            ("peak_spilled_bytes", all.iter().map(|s| s.spilled_bytes.peak).sum()),
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
