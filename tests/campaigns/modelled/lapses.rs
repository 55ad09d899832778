//! A pool that refuses writes for a while. Snapshots that were there are refused by Commit,
//! later ones are not, wherever the daemon ends. Other events of the pool refuse nothing.

use devmapper_snapshotter::dm::fake::Unflushed;
use devmapper_snapshotter::dm::{Fault, FaultPlan, PoolMode, StatusOptions, Target};
use devmapper_snapshotter::names::DmName;
use devmapper_snapshotter::snapshotter::Error;
use devmapper_snapshotter::store::Kind;
use devmapper_snapshotter::units::{Sectors, ThinId};

use super::explore::{explored, print_explored, Base, End};
use super::files::FIRST;
use super::machine::{Steps, BLOCK};
use super::model::Op;
use super::programs::by_hand::prepare;
use super::storage::Survivors;
use super::world::{Image, World};

/// A thin outside the daemon's records that takes all free space of the pool.
const HOG: u32 = 9_000_000;

fn hog() -> (ThinId, DmName) {
    (ThinId::new(HOG).unwrap(), DmName::new("hog").unwrap())
}

/// Takes all free space of the pool. No write is refused yet.
fn fill_pool(world: &World) {
    let (dm, (id, name)) = (world.dm(), hog());
    let pool = dm.info(&World::pool_name()).unwrap().unwrap();
    dm.create_thin(&pool.name, id).unwrap();
    let blocks =
        dm.pool_status(&pool.name, StatusOptions::NO_FLUSH).unwrap().working().unwrap().data.free();
    let table = [Target::thin(pool.device, id, Sectors(BLOCK.0 * blocks))];
    dm.activate(&name, None, &table, Default::default()).unwrap();
    let device = world.machine.kernel.open(&name).unwrap();
    for block in 0..blocks {
        device.write_block(block, BLOCK, block).unwrap();
    }
}

/// Frees the space that [`fill_pool`] took.
fn free_space(world: &World) {
    let (dm, (id, name)) = (world.dm(), hog());
    dm.remove(&name).unwrap();
    dm.delete_thin(&World::pool_name(), id).unwrap();
    assert_eq!(mode(world), PoolMode::ReadWrite);
}

fn mode(world: &World) -> PoolMode {
    world
        .dm()
        .pool_status(&World::pool_name(), StatusOptions::NO_FLUSH)
        .unwrap()
        .working()
        .unwrap()
        .mode
}

fn write(key: &str, block: u64) -> Op {
    Op::Write { key: key.into(), block: FIRST + block, tag: 1, flush: false }
}

fn commits(world: &World, key: &str) -> Result<(), String> {
    world
        .snapshotter()
        .commit(&format!("{key}-committed"), key, Default::default())
        .map_err(|e| format!("{key}: {e}"))
}

fn is_refused(world: &World, key: &str) -> Result<(), String> {
    match world.snapshotter().commit("never", key, Default::default()) {
        Err(Error::Incomplete { .. }) => Ok(()),
        other => Err(format!("{key}: {other:?}")),
    }
}

fn kind(world: &World, key: &str) -> Option<Kind> {
    world.snapshotter().stat(key).ok().map(|info| info.kind)
}

/// How far a story has come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Progress {
    /// Writes to the layer have been refused.
    lapsed: bool,
    /// The daemon has refused to commit the layer.
    reported: bool,
}

/// A layer is written to while the pool is full; then there is space again, and another layer is
/// made and committed.
fn story(world: &mut World, progress: &mut Progress) -> Result<(), String> {
    world.run(&prepare("layer", "")).map_err(|e| e.to_string())?;
    fill_pool(world);
    if world.run(&write("layer", 9)).is_ok() {
        return Err("a full pool takes a write".into());
    }
    progress.lapsed = mode(world) == PoolMode::OutOfDataSpace;
    free_space(world);
    world.run(&prepare("after", "")).map_err(|e| e.to_string())?;
    world.run(&write("after", 9)).map_err(|e| e.to_string())?;
    is_refused(world, "layer")?;
    progress.reported = true;
    world.run(&Op::Restart).map_err(|e| e.to_string())?;
    is_refused(world, "layer")?;
    commits(world, "after")
}

/// The conditions after an end and the next start.
fn judged(image: Image, base: &Base, refused: bool) -> Result<(), String> {
    let mut world = World::on(image, base.setup(), &FaultPlan::counting(), Steps::Durable);
    for _ in 0..2 {
        world.start()?;
        if refused && kind(&world, "layer") == Some(Kind::Active) {
            is_refused(&world, "layer")?;
        }
        world.run(&prepare("late", "")).map_err(|e| e.to_string())?;
        world.run(&write("late", 9)).map_err(|e| e.to_string())?;
        commits(&world, "late")?;
        world.run(&Op::Remove { key: "late-committed".into() }).map_err(|e| e.to_string())?;
        world.stop();
    }
    world.start()?;
    match kind(&world, "after") {
        Some(Kind::Active) => commits(&world, "after"),
        _ => Ok(()),
    }
}

/// Kills the daemon of the story after its steps, after each or after some of them.
fn explore(base: &Base, log: bool, every: usize) -> Result<(), String> {
    for step in (base.first_step(End::Killed)..).step_by(every) {
        let plan = FaultPlan::at(step, Fault::CrashAfter);
        let mut world = World::on(base.image(), base.setup(), &plan, Steps::Changes);
        world.machine.kernel.forbid_log(!log);
        let mut progress = Progress::default();
        let done = world.start().and_then(|()| story(&mut world, &mut progress));
        if !plan.halted() {
            return done;
        }
        explored("daemons killed around a lapse");
        judged(world.killed(), base, progress.lapsed).map_err(|what| {
            format!("killed after step {step} ({}), {progress:?}: {what}", plan.tripped().unwrap())
        })?;
    }
    unreachable!("stories end")
}

#[test]
fn a_lapse_refuses_snapshots_made_before_its_end_and_no_others_wherever_the_daemon_is_killed() {
    let base = Base::new(true);
    for (log, every) in [(true, 1), (false, 5)] {
        explore(&base, log, every).unwrap_or_else(|what| panic!("log {log}: {what}"));
    }
    print_explored("a lapse", &[]);
}

#[test]
fn a_lapse_that_was_seen_is_remembered_after_a_power_cut() {
    let base = Base::new(true);
    let mut world = base.started(&FaultPlan::counting(), Steps::Durable);
    let mut progress = Progress::default();
    story(&mut world, &mut progress).unwrap();
    world.switch_off();
    for survivors in [Survivors::Nothing, Survivors::Everything] {
        judged(world.power_cut(Unflushed::Lost, survivors), &base, progress.reported).unwrap();
    }
}

fn started() -> World {
    let mut world = Base::new(true).started(&FaultPlan::counting(), Steps::Durable);
    world.run(&prepare("layer", "")).unwrap();
    world.run(&write("layer", 1)).unwrap();
    world
}

#[test]
fn metadata_that_falls_to_its_mark_ten_times_between_two_looks_refuses_nothing() {
    for restarts in [0, 2] {
        let mut world = started();
        (0..10).for_each(|_| world.machine.kernel.metadata_falls_low(&World::pool_name()));
        (0..restarts).for_each(|_| world.run(&Op::Restart).unwrap());
        commits(&world, "layer").unwrap();
    }
}

#[test]
fn a_pool_that_grows_ten_times_between_two_looks_refuses_nothing() {
    for restarts in [0, 1] {
        let mut world = started();
        let (dm, pool) = (world.dm(), World::pool_name());
        let mut table = dm.table(&pool).unwrap();
        let area = DmName::new("p-data").unwrap();
        let mut area_table = dm.table(&area).unwrap();
        let Target::ThinPool(pool_table) = &mut table[0] else { panic!("no pool") };
        // The low water mark is above the free space, so an event follows each growth.
        pool_table.low_water_blocks = 1 << 20;
        let events = || dm.info(&pool).unwrap().unwrap().event_nr;
        let before = events();
        for growth in 1..=10 {
            let Target::ThinPool(pool_table) = &mut table[0] else { panic!("no pool") };
            pool_table.length = Sectors(pool_table.length.0 + BLOCK.0);
            let Target::Linear(linear) = &mut area_table[0] else { panic!("no area") };
            linear.length = pool_table.length;
            let disk = Sectors(linear.offset.0 + linear.length.0);
            world.machine.kernel.resize_disk(linear.device.number().unwrap(), disk);
            dm.reload(&area, &area_table).unwrap();
            dm.reload(&pool, &table).unwrap();
            world.run(&write("layer", growth + 1)).unwrap();
        }
        assert_eq!(events(), before + 10);
        (0..restarts).for_each(|_| world.run(&Op::Restart).unwrap());
        commits(&world, "layer").unwrap();
    }
}

#[test]
fn a_lapse_while_no_daemon_runs_is_found_or_where_the_log_is_lost_taken_for_one() {
    for lost in [false, true] {
        let mut world = started();
        world.stop();
        let node = world.machine.kernel.clone();
        fill_pool(&world);
        let device = world
            .dm()
            .list()
            .unwrap()
            .into_iter()
            .find(|d| d.name.as_str().starts_with("p-snap-"))
            .unwrap();
        assert!(node.open(&device.name).unwrap().write_block(FIRST + 5, BLOCK, 1).is_err());
        free_space(&world);
        if lost {
            node.lose_log();
        }
        world.start().unwrap();
        is_refused(&world, "layer").unwrap();
        world.run(&Op::Restart).unwrap();
        is_refused(&world, "layer").unwrap();
    }
}

#[test]
fn a_log_that_is_lost_casts_no_doubt_on_a_pool_without_two_events() {
    let mut world = started();
    world.machine.kernel.metadata_falls_low(&World::pool_name());
    world.machine.kernel.lose_log();
    world.run(&Op::Restart).unwrap();
    commits(&world, "layer").unwrap();
}
