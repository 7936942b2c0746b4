//! The handles of one device: physical memory that can be mapped, and the names it is shared by.

use std::collections::BTreeMap;

use drystone_core::driver::{DeviceId, HandleId, HandleKind, ShareId};

use crate::address::PAGE;

/// Where physical addresses start: above all virtual ones, so that the bytes of handles and those
/// of segments, whose physical addresses are their virtual ones, can be watched in the same maps.
const FIRST_BASE: u64 = 1 << 48;
/// Names of handles have their device above this bit, from 1.
const DEVICE_SHIFT: u32 = 56;
/// Likewise those of shares, which are pages from [`FIRST_BASE`]: as file descriptors, they fit in 31
/// bits, until a device has made 128 TiB of handles.
const SHARE_SHIFT: u32 = 26;

/// One name of physical memory in this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handle {
    /// The physical address of the first byte.
    pub(crate) base: u64,
    pub(crate) bytes: u64,
    /// How many times it is mapped now.
    pub(crate) mappings: u64,
    /// Whether it can be exported: it was made for that, here. CUDA refuses to export what it
    /// imported.
    exportable: bool,
}

/// Memory that was taken by one `handle_create`; `handle_import` gives it further names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub(crate) base: u64,
    pub(crate) bytes: u64,
    pub(crate) kind: HandleKind,
    handles: u64,
    exported: bool,
}

#[derive(Debug)]
pub(crate) struct Physical {
    device: DeviceId,
    handles: BTreeMap<HandleId, Handle>,
    /// By physical address.
    blocks: BTreeMap<u64, Block>,
    /// Where the next block lies. Physical addresses are never used twice, so what is known of
    /// released memory never shows up in new memory.
    next_base: u64,
    created: u64,
}

impl Physical {
    pub(crate) fn new(device: DeviceId) -> Self {
        Physical {
            device,
            handles: BTreeMap::new(),
            blocks: BTreeMap::new(),
            next_base: FIRST_BASE,
            created: 0,
        }
    }

    /// New memory of `bytes`; none once 2⁶⁴ bytes have been made.
    pub(crate) fn create(&mut self, bytes: u64, kind: HandleKind) -> Option<HandleId> {
        let base = self.next_base;
        self.next_base = base.checked_add(bytes)?;
        self.blocks.insert(base, Block { base, bytes, kind, handles: 0, exported: false });
        Some(self.name(base, bytes, kind == HandleKind::Exportable))
    }

    pub(crate) fn get(&self, id: HandleId) -> Option<&Handle> {
        self.handles.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: HandleId) -> Option<&mut Handle> {
        self.handles.get_mut(&id)
    }

    /// The handles that live.
    pub(crate) fn live(&self) -> impl Iterator<Item = (HandleId, &Handle)> {
        self.handles.iter().map(|(id, handle)| (*id, handle))
    }

    pub(crate) fn count(&self) -> usize {
        self.handles.len()
    }

    /// Ends a handle; the memory, if that was its last one.
    pub(crate) fn release(&mut self, id: HandleId) -> Option<Block> {
        let base = self.handles.remove(&id)?.base;
        let block = self.blocks.get_mut(&base)?;
        block.handles -= 1;
        if block.handles > 0 {
            return None;
        }
        self.blocks.remove(&base)
    }

    /// The name of a handle's memory for others; none if it was not made for that.
    pub(crate) fn export(&mut self, id: HandleId) -> Option<ShareId> {
        let base = self.handles.get(&id).filter(|handle| handle.exportable)?.base;
        self.blocks.get_mut(&base)?.exported = true;
        Some(self.share(base))
    }

    /// A further handle to exported memory; none if there is no such memory of that size.
    pub(crate) fn import(&mut self, share: ShareId, bytes: u64) -> Option<HandleId> {
        let page = share.0 ^ self.share(FIRST_BASE).0;
        let base = page.checked_mul(PAGE)?.checked_add(FIRST_BASE)?;
        let block = self.blocks.get(&base)?;
        (block.exported && block.bytes == bytes).then(|| self.name(base, bytes, false))
    }

    /// Gives a block one more handle.
    fn name(&mut self, base: u64, bytes: u64, exportable: bool) -> HandleId {
        self.created += 1;
        let id = HandleId(self.prefix() | self.created);
        self.handles.insert(id, Handle { base, bytes, mappings: 0, exportable });
        if let Some(block) = self.blocks.get_mut(&base) {
            block.handles += 1;
        }
        id
    }

    fn prefix(&self) -> u64 {
        (u64::from(self.device.0) + 1) << DEVICE_SHIFT
    }

    fn share(&self, base: u64) -> ShareId {
        let device = (u64::from(self.device.0) + 1) << SHARE_SHIFT;
        ShareId(device ^ ((base - FIRST_BASE) / PAGE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_lives_as_long_as_its_last_handle() {
        let mut physical = Physical::new(DeviceId(0));
        let made = physical.create(PAGE, HandleKind::Exportable).unwrap();
        let share = physical.export(made).unwrap();
        let taken = physical.import(share, PAGE).unwrap();
        assert_ne!(made, taken);
        assert_eq!(physical.export(taken), None);
        assert_eq!(physical.get(made).unwrap().base, physical.get(taken).unwrap().base);
        assert!(physical.release(made).is_none());
        assert_eq!(physical.release(taken).unwrap().bytes, PAGE);
        assert!(physical.release(taken).is_none());
        assert_eq!(physical.import(share, PAGE), None);
        assert_eq!((physical.count(), physical.blocks.len()), (0, 0));
    }

    #[test]
    fn only_what_was_exported_can_be_imported() {
        let mut physical = Physical::new(DeviceId(0));
        let plain = physical.create(PAGE, HandleKind::Device).unwrap();
        let made = physical.create(2 * PAGE, HandleKind::Exportable).unwrap();
        assert_eq!(physical.export(plain), None);
        let base = physical.get(made).unwrap().base;
        let guessed = physical.share(base);
        assert!(guessed.0 < 1 << 31, "{guessed:?}");
        assert_eq!(physical.import(guessed, 2 * PAGE), None);
        assert_eq!(physical.export(made), Some(guessed));
        assert_eq!(physical.import(guessed, PAGE), None, "of another size");
        assert_eq!(physical.import(ShareId(u64::MAX), PAGE), None);
        assert_eq!(Physical::new(DeviceId(1)).import(guessed, 2 * PAGE), None);
    }

    #[test]
    fn names_and_addresses_are_not_used_twice() {
        let mut physical = Physical::new(DeviceId(0));
        let first = physical.create(PAGE, HandleKind::Device).unwrap();
        let base = physical.release(first).unwrap().base;
        let second = physical.create(PAGE, HandleKind::Device).unwrap();
        assert_ne!(first, second);
        assert_ne!(base, physical.get(second).unwrap().base);
        assert!(physical.get(first).is_none());
        assert_eq!(physical.create(u64::MAX, HandleKind::Device), None);
        let other = Physical::new(DeviceId(1)).create(PAGE, HandleKind::Device).unwrap();
        assert!(physical.get(other).is_none());
    }
}
