//! Cases about tables: loading, refusing, replacing.

use devmapper_snapshotter::dm::{
    ActivateOptions, DeviceRef, Errno, Error, LinearTable, LoadOptions, Payload, Request,
    StatusOptions, SuspendOptions, Target, TargetLine, Verb,
};
use devmapper_snapshotter::units::{DeviceNumber, Sectors};

use super::{activate, errno, open, pool, pool_table, sectors, thin_id, World, MIB};

/// A number that no disk of any world has.
const NOWHERE: DeviceNumber = DeviceNumber { major: 259, minor: 98_765 };

pub fn a_loaded_table_takes_effect_at_resume(world: &mut dyn World) {
    let disk = world.disk(MIB);
    let name = world.name("device");
    let (old, new) = (
        Target::linear(disk, Sectors::ZERO, Sectors(64)),
        Target::linear(disk, Sectors(64), Sectors(128)),
    );
    world.dm().create(&name, None).unwrap();
    let info = world.dm().load(&name, std::slice::from_ref(&old), LoadOptions::default()).unwrap();
    assert!(info.inactive_table && !info.live_table);
    assert_eq!(world.dm().table(&name).unwrap(), []);
    assert_eq!(world.dm().inactive_table(&name).unwrap(), std::slice::from_ref(&old));
    let info = world.dm().resume(&name).unwrap();
    assert!(info.live_table && !info.inactive_table && !info.suspended);
    assert_eq!(info.target_count, 1);

    world
        .dm()
        .load(&name, &[Target::linear(disk, Sectors(8), Sectors(8))], LoadOptions::default())
        .unwrap();
    let info = world.dm().load(&name, std::slice::from_ref(&new), LoadOptions::default()).unwrap();
    assert!(info.inactive_table && info.live_table && !info.suspended);
    assert_eq!(world.dm().table(&name).unwrap(), [old]);
    // A running device takes its new table in one resume.
    let info = world.dm().resume(&name).unwrap();
    assert!(!info.inactive_table && !info.suspended);
    assert_eq!(world.dm().table(&name).unwrap(), [new]);
}

pub fn a_loaded_table_can_be_cleared(world: &mut dyn World) {
    let disk = world.disk(MIB);
    let table = Target::linear(disk, Sectors::ZERO, Sectors(64));
    let info = activate(world, "device", table.clone());
    let below = activate(world, "below", table.clone());
    let dm = world.dm();
    dm.load(
        &info.name,
        &[Target::linear(below.device, Sectors(8), Sectors(8))],
        LoadOptions::default(),
    )
    .unwrap();
    assert!(dm.remove(&below.name).unwrap_err().is_busy(), "a loaded table counts");
    assert!(!dm.clear(&info.name).unwrap().inactive_table);
    dm.remove(&below.name).unwrap();
    dm.clear(&info.name).unwrap();
    assert_eq!(dm.table(&info.name).unwrap(), [table]);
}

pub fn linear_shows_a_piece_of_a_disk(world: &mut dyn World) {
    let disk = world.disk(MIB);
    world.fill_disk(disk, 8192, &[7; 4096]);
    let two = [
        Target::linear(disk, Sectors(16), Sectors(8)),
        Target::Linear(LinearTable {
            start: Sectors(8),
            length: Sectors(8),
            device: disk.into(),
            offset: Sectors(0),
        }),
    ];
    let name = world.name("pieces");
    let info = world.dm().activate(&name, None, &two, ActivateOptions::default()).unwrap();
    assert_eq!(info.target_count, 2);
    assert_eq!(world.dm().table(&name).unwrap(), two);
    assert_eq!(world.dm().deps(&name).unwrap(), [disk]);
    let device = open(world, &name);
    assert_eq!(device.read(0, 8192).unwrap(), [[7; 4096], [0; 4096]].concat());
    device.write(0, &[8; 8192]).unwrap();
    drop(device);
    let whole = activate(world, "whole", Target::linear(disk, Sectors::ZERO, sectors(MIB)));
    let bytes = open(world, &whole.name).read(0, 16384).unwrap();
    assert_eq!(bytes[..4096], [8; 4096]);
    assert_eq!(bytes[4096..8192], [0; 4096]);
    assert_eq!(bytes[8192..12288], [8; 4096]);
}

pub fn a_table_of_many_targets_is_read_whole(world: &mut dyn World) {
    let disk = world.disk(4 * MIB);
    let table: Vec<_> = (0..900)
        .map(|number| {
            let (start, offset) = (Sectors(8 * number), Sectors(8 * (900 - number)));
            Target::Linear(LinearTable { start, length: Sectors(8), device: disk.into(), offset })
        })
        .collect();
    let name = world.name("many");
    let info = world.dm().activate(&name, None, &table, ActivateOptions::default()).unwrap();
    assert_eq!(info.target_count, 900);
    assert_eq!(world.dm().table(&name).unwrap(), table);
    assert_eq!(world.dm().status(&name, StatusOptions::default()).unwrap().len(), 900);
}

pub fn tables_that_make_no_sense_are_refused(world: &mut dyn World) {
    let disk = world.disk(MIB);
    let line = |start: u64, length: u64, kind: &str, params: &str| TargetLine {
        start: Sectors(start),
        length: Sectors(length),
        kind: kind.to_owned(),
        params: params.to_owned(),
    };
    let disk = disk.to_string();
    let wrong = [
        vec![],
        vec![line(0, 0, "linear", &format!("{disk} 0"))],
        vec![line(8, 8, "linear", &format!("{disk} 0"))],
        vec![
            line(0, 8, "linear", &format!("{disk} 0")),
            line(16, 8, "linear", &format!("{disk} 0")),
        ],
        vec![line(0, 8, "linear", &disk)],
        vec![line(0, 8, "linear", &format!("{disk} x"))],
        vec![line(0, 8, "linear", &format!("{disk} 0 0"))],
        vec![line(0, 128, "thin", &disk)],
        vec![line(0, 128, "thin-pool", &format!("{disk} {disk}"))],
        vec![line(0, 128, "thin-pool", &format!("{disk} {disk} 128 0 1 no_such_feature"))],
    ];
    for table in wrong {
        let name = world.name("wrong");
        world.dm().create(&name, None).unwrap();
        let load =
            Request::new(Verb::Load).name(name.clone()).payload(Payload::Table(table.clone()));
        let error = world.dm().kernel().submit(&load).expect_err(&format!("{table:?} was taken"));
        assert!(matches!(error, Error::TableRefused { .. }), "{table:?}: {error:?}");
        assert!(!world.dm().info(&name).unwrap().unwrap().inactive_table);
        world.dm().remove(&name).unwrap();
    }
}

pub fn a_table_past_the_end_is_told_apart(world: &mut dyn World) {
    let disk = world.disk(MIB);
    let name = world.name("long");
    let table = [Target::linear(disk, Sectors(8), sectors(MIB))];
    let error = world.dm().activate(&name, None, &table, ActivateOptions::default()).unwrap_err();
    assert_eq!(
        error,
        Error::TableTooLong {
            device: name.to_string(),
            below: disk,
            needed: Sectors(2056),
            size: Sectors(2048)
        }
    );
    let mut table = pool_table(world, MIB);
    table.length = sectors(2 * MIB);
    let table = [Target::ThinPool(table)];
    let error = world.dm().activate(&name, None, &table, ActivateOptions::default()).unwrap_err();
    assert!(matches!(error, Error::TableTooLong { size: Sectors(2048), .. }), "{error:?}");
    assert_eq!(world.dm().info(&name).unwrap(), None);
}

pub fn a_device_below_that_is_absent_is_told_apart(world: &mut dyn World) {
    let name = world.name("device");
    let path = DeviceRef::Path("/dev/no-such-disk".into());
    for below in [DeviceRef::Number(NOWHERE), path] {
        let table = [Target::linear(below, Sectors::ZERO, Sectors(8))];
        let error =
            world.dm().activate(&name, None, &table, ActivateOptions::default()).unwrap_err();
        assert!(matches!(error, Error::BackingDeviceMissing { .. }), "{error:?}");
        assert_eq!(world.dm().info(&name).unwrap(), None);
    }
    world.dm().create(&name, None).unwrap();
    let table = [Target::linear(NOWHERE, Sectors::ZERO, Sectors(8))];
    let error = world.dm().load(&name, &table, LoadOptions::default()).unwrap_err();
    assert!(matches!(error, Error::BackingDeviceMissing { .. }), "{error:?}");
}

pub fn a_target_that_is_absent_is_told_apart(world: &mut dyn World) {
    let name = world.name("device");
    let table = [Target::Other {
        kind: "no-such-target".to_owned(),
        start: Sectors::ZERO,
        length: Sectors(8),
        params: String::new(),
    }];
    let error = world.dm().activate(&name, None, &table, ActivateOptions::default()).unwrap_err();
    assert!(
        matches!(&error, Error::TargetMissing { target, .. } if target == "no-such-target"),
        "{error:?}"
    );
    assert!(world.dm().require_target("no-such-target").is_err());
    let thin_pool = world.dm().require_thin().unwrap();
    assert_eq!(thin_pool.name, "thin-pool");
    assert!(world.dm().target_versions().unwrap().contains(&thin_pool));
}

pub fn reload_keeps_the_device_running(world: &mut dyn World) {
    let disk = world.disk(MIB);
    let info = activate(world, "device", Target::linear(disk, Sectors::ZERO, Sectors(64)));
    let new = Target::linear(disk, Sectors(8), Sectors(128));
    let after = world.dm().reload(&info.name, std::slice::from_ref(&new)).unwrap();
    assert!(!after.suspended && after.live_table && !after.inactive_table);
    assert_eq!(world.dm().table(&info.name).unwrap(), [new]);
    // A suspended one runs afterwards, too.
    world.dm().suspend(&info.name, SuspendOptions::default()).unwrap();
    let back = Target::linear(disk, Sectors::ZERO, Sectors(64));
    assert!(!world.dm().reload(&info.name, &[back]).unwrap().suspended);
}

pub fn reload_with_a_bad_table_keeps_the_old_one(world: &mut dyn World) {
    let disk = world.disk(MIB);
    let old = Target::linear(disk, Sectors::ZERO, Sectors(64));
    let info = activate(world, "device", old.clone());
    let refused = Target::linear(disk, Sectors::ZERO, sectors(2 * MIB));
    let error = world.dm().reload(&info.name, &[refused]).unwrap_err();
    assert!(matches!(error, Error::TableTooLong { .. }), "{error:?}");
    let now = world.dm().info(&info.name).unwrap().unwrap();
    assert!(!now.suspended && !now.inactive_table);
    assert_eq!(world.dm().table(&info.name).unwrap(), [old]);

    // A pool's shorter table loads, and fails at the resume.
    let pool = pool(world, 4 * MIB);
    let table = world.dm().table(&pool.name).unwrap();
    let Target::ThinPool(mut shorter) = table[0].clone() else { panic!("{table:?}") };
    shorter.length = sectors(2 * MIB);
    assert_eq!(
        errno(world.dm().reload(&pool.name, &[Target::ThinPool(shorter)])),
        Errno::EINVAL as i32
    );
    let now = world.dm().info(&pool.name).unwrap().unwrap();
    assert!(!now.suspended && !now.inactive_table && now.live_table);
    assert_eq!(world.dm().table(&pool.name).unwrap(), table);
    world.dm().create_thin(&pool.name, thin_id(1)).unwrap();
}
