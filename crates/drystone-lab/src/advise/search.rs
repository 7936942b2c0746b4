//! The search: from the few best settings to those that differ in one option, as long as that makes
//! the best better; then whatever is not needed is taken away.
//!
//! What is better goes in stages, so that nothing won is lost again:
//!
//! 1. The run has to complete, also with the memory that is to stay free taken away. Until it does,
//!    what needs less memory is better.
//! 2. Of the time in driver calls and waits, and the memory: the goal.
//! 3. The other of the two, as far as the goal stays within what counts as no difference.

use std::collections::BTreeSet;

use super::AdviseError;
use super::Goal;
use super::bench::{Bench, Figures};
use super::options::{Family, Setting};
use super::workload::PAGE;
use crate::policy::PolicySpec;

/// The most steps in one stage.
const MOST_STEPS: usize = 6;
/// How many of the best are followed at once: two options may help together that were not the best
/// alone.
const WIDTH: usize = 3;
/// Time that is less counts only from this part of it on ...
const LESS_TIME: f64 = 0.05;
/// ... and from this part of the run on.
const LESS_OF_RUN: f64 = 0.001;
/// Needing less memory counts from this part on.
const LESS_NEEDED: f64 = 0.01;
/// Reserving less, while there is enough, counts from this part on.
const LESS_RESERVED: f64 = 0.05;
/// How exact the search knows what a setting needs, as a part of the floor.
const STEP: f64 = 0.005;

/// What the search is to find, and on which device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    pub(super) goal: Goal,
    /// The memory of each device.
    pub(super) capacity: u64,
    /// The same without what is to stay free.
    pub(super) room: u64,
    /// What no allocator does without.
    pub(super) floor: u64,
    /// The most memory that is tried.
    pub(super) plenty: u64,
    /// The run's length.
    pub(super) run_us: u64,
}

impl Task {
    /// From how much on less time than that counts.
    fn less_time(&self, time: f64) -> f64 {
        (time * LESS_TIME).max(self.run_us as f64 * LESS_OF_RUN)
    }
}

/// How well a setting does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Standing {
    /// With all of the memory.
    pub(super) figures: Figures,
    /// Whether it also completes without what is to stay free.
    pub(super) roomy: bool,
    /// The least memory with which it was seen to complete; none if no memory is enough.
    pub(super) least: Option<u64>,
}

impl Standing {
    /// The least memory with which it completes; more than there is if none is enough.
    pub(super) fn needs(&self) -> u64 {
        self.least.unwrap_or(u64::MAX)
    }

    fn grade(&self) -> u8 {
        match (self.figures.completes, self.roomy) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => 2,
        }
    }

    /// Whether it is so much better that it counts.
    pub(super) fn beats(&self, other: &Standing, task: &Task) -> bool {
        if self.grade() != other.grade() {
            return self.grade() > other.grade();
        }
        let (time, others) = (self.figures.time(), other.figures.time());
        let faster = time + task.less_time(others) < others;
        let slower = others + task.less_time(time) < time;
        if task.goal == Goal::Time && self.grade() == 2 {
            let (held, others) = (self.figures.peak_reserved, other.figures.peak_reserved);
            return faster || (!slower && less(held, others, LESS_RESERVED));
        }
        let more = less(other.needs(), self.needs(), LESS_NEEDED);
        less(self.needs(), other.needs(), LESS_NEEDED) || (!more && faster && self.grade() > 0)
    }
}

/// Whether bytes are less by more than that part.
fn less(bytes: u64, others: u64, part: f64) -> bool {
    (bytes as f64) < others as f64 * (1.0 - part)
}

/// A search among the settings of one allocator.
pub(super) struct Search<'a, 'b> {
    pub(super) family: &'a Family,
    pub(super) bench: &'a mut Bench<'b>,
    pub(super) task: Task,
}

impl Search<'_, '_> {
    /// The best setting that is found.
    pub(super) fn best(&mut self) -> Result<(Setting, Standing), AdviseError> {
        let found = self.climb()?;
        let found = self.pruned(found)?;
        let standing = self.standing(&found)?;
        Ok((found, standing))
    }

    /// What a setting does, and what it needs.
    pub(super) fn standing(&mut self, setting: &Setting) -> Result<Standing, AdviseError> {
        let task = self.task;
        let figures = self.one(setting, task.capacity)?;
        let roomy = figures.completes && self.one(setting, task.room)?.completes;
        let mut least = self.bench.least(&self.policies(std::slice::from_ref(setting))?)?[0];
        // More memory is not always better: what was seen to suffice counts.
        if figures.completes {
            let seen = if roomy { task.room } else { task.capacity };
            least = Some(least.map_or(seen, |least| least.min(seen)));
        }
        Ok(Standing { figures, roomy, least })
    }

    fn climb(&mut self) -> Result<Setting, AdviseError> {
        let starts = self.family.starts.clone();
        let memory = self.task.goal == Goal::Memory;
        let (mut at, needs) = self.leaner(starts, !memory)?;
        if memory {
            // A step of the search more is no difference.
            let most = needs + (needs as f64 * LESS_NEEDED) as u64;
            at.truncate(1);
            return self.faster(at, most);
        }
        let room = self.task.room;
        if self.completing(&at[..1], room)?.is_empty() {
            return Ok(at.swap_remove(0));
        }
        let at = self.faster(at, room)?;
        self.smaller(at)
    }

    /// Steps to less and less need of memory: the best settings, and what the first needs, as far as
    /// that was looked for. With `until_roomy` only until there is room; then they are those that
    /// have it.
    fn leaner(
        &mut self,
        mut at: Vec<Setting>,
        until_roomy: bool,
    ) -> Result<(Vec<Setting>, u64), AdviseError> {
        let until_roomy = until_roomy && self.task.room >= self.task.floor;
        if until_roomy && let Some(mut roomy) = self.roomy(&at)? {
            // One start may have room although the other leads to more.
            roomy.extend(self.roomy(&self.around(&at))?.unwrap_or_default());
            return Ok((roomy, self.task.room));
        }
        let least = self.bench.least(&self.policies(&at)?)?;
        let mut needs = least.iter().flatten().min().copied().unwrap_or(self.task.plenty);
        let mut order: Vec<_> = least.into_iter().zip(at).collect();
        order.sort_by_key(|&(least, _)| least.unwrap_or(u64::MAX));
        at = order.into_iter().map(|(_, setting)| setting).collect();
        for _ in 0..MOST_STEPS {
            let around = self.around(&at);
            if until_roomy && let Some(roomy) = self.roomy(&around)? {
                return Ok((roomy, self.task.room));
            }
            let (leanest, less) = self.leanest(around, needs)?;
            if leanest.is_empty() {
                break;
            }
            (at, needs) = (leanest, less);
        }
        Ok((at, needs))
    }

    /// Those that complete without what is to stay free; none if there are none.
    fn roomy(&mut self, settings: &[Setting]) -> Result<Option<Vec<Setting>>, AdviseError> {
        let roomy = self.completing(settings, self.task.room)?;
        let roomy = self.completing(&roomy, self.task.capacity)?;
        Ok((!roomy.is_empty()).then_some(roomy))
    }

    /// Of these settings the few that need least, the best first, and what it needs. Only if that is
    /// less than `needs` so that it counts: all are replayed with less and less memory, and who
    /// fails is out.
    fn leanest(
        &mut self,
        mut left: Vec<Setting>,
        needs: u64,
    ) -> Result<(Vec<Setting>, u64), AdviseError> {
        let floor = (self.task.floor / PAGE).max(1);
        let step = ((floor as f64 * STEP) as u64).max(1);
        let counts = (needs as f64 * (1.0 - LESS_NEEDED)) as u64;
        let mut enough = counts.min(needs.saturating_sub(PAGE)) / PAGE;
        let mut fails = floor - 1;
        if enough <= fails {
            return Ok((Vec::new(), needs));
        }
        left = self.completing(&left, enough * PAGE)?;
        // Who went out, the last first.
        let mut out: Vec<Setting> = Vec::new();
        while enough - fails > step && !left.is_empty() {
            let middle = fails + (enough - fails) / 2;
            let completing = self.completing(&left, middle * PAGE)?;
            if completing.is_empty() {
                fails = middle;
            } else {
                left.retain(|setting| !completing.contains(setting));
                out.splice(..0, std::mem::replace(&mut left, completing));
                enough = middle;
            }
        }
        left.sort_by_key(Setting::count);
        left.extend(out);
        left.truncate(WIDTH);
        Ok((left, enough * PAGE))
    }

    /// Steps to less and less time, among settings that complete with this little, as those do that
    /// it begins with.
    fn faster(&mut self, mut at: Vec<Setting>, most: u64) -> Result<Setting, AdviseError> {
        at = self.by_time(at)?;
        at.truncate(WIDTH);
        let mut best = at[0].clone();
        for _ in 0..MOST_STEPS {
            let around = self.around(&at);
            let around = self.completing(&around, self.task.capacity)?;
            let around = self.by_time(around)?;
            at.clear();
            for some in around.chunks(WIDTH) {
                at.extend(self.completing(some, most)?);
                if at.len() >= WIDTH {
                    break;
                }
            }
            at.truncate(WIDTH);
            let Some(first) = at.first().cloned() else { break };
            let time = self.one(&best, self.task.capacity)?.time();
            if self.one(&first, self.task.capacity)?.time() + self.task.less_time(time) >= time {
                break;
            }
            best = first;
        }
        Ok(best)
    }

    /// What differs from any of these in one option, in an order of its own.
    fn around(&self, settings: &[Setting]) -> Vec<Setting> {
        let around = settings.iter().flat_map(|setting| self.family.neighbours(setting));
        let around: BTreeSet<_> = around.filter(|setting| !settings.contains(setting)).collect();
        around.into_iter().collect()
    }

    /// Steps to less and less reserved memory, among settings that have room and are as fast.
    fn smaller(&mut self, mut at: Setting) -> Result<Setting, AdviseError> {
        let time = self.one(&at, self.task.capacity)?.time();
        let limit = time + self.task.less_time(time);
        for _ in 0..MOST_STEPS {
            let held = self.one(&at, self.task.capacity)?.peak_reserved;
            let around = self.family.neighbours(&at);
            let around = self.completing(&around, self.task.capacity)?;
            let figures = self.figures(&around)?;
            let mut good: Vec<_> = around.into_iter().zip(figures).collect();
            good.retain(|(_, figures)| {
                figures.time() <= limit && less(figures.peak_reserved, held, LESS_RESERVED)
            });
            good.sort_by_key(|(_, figures)| figures.peak_reserved);
            let good: Vec<_> = good.into_iter().map(|(setting, _)| setting).collect();
            match self.completing(&good, self.task.room)?.into_iter().next() {
                Some(better) => at = better,
                None => break,
            }
        }
        Ok(at)
    }

    /// The setting without the options that buy nothing: the simplest that is not beaten by it.
    fn pruned(&mut self, found: Setting) -> Result<Setting, AdviseError> {
        let best = self.standing(&found)?;
        let mut at = found;
        while let Some(simpler) = self.simpler(&at, &best)? {
            at = simpler;
        }
        Ok(at)
    }

    /// The setting without the first option that it does as well without.
    fn simpler(&mut self, at: &Setting, best: &Standing) -> Result<Option<Setting>, AdviseError> {
        for option in at.given() {
            let less = self.family.without(at, option);
            if self.family.policy(&less).is_err() {
                continue;
            }
            let figures = self.one(&less, self.task.capacity)?;
            // Cheaper than to look for what it needs, and enough to leave most of them out.
            let hopeless = figures.completes != best.figures.completes
                || (best.roomy && !self.fits(&less, self.task.room)?);
            if !hopeless && !best.beats(&self.standing(&less)?, &self.task) {
                return Ok(Some(less));
            }
        }
        Ok(None)
    }

    fn policies(&self, settings: &[Setting]) -> Result<Vec<PolicySpec>, AdviseError> {
        let policies = settings.iter().map(|setting| self.family.policy(setting));
        Ok(policies.collect::<Result<_, _>>()?)
    }

    /// What a setting does with so many bytes.
    fn one(&mut self, setting: &Setting, capacity: u64) -> Result<Figures, AdviseError> {
        let policies = self.policies(std::slice::from_ref(setting))?;
        Ok(self.bench.at(&policies, capacity)?[0])
    }

    fn fits(&mut self, setting: &Setting, capacity: u64) -> Result<bool, AdviseError> {
        Ok(self.one(setting, capacity)?.completes)
    }

    /// What settings do with all of the memory.
    fn figures(&mut self, settings: &[Setting]) -> Result<Vec<Figures>, AdviseError> {
        self.bench.at(&self.policies(settings)?, self.task.capacity)
    }

    /// Those that complete with so many bytes.
    fn completing(
        &mut self,
        settings: &[Setting],
        capacity: u64,
    ) -> Result<Vec<Setting>, AdviseError> {
        let figures = self.bench.at(&self.policies(settings)?, capacity)?;
        let done = settings.iter().zip(figures).filter(|(_, figures)| figures.completes);
        Ok(done.map(|(setting, _)| setting.clone()).collect())
    }

    /// The fastest first.
    fn by_time(&mut self, settings: Vec<Setting>) -> Result<Vec<Setting>, AdviseError> {
        let mut all: Vec<_> = self.figures(&settings)?.into_iter().zip(settings).collect();
        all.sort_by(|(one, _), (other, _)| one.time().total_cmp(&other.time()));
        Ok(all.into_iter().map(|(_, setting)| setting).collect())
    }
}
