//! Memory that other devices and other processes use: access for peers, blocks exported and imported.

use std::sync::Arc;

use drystone_core::{
    Allocator, Config, DeviceId, DriverCall, DriverErrorKind, PointerError, ShareError, ShareId,
};
use drystone_sim::{Access, FaultPlan, SimConfig, SimDriver};

use crate::common::over_both;
use crate::{A, D0, D1, KIB, MIB};

type Shared = Allocator<Arc<SimDriver>>;

fn world(devices: usize) -> Arc<SimDriver> {
    let sim = SimConfig::default().capacity(256 * MIB).devices(devices);
    Arc::new(SimDriver::new(sim).unwrap())
}

fn allocator(sim: &Arc<SimDriver>, settings: &str) -> Shared {
    Allocator::new(Arc::clone(sim), Config::parse(settings).unwrap()).unwrap()
}

#[test]
fn a_peer_reaches_what_is_mapped_and_what_will_be() {
    let sim = world(2);
    let allocator = allocator(&sim, "");
    let before = allocator.allocate(3 * MIB, D0, A).unwrap();
    let calls = || allocator.driver_stats().calls_of(DriverCall::SetAccess);
    let at_first = calls();
    allocator.enable_peer_access(D0, D1).unwrap();
    assert!(calls() > at_first, "what is mapped was opened");
    let then = calls();
    allocator.enable_peer_access(D0, D1).unwrap();
    allocator.enable_peer_access(D0, D0).unwrap();
    assert_eq!(calls(), then, "once is enough");
    let after = allocator.allocate(40 * MIB, D0, A).unwrap();
    for (address, bytes) in [(before, 3 * MIB), (after, 40 * MIB)] {
        for device in [D0, D1] {
            sim.launch(device, A, &[(address, bytes)], Access::Write).unwrap();
        }
    }
    // The other way round nothing was asked for.
    let there = allocator.allocate(MIB, D1, A).unwrap();
    sim.launch(D0, A, &[(there, MIB)], Access::Read).unwrap_err();
    let error = allocator.enable_peer_access(D0, DeviceId(2)).unwrap_err();
    assert!(matches!(error, ShareError::Device(_)));
    allocator.check_invariants().unwrap();
}

#[test]
fn a_block_is_imported_where_its_handles_are() {
    let sim = world(1);
    let (owner, other) = (allocator(&sim, ""), allocator(&sim, ""));
    owner.allow_export();
    let blocks: Vec<_> = [700, 3 * MIB, 40 * MIB + 5, 90 * MIB]
        .iter()
        .map(|&size| owner.allocate(size, D0, A).unwrap())
        .collect();
    for &block in &blocks {
        let size = owner.block_info(block).unwrap().size;
        let exported = owner.export(block).unwrap();
        let bytes: u64 = exported.handles.iter().map(|&(_, bytes)| bytes).sum();
        assert!(exported.offset + size <= bytes && exported.device == D0);
        let held = other.reserved_bytes(D0).unwrap();
        let at = other.import(D0, &exported.handles).unwrap();
        assert_eq!(other.reserved_bytes(D0).unwrap(), held, "it is not held here");
        sim.stamp_write(D0, A, block, size, block).unwrap();
        sim.stamp_check(D0, A, at + exported.offset, size, block).unwrap();
        other.end_import(at).unwrap();
        let foreign = PointerError::Foreign { pointer: at };
        assert_eq!(other.end_import(at), Err(foreign.into()));
    }
    owner.check_invariants().unwrap();
    for block in blocks {
        owner.free(block).unwrap();
    }
    owner.empty_cache(D0).unwrap();
    drop((owner, other));
    assert!(sim.finish().is_clean(), "{:?}", sim.finish());
}

#[test]
fn what_was_not_made_for_it_is_not_exported() {
    over_both(|backing| {
        let sim = world(1);
        let allocator = allocator(&sim, backing);
        let block = allocator.allocate(3 * MIB, D0, A).unwrap();
        let refused = ShareError::NotExportable { pointer: block };
        assert_eq!(allocator.export(block), Err(refused));
        let inside = allocator.export(block + KIB);
        assert!(matches!(inside, Err(ShareError::Pointer(PointerError::Interior { .. }))));
        assert!(matches!(allocator.export(0x1000), Err(ShareError::Pointer(_))));
    });
}

#[test]
fn an_import_that_fails_leaves_nothing() {
    let sim = world(1);
    let allocator = allocator(&sim, "");
    allocator.allow_export();
    let block = allocator.allocate(3 * MIB, D0, A).unwrap();
    let mut handles = allocator.export(block).unwrap().handles;
    handles.push((ShareId(u64::MAX), 2 * MIB));
    let error = allocator.import(D0, &handles).unwrap_err();
    assert!(matches!(error, ShareError::Driver(_)));
    allocator.free(block).unwrap();
    allocator.empty_cache(D0).unwrap();
    allocator.check_invariants().unwrap();
    drop(allocator);
    // The name that nobody gave out is the one thing that was wrong.
    let report = sim.finish();
    assert_eq!(report.misuse_count, 1);
    let nothing = drystone_sim::Report { misuses: vec![], misuse_count: 0, ..report };
    assert!(nothing.is_clean(), "{nothing:?}");
}

#[test]
fn where_the_driver_shares_nothing_memory_is_had_all_the_same() {
    let sim = world(1);
    let allocator = allocator(&sim, "");
    allocator.allow_export();
    let refuses = FaultPlan::new().nth(DriverCall::HandleCreate, 1);
    sim.set_faults(refuses.error(DriverErrorKind::NotSupported));
    let block = allocator.allocate(3 * MIB, D0, A).unwrap();
    let later = allocator.allocate(40 * MIB, D0, A).unwrap();
    assert_eq!(sim.faults_injected(), 1);
    for block in [block, later] {
        assert_eq!(allocator.export(block), Err(ShareError::NotExportable { pointer: block }));
    }
    allocator.check_invariants().unwrap();
}
