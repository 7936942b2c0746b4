//! Settings that change while the allocator is in use: torch's `_set_allocator_settings`.

use std::sync::atomic::Ordering;

use super::Allocator;
use crate::config::Config;
use crate::driver::Driver;
use crate::heap::Fit;
use crate::policy::Policy;
use crate::pool::Pool;

/// The settings that have been in force since they were changed.
pub(super) struct Retuned {
    config: Config,
    policy: Policy,
}

impl<D: Driver> Allocator<D> {
    /// Takes `roundup_power2_divisions`, `max_split_size`, `max_non_split_rounding` and
    /// `garbage_collection_threshold` of these settings from now on, their defaults included; the
    /// other settings stay as they were when the allocator was made. Blocks that are live, and what
    /// is cached, stay as they are. Requests cost a little more while the settings are others than
    /// those that it was made with.
    pub fn retune(&self, settings: &Config) {
        let mut config = self.config.clone();
        config.roundup_power2_divisions = settings.roundup_power2_divisions;
        config.max_split_size = settings.max_split_size;
        config.max_non_split_rounding = settings.max_non_split_rounding;
        config.garbage_collection_threshold = settings.garbage_collection_threshold;
        let mut retuned = self.retuned.write();
        *retuned = (config != self.config).then(|| {
            let policy = Policy::new(&config);
            Retuned { config, policy }
        });
        // Under the lock, so that what the devices are told last is what is so.
        self.devices.iter().for_each(|device| device.set_retuned(retuned.is_some()));
        drop(retuned);
        self.look_who_takes_notes();
    }

    /// The settings in force: those that it was made with, but for what was changed since.
    pub fn settings(&self) -> Config {
        self.retuned.read().as_ref().map_or(&self.config, |retuned| &retuned.config).clone()
    }

    /// The block that serves a request in the default pool; see [`Policy::fit`].
    pub(super) fn fit(&self, size: u64, align: u64) -> Fit {
        self.in_force(|policy| policy.fit(size, align))
    }

    /// The block that serves a request in a pool.
    pub(super) fn fit_in(&self, pool: &Pool, size: u64, align: u64) -> Fit {
        let fit = self.fit(size, align);
        if pool.is_unsplit() { self.policy.whole(&fit) } else { fit }
    }

    /// Asks the policy in force. Only what [`Allocator::retune`] changes has to be asked so.
    pub(super) fn in_force<T>(&self, ask: impl FnOnce(&Policy) -> T) -> T {
        ask(self.retuned.read().as_ref().map_or(&self.policy, |retuned| &retuned.policy))
    }

    /// Looks whether blocks that are handed out are written down.
    pub(super) fn look_who_takes_notes(&self) {
        // One at a time: what is stored last is what is so.
        let retuned = self.retuned.write();
        let policy = retuned.as_ref().map_or(&self.policy, |retuned| &retuned.policy);
        let notes = self.history.is_on() || policy.max_split_size.is_some();
        self.takes_notes.store(notes, Ordering::Relaxed);
    }

    pub(super) fn max_split_size(&self) -> Option<u64> {
        self.in_force(|policy| policy.max_split_size)
    }
}
