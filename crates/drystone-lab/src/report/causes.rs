//! Where the reserved bytes are at each moment: in use, or wasted, and why.

use std::collections::HashMap;

use super::ground::{Container, Ground, Kind};
use super::moments::{Life, Moment};
use crate::journal::Placed;

/// Free memory is told apart by pages of this: what a device maps and gives back at least.
const PAGE: u64 = 2 << 20;

/// The bytes held at a moment; the parts sum up to what is reserved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Causes {
    /// Held of the devices.
    pub(super) reserved: u64,
    /// Asked for, and not asked back yet.
    pub(super) used: u64,
    /// Given back, but other streams are not done with it.
    pub(super) pending: u64,
    /// What rounding adds to blocks.
    pub(super) rounding: u64,
    /// Free, in pages that a live block lies in too.
    pub(super) shared: u64,
    /// Free pages of segments or handles that a live block lies in too.
    pub(super) stuck: u64,
    /// Segments and handles in which no live block lies: they could be given back.
    pub(super) idle: u64,
}

/// Pages of containers that a live block covers.
type Covered = Vec<(u32, u64, u64)>;

/// A sweep over the moments.
struct Sweep<'a> {
    ground: &'a Ground,
    /// The mappings of this moment by address: places in the ground's.
    mapped: std::collections::BTreeMap<u64, usize>,
    /// How many live blocks there are on each page of each container.
    pages: Vec<Vec<u32>>,
    /// How many pages of each container have any.
    taken: Vec<u64>,
    covered: HashMap<u32, Covered>,
    /// Bytes of pages, and of containers, that have a live block.
    page_bytes: u64,
    container_bytes: u64,
    now: Causes,
}

/// The causes at the first `count` moments. `lives` are all blocks that some moment sees, and
/// `placed` says where the policy put each block of the trace.
pub(super) fn causes(
    ground: &Ground,
    lives: &[Life],
    placed: &[Placed],
    count: usize,
) -> Vec<Causes> {
    let mut sweep = Sweep {
        ground,
        mapped: Default::default(),
        pages: ground.containers.iter().map(|_| Vec::new()).collect(),
        taken: vec![0; ground.containers.len()],
        covered: HashMap::new(),
        page_bytes: 0,
        container_bytes: 0,
        now: Causes::default(),
    };
    let mut steps: Vec<Vec<Step>> = (0..count).map(|_| Vec::new()).collect();
    let mut at = |moment: Moment, step| {
        if let Some(steps) = steps.get_mut(moment as usize) {
            steps.push(step);
        }
    };
    // In this order at each moment: a block leaves before its memory does.
    let all = || lives.iter().enumerate().filter(|(_, life)| placed[life.id as usize].address != 0);
    all().for_each(|(place, life)| at(life.to, Step::Leave(place)));
    let mappings = || ground.mappings.iter().enumerate();
    mappings().for_each(|(place, mapping)| at(mapping.to, Step::Unmap(place)));
    for container in ground.containers.iter().filter(|c| c.kind != Kind::Host && c.from < c.to) {
        at(container.to, Step::Release(container.bytes));
        at(container.from, Step::Hold(container.bytes));
    }
    mappings().for_each(|(place, mapping)| at(mapping.from, Step::Map(place)));
    all().for_each(|(place, life)| at(life.from, Step::Enter(place)));
    all().for_each(|(place, life)| at(life.asked.max(life.from), Step::Ask(place)));
    steps
        .into_iter()
        .map(|steps| {
            for step in steps {
                sweep.step(step, lives, placed);
            }
            sweep.causes()
        })
        .collect()
}

#[derive(Clone, Copy)]
enum Step {
    Leave(usize),
    Unmap(usize),
    Release(u64),
    Hold(u64),
    Map(usize),
    Enter(usize),
    Ask(usize),
}

impl Sweep<'_> {
    fn step(&mut self, step: Step, lives: &[Life], placed: &[Placed]) {
        match step {
            Step::Hold(bytes) => self.now.reserved += bytes,
            Step::Release(bytes) => self.now.reserved -= bytes,
            Step::Map(place) => {
                self.mapped.insert(self.ground.mappings[place].address, place);
            }
            Step::Unmap(place) => {
                self.mapped.remove(&self.ground.mappings[place].address);
            }
            Step::Enter(place) => {
                let life = &lives[place];
                let block = placed[life.id as usize];
                let covered = self.covered_by(block);
                let host = |&(container, ..): &(u32, u64, u64)| {
                    self.ground.containers[container as usize].kind == Kind::Host
                };
                if covered.iter().any(host) {
                    return; // Not of what the device has.
                }
                for &(container, first, last) in &covered {
                    (first..=last).for_each(|page| self.count(container, page, true));
                }
                self.covered.insert(life.id, covered);
                self.now.used += life.size;
                self.now.rounding += block.bytes.saturating_sub(life.size);
            }
            Step::Ask(place) => {
                let life = &lives[place];
                if self.covered.contains_key(&life.id) && life.asked < life.to {
                    self.now.used -= life.size;
                    self.now.pending += life.size;
                }
            }
            Step::Leave(place) => {
                let life = &lives[place];
                let Some(covered) = self.covered.remove(&life.id) else { return };
                for (container, first, last) in covered {
                    (first..=last).for_each(|page| self.count(container, page, false));
                }
                let asked = life.asked < life.to;
                let of = if asked { &mut self.now.pending } else { &mut self.now.used };
                *of -= life.size;
                self.now.rounding -= placed[life.id as usize].bytes.saturating_sub(life.size);
            }
        }
    }

    /// The pages below a block.
    fn covered_by(&self, block: Placed) -> Covered {
        let end = block.address.saturating_add(block.bytes.max(1));
        let before = self.mapped.range(..=block.address).next_back();
        let start = before.map_or(block.address, |(&address, _)| address);
        let mut covered = Vec::new();
        for &place in self.mapped.range(start..end).map(|(_, place)| place) {
            let mapping = &self.ground.mappings[place];
            let (from, to) =
                (block.address.max(mapping.address), end.min(self.ground.end(mapping)));
            if from < to {
                let page = |address: u64| (address - mapping.address) / PAGE;
                covered.push((mapping.container, page(from), page(to - 1)));
            }
        }
        covered
    }

    /// One block more, or one less, on a page of a container.
    fn count(&mut self, container: u32, page: u64, more: bool) {
        let index = container as usize;
        let Container { bytes, .. } = self.ground.containers[index];
        let pages = &mut self.pages[index];
        if pages.is_empty() {
            pages.resize(bytes.div_ceil(PAGE) as usize, 0);
        }
        let blocks = &mut pages[page as usize];
        let before = *blocks;
        *blocks = if more { before + 1 } else { before - 1 };
        let page_bytes = PAGE.min(bytes - page * PAGE);
        let taken = &mut self.taken[index];
        match (before, more) {
            (0, true) => {
                self.page_bytes += page_bytes;
                *taken += 1;
                self.container_bytes += if *taken == 1 { bytes } else { 0 };
            }
            (1, false) => {
                self.page_bytes -= page_bytes;
                *taken -= 1;
                self.container_bytes -= if *taken == 0 { bytes } else { 0 };
            }
            _ => {}
        }
    }

    fn causes(&self) -> Causes {
        let occupied = self.now.used + self.now.pending + self.now.rounding;
        Causes {
            shared: self.page_bytes.saturating_sub(occupied),
            stuck: self.container_bytes.saturating_sub(self.page_bytes),
            idle: self.now.reserved.saturating_sub(self.container_bytes),
            ..self.now
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::ground::Mapping;

    const MIB: u64 = 1 << 20;

    fn life(id: u32, size: u64, from: Moment, asked: Moment, to: Moment) -> Life {
        Life { id, size, stream: 0, device: 0, t_us: 0, from, asked, to }
    }

    fn held(bytes: u64, kind: Kind, to: Moment) -> Container {
        Container { device: 0, bytes, kind, from: 0, to }
    }

    #[test]
    fn the_parts_are_told_apart_and_sum_up() {
        let ground = Ground {
            containers: vec![
                held(20 * MIB, Kind::Segment, 3),
                held(4 * MIB, Kind::Handle, 3),
                held(8 * MIB, Kind::Host, 9),
            ],
            mappings: vec![
                Mapping { address: 100 * MIB, container: 0, from: 0, to: 3 },
                Mapping { address: 200 * MIB, container: 1, from: 0, to: 3 },
                // A second name for the handle.
                Mapping { address: 300 * MIB, container: 1, from: 0, to: 3 },
                Mapping { address: 400 * MIB, container: 2, from: 0, to: 9 },
            ],
        };
        let placed = [
            Placed { address: 101 * MIB, bytes: 2 * MIB },
            Placed { address: 300 * MIB, bytes: MIB },
            Placed { address: 400 * MIB, bytes: MIB },
            Placed { address: 0, bytes: MIB },
        ];
        let lives = [
            life(0, 2 * MIB - 100, 0, 1, 2),
            life(1, MIB, 1, 4, 4),
            life(2, MIB, 0, 4, 4),
            life(3, MIB, 0, 4, 4),
        ];
        let all = causes(&ground, &lives, &placed, 4);
        let base = Causes { reserved: 24 * MIB, ..Causes::default() };
        let used = 2 * MIB - 100;
        let first =
            Causes { used, rounding: 100, shared: 2 * MIB, stuck: 16 * MIB, idle: 4 * MIB, ..base };
        assert_eq!(all[0], first);
        let second =
            Causes { used: MIB, pending: used, shared: 3 * MIB, stuck: 18 * MIB, idle: 0, ..first };
        assert_eq!(all[1], second);
        let third = Causes { used: MIB, shared: MIB, stuck: 2 * MIB, idle: 20 * MIB, ..base };
        assert_eq!(all[2], third);
        assert_eq!(all[3].reserved, 0);
        for Causes { reserved, used, pending, rounding, shared, stuck, idle } in &all[..3] {
            assert_eq!(used + pending + rounding + shared + stuck + idle, *reserved);
        }
    }
}
