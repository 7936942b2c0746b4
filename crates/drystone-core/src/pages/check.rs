//! The invariants of the book of pages, checked by every property test.

use super::{NOWHERE, PageStore};

impl PageStore {
    /// Checks handles, mappings, slots, ghosts and room against each other. Nothing is in hand but
    /// what is stranded.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut homes = vec![0u32; self.mappings.capacity()];
        for (at, handle) in &self.handles {
            for (page, &home) in handle.homes.iter().enumerate() {
                let mapping = self.mappings.get(home as usize);
                if home == NOWHERE && self.stranded.contains(&(at as u32)) {
                    continue;
                }
                if !mapping.is_some_and(|mapping| mapping.handle as usize == at && mapping.usable) {
                    return Err(format!("page {page} of handle {at} has no home of its own"));
                }
                homes[home as usize] += 1;
            }
            let known = |mapping: &u32| self.mappings.get(*mapping as usize).is_some();
            if !handle.mappings.iter().all(known) {
                return Err(format!("handle {at} names a mapping that is not there"));
            }
        }
        let mut ghosts = 0;
        for (at, mapping) in &self.mappings {
            let handle = self.handles.get(mapping.handle as usize);
            let arena = self.arenas.get(mapping.arena as usize);
            let (Some(handle), Some(arena)) = (handle, arena) else {
                return Err(format!("mapping {at} is of nothing or nowhere"));
            };
            let pages = mapping.first as usize..(mapping.first + handle.pages()) as usize;
            if arena.slots.get(pages).is_none_or(|all| all.iter().any(|&one| one as usize != at)) {
                return Err(format!("mapping {at} is not in its arena's slots"));
            }
            if handle.mappings.iter().filter(|&&one| one as usize == at).count() != 1 {
                return Err(format!("mapping {at} is not one of its handle's"));
            }
            if homes[at] != mapping.homes {
                return Err(format!("mapping {at}: {} homes, not {}", homes[at], mapping.homes));
            }
            if mapping.homes == 0 {
                ghosts += 1;
                if self.ghosts.get(&mapping.ghost).is_none_or(|&one| one as usize != at) {
                    return Err(format!("ghost {at} is not among the ghosts"));
                }
            }
        }
        if ghosts != self.ghosts.len() {
            return Err(format!("{ghosts} ghosts, {} known", self.ghosts.len()));
        }
        for (at, arena) in &self.arenas {
            for (page, &slot) in arena.slots[..arena.slots.len() - 1].iter().enumerate() {
                if (slot == NOWHERE) != arena.room.around(page as u32).is_some() {
                    return Err(format!("arena {at}: page {page} is room or mapped, not both"));
                }
                let of = self.mappings.get(slot as usize);
                if slot != NOWHERE && of.is_none_or(|mapping| mapping.arena as usize != at) {
                    return Err(format!("arena {at}: page {page} names a foreign mapping"));
                }
            }
        }
        Ok(())
    }
}
