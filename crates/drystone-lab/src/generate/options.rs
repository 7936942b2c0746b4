//! The options of generators: one table for each says what there is, within which bounds, and is
//! what help shows and values are checked against.

use std::fmt;

/// The values that an option can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// A whole number, from the first to the last.
    Number(u64, u64),
    /// One of these words.
    Word(&'static [&'static str]),
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Allowed::Number(least, most) => write!(f, "a whole number from {least} to {most}"),
            Allowed::Word(words) => write!(f, "{}", words.join(" or ")),
        }
    }
}

/// An option of a generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneratorOption {
    /// The key, as in `key=value`.
    pub name: &'static str,
    /// What it does, with its unit.
    pub help: &'static str,
    /// The values allowed.
    pub allowed: Allowed,
    /// What holds without it.
    pub default: &'static str,
}

/// An option that is a number.
pub(super) const fn number(
    name: &'static str,
    help: &'static str,
    (least, most): (u64, u64),
    default: &'static str,
) -> GeneratorOption {
    GeneratorOption { name, help, allowed: Allowed::Number(least, most), default }
}

/// An option that is one of some words.
pub(super) const fn word(
    name: &'static str,
    help: &'static str,
    words: &'static [&'static str],
    default: &'static str,
) -> GeneratorOption {
    GeneratorOption { name, help, allowed: Allowed::Word(words), default }
}

/// The values of a generator's options, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Values {
    known: &'static [GeneratorOption],
    /// For each known option: which number, or which of the words.
    chosen: Vec<u64>,
}

impl Values {
    /// All defaults.
    pub(super) fn defaults(known: &'static [GeneratorOption]) -> Result<Self, String> {
        let chosen: Result<_, _> =
            known.iter().map(|option| read(option, option.default)).collect();
        Ok(Values { known, chosen: chosen? })
    }

    /// Sets an option. An error says what is wrong and what is allowed.
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let Some(index) = self.known.iter().position(|option| option.name == key) else {
            let all: Vec<_> = self.known.iter().map(|option| option.name).collect();
            return Err(format!("there is no option `{key}`; the options are {}", all.join(", ")));
        };
        self.chosen[index] = read(&self.known[index], value)?;
        Ok(())
    }

    fn index(&self, key: &str) -> Option<usize> {
        self.known.iter().position(|option| option.name == key)
    }

    /// The number of an option; 0 for one that there is not.
    pub(super) fn number(&self, key: &str) -> u64 {
        self.index(key).map_or(0, |index| self.chosen[index])
    }

    /// Whether an option is this word.
    pub(super) fn is(&self, key: &str, word: &str) -> bool {
        self.index(key).is_some_and(|index| match self.known[index].allowed {
            Allowed::Word(words) => words.get(self.chosen[index] as usize) == Some(&word),
            Allowed::Number(..) => false,
        })
    }
}

fn read(option: &GeneratorOption, value: &str) -> Result<u64, String> {
    let chosen = match option.allowed {
        Allowed::Number(least, most) => {
            value.parse().ok().filter(|number| (least..=most).contains(number))
        }
        Allowed::Word(words) => words.iter().position(|word| *word == value).map(|at| at as u64),
    };
    let GeneratorOption { name, allowed, .. } = option;
    chosen.ok_or_else(|| format!("`{name}` cannot be `{value}`; allowed is {allowed}"))
}
