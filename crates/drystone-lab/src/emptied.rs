//! Where the program emptied the allocator's cache itself, as `torch.cuda.empty_cache()` does. A recording
//! has no event for it, but shows what it led to.

use drystone_trace::{Event, Op, Trace};

/// What a recording says of one device so far.
#[derive(Clone, Copy, Default)]
struct Device {
    /// Bytes more than when the recording began, and the most of that at any time.
    reserved: i128,
    most: i128,
    /// The first event of those that give memory back and are the last ones.
    giving: Option<(usize, i128)>,
}

/// The indices of the events before which the program emptied the cache.
///
/// An allocator gives memory back by itself when it wants memory in place of it: the event after is that memory,
/// or running out of it. What is given back before any other event, the program has asked for.
/// So it has where new memory follows that would have found room beside what was given back, as
/// the device held more at another time. (PyTorch's garbage collection looks like that too.)
///
/// That holds of segments. Where pages are mapped and unmapped nothing is found: Drystone moves them
/// from place to place all the time.
pub(crate) fn emptied(trace: &Trace) -> Vec<usize> {
    let maps = |event: &Event| matches!(event.op, Op::SegmentMap | Op::SegmentUnmap);
    let gives = |event: &Event| event.op == Op::SegmentFree;
    if !trace.events.iter().any(gives) || trace.events.iter().any(maps) {
        return Vec::new();
    }
    let mut devices = vec![Device::default(); trace.devices as usize];
    for event in &trace.events {
        devices[event.device as usize].count(event.op, event.size);
    }
    let most: Vec<i128> = devices.iter().map(|device| device.most).collect();
    devices.fill(Device::default());
    let mut found = Vec::new();
    for (index, event) in trace.events.iter().enumerate() {
        let at = event.device as usize;
        let device = &mut devices[at];
        if gives(event) {
            let before = device.reserved;
            device.giving.get_or_insert((index, before));
        } else if let Some((first, before)) = device.giving.take() {
            let asked = match event.op {
                Op::SegmentAlloc => before + i128::from(event.size) <= most[at],
                Op::OutOfMemory => false,
                _ => true,
            };
            found.extend(asked.then_some(first));
        }
        device.count(event.op, event.size);
    }
    found.extend(devices.iter().filter_map(|device| device.giving.map(|(first, _)| first)));
    found.sort_unstable();
    found
}

impl Device {
    fn count(&mut self, op: Op, size: u64) {
        match op {
            Op::SegmentAlloc => self.reserved += i128::from(size),
            Op::SegmentFree => self.reserved -= i128::from(size),
            _ => {}
        }
        self.most = self.most.max(self.reserved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_trace::{Limits, read_trace_bytes};

    fn found(lines: &[&str]) -> Vec<usize> {
        let text = format!("t_us,op,id,size,stream,device\n{}\n", lines.join("\n"));
        emptied(&read_trace_bytes("t", text.as_bytes(), &Limits::default()).unwrap())
    }

    #[test]
    fn what_is_given_back_for_nothing_was_asked_for() {
        let taken = ["0,S,,20,0,0", "0,a,0,8,0,0", "1,S,,40,0,0", "1,f,0,8,0,0", "1,c,0,8,0,0"];
        assert_eq!(found(&taken), [0; 0]);
        let with = |more: &[&'static str]| found(&[&taken[..], more].concat());
        assert_eq!(with(&["2,R,,20,0,0", "2,R,,40,0,0", "3,a,1,8,0,0"]), [5]);
        assert_eq!(with(&["2,R,,20,0,0"]), [5], "at the end");
        assert_eq!(with(&["2,R,,20,0,0", "2,a,1,8,0,0", "3,u,,2,0,0"]), [0; 0], "pages move");
        // Another device's events are of no account.
        assert_eq!(with(&["2,R,,20,0,0", "3,a,1,8,0,1", "3,S,,60,0,0"]), [0; 0]);
        assert_eq!(with(&["2,R,,20,0,0", "3,S,,60,0,1", "3,a,1,8,0,0"]), [5]);
    }

    #[test]
    fn what_is_given_back_for_other_memory_was_not() {
        let held = ["0,S,,20,0,0", "1,S,,40,0,0"];
        let with = |more: &[&'static str]| found(&[&held[..], more].concat());
        assert_eq!(with(&["2,R,,20,0,0", "2,S,,30,0,0"]), [0; 0], "90 do not fit");
        assert_eq!(with(&["2,R,,20,0,0", "2,o,,100,0,0"]), [0; 0]);
        // Here they do, as later there is more.
        assert_eq!(with(&["2,R,,20,0,0", "2,S,,30,0,0", "3,S,,20,0,0"]), [2]);
    }
}
