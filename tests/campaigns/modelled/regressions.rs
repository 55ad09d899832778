//! Bugs that the enumeration has found, each as the shortest program that shows it.

use devmapper_snapshotter::dm::{Errno, Fault, FaultPlan, Verb};
use devmapper_snapshotter::pool::Role;
use devmapper_snapshotter::snapshotter::Finding;
use devmapper_snapshotter::store::SnapshotRecord;

use super::explore::{explore, run, Base, End};
use super::judge::{self, Loss};
use super::machine::{Steps, BLOCKS};
use super::model::{Model, Op};
use super::programs::by_hand::*;
use super::world::{Image, World};

fn ran(program: &[Op]) -> (Base, World, Model) {
    let base = Base::new(true);
    let ran = run(&base, program, &FaultPlan::counting(), Steps::Everything).unwrap();
    (base, ran.world, ran.model)
}

/// Runs the calls of `program`. In the last call, the `nth` step with the name `what` fails.
/// Returns the world, and whether that call succeeded.
fn with_failure(base: &Base, program: &[Op], what: &str, nth: usize) -> (World, bool) {
    let (last, calls) = program.split_last().unwrap();
    let mut seen = 0;
    let counted = FaultPlan::counting();
    let before = run(base, calls, &counted, Steps::Everything).unwrap();
    let first = counted.taken();
    drop(before);
    for step in first.. {
        let plan = FaultPlan::at(step, Fault::ErrorBefore(Errno::EIO));
        let mut ran = run(base, calls, &plan, Steps::Everything).unwrap();
        let done = ran.world.run(last);
        let tripped =
            plan.tripped().unwrap_or_else(|| panic!("no step number {nth} called {what:?}"));
        if tripped.contains(what) {
            seen += 1;
            if seen == nth {
                return (ran.world, done.is_ok());
            }
        }
    }
    unreachable!()
}

fn sound_after_restart(base: &Base, mut world: World, possible: &[Model]) {
    world.stop();
    world.start().unwrap();
    let model = judge::after_start(&mut world, possible, Loss::Nothing).unwrap();
    judge::remove_everything(&mut world, model, base.empty).unwrap();
}

fn record(world: &World, key: &str) -> SnapshotRecord {
    world.store().read(|r| r.snapshot(key)).unwrap()
}

fn models(program: &[Op]) -> Vec<Model> {
    let (last, calls) = program.split_last().unwrap();
    let mut model = judge::nothing();
    calls.iter().for_each(|op| model.apply(op).unwrap());
    model.after_unanswered(last)
}

/// Starts a daemon on `image` and kills it before or after the step with the name `what`.
fn start_killed(base: &Base, image: impl Fn() -> Image, what: &str, fault: Fault) -> Image {
    for step in 0.. {
        let plan = FaultPlan::at(step, fault);
        let mut world = World::on(image(), base.setup(), &plan, Steps::Changes);
        let started = world.start();
        if plan
            .tripped()
            .unwrap_or_else(|| panic!("no step is called {what:?}: {started:?}"))
            .contains(what)
        {
            return world.killed();
        }
    }
    unreachable!()
}

#[test]
fn the_pools_epoch_is_known_after_one_start_ended_behind_its_move_and_another_before_it() {
    let base = Base::new(true);
    let moves = "set_transaction_id";
    let after = || start_killed(&base, || base.image(), moves, Fault::CrashAfter);
    let before = start_killed(&base, after, moves, Fault::CrashBefore);
    World::on(before, base.setup(), &FaultPlan::counting(), Steps::Changes).start().unwrap();
}

#[test]
fn a_thin_that_was_deleted_and_not_ticked_off_is_ticked_off_by_the_next_clean_up() {
    let (base, mut world, mut model) = ran(&[prepare("a", ""), remove("a")]);
    let thin = world.store().read(|r| r.reclaims(None, 9)).unwrap()[0].thin().unwrap();
    world
        .dm()
        .remove(&world.snapshotter().pool().names().name(Role::Snapshot(thin.get().into())))
        .unwrap();
    world.dm().delete_thin(&World::pool_name(), thin).unwrap();
    judge::try_op(&mut world, &mut model, &Op::Cleanup).unwrap();
    assert_eq!(world.store().read(|r| r.reclaims(None, 9)).unwrap(), []);
    sound_after_restart(&base, world, &[model]);
}

#[test]
fn a_larger_snapshot_is_on_record_only_when_its_file_system_is_as_large() {
    let base = Base::new(true);
    let program = [prepare_sized("a", "", BLOCKS + 8)];
    for end in [End::Killed, End::PowerCut] {
        explore(&base, &program, end).unwrap();
    }
}

#[test]
fn a_prepare_whose_sync_failed_keeps_its_thin_until_the_next_start_knows_more() {
    let base = Base::new(true);
    let program = [prepare("a", "")];
    let (world, done) = with_failure(&base, &program, "database sync", 1);
    assert!(!done);
    sound_after_restart(&base, world, &models(&program));
}

#[test]
fn a_commit_of_a_mounted_snapshot_whose_sync_failed_keeps_its_copy() {
    let base = Base::new(true);
    let program = [prepare("a", ""), attach("a", true), write("a", 4, 1, true), commit("c", "a")];
    let (world, done) = with_failure(&base, &program, "database sync", 1);
    assert!(!done);
    sound_after_restart(&base, world, &models(&program));
}

#[test]
fn a_commit_that_the_database_had_no_space_for_leaves_the_snapshot_writable() {
    let base = Base::new(true);
    let program = [prepare("a", ""), commit("c", "a")];
    let (mut world, done) = with_failure(&base, &program, "database write", 1);
    assert!(!done);
    let mut model = models(&program).swap_remove(0);
    judge::findings(&world, "after the failure", |_| false).unwrap();
    judge::try_op(&mut world, &mut model, &write("a", 4, 1, true)).unwrap();
    judge::try_op(&mut world, &mut model, &commit("c", "a")).unwrap();
    sound_after_restart(&base, world, &[model]);
}

#[test]
fn a_device_that_has_no_table_does_not_block_its_key_until_a_restart() {
    let (base, mut world, mut model) = ran(&[prepare("a", "")]);
    let names = world.snapshotter().pool().names().clone();
    let role = Role::Snapshot(record(&world, "a").number);
    world.dm().remove(&names.name(role)).unwrap();
    world.dm().create(&names.name(role), Some(&names.uuid(role))).unwrap();
    judge::try_op(&mut world, &mut model, &Op::Mounts { key: "a".into() }).unwrap();
    judge::findings(&world, "after the mounts", |_| false).unwrap();
    sound_after_restart(&base, world, &[model]);
}

#[test]
fn a_device_that_stayed_suspended_goes_on_with_the_next_call() {
    let (base, mut world, mut model) = ran(&[prepare("a", "")]);
    let name = world.snapshotter().pool().names().name(Role::Snapshot(record(&world, "a").number));
    world.dm().suspend(&name, Default::default()).unwrap();
    judge::try_op(&mut world, &mut model, &Op::Mounts { key: "a".into() }).unwrap();
    judge::findings(&world, "after the mounts", |_| false).unwrap();
    sound_after_restart(&base, world, &[model]);
}

#[test]
fn a_thaw_that_fails_is_tried_again() {
    let base = Base::new(true);
    let program = [prepare("a", ""), attach("a", true), commit("c", "a")];
    let resume = format!("{} of p-snap", Verb::Resume);
    let (world, done) = with_failure(&base, &program, &resume, 1);
    let findings = world.snapshotter().check(Some(&world.thins())).unwrap();
    assert!(
        !findings.iter().any(|finding| matches!(finding, Finding::Suspended { .. })),
        "{findings:?}"
    );
    assert!(done, "the thaw was tried once only");
}

#[test]
fn a_thin_that_could_not_be_taken_back_stays_on_lease_until_the_next_start() {
    let (base, world, model) = ran(&[]);
    let pool = world.snapshotter().pool();
    let thin = pool.create(None).unwrap();
    let id = thin.get();
    // A device stands on it, so that it cannot be deleted.
    pool.activate(Role::Reclaim(id), id, super::machine::BLOCK, false).unwrap();
    pool.take_back(thin).unwrap_err();
    for _ in 0..600 {
        drop(pool.take_id().unwrap());
    }
    let unrecorded = Finding::ThinUnrecorded { thin: id, leased: true };
    assert!(world.snapshotter().check(Some(&world.thins())).unwrap().contains(&unrecorded));
    sound_after_restart(&base, world, &[model]);
}
