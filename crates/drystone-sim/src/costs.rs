//! What each driver call costs, in nanoseconds of the virtual clock.
//!
//! All figures: H100 80GB HBM3, driver 580.159, CUDA 13.0, medians. The busy ones were measured by
//! `drystone-cuda`'s example `costs` (docs/results/gpu/costs.jsonl), the idle ones by calling the
//! CUDA runtime directly before this crate was written; the two agree within some percent.

use drystone_core::driver::DriverCall;

const MIB: u64 = 1 << 20;

/// A cost that depends on a size: straight lines between measured points.
///
/// Below the first point the cost is that of the first; beyond the last one the last slope goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeCost {
    /// (bytes, ns), ascending in bytes.
    points: Vec<(u64, u64)>,
}

impl SizeCost {
    /// A cost from measured points `(bytes, ns)`, in any order; of points of the same size the
    /// first counts. No point at all costs nothing.
    pub fn measured(points: &[(u64, u64)]) -> Self {
        let mut points = points.to_vec();
        points.sort_by_key(|p| p.0);
        points.dedup_by_key(|p| p.0);
        SizeCost { points }
    }

    /// The same cost, `ns`, for every size.
    pub fn flat(ns: u64) -> Self {
        SizeCost { points: vec![(0, ns)] }
    }

    /// The cost in nanoseconds of a call over `bytes`.
    pub fn at(&self, bytes: u64) -> u64 {
        let above = self.points.partition_point(|p| p.0 <= bytes);
        let (low, high) = match (above, self.points.len()) {
            (_, 0) => return 0,
            (0, _) | (_, 1) => return self.points[0].1,
            (above, len) if above == len => (self.points[len - 2], self.points[len - 1]),
            (above, _) => (self.points[above - 1], self.points[above]),
        };
        // Floating point, since this is the hot path and a 128-bit division is not; the result is
        // exact at the points. The cast saturates at both ends.
        let slope = (high.1 as f64 - low.1 as f64) / (high.0 - low.0) as f64;
        (low.1 as f64 + slope * (bytes - low.0) as f64).round() as u64
    }
}

/// The cost of each kind of driver call. The fields are nanoseconds, without any waiting for the
/// device, which comes on top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Costs {
    /// `device_memory` (cudaMemGetInfo).
    pub device_memory: u64,
    /// `segment_alloc` (cudaMalloc) that succeeds, by bytes.
    pub segment_alloc: SizeCost,
    /// `segment_alloc` that finds the device full.
    pub segment_alloc_out_of_memory: u64,
    /// `segment_free` (cudaFree), by bytes.
    pub segment_free: SizeCost,
    /// `address_reserve` (cuMemAddressReserve).
    pub address_reserve: u64,
    /// `address_free` (cuMemAddressFree).
    pub address_free: u64,
    /// `handle_create` (cuMemCreate) that succeeds, by bytes.
    pub handle_create: SizeCost,
    /// `handle_create` that finds the device full.
    pub handle_create_out_of_memory: u64,
    /// `handle_release` (cuMemRelease), by bytes.
    pub handle_release: SizeCost,
    /// `handle_export`.
    pub handle_export: u64,
    /// `handle_import`.
    pub handle_import: u64,
    /// `map` (cuMemMap).
    pub map: u64,
    /// `set_access` (cuMemSetAccess), for each mapping and device, by the mapping's bytes.
    pub set_access: SizeCost,
    /// `unmap` (cuMemUnmap), for each mapping, by its bytes.
    pub unmap: SizeCost,
    /// `event_create`.
    pub event_create: u64,
    /// `event_destroy`.
    pub event_destroy: u64,
    /// `event_record`.
    pub event_record: u64,
    /// `event_query`.
    pub event_query: u64,
    /// `event_synchronize`, before the wait.
    pub event_synchronize: u64,
    /// `stream_wait_event`.
    pub stream_wait_event: u64,
    /// `device_synchronize`, before the wait.
    pub device_synchronize: u64,
}

impl Costs {
    /// The costs while memory-bound kernels keep the device busy: what a training loop sees.
    ///
    /// A query is charged as one that finds its event done; one that does not takes 220 ns.
    ///
    /// Not measured but assumed: `handle_release` above 128 MiB and running out of memory in
    /// `handle_create` cost what they do on an idle device, and so do the calls that have to do
    /// with addresses only; `handle_export` and `handle_import` cost 3 µs.
    pub fn busy() -> Self {
        Costs {
            device_memory: 4_410,
            segment_alloc: SizeCost::measured(&[
                (512, 42_000),
                (2 * MIB, 42_560),
                (20 * MIB, 45_810),
                (128 * MIB, 96_470),
                (1024 * MIB, 119_170),
            ]),
            segment_alloc_out_of_memory: 2_032_490,
            segment_free: SizeCost::measured(&[
                (512, 32_090),
                (2 * MIB, 32_500),
                (20 * MIB, 37_720),
                (128 * MIB, 75_970),
                (1024 * MIB, 488_480),
            ]),
            address_reserve: 1_200,
            address_free: 1_200,
            handle_create: SizeCost::measured(&[(2 * MIB, 9_000), (128 * MIB, 11_000)]),
            handle_create_out_of_memory: 36_000,
            handle_release: SizeCost::measured(&[
                (2 * MIB, 10_000),
                (8 * MIB, 13_000),
                (32 * MIB, 26_000),
                (128 * MIB, 44_000),
                (256 * MIB, 81_000),
                (1024 * MIB, 314_000),
            ]),
            handle_export: 3_000,
            handle_import: 3_000,
            map: 800,
            set_access: SizeCost::measured(&[
                (2 * MIB, 35_000),
                (128 * MIB, 35_000),
                (256 * MIB, 43_000),
                (1024 * MIB, 73_000),
            ]),
            unmap: SizeCost::measured(&[
                (2 * MIB, 36_000),
                (8 * MIB, 42_000),
                (32 * MIB, 57_000),
                (128 * MIB, 67_000),
            ]),
            event_create: 230,
            event_destroy: 200,
            event_record: 300,
            event_query: 1_350,
            event_synchronize: 1_370,
            stream_wait_event: 280,
            device_synchronize: 410,
        }
    }

    /// The costs on an otherwise idle device.
    ///
    /// The two synchronize calls have no measured figure: the event's is assumed to be that of a
    /// query, the device's 1 µs. Both are small beside any wait. Neither have `address_free`,
    /// assumed to cost as much as `address_reserve`, and `handle_export` and `handle_import`,
    /// assumed to cost 3 µs.
    pub fn idle() -> Self {
        Costs {
            device_memory: 4_900,
            segment_alloc: SizeCost::measured(&[
                (512, 33_000),
                (2 * MIB, 33_000),
                (20 * MIB, 35_000),
                (128 * MIB, 55_000),
                (1024 * MIB, 101_000),
            ]),
            segment_alloc_out_of_memory: 103_000,
            segment_free: SizeCost::measured(&[
                (512, 30_000),
                (2 * MIB, 30_000),
                (20 * MIB, 40_000),
                (128 * MIB, 80_000),
                (1024 * MIB, 338_000),
            ]),
            address_reserve: 1_200,
            address_free: 1_200,
            handle_create: SizeCost::measured(&[
                (2 * MIB, 8_600),
                (32 * MIB, 8_400),
                (256 * MIB, 11_000),
                (1024 * MIB, 19_000),
            ]),
            handle_create_out_of_memory: 36_000,
            handle_release: SizeCost::measured(&[
                (2 * MIB, 9_000),
                (8 * MIB, 11_000),
                (16 * MIB, 13_000),
                (32 * MIB, 20_000),
                (64 * MIB, 30_000),
                (256 * MIB, 81_000),
                (1024 * MIB, 314_000),
            ]),
            handle_export: 3_000,
            handle_import: 3_000,
            map: 750,
            set_access: SizeCost::measured(&[
                (2 * MIB, 22_000),
                (64 * MIB, 22_000),
                (256 * MIB, 33_000),
                (1024 * MIB, 63_000),
            ]),
            unmap: SizeCost::measured(&[
                (2 * MIB, 15_000),
                (64 * MIB, 15_000),
                (256 * MIB, 19_000),
            ]),
            event_create: 200,
            event_destroy: 220,
            // 190 to 320 on the facts page.
            event_record: 250,
            event_query: 140,
            event_synchronize: 140,
            stream_wait_event: 170,
            device_synchronize: 1_000,
        }
    }

    /// No cost at all: the clock moves only by waiting and by hand.
    pub fn zero() -> Self {
        Costs {
            device_memory: 0,
            segment_alloc: SizeCost::flat(0),
            segment_alloc_out_of_memory: 0,
            segment_free: SizeCost::flat(0),
            address_reserve: 0,
            address_free: 0,
            handle_create: SizeCost::flat(0),
            handle_create_out_of_memory: 0,
            handle_release: SizeCost::flat(0),
            handle_export: 0,
            handle_import: 0,
            map: 0,
            set_access: SizeCost::flat(0),
            unmap: SizeCost::flat(0),
            event_create: 0,
            event_destroy: 0,
            event_record: 0,
            event_query: 0,
            event_synchronize: 0,
            stream_wait_event: 0,
            device_synchronize: 0,
        }
    }
}

impl Costs {
    /// The cost of a call of this kind that finds the device full.
    pub(crate) fn out_of_memory(&self, call: DriverCall) -> u64 {
        match call {
            DriverCall::SegmentAlloc => self.segment_alloc_out_of_memory,
            DriverCall::HandleCreate => self.handle_create_out_of_memory,
            _ => 0,
        }
    }
}

impl Default for Costs {
    fn default() -> Self {
        Costs::busy()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_points_are_met_exactly() {
        let costs = Costs::idle();
        for (mib, alloc, free) in [
            (2, 33_000, 30_000),
            (20, 35_000, 40_000),
            (128, 55_000, 80_000),
            (1024, 101_000, 338_000),
        ] {
            assert_eq!(costs.segment_alloc.at(mib * MIB), alloc);
            assert_eq!(costs.segment_free.at(mib * MIB), free);
        }
    }

    /// (MiB, create, set_access, unmap, release) in microseconds.
    #[test]
    fn handles_cost_what_was_measured() {
        let busy =
            [(2, 9, 35, 36, 10), (8, 9, 35, 42, 13), (32, 9, 35, 57, 26), (128, 11, 35, 67, 44)];
        let idle = [
            (8, 9, 22, 15, 11),
            (32, 8, 22, 15, 20),
            (256, 11, 33, 19, 81),
            (1024, 19, 63, 35, 314),
        ];
        for (costs, rows) in [(Costs::busy(), busy), (Costs::idle(), idle)] {
            for (mib, create, access, unmap, release) in rows {
                let us = |cost: &SizeCost| (cost.at(mib * MIB) as f64 / 1000.0).round() as u64;
                assert_eq!(us(&costs.handle_create), create, "create of {mib} MiB");
                assert_eq!(us(&costs.set_access), access, "set_access of {mib} MiB");
                assert_eq!(us(&costs.unmap), unmap, "unmap of {mib} MiB");
                assert_eq!(us(&costs.handle_release), release, "release of {mib} MiB");
            }
        }
        let large = Costs::busy().set_access;
        assert_eq!((large.at(256 * MIB), large.at(1024 * MIB)), (43_000, 73_000));
    }

    #[test]
    fn lines_between_and_beyond_the_points() {
        let cost = SizeCost::measured(&[(30, 100), (10, 20), (20, 50), (20, 999)]);
        let expected = [(0, 20), (10, 20), (15, 35), (20, 50), (25, 75), (30, 100), (50, 200)];
        for (bytes, ns) in expected {
            assert_eq!(cost.at(bytes), ns, "{bytes} bytes");
        }
        assert_eq!(cost.at(u64::MAX), u64::MAX);
    }

    #[test]
    fn falling_costs_stop_at_zero() {
        assert_eq!(SizeCost::measured(&[(0, 10), (10, 5)]).at(100), 0);
        assert_eq!(SizeCost::measured(&[]).at(100), 0);
        assert_eq!(SizeCost::flat(7).at(u64::MAX), 7);
    }
}
