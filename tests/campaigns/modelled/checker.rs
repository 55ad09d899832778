//! The checker and the judge find states that were broken on purpose.

use devmapper_snapshotter::dm::fake::FakeHandle;
use devmapper_snapshotter::dm::{ActivateOptions, Dm, FaultPlan, SuspendOptions, Target};
use devmapper_snapshotter::names::DmName;
use devmapper_snapshotter::pool::Role;
use devmapper_snapshotter::snapshotter::Finding;
use devmapper_snapshotter::store::{Owner, SnapshotRecord};
use devmapper_snapshotter::units::{Sectors, ThinId};

use super::explore::{run, Base};
use super::files::Superblock;
use super::judge::{self, Loss};
use super::machine::{Steps, BLOCK, BLOCKS};
use super::model::{Model, Op};
use super::programs::by_hand::*;
use super::world::World;

/// A world with a committed layer `c`, a container `b` on it and a view `v`.
fn sound() -> (Base, World, Model) {
    let base = Base::new(true);
    let program = [
        prepare("a", ""),
        write("a", 4, 1, true),
        commit("c", "a"),
        prepare("b", "c"),
        view("v", "c"),
        Op::Cleanup,
    ];
    let ran = run(&base, &program, &FaultPlan::counting(), Steps::Durable).unwrap();
    judge::findings(&ran.world, "in a sound world", |_| false).unwrap();
    (base, ran.world, ran.model)
}

fn found(world: &World) -> Vec<Finding> {
    world.snapshotter().check(Some(&world.thins())).unwrap()
}

fn record(world: &World, key: &str) -> SnapshotRecord {
    world.store().read(|r| r.snapshot(key)).unwrap()
}

fn device(world: &World, role: Role) -> DmName {
    world.snapshotter().pool().names().name(role)
}

fn id(number: u32) -> ThinId {
    ThinId::new(number).unwrap()
}

/// Makes a device on a thin, with a name and a uuid as the daemon gives.
fn show(world: &World, role: Role, thin: ThinId, size: Sectors) -> DmName {
    let names = world.snapshotter().pool().names();
    let pool = world.dm().info(&World::pool_name()).unwrap().unwrap().device;
    let table = [Target::thin(pool, thin, size)];
    let name = names.name(role);
    world
        .dm()
        .activate(&name, Some(&names.uuid(role)), &table, ActivateOptions::default())
        .unwrap();
    name
}

fn dm(world: &World) -> (Dm, DmName) {
    (world.dm(), World::pool_name())
}

#[test]
fn a_thin_that_is_missing_is_found() {
    let (_, world, _) = sound();
    let (dm, pool) = dm(&world);
    let (b, c) = (record(&world, "b"), record(&world, "c"));
    dm.remove(&device(&world, Role::Snapshot(b.number))).unwrap();
    dm.delete_thin(&pool, b.thin).unwrap();
    dm.remove(&device(&world, Role::View(record(&world, "v").number))).unwrap();
    dm.delete_thin(&pool, c.thin).unwrap();
    let missing = |key: &str, record: &SnapshotRecord| Finding::ThinMissing {
        thin: record.thin,
        owner: Owner::Snapshot(key.into()),
    };
    assert_eq!(found(&world), [missing("c", &c), missing("b", &b)]);
}

#[test]
fn a_template_that_is_missing_is_found() {
    let (_, world, _) = sound();
    let (dm, pool) = dm(&world);
    let template = world.store().read(|r| r.templates()).unwrap().remove(0).1;
    dm.delete_thin(&pool, template.thin).unwrap();
    assert!(matches!(found(&world)[..], [Finding::ThinMissing { owner: Owner::Template(_), .. }]));
}

#[test]
fn a_thin_too_many_is_found_on_lease_or_off_it() {
    let (_, world, _) = sound();
    let (dm, pool) = dm(&world);
    let leased = id(world.store().read(|r| r.leases()).unwrap()[0].end - 1);
    for (thin, leased) in [(leased, true), (id(60_000), false)] {
        dm.create_thin(&pool, thin).unwrap();
        assert_eq!(found(&world), [Finding::ThinUnrecorded { thin, leased }]);
        dm.delete_thin(&pool, thin).unwrap();
    }
}

#[test]
fn a_device_left_suspended_is_found() {
    let (_, world, _) = sound();
    let name = device(&world, Role::Snapshot(record(&world, "b").number));
    world.dm().suspend(&name, SuspendOptions::default()).unwrap();
    assert_eq!(found(&world), [Finding::Suspended { device: name.to_string() }]);
}

#[test]
fn a_device_without_table_and_one_of_somebody_else_are_found() {
    let (_, world, _) = sound();
    let names = world.snapshotter().pool().names().clone();
    let (half, other) = (Role::Snapshot(70), Role::View(71));
    world.dm().create(&names.name(half), Some(&names.uuid(half))).unwrap();
    world.dm().create(&names.name(other), None).unwrap();
    let (half, other) = (names.name(half).to_string(), names.name(other).to_string());
    assert_eq!(
        found(&world),
        [Finding::HalfMade { device: half }, Finding::NotOurs { device: other }]
    );
}

#[test]
fn a_record_that_is_lost_is_found() {
    let (_, world, model) = sound();
    let b = record(&world, "b");
    world.store().commit(|c| c.remove_snapshot("b").map(drop)).unwrap();
    let device = device(&world, Role::Snapshot(b.number)).to_string();
    let leased = Finding::ThinUnrecorded { thin: b.thin, leased: true };
    assert_eq!(found(&world), [leased, Finding::Unwanted { device, open: 0 }]);
    assert!(judge::state(&world, &[model]).unwrap_err().starts_with("I1"));
}

#[test]
fn a_device_that_shows_something_else_or_less_of_it_is_found() {
    let (_, world, _) = sound();
    let (b, c) = (record(&world, "b"), record(&world, "c"));
    for (thin, size) in [(c.thin, b.size), (b.thin, Sectors(BLOCK.0))] {
        world.dm().remove(&device(&world, Role::Snapshot(b.number))).unwrap();
        let name = show(&world, Role::Snapshot(b.number), thin, size).to_string();
        let shows = Some((thin, size));
        assert_eq!(
            found(&world),
            [Finding::ShowsOther { device: name, shows, recorded: (b.thin, b.size) }]
        );
    }
}

#[test]
fn an_active_snapshot_that_takes_no_writes_and_a_committed_one_that_does_are_found() {
    let (_, world, _) = sound();
    let (b, c) = (record(&world, "b"), record(&world, "c"));
    let active = device(&world, Role::Snapshot(b.number));
    world.machine.kernel.set_read_only(&active, true).unwrap();
    assert_eq!(found(&world), [Finding::ReadOnly { device: active.to_string(), key: "b".into() }]);
    world.machine.kernel.set_read_only(&active, false).unwrap();
    let device = show(&world, Role::Snapshot(c.number), c.thin, c.size).to_string();
    let writable = Finding::Writable { device: device.clone(), key: "c".into() };
    assert_eq!(found(&world), [writable, Finding::Unwanted { device, open: 0 }]);
}

#[test]
fn a_view_that_takes_writes_is_found() {
    let (_, world, _) = sound();
    let view = device(&world, Role::View(record(&world, "v").number));
    world.machine.kernel.set_read_only(&view, false).unwrap();
    assert_eq!(found(&world), [Finding::Writable { device: view.to_string(), key: "v".into() }]);
}

#[test]
fn a_pool_that_has_failed_is_found() {
    let (_, world, _) = sound();
    world.machine.kernel.fail_pool(&World::pool_name());
    assert!(found(&world).iter().any(|finding| matches!(finding, Finding::PoolSick { .. })));
}

/// Writes to a thin without the daemon's knowledge.
fn spoil(world: &World, thin: ThinId, write: impl FnOnce(&FakeHandle)) {
    let pool = world.dm().info(&World::pool_name()).unwrap().unwrap().device;
    let name = DmName::new("behind").unwrap();
    world
        .dm()
        .activate(
            &name,
            None,
            &[Target::thin(pool, thin, Sectors(BLOCK.0 * BLOCKS))],
            ActivateOptions::default(),
        )
        .unwrap();
    write(&world.machine.kernel.open(&name).unwrap());
    world.dm().remove(&name).unwrap();
}

#[test]
fn a_committed_layer_that_has_changed_is_found_by_the_judge() {
    for block in [2, 4, 9, BLOCKS - 1] {
        let (_, world, mut model) = sound();
        judge::contents(&world, &mut model, Loss::Unflushed).unwrap();
        spoil(&world, record(&world, "c").thin, |handle| {
            handle.write_block(block, BLOCK, 0xbad).unwrap()
        });
        let error = judge::contents(&world, &mut model, Loss::Unflushed).unwrap_err();
        assert!(error.starts_with(&format!("I4: c: block {block} ")), "{error}");
    }
}

#[test]
fn a_committed_layer_that_is_not_clean_is_found_by_the_judge() {
    let (_, world, mut model) = sound();
    spoil(&world, record(&world, "c").thin, |handle| {
        let superblock = Superblock::read(handle).unwrap().unwrap();
        Superblock { clean: false, ..superblock }.write(handle).unwrap();
    });
    let error = judge::contents(&world, &mut model, Loss::Unflushed).unwrap_err();
    assert!(error.contains("not clean"), "{error}");
}

#[test]
fn a_write_that_was_flushed_and_is_lost_is_found_by_the_judge_and_one_that_was_not_may_be() {
    let (_, mut world, mut model) = sound();
    judge::try_op(&mut world, &mut model, &write("b", 5, 70, true)).unwrap();
    let mut unflushed = model.clone();
    unflushed.apply(&write("b", 5, 71, false)).unwrap();
    judge::contents(&world, &mut unflushed.clone(), Loss::Unflushed).unwrap();
    judge::contents(&world, &mut unflushed.clone(), Loss::Nothing).unwrap_err();
    let mut flushed = model.clone();
    flushed.apply(&write("b", 5, 71, true)).unwrap();
    judge::contents(&world, &mut flushed, Loss::Unflushed).unwrap_err();
}

#[test]
fn an_acknowledged_call_that_is_lost_is_found_by_the_judge() {
    let (_, world, model) = sound();
    for op in [prepare("x", "c"), view("x", "c"), commit("x", "b"), update("c", 7), remove("b")] {
        let mut more = model.clone();
        more.apply(&op).unwrap();
        judge::state(&world, &[more]).expect_err("a lost call is found");
    }
    judge::state(&world, &[model]).unwrap();
}

#[test]
fn blocks_that_leak_are_found_by_the_judge() {
    let (base, mut world, model) = sound();
    let template = world.store().read(|r| r.templates()).unwrap().remove(0).1;
    spoil(&world, template.thin, |handle| handle.write_block(20, BLOCK, 1).unwrap());
    let error = judge::remove_everything(&mut world, model, base.empty).unwrap_err();
    assert!(error.starts_with("I6"), "{error}");
}
