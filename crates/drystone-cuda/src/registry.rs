//! Which driver objects are alive, by their handles: an id that comes from outside is looked up
//! here before the driver sees it, since the driver may crash on a stale handle.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::error::CudaError;

/// The live objects of one kind on one device.
#[derive(Debug)]
pub(crate) struct Registry<T> {
    /// What an object is called in errors.
    noun: &'static str,
    live: RwLock<HashMap<u64, Arc<T>>>,
}

impl<T> Registry<T> {
    pub(crate) fn new(noun: &'static str) -> Registry<T> {
        Registry { noun, live: RwLock::default() }
    }

    /// Adds an object under its handle; gives the handle.
    pub(crate) fn insert(&self, id: u64, object: T) -> u64 {
        self.live.write().insert(id, Arc::new(object));
        id
    }

    /// The object of that handle; it is not destroyed while the caller keeps it.
    pub(crate) fn get(&self, id: u64) -> Option<Arc<T>> {
        self.live.read().get(&id).cloned()
    }

    /// As [`Registry::get`], an error where there is none.
    pub(crate) fn require(&self, id: u64) -> Result<Arc<T>, CudaError> {
        self.get(id).ok_or_else(|| self.unknown(id))
    }

    /// Takes the object out, to destroy it; an error where there is none or somebody keeps it:
    /// another thread in a call on it, or an object made of it.
    pub(crate) fn take(&self, id: u64) -> Result<T, CudaError> {
        let mut live = self.live.write();
        let object = live.remove(&id).ok_or_else(|| self.unknown(id))?;
        Arc::try_unwrap(object).map_err(|object| {
            live.insert(id, object);
            let noun = self.noun;
            CudaError::InvalidValue(format!("{noun} {id:#x} is in use"))
        })
    }

    fn unknown(&self, id: u64) -> CudaError {
        CudaError::InvalidValue(format!("{id:#x} is no live {} of this device", self.noun))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_live_and_unused_objects_are_taken() {
        let registry = Registry::new("event");
        assert_eq!(registry.insert(7, "seven"), 7);
        assert!(registry.require(8).is_err());
        let used = registry.require(7).expect("it was inserted");
        assert!(
            matches!(registry.take(7), Err(CudaError::InvalidValue(text)) if text.contains("in use"))
        );
        drop(used);
        assert_eq!(registry.take(7), Ok("seven"));
        assert!(registry.take(7).is_err());
    }
}
