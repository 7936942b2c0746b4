//! What is better: first whether the run completes, then the goal, then the other one of time and
//! memory. Small differences do not count.

use super::Goal;
use super::bench::Figures;

/// Time that is less counts only from this part of it on ...
const LESS_TIME: f64 = 0.05;
/// ... and from this part of the run on.
const LESS_OF_RUN: f64 = 0.001;
/// Memory that is less, needed or reserved, counts from this part on.
pub(super) const LESS_MEMORY: f64 = 0.01;

impl Goal {
    /// What a setting is measured by.
    pub(super) fn of(self, figures: &Figures) -> f64 {
        match self {
            Goal::Time => figures.driver_us + figures.wait_us,
            Goal::Memory => figures.peak_reserved as f64,
        }
    }

    pub(super) fn other(self) -> Goal {
        match self {
            Goal::Time => Goal::Memory,
            Goal::Memory => Goal::Time,
        }
    }
}

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
    /// How much less than that counts.
    pub(super) fn counts(&self, goal: Goal, than: f64) -> f64 {
        match goal {
            Goal::Time => (than * LESS_TIME).max(self.run_us as f64 * LESS_OF_RUN),
            Goal::Memory => than * LESS_MEMORY,
        }
    }

    /// Whether it is less so that it counts.
    fn less(&self, goal: Goal, one: &Figures, than: &Figures) -> bool {
        let than = goal.of(than);
        goal.of(one) + self.counts(goal, than) < than
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
        let less = |goal| task.less(goal, &self.figures, &other.figures);
        let more = |goal| task.less(goal, &other.figures, &self.figures);
        if self.grade() == 2 {
            return less(task.goal) || (!more(task.goal) && less(task.goal.other()));
        }
        // What completes only just, or not at all: the times until then are no match.
        let fewer = |one: u64, than: u64| (one as f64) < than as f64 * (1.0 - LESS_MEMORY);
        let (one, than) = (self.needs(), other.needs());
        fewer(one, than) || (!fewer(than, one) && self.grade() == 1 && less(Goal::Time))
    }
}
