//! Cases about thin pools and the messages they take.

use devmapper_snapshotter::dm::{
    ActivateOptions, BlockUsage, Errno, Error, LoadOptions, PoolMode, StatusOptions,
    SuspendOptions, Target, ThinPoolStatus, ThinStatus, Verb,
};
use devmapper_snapshotter::units::Sectors;

use super::{
    activate, errno, open, pool, pool_table, pool_table_on, sectors, thin, thin_id, working, World,
    BLOCK, MIB,
};

pub fn thin_pools_take_only_their_block_sizes(world: &mut dyn World) {
    let mut table = pool_table(world, 4 * MIB);
    let name = world.name("pool");
    for size in [0, 1, 64, 129, 192, 2_097_152 + 128] {
        table.block_size = Sectors(size);
        let target = [Target::ThinPool(table.clone())];
        let error =
            world.dm().activate(&name, None, &target, ActivateOptions::default()).unwrap_err();
        assert!(matches!(error, Error::TableRefused { .. }), "{size}: {error:?}");
    }
    table.block_size = Sectors(384);
    world
        .dm()
        .activate(&name, None, &[Target::ThinPool(table)], ActivateOptions::default())
        .unwrap();
}

pub fn a_new_pool_is_empty(world: &mut dyn World) {
    let table = pool_table(world, 16 * MIB);
    let info = activate(world, "pool", Target::ThinPool(table.clone()));
    assert_eq!(world.dm().table(&info.name).unwrap(), [Target::ThinPool(table.clone())]);
    let mut deps = world.dm().deps(&info.name).unwrap();
    deps.sort();
    let mut below = [table.metadata.number().unwrap(), table.data.number().unwrap()];
    below.sort();
    assert_eq!(deps, below);
    let status = working(world, &info);
    assert_eq!(status.transaction_id, 0);
    assert_eq!(status.data, BlockUsage { used: 0, total: 16 * MIB / BLOCK });
    assert_eq!(status.metadata.total, 4 * MIB / 4096);
    assert!(status.metadata.used > 0 && status.metadata.used < 512, "{}", status.metadata);
    assert_eq!((status.held_metadata_root, status.mode), (None, PoolMode::ReadWrite));
    assert!(!status.needs_check);
    assert_eq!(status.no_space, table.features.no_space);
    assert_eq!(
        world.dm().pool_status(&info.name, StatusOptions::NO_FLUSH).unwrap(),
        ThinPoolStatus::Working(status)
    );
    let not_thin = world.dm().thin_status(&info.name).unwrap_err();
    assert!(matches!(not_thin, Error::WrongKind { wanted: "thin", .. }), "{not_thin:?}");
}

pub fn a_pool_comes_back_with_what_it_had(world: &mut dyn World) {
    let table = pool_table(world, 16 * MIB);
    let info = activate(world, "pool", Target::ThinPool(table.clone()));
    world.dm().set_transaction_id(&info.name, 0, 7).unwrap();
    let name = thin(world, &info, 5, MIB);
    open(world, &name).write(0, &[5; 4096]).unwrap();
    world.dm().remove(&name).unwrap();
    world.dm().remove(&info.name).unwrap();

    let info = activate(world, "pool", Target::ThinPool(table));
    let status = working(world, &info);
    assert_eq!((status.transaction_id, status.data.used), (7, 1));
    assert_eq!(errno(world.dm().create_thin(&info.name, thin_id(5))), Errno::EEXIST as i32);
    let name = thin(world, &info, 5, MIB);
    assert_eq!(open(world, &name).read(0, 4096).unwrap(), [5; 4096]);
}

pub fn a_pool_refuses_another_block_size(world: &mut dyn World) {
    let mut table = pool_table(world, 16 * MIB);
    let info = activate(world, "pool", Target::ThinPool(table.clone()));
    world.dm().remove(&info.name).unwrap();
    table.block_size = Sectors(256);
    let target = [Target::ThinPool(table)];
    let error =
        world.dm().activate(&info.name, None, &target, ActivateOptions::default()).unwrap_err();
    assert!(matches!(error, Error::TableRefused { .. }), "{error:?}");
}

pub fn a_pool_refuses_metadata_that_is_not_its(world: &mut dyn World) {
    let metadata = world.disk(4 * MIB);
    let data = world.disk(4 * MIB);
    world.fill_disk(metadata, 0, &[0xff; 4096]);
    let table = [Target::ThinPool(pool_table_on(metadata, data, 4 * MIB))];
    let name = world.name("pool");
    let error = world.dm().activate(&name, None, &table, ActivateOptions::default()).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ENOTBLK), "{error:?}");
    assert_eq!(world.dm().info(&name).unwrap(), None);
}

pub fn metadata_belongs_to_one_pool(world: &mut dyn World) {
    let table = pool_table(world, 4 * MIB);
    activate(world, "pool", Target::ThinPool(table.clone()));
    let other = world.name("other");
    let error = world
        .dm()
        .activate(&other, None, &[Target::ThinPool(table)], ActivateOptions::default())
        .unwrap_err();
    assert!(matches!(error, Error::Busy { verb: Verb::Load, .. }), "{error:?}");
}

pub fn a_thin_id_is_taken_once(world: &mut dyn World) {
    let pool = pool(world, 4 * MIB);
    let dm = world.dm();
    dm.create_thin(&pool.name, thin_id(1)).unwrap();
    dm.create_thin(&pool.name, thin_id(0)).unwrap();
    dm.create_thin(&pool.name, thin_id(16_777_215)).unwrap();
    let errors = [
        dm.create_thin(&pool.name, thin_id(1)),
        dm.create_snap(&pool.name, thin_id(1), thin_id(0)),
        dm.create_snap(&pool.name, thin_id(1), thin_id(1)),
        dm.create_snap(&pool.name, thin_id(1), thin_id(99)),
    ];
    for error in errors {
        let expected = Error::ThinExists { pool: pool.name.to_string(), id: thin_id(1) };
        assert_eq!(error, Err(expected));
    }
}

pub fn a_snapshot_needs_its_origin(world: &mut dyn World) {
    let pool = pool(world, 4 * MIB);
    let error = world.dm().create_snap(&pool.name, thin_id(2), thin_id(1)).unwrap_err();
    let (verb, name) = (Verb::Message, pool.name.to_string());
    assert_eq!(error, Error::NoSuchThin { verb, pool: name, id: thin_id(1) });
    assert_eq!(error.errno(), Some(Errno::ENODATA));
    world.dm().create_thin(&pool.name, thin_id(2)).unwrap();
}

pub fn an_absent_thin_is_neither_deleted_nor_activated(world: &mut dyn World) {
    let pool = pool(world, 4 * MIB);
    let error = world.dm().delete_thin(&pool.name, thin_id(3)).unwrap_err();
    assert!(matches!(error, Error::NoSuchThin { verb: Verb::Message, .. }), "{error:?}");
    let table = [Target::thin(pool.device, thin_id(3), sectors(MIB))];
    let name = world.name("absent");
    let error = world.dm().activate(&name, None, &table, ActivateOptions::default()).unwrap_err();
    assert!(matches!(error, Error::NoSuchThin { verb: Verb::Load, .. }), "{error:?}");
    assert_eq!(world.dm().info(&name).unwrap(), None);
}

pub fn a_thin_with_a_device_is_not_deleted(world: &mut dyn World) {
    let pool = pool(world, 4 * MIB);
    let name = thin(world, &pool, 1, MIB);
    let in_use = Error::ThinInUse { pool: pool.name.to_string(), id: thin_id(1) };
    assert_eq!(world.dm().delete_thin(&pool.name, thin_id(1)), Err(in_use.clone()));
    world.dm().remove(&name).unwrap();
    // Loaded is enough.
    world.dm().create(&name, None).unwrap();
    let table = [Target::thin(pool.device, thin_id(1), sectors(MIB))];
    world.dm().load(&name, &table, LoadOptions::default()).unwrap();
    assert_eq!(world.dm().delete_thin(&pool.name, thin_id(1)), Err(in_use));
    world.dm().clear(&name).unwrap();
    world.dm().delete_thin(&pool.name, thin_id(1)).unwrap();
}

pub fn a_pool_with_thins_is_in_use(world: &mut dyn World) {
    let pool = pool(world, 4 * MIB);
    let name = thin(world, &pool, 1, MIB);
    assert_eq!(world.dm().info(&pool.name).unwrap().unwrap().open_count, 1);
    assert!(world.dm().remove(&pool.name).unwrap_err().is_busy());
    world.dm().remove(&name).unwrap();
    world.dm().remove(&pool.name).unwrap();
}

pub fn a_thin_needs_a_pool(world: &mut dyn World) {
    let disk = world.disk(MIB);
    let linear = activate(world, "linear", Target::linear(disk, Sectors::ZERO, sectors(MIB)));
    let name = world.name("thin");
    for pool in [linear.device, disk] {
        let table = [Target::thin(pool, thin_id(1), sectors(MIB))];
        let error =
            world.dm().activate(&name, None, &table, ActivateOptions::default()).unwrap_err();
        assert!(matches!(error, Error::WrongPool { .. }), "{error:?}");
    }
}

pub fn a_suspended_pool_takes_no_new_thin_devices(world: &mut dyn World) {
    let pool = pool(world, 4 * MIB);
    world.dm().create_thin(&pool.name, thin_id(1)).unwrap();
    world.dm().suspend(&pool.name, SuspendOptions::default()).unwrap();
    let table = [Target::thin(pool.device, thin_id(1), sectors(MIB))];
    let name = world.name("thin");
    let error = world.dm().activate(&name, None, &table, ActivateOptions::default()).unwrap_err();
    let expected = Error::PoolSuspended { device: name.to_string(), pool: pool.name.to_string() };
    assert_eq!(error, expected);
    world.dm().resume(&pool.name).unwrap();
    world.dm().activate(&name, None, &table, ActivateOptions::default()).unwrap();
}

pub fn a_suspended_pool_takes_messages(world: &mut dyn World) {
    let pool = pool(world, 4 * MIB);
    world.dm().suspend(&pool.name, SuspendOptions::default()).unwrap();
    world.dm().create_thin(&pool.name, thin_id(1)).unwrap();
    world.dm().delete_thin(&pool.name, thin_id(1)).unwrap();
    world.dm().resume(&pool.name).unwrap();
}

pub fn messages_that_make_no_sense_are_refused(world: &mut dyn World) {
    let disk = world.disk(MIB);
    let pool = pool(world, 4 * MIB);
    let linear = activate(world, "linear", Target::linear(disk, Sectors::ZERO, sectors(MIB)));
    let wrong = [
        "create_thin",
        "create_thin 1 2",
        "create_thin x",
        "create_thin -1",
        "create_snap 1",
        "delete",
        "set_transaction_id 1",
        "no_such_message",
        "@no_such_message",
    ];
    for text in wrong {
        let error = world.dm().message(&pool.name, Sectors::ZERO, text).unwrap_err();
        assert!(matches!(error, Error::MessageRefused { .. }), "{text}: {error:?}");
    }
    for text in ["create_thin 16777216", "create_snap 1 16777216", "delete 99999999999"] {
        let error = world.dm().message(&pool.name, Sectors::ZERO, text).unwrap_err();
        assert!(matches!(error, Error::ThinIdOutOfRange { .. }), "{text}: {error:?}");
        assert_eq!(error.errno(), Some(Errno::EINVAL));
    }
    for (device, sector, text) in [
        (&linear.name, Sectors::ZERO, "create_thin 1"),
        (&pool.name, sectors(64 * MIB), "create_thin 1"),
        (&pool.name, Sectors::ZERO, ""),
    ] {
        assert_eq!(errno(world.dm().message(device, sector, text)), Errno::EINVAL as i32);
    }
    world.dm().message(&pool.name, Sectors::ZERO, "CREATE_THIN 1").unwrap();
}

pub fn the_transaction_id_is_compared_and_swapped(world: &mut dyn World) {
    let pool = pool(world, 4 * MIB);
    let dm = world.dm();
    dm.set_transaction_id(&pool.name, 0, 9).unwrap();
    let error = dm.set_transaction_id(&pool.name, 0, 10).unwrap_err();
    assert!(matches!(error, Error::TransactionMismatch { expected: 0, wanted: 10, .. }));
    dm.set_transaction_id(&pool.name, 9, 3).unwrap();
    assert_eq!(working(world, &pool).transaction_id, 3);
}

pub fn a_metadata_snapshot_is_held_once(world: &mut dyn World) {
    let pool = pool(world, 4 * MIB);
    let name = pool.name.to_string();
    let name = || name.clone();
    let release = world.dm().release_metadata_snap(&pool.name);
    assert_eq!(release, Err(Error::NoMetadataSnap { pool: name() }));
    world.dm().reserve_metadata_snap(&pool.name).unwrap();
    assert!(working(world, &pool).held_metadata_root.is_some_and(|root| root > 0));
    let again = world.dm().reserve_metadata_snap(&pool.name);
    assert_eq!(again, Err(Error::MetadataSnapHeld { pool: name() }));
    world.dm().release_metadata_snap(&pool.name).unwrap();
    assert_eq!(working(world, &pool).held_metadata_root, None);
}

pub fn a_pool_grows_and_does_not_shrink(world: &mut dyn World) {
    let mut table = pool_table(world, 4 * MIB);
    let info = activate(world, "pool", Target::ThinPool(table.clone()));
    assert_eq!(working(world, &info).data.total, 64);
    world.resize_disk(table.data.number().unwrap(), 8 * MIB);
    world.resize_disk(table.metadata.number().unwrap(), 8 * MIB);
    table.length = sectors(8 * MIB);
    world.dm().reload(&info.name, &[Target::ThinPool(table.clone())]).unwrap();
    let status = working(world, &info);
    assert_eq!((status.data.total, status.metadata.total), (128, 8 * MIB / 4096));

    table.length = sectors(4 * MIB);
    let dm = world.dm();
    dm.load(&info.name, &[Target::ThinPool(table.clone())], LoadOptions::default()).unwrap();
    let error = dm.resume(&info.name).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EINVAL), "{error:?}");
    let now = dm.info(&info.name).unwrap().unwrap();
    assert!(now.suspended && now.live_table, "only a right table helps: {now:?}");
    table.length = sectors(8 * MIB);
    dm.load(&info.name, &[Target::ThinPool(table)], LoadOptions::default()).unwrap();
    assert!(!dm.resume(&info.name).unwrap().suspended);
}

pub fn a_pool_whose_commit_fails_hides_it_and_has_failed(world: &mut dyn World) {
    let below = world.disk(4 * MIB);
    let data = world.disk(4 * MIB);
    let metadata = activate(world, "meta", Target::linear(below, Sectors::ZERO, sectors(4 * MIB)));
    let table = pool_table_on(metadata.device, data, 4 * MIB);
    let pool = activate(world, "pool", Target::ThinPool(table.clone()));
    let thin = thin(world, &pool, 1, MIB);
    let broken = Target::Error { start: Sectors::ZERO, length: sectors(4 * MIB) };
    world.dm().reload(&metadata.name, &[broken]).unwrap();

    let name = pool.name.to_string();
    world.dm().create_thin(&pool.name, thin_id(2)).expect("its failure is hidden");
    let status = world.dm().pool_status(&pool.name, StatusOptions::NO_FLUSH).unwrap();
    assert_eq!(status, ThinPoolStatus::Fail);
    let failed = Err(Error::PoolFailed { pool: name });
    assert_eq!(world.dm().create_thin(&pool.name, thin_id(3)), failed);
    assert_eq!(world.dm().delete_thin(&pool.name, thin_id(9)), failed);
    assert_eq!(world.dm().thin_status(&thin).unwrap(), ThinStatus::Fail);
    let device = open(world, &thin);
    assert_eq!(device.read(0, 4096), Err(Errno::EIO as i32));
    assert_eq!(device.write(0, &[1; 4096]), Err(Errno::EIO as i32));
    drop(device);

    world.dm().remove(&thin).unwrap();
    world.dm().remove(&pool.name).unwrap();
    let healed = Target::linear(below, Sectors::ZERO, sectors(4 * MIB));
    world.dm().reload(&metadata.name, &[healed]).unwrap();
    let pool = activate(world, "pool", Target::ThinPool(table));
    world.dm().create_thin(&pool.name, thin_id(2)).expect("it was not made");
    let one = world.dm().create_thin(&pool.name, thin_id(1)).unwrap_err();
    assert_eq!(one.errno(), Some(Errno::EEXIST));
}
