//! The life of a thin: pool, thin, snapshot, write, status, removal.

use crate::lab::{thin_id, Bench, MIB};
use devmapper_snapshotter::dm::{
    ActivateOptions, Error, Removal, StatusOptions, SuspendOptions, Target, ThinPoolStatus,
    ThinStatus, Verb,
};
use devmapper_snapshotter::names::DmUuid;
use devmapper_snapshotter::units::Sectors;

#[test]
fn a_thin_lives_and_dies() {
    let mut bench = Bench::new("life");
    bench.dm.require_thin().expect("thin-pool");
    let (pool, pool_device) = bench.pool(64 * MIB);

    bench.dm.create_thin(&pool, thin_id(1)).unwrap();
    let thin = bench.thin(pool_device, 1, 16 * MIB);
    assert!(bench.dm.node(&thin).exists(), "activation makes the node");
    bench.write(&thin, 0, 65536, 0xaa).unwrap();
    assert_eq!(bench.read(&thin, 0, 65536).unwrap(), vec![0xaa; 65536]);
    assert_eq!(bench.read(&thin, 65536, 4096).unwrap(), vec![0; 4096], "unwritten blocks are zero");

    // Of an active thin: suspended, snapshot, resumed.
    bench.dm.create_snap_of_device(&pool, thin_id(2), &thin, thin_id(1)).unwrap();
    assert!(!bench.dm.info(&thin).unwrap().unwrap().suspended);
    let snap = bench.thin(pool_device, 2, 16 * MIB);
    bench.write(&thin, 0, 4096, 0xbb).unwrap();
    assert_eq!(bench.read(&snap, 0, 4096).unwrap(), vec![0xaa; 4096], "the snapshot stays");
    assert_eq!(bench.read(&thin, 4096, 4096).unwrap(), vec![0xaa; 4096], "the rest was copied");

    let mapped = bench.dm.thin_status(&thin).unwrap();
    assert_eq!(mapped, ThinStatus::Working { mapped: Sectors(128), highest: Some(Sectors(127)) });
    let ThinPoolStatus::Working(status) =
        bench.dm.pool_status(&pool, StatusOptions::default()).unwrap()
    else {
        panic!("the pool works")
    };
    assert_eq!(status.data.used, 2, "one block each since the write");
    assert_eq!(status.data.total, 64 * MIB / 65536);

    bench.dm.remove(&snap).unwrap();
    assert!(!bench.dm.node(&snap).exists(), "removal removes the node");
    bench.dm.delete_thin(&pool, thin_id(2)).unwrap();
    bench.dm.remove(&thin).unwrap();
    bench.dm.delete_thin(&pool, thin_id(1)).unwrap();
    let ThinPoolStatus::Working(status) =
        bench.dm.pool_status(&pool, StatusOptions::default()).unwrap()
    else {
        panic!("the pool works")
    };
    assert_eq!(status.data.used, 0);
    bench.dm.remove(&pool).unwrap();
    assert_eq!(bench.dm.info(&pool).unwrap(), None);
}

#[test]
fn activation_is_three_requests_and_its_failure_leaves_nothing() {
    let mut bench = Bench::new("activate");
    let (pool, pool_device) = bench.pool(16 * MIB);
    bench.dm.create_thin(&pool, thin_id(1)).unwrap();
    bench.counter.reset();
    let uuid = DmUuid::new("devmapper-test-activate").unwrap();
    let name = bench.name("layer");
    let table = [Target::thin(pool_device, thin_id(1), Sectors(2048))];
    let options = ActivateOptions { read_only: true, ..Default::default() };
    let info = bench.dm.activate(&name, Some(&uuid), &table, options).unwrap();
    assert_eq!(bench.counter.total(), 3, "{:?}", bench.counter.counts());
    assert_eq!(Some(&info), bench.dm.info(&name).unwrap().as_ref());
    assert_eq!(info.uuid, Some(uuid));
    assert!(info.read_only && info.live_table && !info.suspended && !info.inactive_table);
    assert_eq!(bench.dm.table(&name).unwrap(), table);
    assert_eq!(bench.dm.deps(&name).unwrap(), [pool_device]);

    let absent = [Target::thin(pool_device, thin_id(9), Sectors(2048))];
    let other = bench.name("absent");
    let error = bench.dm.activate(&other, None, &absent, options).unwrap_err();
    assert!(matches!(error, Error::NoSuchThin { verb: Verb::Load, id, .. } if id == thin_id(9)));
    assert_eq!(bench.dm.info(&other).unwrap(), None, "what was made is removed");
    assert!(!bench.dm.node(&other).exists());
}

#[test]
fn a_deferred_removal_happens_at_the_last_close_and_can_be_taken_back() {
    let mut bench = Bench::new("deferred");
    let (pool, pool_device) = bench.pool(16 * MIB);
    bench.dm.create_thin(&pool, thin_id(1)).unwrap();
    let thin = bench.thin(pool_device, 1, MIB);
    let open = std::fs::File::open(bench.dm.node(&thin)).unwrap();

    assert!(matches!(bench.dm.remove(&thin), Err(Error::Busy { verb: Verb::Remove, .. })));
    assert_eq!(bench.dm.remove_deferred(&thin).unwrap(), Removal::Deferred);
    assert!(bench.dm.info(&thin).unwrap().unwrap().deferred_remove);
    bench.dm.cancel_deferred_remove(&thin).unwrap();
    assert!(!bench.dm.info(&thin).unwrap().unwrap().deferred_remove);

    assert_eq!(bench.dm.remove_deferred(&thin).unwrap(), Removal::Deferred);
    drop(open);
    let gone = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        bench.dm.info(&thin).unwrap().is_none()
    });
    assert!(gone, "the last close removes it");
    let swept = bench.dm.sweep_nodes(thin.as_str()).unwrap();
    assert_eq!(swept.removed, [bench.dm.node(&thin)]);
}

#[test]
fn suspend_holds_writes_back_until_resume() {
    let mut bench = Bench::new("suspend");
    let (pool, pool_device) = bench.pool(16 * MIB);
    bench.dm.create_thin(&pool, thin_id(1)).unwrap();
    let thin = bench.thin(pool_device, 1, MIB);
    let info = bench.dm.suspend(&thin, SuspendOptions::default()).unwrap();
    assert!(info.suspended);
    let written = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let result = bench.write(&thin, 0, 4096, 1);
            written.store(true, std::sync::atomic::Ordering::SeqCst);
            result
        });
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(!written.load(std::sync::atomic::Ordering::SeqCst), "the write waits");
        assert!(!bench.dm.resume(&thin).unwrap().suspended);
        writer.join().unwrap().unwrap();
    });
}
