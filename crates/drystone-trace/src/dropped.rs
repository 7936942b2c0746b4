//! The report of what a reader dropped or repaired: how often, and where first.

use std::fmt;

use crate::error::Position;

/// A kind of event that makes no sense as recorded, and what was done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Oddity {
    /// A free of a block that was never allocated: dropped.
    UnknownBlock,
    /// A second request to free a block, before or after the free was completed: dropped.
    RequestedTwice,
    /// A second completion of a block's free: dropped.
    CompletedTwice,
    /// A completed free that nobody requested: a request was put before it.
    NotRequested,
    /// An allocation under the number or address of a live block: the live one was freed first.
    AllocOfLive,
    /// A free with another size than its allocation: the allocation's was taken.
    SizeMismatch,
    /// A time before the one of the event before it: set to that one.
    TimeWentBack,
    /// An action of a snapshot's ring that this version does not know: dropped.
    UnknownAction,
    /// A block in use in a snapshot's segments whose last event in the ring is a free: left out.
    InUseAfterFree,
    /// A block live at the end of a ring that the snapshot's segments do not have: kept as live.
    MissingFromSegments,
    /// An allocation or free of no address, as of blocks without bytes: dropped.
    NoAddress,
    /// A stream that no number of 64 bits names: the default stream was taken.
    StreamOutOfRange,
}

impl Oddity {
    /// All kinds; the native format names them by their place in here, so that new ones go to the
    /// end.
    pub(crate) const ALL: [Oddity; 12] = [
        Oddity::UnknownBlock,
        Oddity::RequestedTwice,
        Oddity::CompletedTwice,
        Oddity::NotRequested,
        Oddity::AllocOfLive,
        Oddity::SizeMismatch,
        Oddity::TimeWentBack,
        Oddity::UnknownAction,
        Oddity::InUseAfterFree,
        Oddity::MissingFromSegments,
        Oddity::NoAddress,
        Oddity::StreamOutOfRange,
    ];
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Oddity::UnknownBlock => "free of a block that was never allocated, dropped",
            Oddity::RequestedTwice => "free requested again, dropped",
            Oddity::CompletedTwice => "free completed again, dropped",
            Oddity::NotRequested => "free completed without a request, request added",
            Oddity::AllocOfLive => "allocation of a live block, the live one freed first",
            Oddity::SizeMismatch => "free with another size, size of the allocation taken",
            Oddity::TimeWentBack => "time going back, set to the time before",
            Oddity::UnknownAction => "unknown action, dropped",
            Oddity::InUseAfterFree => "block in use whose last event is a free, left out",
            Oddity::MissingFromSegments => "live block missing from the segments, kept",
            Oddity::NoAddress => "allocation or free without an address, dropped",
            Oddity::StreamOutOfRange => "stream beyond 64 bits, default stream taken",
        })
    }
}

/// How often an [`Oddity`] occurred, and where first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it was.
    pub oddity: Oddity,
    /// How often.
    pub count: u64,
    /// Where first.
    pub first: Position,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} times, first at {}", self.oddity, self.count, self.first)
    }
}

/// All that was dropped or repaired in one trace; at most one [`Finding`] a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    findings: Vec<Finding>,
}

impl Dropped {
    /// What was found, in the order of first occurrence.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether the input made sense throughout.
    pub fn is_empty(&self) -> bool {
        self.findings.is_empty()
    }

    /// How often `oddity` occurred.
    pub fn count(&self, oddity: Oddity) -> u64 {
        self.findings.iter().find(|f| f.oddity == oddity).map_or(0, |f| f.count)
    }

    pub(crate) fn note(&mut self, oddity: Oddity, at: Position) {
        self.add(Finding { oddity, count: 1, first: at });
    }

    /// Counts what was found elsewhere, after all that is in here.
    pub(crate) fn add(&mut self, found: Finding) {
        match self.findings.iter_mut().find(|f| f.oddity == found.oddity) {
            Some(finding) => finding.count = finding.count.saturating_add(found.count),
            None => self.findings.push(found),
        }
    }
}
