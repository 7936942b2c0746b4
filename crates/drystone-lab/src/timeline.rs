//! Live and reserved bytes over a trace's time, in at most [`POINTS`] steps that keep the maxima.

use drystone_trace::Trace;

/// The most points of a timeline.
pub(crate) const POINTS: u64 = 2_000;

/// The most bytes at any moment of one step of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// Bytes requested and not free-completed.
    pub live: u64,
    /// Bytes held of the device.
    pub reserved: u64,
}

/// Bytes over time, from the trace's first event on: point `i` is of the microseconds from
/// `i * step_us` to below `(i + 1) * step_us`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// Microseconds from one point to the next.
    pub step_us: u64,
    /// The points, until the end of the trace or of the replay, if that stopped before.
    pub points: Vec<Point>,
}

/// Bytes on the average of the time that passed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Mean {
    /// Bytes requested and not free-completed.
    pub(crate) live: f64,
    /// Bytes held of the device.
    pub(crate) reserved: f64,
}

/// Builds a timeline as time passes.
pub(crate) struct Sampler {
    timeline: Timeline,
    start_us: u64,
    last_us: u64,
    /// Bytes times microseconds since the start. 128 bits: 2^63 bytes for years.
    live_area: u128,
    reserved_area: u128,
    /// The trace's time at which the present point ends.
    end_us: u64,
    most: Point,
    now: Point,
}

impl Sampler {
    pub(crate) fn new(trace: &Trace) -> Self {
        let step_us = trace.duration_us() / POINTS + 1;
        let origin_us = trace.events.first().map_or(0, |event| event.t_us);
        let points = Vec::with_capacity((trace.duration_us() / step_us + 1) as usize);
        Sampler {
            timeline: Timeline { step_us, points },
            start_us: origin_us,
            last_us: origin_us,
            live_area: 0,
            reserved_area: 0,
            end_us: origin_us.saturating_add(step_us),
            most: Point::default(),
            now: Point::default(),
        }
    }

    /// It is `t_us` now, by the trace's clock, which never goes back.
    #[inline]
    pub(crate) fn arrive(&mut self, t_us: u64) {
        if t_us != self.last_us {
            let passed = u128::from(t_us - self.last_us);
            self.live_area += passed * u128::from(self.now.live);
            self.reserved_area += passed * u128::from(self.now.reserved);
            self.last_us = t_us;
        }
        if t_us >= self.end_us {
            self.step_to(t_us);
        }
    }

    /// From now on it is this.
    #[inline]
    pub(crate) fn set(&mut self, now: Point) {
        self.now = now;
        self.most.live = self.most.live.max(now.live);
        self.most.reserved = self.most.reserved.max(now.reserved);
    }

    #[cold]
    fn step_to(&mut self, t_us: u64) {
        let steps = (t_us - self.end_us) / self.timeline.step_us;
        self.timeline.points.push(self.most);
        self.timeline.points.extend((0..steps).map(|_| self.now));
        self.most = self.now;
        self.end_us = self.end_us.saturating_add((steps + 1).saturating_mul(self.timeline.step_us));
    }

    /// The averages up to the last arrival; none if no time has passed.
    pub(crate) fn mean(&self) -> Option<Mean> {
        let passed = (self.last_us > self.start_us).then(|| (self.last_us - self.start_us) as f64);
        passed.map(|us| Mean {
            live: self.live_area as f64 / us,
            reserved: self.reserved_area as f64 / us,
        })
    }

    pub(crate) fn finish(mut self) -> Timeline {
        self.timeline.points.push(self.most);
        self.timeline
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_trace::read_trace_bytes;

    fn sampler(times: &[u64]) -> Sampler {
        let mut csv = "t_us,op,id,size,stream\n".to_owned();
        for (id, t) in times.iter().enumerate() {
            csv += &format!("{t},a,{id},1,0\n");
        }
        Sampler::new(&read_trace_bytes("t", csv.as_bytes(), &Default::default()).unwrap())
    }

    fn point(live: u64, reserved: u64) -> Point {
        Point { live, reserved }
    }

    #[test]
    fn a_point_keeps_the_maxima_of_its_step() {
        // 4,000 µs in steps of 3 µs.
        let mut sampler = sampler(&[100, 4_100]);
        for (t, p) in [
            (100, point(1, 9)),
            (101, point(5, 2)),
            (102, point(2, 3)),
            (103, point(1, 1)),
            (110, point(0, 4)),
        ] {
            sampler.arrive(t);
            sampler.set(p);
        }
        let timeline = sampler.finish();
        assert_eq!(timeline.step_us, 3);
        // The second step begins at what was left of the first; the third was silent.
        assert_eq!(timeline.points, [point(5, 9), point(2, 3), point(1, 1), point(1, 4)]);
    }

    #[test]
    fn the_mean_weighs_by_time() {
        let mut sampler = sampler(&[100, 4_100]);
        assert_eq!(sampler.mean(), None);
        for (t, p) in [(100, point(8, 16)), (1_100, point(0, 16)), (4_100, point(9, 99))] {
            sampler.arrive(t);
            sampler.set(p);
        }
        assert_eq!(sampler.mean(), Some(Mean { live: 2.0, reserved: 16.0 }));
    }

    #[test]
    fn there_are_never_more_points_than_the_limit() {
        for duration in [0, 1, 1_999, 2_000, 2_001, 123_456_789] {
            let mut sampler = sampler(&[7, 7 + duration]);
            sampler.arrive(7 + duration);
            let points = sampler.finish().points.len() as u64;
            assert!((1..=POINTS).contains(&points), "{duration}: {points}");
        }
        let mut sampler = sampler(&[0, u64::MAX]);
        sampler.arrive(u64::MAX);
        assert!(sampler.finish().points.len() as u64 <= POINTS);
    }
}
