//! What only the modelled kernel has: power cuts, counted steps, injected faults.

use std::sync::Arc;
use std::time::Duration;

use devmapper_snapshotter::dm::fake::{FakeKernel, IoError, Unflushed};
use devmapper_snapshotter::dm::{
    ActivateOptions, CountingKernel, Dm, Errno, Error, Fault, FaultPlan, FaultyKernel,
    NoSpacePolicy, PoolFeatures, PoolMode, Removal, Settings, StatusOptions, Target,
    ThinPoolStatus, ThinPoolTable, Verb,
};
use devmapper_snapshotter::names::DmName;
use devmapper_snapshotter::units::{DeviceNumber, Sectors, ThinId};

const METADATA: DeviceNumber = DeviceNumber { major: 7, minor: 0 };
const DATA: DeviceNumber = DeviceNumber { major: 7, minor: 1 };
const BLOCK: Sectors = Sectors(128);

fn name(text: &str) -> DmName {
    DmName::new(text).unwrap()
}

fn id(number: u32) -> ThinId {
    ThinId::new(number).unwrap()
}

fn machine() -> FakeKernel {
    let kernel = FakeKernel::new();
    kernel.add_disk(METADATA, Sectors(8192));
    kernel.add_disk(DATA, Sectors(128 * 64));
    kernel
}

fn dm(kernel: &FakeKernel) -> Dm {
    Dm::new(Arc::new(kernel.clone()), Settings::without_nodes())
}

fn try_pool(dm: &Dm) -> Result<DeviceNumber, Error> {
    let table = ThinPoolTable {
        start: Sectors::ZERO,
        length: Sectors(128 * 64),
        metadata: METADATA.into(),
        data: DATA.into(),
        block_size: BLOCK,
        low_water_blocks: 4,
        features: PoolFeatures { no_space: NoSpacePolicy::Error, ..PoolFeatures::default() },
    };
    let table = [Target::ThinPool(table)];
    dm.activate(&name("pool"), None, &table, ActivateOptions::default()).map(|info| info.device)
}

fn pool(dm: &Dm) -> DeviceNumber {
    try_pool(dm).unwrap()
}

fn thin(dm: &Dm, pool: DeviceNumber, number: u32) -> DmName {
    let name = name(&format!("thin{number}"));
    let table = [Target::thin(pool, id(number), Sectors(128 * 32))];
    dm.activate(&name, None, &table, ActivateOptions::default()).unwrap();
    name
}

#[test]
fn a_power_cut_keeps_what_was_acknowledged() {
    for unflushed in [Unflushed::Lost, Unflushed::Kept] {
        let kernel = machine();
        let before = dm(&kernel);
        let device = pool(&before);
        before.create_thin(&name("pool"), id(1)).unwrap();
        before.set_transaction_id(&name("pool"), 0, 5).unwrap();
        let open = kernel.open(&thin(&before, device, 1)).unwrap();
        open.write_block(0, BLOCK, 11).unwrap();
        open.flush().unwrap();
        open.write_block(0, BLOCK, 12).unwrap();
        open.write_block(1, BLOCK, 13).unwrap();

        let after = kernel.power_cut(unflushed);
        assert!(kernel.is_halted());
        assert!(matches!(before.list(), Err(Error::Halted { .. })));
        assert_eq!(open.write_block(0, BLOCK, 14), Err(IoError::Halted));

        let dm = dm(&after);
        assert_eq!(dm.list().unwrap(), [], "no device survives");
        let device = pool(&dm);
        let ThinPoolStatus::Working(status) =
            dm.pool_status(&name("pool"), StatusOptions::NO_FLUSH).unwrap()
        else {
            panic!("the pool works")
        };
        assert_eq!(status.transaction_id, 5);
        let open = after.open(&thin(&dm, device, 1)).unwrap();
        let blocks = [open.read_block(0, BLOCK).unwrap(), open.read_block(1, BLOCK).unwrap()];
        match unflushed {
            Unflushed::Lost => assert_eq!(blocks, [11, 0]),
            Unflushed::Kept => assert_eq!(blocks, [12, 13]),
        }
    }
}

#[test]
fn what_is_on_disk_is_not_overwritten_before_the_next_commit() {
    let kernel = machine();
    let before = dm(&kernel);
    let device = pool(&before);
    before.create_thin(&name("pool"), id(1)).unwrap();
    let open = kernel.open(&thin(&before, device, 1)).unwrap();
    for block in 0..32 {
        open.write_block(block, BLOCK, 100 + block).unwrap();
    }
    open.flush().unwrap();
    // The blocks that this frees are still the durable content of the thin.
    open.discard(0, 32 * 65536).unwrap();
    for block in 0..32 {
        open.write_block(block, BLOCK, 200 + block).unwrap();
    }
    let after = kernel.power_cut(Unflushed::Lost);
    let dm = dm(&after);
    let device = pool(&dm);
    let open = after.open(&thin(&dm, device, 1)).unwrap();
    for block in 0..32 {
        assert_eq!(open.read_block(block, BLOCK).unwrap(), 100 + block);
    }
}

#[test]
fn every_step_that_is_made_durable_can_be_the_last() {
    // Counted first: format, resize, create, snap, delete, transaction id, flush.
    let program = |kernel: &FakeKernel| -> Result<(), Error> {
        let dm = dm(kernel);
        let device = try_pool(&dm)?;
        dm.create_thin(&name("pool"), id(1))?;
        dm.create_snap(&name("pool"), id(2), id(1))?;
        dm.delete_thin(&name("pool"), id(1))?;
        dm.set_transaction_id(&name("pool"), 0, 1)?;
        let table = [Target::thin(device, id(2), Sectors(128))];
        dm.activate(&name("thin2"), None, &table, ActivateOptions::default())?;
        let open = kernel.open(&name("thin2")).unwrap();
        open.write_block(0, BLOCK, 7).unwrap();
        match open.flush() {
            Ok(()) => Ok(()),
            Err(error) => Err(Error::Halted { request: error.to_string() }),
        }
    };
    let kernel = machine();
    let plan = FaultPlan::counting();
    kernel.set_plan(plan.clone());
    program(&kernel).unwrap();
    assert_eq!(plan.taken(), 7);
    assert_eq!((plan.halted(), plan.tripped()), (false, None));

    let mut states = Vec::new();
    for step in 0..plan.taken() {
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            let kernel = machine();
            let plan = FaultPlan::at(step, fault);
            kernel.set_plan(plan.clone());
            assert!(matches!(program(&kernel), Err(Error::Halted { .. })));
            assert!(plan.halted() && plan.tripped().is_some());
            let after = kernel.power_cut(Unflushed::Lost);
            let dm = dm(&after);
            let device = pool(&dm);
            let ids = after.thin_ids(&name("pool")).unwrap();
            let ids: Vec<u32> = ids.iter().map(|id| id.get()).collect();
            let status = dm.pool_status(&name("pool"), StatusOptions::NO_FLUSH).unwrap();
            let transaction = status.working().unwrap().transaction_id;
            let tag = if ids.contains(&2) {
                after.open(&thin(&dm, device, 2)).unwrap().read_block(0, BLOCK).unwrap()
            } else {
                0
            };
            states.push((ids, transaction, tag));
        }
    }
    let at = |ids: &[u32], transaction, tag| (ids.to_vec(), transaction, tag);
    assert_eq!(
        states,
        [
            at(&[], 0, 0),
            at(&[], 0, 0),
            at(&[], 0, 0),
            at(&[], 0, 0),
            at(&[], 0, 0),
            at(&[1], 0, 0),
            at(&[1], 0, 0),
            at(&[1, 2], 0, 0),
            at(&[1, 2], 0, 0),
            at(&[2], 0, 0),
            at(&[2], 0, 0),
            at(&[2], 1, 0),
            at(&[2], 1, 0),
            at(&[2], 1, 7),
        ]
    );
}

#[test]
fn a_commit_that_fails_is_hidden_and_makes_the_pool_read_only() {
    let kernel = machine();
    let dm = dm(&kernel);
    let device = pool(&dm);
    let pool = name("pool");
    dm.create_thin(&pool, id(1)).unwrap();
    let open = kernel.open(&thin(&dm, device, 1)).unwrap();
    open.write_block(0, BLOCK, 1).unwrap();
    open.flush().unwrap();
    kernel.set_plan(FaultPlan::at(0, Fault::ErrorBefore(Errno::EIO)));
    dm.create_thin(&pool, id(2)).unwrap();
    let ThinPoolStatus::Working(status) = dm.pool_status(&pool, StatusOptions::NO_FLUSH).unwrap()
    else {
        panic!()
    };
    assert_eq!((status.mode, status.needs_check), (PoolMode::ReadOnly, true));
    assert!(matches!(dm.create_thin(&pool, id(3)), Err(Error::PoolFailed { .. })));
    assert_eq!(kernel.thin_ids(&pool).unwrap(), [id(1)]);
    assert_eq!(open.read_block(0, BLOCK), Ok(1));
    open.write_block(0, BLOCK, 2).unwrap();
    assert_eq!(open.write_block(1, BLOCK, 2), Err(IoError::Errno(Errno::EIO)));
}

#[test]
fn metadata_that_runs_out_fails_the_pool() {
    let kernel = machine();
    let dm = dm(&kernel);
    pool(&dm);
    let failed = (0..2000).find_map(|number| dm.create_thin(&name("pool"), id(number)).err());
    assert!(matches!(failed, Some(Error::PoolFull { .. })), "{failed:?}");
    assert_eq!(
        dm.pool_status(&name("pool"), StatusOptions::NO_FLUSH).unwrap(),
        ThinPoolStatus::Fail
    );
    assert!(matches!(dm.delete_thin(&name("pool"), id(0)), Err(Error::PoolFailed { .. })));
}

#[test]
fn a_request_can_fail_and_be_the_last_on_any_kernel() {
    let run = |plan: Arc<FaultPlan>| {
        let kernel = machine();
        let counting = Arc::new(CountingKernel::new(Arc::new(kernel.clone())));
        let faulty = Arc::new(FaultyKernel::new(counting.clone(), plan));
        (kernel, counting, Dm::new(faulty, Settings::without_nodes()))
    };
    // Activation of the pool: create, load, resume. The third fails, so the device is removed
    // again.
    let (kernel, counting, faulty) = run(FaultPlan::at(2, Fault::ErrorBefore(Errno::EIO)));
    let error = try_pool(&faulty).unwrap_err();
    assert!(
        matches!(error, Error::Kernel { verb: Verb::Resume, errno: Errno::EIO, .. }),
        "{error:?}"
    );
    assert_eq!(dm(&kernel).list().unwrap(), []);
    assert_eq!(counting.count(Verb::Resume), 0, "it did not get through");
    assert_eq!(counting.count(Verb::Remove), 1);
    pool(&faulty);

    // After a crash nothing is cleaned up.
    for (fault, live) in [(Fault::CrashBefore, false), (Fault::CrashAfter, true)] {
        let (kernel, _, faulty) = run(FaultPlan::at(2, fault));
        assert!(matches!(try_pool(&faulty), Err(Error::Halted { .. })));
        assert!(matches!(faulty.list(), Err(Error::Halted { .. })));
        let info = dm(&kernel).info(&name("pool")).unwrap().unwrap();
        assert_eq!(info.live_table, live);
    }
}

#[test]
fn io_on_a_suspended_device_would_wait() {
    let kernel = machine();
    let dm = dm(&kernel);
    let device = pool(&dm);
    dm.create_thin(&name("pool"), id(1)).unwrap();
    let thin = thin(&dm, device, 1);
    let open = kernel.open(&thin).unwrap();
    open.write_block(0, BLOCK, 1).unwrap();
    let would_wait = Err(IoError::Errno(Errno::EAGAIN));
    for suspended in [&thin, &name("pool")] {
        dm.suspend(suspended, Default::default()).unwrap();
        assert_eq!(open.write_block(0, BLOCK, 2), would_wait);
        assert_eq!(open.read_block(0, BLOCK).map(drop), would_wait);
        assert_eq!(open.discard(0, 65536), would_wait);
        dm.resume(suspended).unwrap();
    }
    assert_eq!(open.read_block(0, BLOCK), Ok(1));
    kernel.set_read_only(&thin, true).unwrap();
    assert_eq!(open.write_block(0, BLOCK, 2), Err(IoError::Errno(Errno::EPERM)));
    kernel.set_read_only(&thin, false).unwrap();
    open.write_block(0, BLOCK, 2).unwrap();
}

#[test]
fn bytes_are_written_where_they_belong() {
    let kernel = machine();
    let disk = kernel.open_number(DATA).unwrap();
    disk.write_at(b"hello", 510).unwrap();
    disk.write_at(b"HE", 510).unwrap();
    let mut bytes = [0; 9];
    disk.read_at(&mut bytes, 508).unwrap();
    assert_eq!(&bytes, b"\0\0HEllo\0\0");
    let size = disk.size();
    assert_eq!(size, Sectors(128 * 64));
    let end = size.bytes().unwrap();
    assert_eq!(disk.write_at(b"xx", end - 1), Err(IoError::Errno(Errno::ENOSPC)));
    disk.write_at(b"x", end - 1).unwrap();
    assert!(kernel.open_number(DeviceNumber { major: 7, minor: 9 }).is_err());
}

#[test]
fn a_removal_that_lingers_is_waited_for() {
    let kernel = machine();
    let dm = dm(&kernel);
    let pool = pool(&dm);
    dm.create_thin(pool, id(1)).unwrap();
    let device = dm.info(&thin(&dm, pool, 1)).unwrap().unwrap();
    kernel.linger(true);
    let held = kernel.open(&device.name).unwrap();
    assert_eq!(dm.remove_deferred(&device.name).unwrap(), Removal::Deferred);
    drop(held);
    assert_eq!(dm.info(&device.name).unwrap(), None);
    assert!(dm.delete_thin(pool, id(1)).unwrap_err().is_busy(), "the kernel still holds it");
    let waited = dm.wait_removed(&device, Duration::from_millis(5)).unwrap();
    assert_eq!(waited, Removal::Deferred);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            kernel.tick();
        });
        let waited = dm.wait_removed(&device, Duration::from_secs(30)).unwrap();
        assert_eq!(waited, Removal::Done);
    });
    dm.delete_thin(pool, id(1)).unwrap();
}
