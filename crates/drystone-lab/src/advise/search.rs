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

use super::bench::{Bench, Figures};
use super::options::{Family, Setting};
use super::order::{LESS_MEMORY, Standing, Task};
use super::workload::PAGE;
use super::{AdviseError, Goal};
use crate::policy::PolicySpec;

/// The most steps in one stage.
const MOST_STEPS: usize = 6;
/// How many of the best are followed at once: two options may help together that were not the best
/// alone.
const WIDTH: usize = 3;
/// How exact the search knows what a setting needs, as a part of the floor.
const STEP: f64 = 0.005;

/// A search among the settings of one allocator.
pub(super) struct Search<'a, 'b> {
    pub(super) family: &'a Family,
    pub(super) bench: &'a mut Bench<'b>,
    pub(super) task: Task,
}

impl Search<'_, '_> {
    /// The best setting that is found.
    pub(super) fn best(&mut self) -> Result<(Setting, Standing), AdviseError> {
        let (found, bound) = self.climb()?;
        let found = self.pruned(found, bound)?;
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

    /// The best setting, whatever options it has; and how much of the goal a simpler one may have,
    /// which is without a bound where nothing has room.
    fn climb(&mut self) -> Result<(Setting, f64), AdviseError> {
        let starts = self.family.starts.clone();
        let (mut at, roomy) = self.with_room(starts)?;
        if !roomy {
            return Ok((at.swap_remove(0), f64::INFINITY));
        }
        let (goal, other) = (self.task.goal, self.task.goal.other());
        let at = self.descend(at, goal, None)?;
        let found = goal.of(&self.one(&at, self.task.capacity)?);
        let bound = found + self.task.counts(goal, found);
        Ok((self.descend(vec![at], other, Some((goal, bound)))?, bound))
    }

    /// Steps to less and less need of memory, until there are settings that complete without what is
    /// to stay free: those. Or else the few that need least, the best first, and that there is none.
    fn with_room(&mut self, mut at: Vec<Setting>) -> Result<(Vec<Setting>, bool), AdviseError> {
        if let Some(mut roomy) = self.roomy(&at)? {
            // One start may have room although the other leads to more.
            roomy.extend(self.roomy(&self.around(&at))?.unwrap_or_default());
            return Ok((roomy, true));
        }
        let least = self.bench.least(&self.policies(&at)?)?;
        let mut needs = least.iter().flatten().min().copied().unwrap_or(self.task.plenty);
        let mut order: Vec<_> = least.into_iter().zip(at).collect();
        order.sort_by_key(|&(least, _)| least.unwrap_or(u64::MAX));
        at = order.into_iter().map(|(_, setting)| setting).collect();
        for _ in 0..MOST_STEPS {
            let around = self.around(&at);
            if let Some(roomy) = self.roomy(&around)? {
                return Ok((roomy, true));
            }
            let (leanest, less) = self.leanest(around, needs)?;
            if leanest.is_empty() {
                break;
            }
            (at, needs) = (leanest, less);
        }
        Ok((at, false))
    }

    /// Those that complete without what is to stay free; none if there are none.
    fn roomy(&mut self, settings: &[Setting]) -> Result<Option<Vec<Setting>>, AdviseError> {
        if self.task.room < self.task.floor {
            return Ok(None);
        }
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
        let counts = (needs as f64 * (1.0 - LESS_MEMORY)) as u64;
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

    /// Steps to less and less time or memory, among settings with room, as those have that it begins
    /// with; and with no more than so much of the other.
    fn descend(
        &mut self,
        mut at: Vec<Setting>,
        by: Goal,
        bound: Option<(Goal, f64)>,
    ) -> Result<Setting, AdviseError> {
        at = self.ordered(at, by)?;
        at.truncate(WIDTH);
        let mut best = at[0].clone();
        for _ in 0..MOST_STEPS {
            let around = self.around(&at);
            let mut around = self.completing(&around, self.task.capacity)?;
            if let Some((goal, most)) = bound {
                let figures = self.figures(&around)?;
                let mut within = figures.iter().map(|figures| goal.of(figures) <= most);
                around.retain(|_| within.next() == Some(true));
            }
            let around = self.ordered(around, by)?;
            at.clear();
            for some in around.chunks(WIDTH) {
                at.extend(self.completing(some, self.task.room)?);
                if at.len() >= WIDTH {
                    break;
                }
            }
            at.truncate(WIDTH);
            let Some(first) = at.first().cloned() else { break };
            let before = by.of(&self.one(&best, self.task.capacity)?);
            let now = by.of(&self.one(&first, self.task.capacity)?);
            if now + self.task.counts(by, before) >= before {
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

    /// The setting without the options that buy nothing: the simplest that is not beaten by it.
    fn pruned(&mut self, found: Setting, bound: f64) -> Result<Setting, AdviseError> {
        let best = self.standing(&found)?;
        let mut at = found;
        while let Some(simpler) = self.simpler(&at, &best, bound)? {
            at = simpler;
        }
        Ok(at)
    }

    /// The setting without the first option that it does as well without.
    fn simpler(
        &mut self,
        at: &Setting,
        best: &Standing,
        bound: f64,
    ) -> Result<Option<Setting>, AdviseError> {
        for option in at.given() {
            let less = self.family.without(at, option);
            if self.family.policy(&less).is_err() {
                continue;
            }
            let figures = self.one(&less, self.task.capacity)?;
            // Cheaper than to look for what it needs, and enough to leave most of them out.
            let hopeless = figures.completes != best.figures.completes
                || self.task.goal.of(&figures) > bound
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

    /// Those with the least time or memory first.
    fn ordered(&mut self, settings: Vec<Setting>, by: Goal) -> Result<Vec<Setting>, AdviseError> {
        let mut all: Vec<_> = self.figures(&settings)?.into_iter().zip(settings).collect();
        all.sort_by(|(one, _), (other, _)| by.of(one).total_cmp(&by.of(other)));
        Ok(all.into_iter().map(|(_, setting)| setting).collect())
    }
}
