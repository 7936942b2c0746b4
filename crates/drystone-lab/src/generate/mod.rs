//! Traces that no one can share, made from a seed: benchmarks' random allocations exactly, and
//! loops of training and serving programs as users run them.
//!
//! The same generator, options and seed give the same trace on every machine. To add a generator,
//! write a file that ends in a [`GeneratorInfo`], and name it in [`GENERATORS`].

mod diffusion;
mod libstdcxx;
mod options;
mod rmm;
mod serve;
mod tape;
mod train;
mod zero3;

use std::fmt;
use std::str::FromStr;

use drystone_core::config::nearest;
use drystone_trace::Trace;

use options::Values;
pub use options::{Allowed, GeneratorOption};

/// Every generator, in the order in which they are listed.
pub static GENERATORS: &[GeneratorInfo] =
    &[rmm::RANDOM, rmm::MULTI_STREAM, train::INFO, zero3::INFO, serve::INFO, diffusion::INFO];

/// A generator's entry in [`GENERATORS`].
#[derive(Debug)]
pub struct GeneratorInfo {
    /// The name on the command line.
    pub name: &'static str,
    /// What it makes, in a sentence.
    pub summary: &'static str,
    /// The options that it takes.
    pub options: &'static [GeneratorOption],
    /// Makes the trace of a seed.
    make: fn(&Values, u64) -> Result<Trace, String>,
}

/// A generator with its options, checked: `NAME` or `NAME:key=value,key=value`.
#[derive(Clone, Debug)]
pub struct GeneratorSpec {
    /// Which.
    pub info: &'static GeneratorInfo,
    values: Values,
}

impl GeneratorSpec {
    /// The trace of a seed. No event was dropped, and nothing is live at the end but what the
    /// program that is imitated leaves behind.
    ///
    /// # Errors
    /// The options ask for more events than a trace may have.
    pub fn generate(&self, seed: u64) -> Result<Trace, GenerateError> {
        let refused = |why| GenerateError::Options { name: self.info.name, why };
        (self.info.make)(&self.values, seed).map_err(refused)
    }
}

impl FromStr for GeneratorSpec {
    type Err = GenerateError;

    fn from_str(text: &str) -> Result<Self, GenerateError> {
        let (name, options) = text.split_once(':').unwrap_or((text, ""));
        let Some(info) = GENERATORS.iter().find(|info| info.name == name.trim()) else {
            let nearest = nearest(name, GENERATORS.iter().map(|info| info.name));
            return Err(GenerateError::Unknown { name: name.to_owned(), nearest });
        };
        let refused = |why| GenerateError::Options { name: info.name, why };
        let mut values = Values::defaults(info.options).map_err(refused)?;
        for option in options.split(',').filter(|option| !option.trim().is_empty()) {
            let Some((key, value)) = option.split_once('=') else {
                let why = format!("`{option}` is no option: the form is key=value,key=value");
                return Err(refused(why));
            };
            values.set(key.trim(), value.trim()).map_err(refused)?;
        }
        Ok(GeneratorSpec { info, values })
    }
}

/// Why there is no such generated trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// No generator has this name.
    #[error("unknown generator `{name}`{}; the generators are {}", Meant(*.nearest), names())]
    Unknown {
        /// The name as written.
        name: String,
        /// The generator that it resembles, if any does.
        nearest: Option<&'static str>,
    },
    /// An option is wrong, or all together are too much.
    #[error("{name}: {why}")]
    Options {
        /// The generator.
        name: &'static str,
        /// What is wrong, and what is allowed.
        why: String,
    },
}

struct Meant(Option<&'static str>);

impl fmt::Display for Meant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, " (did you mean `{name}`?)"),
            None => Ok(()),
        }
    }
}

fn names() -> String {
    GENERATORS.iter().map(|info| info.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
