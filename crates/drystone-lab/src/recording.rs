//! What the trace itself says: live bytes, and what the allocator that was recorded had reserved.

use drystone_trace::{Op, Trace};

use crate::timeline::{Point, Sampler, Timeline};

/// A trace as it was recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// Live bytes, and the recorded allocator's reserved bytes; those are 0 where they are not
    /// known.
    pub timeline: Timeline,
    /// The most bytes live at once.
    pub peak_live: u64,
    /// The most bytes that the recorded allocator held. `None` where the trace does not say: it
    /// has no segments, or begins in the middle of a run.
    pub peak_reserved: Option<u64>,
    /// Bytes held on the average of the trace's time as a multiple of the bytes live; `None` where
    /// the trace does not say.
    pub mean_ratio: Option<f64>,
}

impl Recording {
    /// Reads it off the trace.
    pub fn of(trace: &Trace) -> Recording {
        let mut sampler = Sampler::new(trace);
        let (mut now, mut peak) = (Point::default(), Point::default());
        // The segments from before a recording that began late are not in it.
        let whole = trace.prelude == 0;
        for event in &trace.events {
            match event.op {
                Op::Alloc => now.live = now.live.saturating_add(event.size),
                Op::FreeCompleted => now.live = now.live.saturating_sub(event.size),
                Op::SegmentAlloc | Op::SegmentMap if whole => {
                    now.reserved = now.reserved.saturating_add(event.size);
                }
                Op::SegmentFree | Op::SegmentUnmap if whole => {
                    now.reserved = now.reserved.saturating_sub(event.size);
                }
                _ => continue,
            }
            sampler.arrive(event.t_us);
            sampler.set(now);
            peak.live = peak.live.max(now.live);
            peak.reserved = peak.reserved.max(now.reserved);
        }
        let peak_reserved = (peak.reserved > 0).then_some(peak.reserved);
        let mean = sampler.mean().filter(|mean| peak_reserved.is_some() && mean.live > 0.0);
        Recording {
            timeline: sampler.finish(),
            peak_live: peak.live,
            peak_reserved,
            mean_ratio: mean.map(|mean| mean.reserved / mean.live),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_trace::read_trace_bytes;

    #[test]
    fn live_and_reserved_as_recorded() {
        let csv = "t_us,op,id,size,stream\n0,S,,100,0\n0,a,0,60,0\n1,f,0,60,0\n1,S,,50,0\n\
                   2,a,1,30,0\n3,c,0,60,0\n3,R,,100,0\n";
        let trace = read_trace_bytes("t", csv.as_bytes(), &Default::default()).unwrap();
        let recording = Recording::of(&trace);
        assert_eq!((recording.peak_live, recording.peak_reserved), (90, Some(150)));
        // 100, 150 and 150 over 60, 60 and 90.
        assert!((recording.mean_ratio.unwrap() - 400.0 / 210.0).abs() < 1e-12);
        let reserved: Vec<_> = recording.timeline.points.iter().map(|p| p.reserved).collect();
        assert_eq!(reserved, [100, 150, 150, 150]);
    }

    #[test]
    fn a_trace_without_segments_does_not_say_what_was_reserved() {
        let csv = "t_us,op,id,size,stream\n0,a,0,60,0\n";
        let trace = read_trace_bytes("t", csv.as_bytes(), &Default::default()).unwrap();
        assert_eq!(Recording::of(&trace).peak_reserved, None);
    }
}
