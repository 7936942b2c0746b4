//! Axes: the unit of a quantity, and where its round values lie.

/// An axis from 0, in a unit of its own.
#[derive(Debug, PartialEq)]
pub(super) struct Axis {
    /// The unit's name.
    pub(super) unit: &'static str,
    /// What one of the unit is, in bytes or microseconds.
    pub(super) scale: f64,
    /// From one round value to the next, in the unit.
    step: f64,
    /// The end of the axis, in the unit.
    pub(super) end: f64,
}

const BYTES: [(&str, f64); 5] = [
    ("B", 1.0),
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("TiB", 1_099_511_627_776.0),
];

const TIMES: [(&str, f64); 5] =
    [("µs", 1.0), ("ms", 1e3), ("s", 1e6), ("min", 60e6), ("h", 3_600e6)];

impl Axis {
    /// For bytes up to `most`: ends at the round value above.
    pub(super) fn bytes(most: u64) -> Axis {
        // From half a GiB on, GiB are what a device is measured in.
        let mut axis = Axis::new(&BYTES, most as f64, 0.5);
        axis.end = (axis.end / axis.step).ceil() * axis.step;
        axis
    }

    /// For microseconds up to `most`, where it ends.
    pub(super) fn time(most: u64) -> Axis {
        Axis::new(&TIMES, most as f64, 2.0)
    }

    /// In the largest unit of which there are `least`.
    fn new(units: &[(&'static str, f64)], most: f64, least: f64) -> Axis {
        let most = most.max(1.0);
        let fits = |&&(_, scale): &&(&str, f64)| most >= least * scale;
        let (unit, scale) = *units.iter().rev().find(fits).unwrap_or(&units[0]);
        let end = most / scale;
        Axis { unit, scale, step: round_step(end / 5.0), end }
    }

    /// The round values and how they are written.
    pub(super) fn ticks(&self) -> impl Iterator<Item = (f64, String)> {
        let decimals = (-self.step.log10().floor()).max(0.0) as usize;
        let count = (self.end / self.step + 1e-9).floor() as u32;
        (0..=count).map(move |i| {
            let value = f64::from(i) * self.step;
            (value, format!("{value:.decimals$}"))
        })
    }
}

/// The least of 1, 2 and 5 times a power of ten that is not below `least` (> 0).
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|f| f * power >= least * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(axis: &Axis) -> String {
        let ticks: Vec<_> = axis.ticks().map(|(_, text)| text).collect();
        format!("{} {}", ticks.join(" "), axis.unit)
    }

    #[test]
    fn round_values_in_the_unit_that_fits() {
        for (bytes, expected) in [
            (0, "0.0 0.2 0.4 0.6 0.8 1.0 B"),
            (700 << 20, "0.0 0.2 0.4 0.6 0.8 GiB"),
            (12 << 30, "0 5 10 15 GiB"),
            (100 << 20, "0 20 40 60 80 100 MiB"),
            (u64::MAX, "0 5000000 10000000 15000000 20000000 TiB"),
        ] {
            assert_eq!(shown(&Axis::bytes(bytes)), expected);
        }
        for (us, expected) in [
            (0, "0.0 0.2 0.4 0.6 0.8 1.0 µs"),
            (6_700_000, "0 2 4 6 s"),
            (1_500_000, "0 500 1000 1500 ms"),
            (26_400_000, "0 10 20 s"),
            (150_000_000, "0.0 0.5 1.0 1.5 2.0 2.5 min"),
        ] {
            assert_eq!(shown(&Axis::time(us)), expected);
        }
    }

    #[test]
    fn a_byte_axis_ends_above_the_most_and_a_time_axis_at_it() {
        for most in [1, 1000, 3 << 30, (3 << 30) + 1, 80 << 30] {
            let bytes = Axis::bytes(most);
            assert!(bytes.end * bytes.scale >= most as f64 * 0.999_999, "{bytes:?}");
            let time = Axis::time(most);
            assert!((time.end * time.scale / most as f64 - 1.0).abs() < 1e-9, "{time:?}");
        }
    }
}
