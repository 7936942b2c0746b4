//! The moments at which a report shows what lay where, and the blocks that are live at any of them.
//!
//! A page cannot hold every event. It holds some hundred or thousand moments, and of the blocks
//! those that are live at one of them; at a moment the picture is exact. Moments are where most and
//! where least is live in each part of the run's time.

use drystone_trace::{Op, Trace};

/// A moment's number.
pub(super) type Moment = u32;

/// States of the run after certain events, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Moments {
    /// The indices of the events.
    pub(super) events: Vec<u32>,
}

/// A block that is live at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// Its number in the trace.
    pub(super) id: u32,
    /// Bytes asked for.
    pub(super) size: u64,
    pub(super) stream: u32,
    pub(super) device: u32,
    /// When it was asked for, from the first event on.
    pub(super) t_us: u64,
    /// The first moment at which it is live.
    pub(super) from: Moment,
    /// The first moment from `from` on at which its free has been asked for.
    pub(super) asked: Moment,
    /// The first moment at which it is not live any more; the number of moments if it always is.
    pub(super) to: Moment,
}

impl Moments {
    /// About `count` moments, and after each event of `also`.
    pub(super) fn choose(trace: &Trace, count: usize, also: &[u32]) -> Moments {
        // Each part has two: of the most and of the least live bytes.
        let parts = (count / 2).max(1) as u128;
        let span = u128::from(trace.duration_us()) + 1;
        let origin = trace.events.first().map_or(0, |event| event.t_us);
        let mut events = also.to_vec();
        let (mut live, mut part) = (0u64, None);
        let (mut most, mut least) = ((0, 0), (0, 0));
        for (index, event) in trace.events.iter().enumerate() {
            match event.op {
                Op::Alloc => live = live.saturating_add(event.size),
                Op::FreeCompleted => live = live.saturating_sub(event.size),
                _ => continue,
            }
            let index = index as u32;
            let this = Some(u128::from(event.t_us - origin) * parts / span);
            if part != this {
                if part.is_some() {
                    events.extend([most.1, least.1]);
                }
                part = this;
                (most, least) = ((live, index), (live, index));
            }
            if live > most.0 {
                most = (live, index);
            }
            if live < least.0 {
                least = (live, index);
            }
        }
        if part.is_some() {
            events.extend([most.1, least.1]);
        }
        events.sort_unstable();
        events.dedup();
        Moments { events }
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// The first moment after which the event has happened; their number if none is.
    pub(super) fn since(&self, event: u32) -> Moment {
        self.events.partition_point(|&at| at < event) as Moment
    }

    /// The blocks that are live at some moment, in order of allocation.
    pub(super) fn lives(&self, trace: &Trace) -> Vec<Life> {
        let never = self.len() as Moment;
        let origin = trace.events.first().map_or(0, |event| event.t_us);
        let mut lives: Vec<Life> = Vec::new();
        // Where each block is in `lives`.
        let mut places = vec![u32::MAX; trace.blocks as usize];
        let mut now: Moment = 0;
        for (index, event) in trace.events.iter().enumerate() {
            while now < never && (self.events[now as usize] as usize) < index {
                now += 1;
            }
            match event.op {
                Op::Alloc => {
                    places[event.id as usize] = lives.len() as u32;
                    lives.push(Life {
                        id: event.id,
                        size: event.size,
                        stream: event.stream,
                        device: event.device,
                        t_us: event.t_us - origin,
                        from: now,
                        asked: never,
                        to: never,
                    });
                }
                Op::FreeRequested => lives[places[event.id as usize] as usize].asked = now,
                Op::FreeCompleted => lives[places[event.id as usize] as usize].to = now,
                _ => {}
            }
        }
        lives.retain(|life| life.from < life.to);
        lives
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_trace::read_trace_bytes;

    fn trace(lines: &str) -> Trace {
        let csv = format!("t_us,op,id,size,stream\n{lines}");
        read_trace_bytes("t", csv.as_bytes(), &Default::default()).unwrap()
    }

    const LINES: &str = "0,a,0,10,0\n1,a,1,90,1\n2,f,1,90,1\n3,c,1,90,1\n50,a,2,20,0\n\
                         99,a,3,5,0\n100,f,0,10,0\n";

    #[test]
    fn most_and_least_of_each_part_are_moments() {
        let trace = trace(LINES);
        // Halves of 101 µs. After events: 10, 100, -, 10, 30 | 35, -.
        assert_eq!(Moments::choose(&trace, 4, &[]).events, [0, 1, 5]);
        assert_eq!(Moments::choose(&trace, 1, &[6, 2]).events, [0, 1, 2, 6]);
        assert_eq!(Moments::choose(&self::trace(""), 100, &[]).len(), 0);
    }

    #[test]
    fn lives_are_those_seen_at_a_moment() {
        let trace = trace(LINES);
        let moments = Moments { events: vec![0, 2, 5] };
        let seen: Vec<_> = moments.lives(&trace);
        let spans: Vec<_> = seen.iter().map(|l| (l.id, l.from, l.asked, l.to)).collect();
        assert_eq!(spans, [(0, 0, 3, 3), (1, 1, 1, 2), (2, 2, 3, 3), (3, 2, 3, 3)]);
        let moments = Moments { events: vec![0, 3] };
        let seen: Vec<_> = moments.lives(&trace).iter().map(|life| life.id).collect();
        assert_eq!(seen, [0], "block 1 came and went between them");
    }
}
