//! Units of the block layer: granules, the border between small and large, and how requests round.

/// Bytes in a granule: every block starts at a multiple of it and has a multiple of it in size.
pub const GRANULE: u64 = 512;

/// log2 of [`GRANULE`].
pub(crate) const GRANULE_SHIFT: u32 = 9;

/// log2 of the bytes in a page: what is remapped consists of whole pages. CUDA's granularity on
/// every device that can map memory; a device with larger pages is served in segments.
pub(crate) const PAGE_SHIFT: u32 = 21;

/// Bytes in a page.
pub(crate) const PAGE: u64 = 1 << PAGE_SHIFT;

/// Granules in a page.
pub(crate) const GRANULES_PER_PAGE: u32 = 1 << (PAGE_SHIFT - GRANULE_SHIFT);

/// Requests that round to at most this many bytes are small and live in segments of their own.
pub const SMALL_LIMIT: u64 = 1 << 20;

/// One mebibyte.
pub(crate) const MIB: u64 = 1 << 20;

/// The largest request, 1 TiB: more than any device has, little enough that no sum overflows.
pub const MAX_REQUEST: u64 = 1 << 40;

/// The largest alignment that can be asked for, 1 GiB.
pub const MAX_ALIGN: u64 = 1 << 30;

/// Whether a block, or the segment it lies in, holds small or large requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Requests of at most [`SMALL_LIMIT`] bytes.
    Small = 0,
    /// All others.
    Large = 1,
}

impl Kind {
    /// Both kinds, in index order.
    pub const ALL: [Kind; 2] = [Kind::Small, Kind::Large];

    /// The name in snapshots and statistics: "small" or "large".
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Small => "small",
            Kind::Large => "large",
        }
    }
}

/// `bytes` up to the next multiple of `step` (a power of two or not, never 0).
pub(crate) const fn round_up(bytes: u64, step: u64) -> u64 {
    bytes.div_ceil(step) * step
}

/// `size` up to the next of `divisions` equal steps between the powers of two around it.
pub(crate) fn round_to_division(size: u64, divisions: u64) -> u64 {
    if size.is_power_of_two() {
        return size;
    }
    let floor = 1u64 << size.ilog2();
    let step = floor / divisions;
    if step == 0 { floor * 2 } else { round_up(size, step) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisions_follow_torch() {
        // Four divisions between 1,024 and 2,048: 1,024 1,280 1,536 1,792 2,048.
        assert_eq!(round_to_division(1200, 4), 1280);
        assert_eq!(round_to_division(1281, 4), 1536);
        assert_eq!(round_to_division(1793, 4), 2048);
        assert_eq!(round_to_division(2048, 4), 2048);
        assert_eq!(round_to_division(3, 4), 4);
    }
}
