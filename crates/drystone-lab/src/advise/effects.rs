//! What the options of a setting buy, one by one: each alone beside the default, and the setting
//! without it.

use serde::Serialize;

use super::options::{Family, Setting};
use super::order::{Standing, Task};
use super::search::Search;
use super::{AdviseError, FamilyAdvice};

/// A setting and what it does. Sizes are in bytes, times in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// The options as `key:value,key:value`; empty for the default.
    pub setting: String,
    /// The line to copy, `VARIABLE=setting`; empty for the default.
    pub line: String,
    /// The policy that was replayed, as on the command line of `drystone replay`.
    pub policy: String,
    /// Whether the run completes with the capacity. If not, what was held and the times are those
    /// until the request that failed.
    pub completes: bool,
    /// Whether it also completes without the memory that should stay free.
    pub has_headroom: bool,
    /// The least memory of each device with which the run completes; none if no memory is enough.
    pub min_capacity_bytes: Option<u64>,
    /// The capacity above that; none where the run does not complete with the capacity.
    pub spare_bytes: Option<u64>,
    /// The most bytes held of the devices at once.
    pub peak_reserved_bytes: u64,
    /// The same, divided by the peak of live bytes; none if nothing was live.
    pub ratio: Option<f64>,
    /// Time in driver calls without waiting for the device.
    pub driver_us: f64,
    /// Time waiting for the device.
    pub wait_us: f64,
}

impl Trial {
    fn of(
        family: &Family,
        setting: &Setting,
        standing: &Standing,
        task: &Task,
    ) -> Result<Self, AdviseError> {
        let figures = standing.figures;
        Ok(Trial {
            setting: family.text(setting),
            line: family.line(setting),
            policy: family.policy(setting)?.to_string(),
            completes: figures.completes,
            has_headroom: standing.roomy,
            min_capacity_bytes: standing.least,
            spare_bytes: figures.completes.then(|| task.capacity.saturating_sub(standing.needs())),
            peak_reserved_bytes: figures.peak_reserved,
            ratio: figures.ratio,
            driver_us: figures.driver_us,
            wait_us: figures.wait_us,
        })
    }
}

/// What was done with an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// It alone was set.
    Only,
    /// It was left out.
    Without,
}

/// What an option of a recommended setting does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Effect {
    /// The option, as in `max_split_size_mb:64`.
    pub option: String,
    /// What was done with it.
    pub part: Part,
    /// What came of it.
    pub trial: Trial,
}

/// The recommended setting beside the default and the steps between them.
pub(super) fn of(
    search: &mut Search<'_, '_>,
    recommended: &Setting,
) -> Result<FamilyAdvice, AdviseError> {
    let family = search.family;
    let mut trial = |setting: &Setting| {
        let standing = search.standing(setting)?;
        Trial::of(family, setting, &standing, &search.task)
    };
    let mut effects = Vec::new();
    if recommended.count() > 1 {
        for option in recommended.given() {
            let written = family.written(recommended, option);
            for (part, setting) in [
                (Part::Only, family.only(recommended, option)),
                (Part::Without, family.without(recommended, option)),
            ] {
                // Some options are of no use, or not allowed, without another one.
                if setting != *recommended && family.policy(&setting).is_ok() {
                    let option = written.to_owned();
                    effects.push(Effect { option, part, trial: trial(&setting)? });
                }
            }
        }
    }
    Ok(FamilyAdvice {
        family: family.name,
        recommended: trial(recommended)?,
        default: trial(&family.default())?,
        effects,
    })
}
