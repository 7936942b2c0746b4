//! Where memory comes from, and how eagerly more of it is taken: the two choices about backing.

/// What stands behind blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Backing {
    /// Pages of physical memory, mapped where they are needed, where the device can do that;
    /// segments where it cannot.
    #[default]
    Vmm,
    /// Segments: each from one driver allocation, given back whole, never remapped.
    Malloc,
}

impl Backing {
    const ALL: [Self; 2] = [Self::Vmm, Self::Malloc];

    /// The value's name in a configuration string.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vmm => "vmm",
            Self::Malloc => "malloc",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|value| value.name() == name)
    }
}

/// When free pages are remapped instead of new memory being taken, with [`Backing::Vmm`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reserve {
    /// Always, as far as free pages go: the least memory.
    Lean,
    /// Once a small slack over the peak of live bytes is reserved.
    #[default]
    Balanced,
    /// Only when the device, or the limit, has no more: the fewest driver calls.
    Fast,
}

impl Reserve {
    const ALL: [Self; 3] = [Self::Lean, Self::Balanced, Self::Fast];

    /// The value's name in a configuration string.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lean => "lean",
            Self::Balanced => "balanced",
            Self::Fast => "fast",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|value| value.name() == name)
    }
}
