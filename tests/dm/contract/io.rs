//! Cases about what is in the blocks: copy on write, sharing, discards, a full pool.

use devmapper_snapshotter::dm::{
    ActivateOptions, Errno, Error, PoolMode, PoolNotice, Target, ThinStatus, ThinTable,
};
use devmapper_snapshotter::units::Sectors;

use super::{activate, open, pool, pool_table, sectors, thin, thin_id, working, World, BLOCK, MIB};

pub fn unwritten_blocks_read_as_zeros(world: &mut dyn World) {
    let table = pool_table(world, 4 * MIB);
    // What was on the disk before must not show.
    world.fill_disk(table.data.number().unwrap(), 0, &vec![0xee; 4 * MIB as usize]);
    let pool = activate(world, "pool", Target::ThinPool(table));
    let name = thin(world, &pool, 1, MIB);
    let device = open(world, &name);
    assert_eq!(device.read(0, 8192).unwrap(), [0; 8192]);
    assert_eq!(working(world, &pool).data.used, 0, "reading takes no block");
    device.write(4096, &[1; 4096]).unwrap();
    assert_eq!(device.read(0, 12288).unwrap(), [[0; 4096], [1; 4096], [0; 4096]].concat());
    device.flush().unwrap();
    assert_eq!(working(world, &pool).data.used, 1);
    let status = world.dm().thin_status(&name).unwrap();
    let (mapped, highest) = (Sectors(128), Some(Sectors(127)));
    assert_eq!(status, ThinStatus::Working { mapped, highest });
}

pub fn a_snapshot_keeps_what_it_was_taken_of(world: &mut dyn World) {
    let pool = pool(world, 4 * MIB);
    let origin = thin(world, &pool, 1, MIB);
    open(world, &origin).write(0, &[1; 8192]).unwrap();
    world.dm().remove(&origin).unwrap();
    world.dm().create_snap(&pool.name, thin_id(2), thin_id(1)).unwrap();
    world.dm().create_snap(&pool.name, thin_id(3), thin_id(2)).unwrap();
    let (one, two, three) =
        (thin(world, &pool, 1, MIB), thin(world, &pool, 2, MIB), thin(world, &pool, 3, MIB));
    open(world, &one).write(0, &[9; 4096]).unwrap();
    open(world, &two).write(4096, &[8; 4096]).unwrap();
    let read = |name| open(world, name).read(0, 8192).unwrap();
    assert_eq!(read(&one), [[9; 4096], [1; 4096]].concat());
    assert_eq!(read(&two), [[1; 4096], [8; 4096]].concat());
    assert_eq!(read(&three), [1; 8192]);
}

pub fn a_write_to_a_shared_block_takes_a_block(world: &mut dyn World) {
    let pool = pool(world, 4 * MIB);
    let origin = thin(world, &pool, 1, MIB);
    let device = open(world, &origin);
    let used = |world: &dyn World| working(world, &pool).data.used;
    device.write(0, &[1; 4096]).unwrap();
    device.write(BLOCK, &[1; 4096]).unwrap();
    device.write(BLOCK + 4096, &[1; 4096]).unwrap();
    assert_eq!(used(world), 2);
    world.dm().create_snap_of_device(&pool.name, thin_id(2), &origin, thin_id(1)).unwrap();
    assert_eq!(used(world), 2);
    device.write(0, &[2; 4096]).unwrap();
    device.write(4096, &[2; 4096]).unwrap();
    assert_eq!(used(world), 3, "one copy, however many writes");
    device.write(2 * BLOCK, &[2; 4096]).unwrap();
    assert_eq!(used(world), 4);
}

pub fn deleting_frees_what_is_not_shared(world: &mut dyn World) {
    let pool = pool(world, 4 * MIB);
    let origin = thin(world, &pool, 1, MIB);
    open(world, &origin).write(0, &[1; 4 * BLOCK as usize]).unwrap();
    world.dm().remove(&origin).unwrap();
    world.dm().create_snap(&pool.name, thin_id(2), thin_id(1)).unwrap();
    let snap = thin(world, &pool, 2, MIB);
    open(world, &snap).write(0, &[2; 4096]).unwrap();
    world.dm().remove(&snap).unwrap();
    assert_eq!(working(world, &pool).data.used, 5);
    world.dm().delete_thin(&pool.name, thin_id(2)).unwrap();
    assert_eq!(working(world, &pool).data.used, 4);
    world.dm().delete_thin(&pool.name, thin_id(1)).unwrap();
    assert_eq!(working(world, &pool).data.used, 0);
    world.dm().create_thin(&pool.name, thin_id(1)).unwrap();
}

pub fn discard_frees_whole_blocks(world: &mut dyn World) {
    let pool = pool(world, 4 * MIB);
    let name = thin(world, &pool, 1, MIB);
    let device = open(world, &name);
    device.write(0, &[1; 4 * BLOCK as usize]).unwrap();
    // Half of the first block, all of the second and third, half of the fourth.
    device.discard(BLOCK / 2, 3 * BLOCK).unwrap();
    assert_eq!(working(world, &pool).data.used, 2);
    let bytes = device.read(0, 4 * BLOCK as usize).unwrap();
    let (block, half) = (BLOCK as usize, BLOCK as usize / 2);
    assert!(bytes[block..3 * block].iter().all(|b| *b == 0));
    assert!(bytes[..half].iter().chain(&bytes[3 * block + half..]).all(|b| *b == 1));
    assert_eq!(world.dm().thin_status(&name).unwrap().mapped(), Some(Sectors(256)));
}

pub fn a_read_only_device_takes_no_writes(world: &mut dyn World) {
    let pool = pool(world, 4 * MIB);
    let name = thin(world, &pool, 1, MIB);
    open(world, &name).write(0, &[1; 4096]).unwrap();
    let table = [Target::thin(pool.device, thin_id(1), sectors(MIB))];
    let view = world.name("view");
    let options = ActivateOptions { read_only: true, ..Default::default() };
    assert!(world.dm().activate(&view, None, &table, options).unwrap().read_only);
    let device = open(world, &view);
    assert_eq!(device.read(0, 4096).unwrap(), [1; 4096]);
    assert_eq!(device.write(0, &[2; 4096]), Err(Errno::EPERM as i32));
    let device = open(world, &name);
    device.write(0, &[3; 4096]).unwrap();
}

pub fn a_thin_can_be_active_twice(world: &mut dyn World) {
    let pool = pool(world, 4 * MIB);
    let one = thin(world, &pool, 1, MIB);
    let table = Target::thin(pool.device, thin_id(1), sectors(MIB));
    let two = activate(world, "again", table).name;
    open(world, &one).write(0, &[1; 4096]).unwrap();
    assert_eq!(open(world, &two).read(0, 4096).unwrap(), [1; 4096]);
    world.dm().remove(&one).unwrap();
    let error = world.dm().delete_thin(&pool.name, thin_id(1)).unwrap_err();
    assert!(matches!(error, Error::ThinInUse { .. }));
}

pub fn a_smaller_activation_hides_blocks(world: &mut dyn World) {
    let pool = pool(world, 4 * MIB);
    let name = thin(world, &pool, 1, MIB);
    open(world, &name).write(MIB - 4096, &[1; 4096]).unwrap();
    world.dm().remove(&name).unwrap();
    let name = thin(world, &pool, 1, MIB / 2);
    assert!(open(world, &name).read(MIB - 4096, 4096).is_err());
    assert_eq!(world.dm().thin_status(&name).unwrap().mapped(), Some(Sectors(128)));
    world.dm().reload(&name, &[Target::thin(pool.device, thin_id(1), sectors(2 * MIB))]).unwrap();
    assert_eq!(open(world, &name).read(MIB - 4096, 4096).unwrap(), [1; 4096]);
    assert_eq!(open(world, &name).read(2 * MIB - 4096, 4096).unwrap(), [0; 4096]);
}

pub fn an_external_origin_shows_through(world: &mut dyn World) {
    let origin = world.disk(MIB);
    world.fill_disk(origin, 0, &[7; 8192]);
    let pool = pool(world, 4 * MIB);
    world.dm().create_thin(&pool.name, thin_id(1)).unwrap();
    let table = Target::Thin(ThinTable {
        start: Sectors::ZERO,
        length: sectors(2 * MIB),
        pool: pool.device.into(),
        id: thin_id(1),
        external_origin: Some(origin.into()),
    });
    let info = activate(world, "thin", table.clone());
    assert_eq!(world.dm().table(&info.name).unwrap(), [table]);
    let device = open(world, &info.name);
    assert_eq!(device.read(0, 8192).unwrap(), [7; 8192]);
    assert_eq!(device.read(MIB, 4096).unwrap(), [0; 4096], "past the origin's end");
    device.write(0, &[8; 4096]).unwrap();
    assert_eq!(device.read(0, 8192).unwrap(), [[8; 4096], [7; 4096]].concat());
    assert_eq!(working(world, &pool).data.used, 1);
}

pub fn a_full_pool_refuses_new_blocks_alone(world: &mut dyn World) {
    let pool = pool(world, 8 * BLOCK);
    let name = thin(world, &pool, 1, MIB);
    let device = open(world, &name);
    device.write(0, &[1; 8 * BLOCK as usize]).unwrap();
    assert_eq!(device.write(8 * BLOCK, &[1; 4096]), Err(Errno::ENOSPC as i32));
    let status = working(world, &pool);
    assert_eq!((status.mode, status.data.free()), (PoolMode::OutOfDataSpace, 0));
    device.write(0, &[2; 4096]).unwrap();
    assert_eq!(device.read(0, 4096).unwrap(), [2; 4096]);
    assert_eq!(device.read(8 * BLOCK, 4096).unwrap(), [0; 4096]);
    world.dm().create_thin(&pool.name, thin_id(2)).unwrap();
    world.dm().create_snap(&pool.name, thin_id(3), thin_id(2)).unwrap();
    world.dm().delete_thin(&pool.name, thin_id(3)).unwrap();
    drop(device);
    world.dm().remove(&name).unwrap();
    world.dm().delete_thin(&pool.name, thin_id(1)).unwrap();
    let status = working(world, &pool);
    assert_eq!((status.mode, status.data.used), (PoolMode::ReadWrite, 0));
}

pub fn a_full_pool_goes_on_when_it_has_grown(world: &mut dyn World) {
    let mut table = pool_table(world, 4 * BLOCK);
    let pool = activate(world, "pool", Target::ThinPool(table.clone()));
    let name = thin(world, &pool, 1, MIB);
    let device = open(world, &name);
    device.write(0, &[1; 4 * BLOCK as usize]).unwrap();
    assert_eq!(device.write(4 * BLOCK, &[1; 4096]), Err(Errno::ENOSPC as i32));
    world.resize_disk(table.data.number().unwrap(), 8 * BLOCK);
    table.length = sectors(8 * BLOCK);
    world.dm().reload(&pool.name, &[Target::ThinPool(table)]).unwrap();
    assert_eq!(working(world, &pool).mode, PoolMode::ReadWrite);
    device.write(4 * BLOCK, &[1; 4096]).unwrap();
}

pub fn low_water_is_an_event(world: &mut dyn World) {
    // The mark is at 2 blocks.
    let pool = pool(world, 8 * BLOCK);
    let name = thin(world, &pool, 1, MIB);
    let device = open(world, &name);
    let events = |world: &dyn World| world.dm().info(&pool.name).unwrap().unwrap().event_nr;
    let before = events(world);
    for block in 0..5 {
        device.write(block * BLOCK, &[1; 4096]).unwrap();
    }
    assert_eq!(events(world), before);
    device.write(5 * BLOCK, &[1; 4096]).unwrap();
    device.write(6 * BLOCK, &[1; 4096]).unwrap();
    assert_eq!(events(world), before + 1, "once for the crossing");
}

pub fn each_event_of_a_pool_is_one_line_in_the_log(world: &mut dyn World) {
    use PoolNotice::{LowWater, RefusesWrites, ServesWrites};
    let mut table = pool_table(world, 8 * BLOCK);
    let pool = activate(world, "pool", Target::ThinPool(table.clone()));
    let dm = world.dm().clone();
    let mut log = dm.kernel().pool_log().expect("a log");
    // Not what earlier pools of this number have left.
    let mut place = (log.read(pool.device, 0).next, 0);
    let mut said = || {
        let read = log.read(pool.device, place.0);
        let events = dm.info(&pool.name).unwrap().unwrap().event_nr;
        assert!(read.complete, "{read:?}");
        assert_eq!(events, place.1 + read.notices.len() as u32, "{:?}", read.notices);
        place = (read.next, events);
        read.notices
    };
    assert_eq!(said(), []);
    let name = thin(world, &pool, 1, 2 * MIB);
    let device = open(world, &name);
    let mut block = 0..;
    let mut write = |count: usize| {
        let mut written = block.by_ref().take(count).map(|n| device.write(n * BLOCK, &[1; 4096]));
        written.try_for_each(|done| done)
    };
    // The mark is at 2 blocks, and is looked at before a block is taken.
    write(6).unwrap();
    assert_eq!(said(), []);
    write(2).unwrap();
    assert_eq!(said(), [LowWater]);
    assert_eq!(write(1), Err(Errno::ENOSPC as i32));
    assert_eq!(write(1), Err(Errno::ENOSPC as i32));
    assert_eq!(said(), [RefusesWrites]);
    // A resume alone changes nothing; with another table the pool tries anew.
    dm.suspend(&pool.name, Default::default()).unwrap();
    dm.resume(&pool.name).unwrap();
    assert_eq!(said(), []);
    dm.reload(&pool.name, &[Target::ThinPool(table.clone())]).unwrap();
    assert_eq!(said(), [ServesWrites]);
    assert_eq!(write(1), Err(Errno::ENOSPC as i32));
    assert_eq!(said(), [LowWater, RefusesWrites]);
    // More space ends it, once. More space for a pool that has some is no event, but sets the
    // mark anew.
    for (blocks, then) in [(12, vec![ServesWrites]), (16, vec![]), (20, vec![])] {
        world.resize_disk(table.data.number().unwrap(), blocks * BLOCK);
        table.length = sectors(blocks * BLOCK);
        dm.reload(&pool.name, &[Target::ThinPool(table.clone())]).unwrap();
        assert_eq!(said(), then, "{blocks} blocks");
        write(4).unwrap();
        assert_eq!(said(), [LowWater], "{blocks} blocks");
    }
    // Space from a deletion ends it as well.
    assert_eq!(write(1), Err(Errno::ENOSPC as i32));
    assert_eq!(said(), [RefusesWrites]);
    drop(device);
    dm.remove(&name).unwrap();
    dm.delete_thin(&pool.name, thin_id(1)).unwrap();
    assert_eq!(said(), [ServesWrites]);
    assert_eq!(
        dm.make_thin(&pool.name, thin_id(2), None).unwrap(),
        11,
        "the answer to a message has the number"
    );
    assert_eq!(dm.make_thin(&pool.name, thin_id(3), Some(thin_id(2))).unwrap(), 11);
}

pub fn a_snapshot_of_a_device_leaves_it_running(world: &mut dyn World) {
    let pool = pool(world, 4 * MIB);
    let name = thin(world, &pool, 1, MIB);
    let dm = world.dm();
    dm.create_snap_of_device(&pool.name, thin_id(2), &name, thin_id(1)).unwrap();
    let error = dm.create_snap_of_device(&pool.name, thin_id(2), &name, thin_id(1)).unwrap_err();
    assert!(matches!(error, Error::ThinExists { .. }), "{error:?}");
    assert!(!dm.info(&name).unwrap().unwrap().suspended);
    // An origin that is suspended stays so; one that is not there needs nothing.
    dm.suspend(&name, Default::default()).unwrap();
    dm.create_snap_of_device(&pool.name, thin_id(3), &name, thin_id(1)).unwrap();
    assert!(dm.info(&name).unwrap().unwrap().suspended);
    dm.resume(&name).unwrap();
    dm.remove(&name).unwrap();
    dm.create_snap_of_device(&pool.name, thin_id(4), &name, thin_id(1)).unwrap();
}
