//! What is documented of PaddlePaddle's allocator.

use drystone_sim::{Access, SimConfig, SimDriver};

use super::*;
use crate::PolicySpec;

const DEVICE: DeviceId = DeviceId(0);
const ONE: StreamId = StreamId(1);
const TWO: StreamId = StreamId(2);

fn paddle(options: &str, capacity: u64) -> (Box<dyn Policy>, Arc<SimDriver>) {
    let sim = Arc::new(SimDriver::new(SimConfig::default().capacity(capacity)).unwrap());
    let spec: PolicySpec = format!("paddle-vmm:{options}").parse().unwrap();
    ((spec.make)(Arc::clone(&sim) as _).unwrap(), sim)
}

fn taken(sim: &SimDriver) -> u64 {
    sim.usage(DEVICE).unwrap().taken / MIB
}

#[test]
fn pools_grow_by_whole_handles() {
    let (mut paddle, sim) = paddle("", 1 << 30);
    paddle.allocate(100, DEVICE, ONE).unwrap();
    assert_eq!(taken(&sim), 2);
    paddle.allocate(2 * MIB, DEVICE, ONE).unwrap();
    assert_eq!(taken(&sim), 2 + 16);
    // What is left of the handle serves the next one; another stream has pools of its own.
    paddle.allocate(14 * MIB, DEVICE, ONE).unwrap();
    assert_eq!(taken(&sim), 18);
    paddle.allocate(17 * MIB, DEVICE, TWO).unwrap();
    assert_eq!(taken(&sim), 18 + 32);
}

#[test]
fn free_handles_are_remapped_only_when_memory_is_out() {
    for (remaps, fits) in [(true, true), (false, false)] {
        let (mut paddle, sim) = paddle(&format!("remap_on_oom={remaps}"), 128 * MIB);
        let all = [(); 4].map(|()| paddle.allocate(16 * MIB, DEVICE, ONE).unwrap());
        for index in [0, 2] {
            sim.launch(DEVICE, ONE, &[(all[index], 16 * MIB)], Access::Write).unwrap();
            paddle.free(all[index]).unwrap();
        }
        // There is memory: new handles, though 32 MiB are free.
        paddle.allocate(32 * MIB, DEVICE, ONE).unwrap();
        assert_eq!((taken(&sim), paddle.counters()[0].1), (96, 0));
        paddle.allocate(32 * MIB, DEVICE, ONE).unwrap();
        let last = paddle.allocate(32 * MIB, DEVICE, ONE);
        assert_eq!((last.is_ok(), taken(&sim)), (fits, 128));
        assert_eq!(paddle.counters()[1].1, if fits { 2 } else { 0 });
        if let Ok(last) = last {
            sim.launch(DEVICE, ONE, &[(last, 32 * MIB)], Access::Write).unwrap();
        }
        drop(paddle);
        assert!(sim.finish().is_clean(), "{}", sim.finish());
    }
}

#[test]
fn a_handle_with_a_live_byte_stays() {
    let (mut paddle, sim) = paddle("", 64 * MIB);
    let all = [(); 4].map(|()| paddle.allocate(15 * MIB, DEVICE, ONE).unwrap());
    let small = [(); 3].map(|()| paddle.allocate(2 * MIB - 1, DEVICE, ONE));
    assert!(small.iter().all(Result::is_err), "the device is full, and small pools have none");
    paddle.free(all[0]).unwrap();
    let wedge = paddle.allocate(3 * MIB, DEVICE, ONE).unwrap();
    assert_eq!(wedge, all[0]);
    paddle.free(all[2]).unwrap();
    // 13 + 16 MiB are free, in one handle whole.
    let refused = paddle.allocate(20 * MIB, DEVICE, ONE).unwrap_err();
    assert!(matches!(refused, Refusal::OutOfMemory(_)), "{refused:?}");
    paddle.free(wedge).unwrap();
    paddle.allocate(20 * MIB, DEVICE, ONE).unwrap();
    assert_eq!(taken(&sim), 64);
}

#[test]
fn options_are_checked() {
    for (text, what) in [
        ("large_pool_handle_size_in_mb=3", "allowed is 2 to 1024, even"),
        ("remap_on_oom=1", "allowed is true or false"),
        ("remap_on_om=true", "did you mean `remap_on_oom`?"),
    ] {
        let error = format!("paddle-vmm:{text}").parse::<PolicySpec>().unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}
