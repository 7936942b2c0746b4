//! What stamps find out about policies that are wrong.

use std::sync::Arc;

use drystone_core::{DeviceId, Driver, StreamId};
use drystone_lab::{
    Needs, Policy, PolicyInfo, PolicyOptions, PolicySpec, Refusal, ReplayError, SimTarget, Target,
    replay,
};
use drystone_trace::read_trace_bytes;

const BYTES: u64 = 2 << 20;
const DEVICE: DeviceId = DeviceId(0);

static WRONG: PolicyInfo = PolicyInfo {
    name: "wrong",
    summary: "hands out the same memory to all",
    needs: Needs::Device,
    options: Vec::new,
    prepare: |_| Err("made by hand".to_owned()),
};

/// One segment for all blocks, given back when a block is freed or at the end.
struct Wrong {
    driver: Arc<dyn Driver>,
    address: u64,
    hasty: bool,
}

impl Policy for Wrong {
    fn allocate(&mut self, _: u64, _: DeviceId, _: StreamId) -> Result<u64, Refusal> {
        if self.address == 0 {
            let address = self.driver.segment_alloc(DEVICE, BYTES);
            self.address = address.map_err(|e| Refusal::Broken(e.to_string().into()))?;
        }
        Ok(self.address)
    }

    fn free(&mut self, address: u64) -> Result<(), String> {
        if self.hasty && std::mem::take(&mut self.address) != 0 {
            self.driver.segment_free(DEVICE, address).map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}

impl Drop for Wrong {
    fn drop(&mut self) {
        if self.address != 0 {
            // A device that is idle takes it back; what else may be wrong, the replay finds out.
            let _ = self.driver.device_synchronize(DEVICE);
            let _ = self.driver.segment_free(DEVICE, self.address);
        }
    }
}

/// What the replay of these lines finds, with stamps and without.
fn found(lines: &str, hasty: bool) -> [Option<String>; 2] {
    let csv = format!("t_us,op,id,size,stream\n{lines}");
    let trace = read_trace_bytes("hand", csv.as_bytes(), &Default::default()).unwrap();
    [true, false].map(|stamps| {
        let make = move |driver| Ok(Box::new(Wrong { driver, address: 0, hasty }) as _);
        let options = PolicyOptions::default();
        let policy = PolicySpec { info: &WRONG, options, make: Arc::new(make) };
        let target = Target::Sim(SimTarget { stamps, ..SimTarget::default() });
        match replay(&trace, &policy, &target, &mut |_| {}) {
            Err(ReplayError::Bug { what, .. }) => Some(what),
            Err(error) => panic!("{error}"),
            Ok(_) => None,
        }
    })
}

#[test]
fn blocks_that_overlap() {
    let lines = "0,a,0,512,0\n1,a,1,1024,0\n2,f,0,512,0\n2,c,0,512,0\n";
    let [with, without] = found(lines, false);
    let with = with.unwrap();
    assert!(with.contains("in place of stamp"), "{with}");
    assert_eq!(without, None);
    // One after the other they do not.
    let lines = "0,a,0,512,0\n1,f,0,512,0\n1,c,0,512,0\n2,a,1,1024,0\n";
    assert_eq!(found(lines, false), [None, None]);
}

#[test]
fn memory_that_another_stream_still_uses() {
    let lines = "0,a,0,512,0\n1,f,0,512,0\n1,c,0,512,0\n2,a,1,1024,1\n";
    let with = found(lines, false)[0].clone().unwrap();
    assert!(with.contains("is not ordered after"), "{with}");
    // That stream is 5 ms behind, and then done; but nobody asked it.
    let lines = lines.replace("\n2,a", "\n9000,a");
    assert!(found(&lines, false)[0].is_some(), "{lines}");
}

#[test]
fn memory_that_is_given_back_in_flight() {
    let lines = "0,a,0,512,0\n1,f,0,512,0\n1,c,0,512,0\n";
    let [with, without] = found(lines, true);
    let with = with.unwrap();
    assert!(with.contains("freed under work"), "{with}");
    assert_eq!(without, None);
}
