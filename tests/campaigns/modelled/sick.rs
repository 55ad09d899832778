//! The kernel cannot write the pool's metadata. It goes back to what is on disk, hides that
//! from the sender of the message, and takes no changes until thin_check has been run. Then
//! exactly what was acknowledged must be there.

use devmapper_snapshotter::dm::fake::Unflushed;
use devmapper_snapshotter::dm::{Errno, Fault, FaultPlan};

use super::explore::{explored, print_explored, recovered, Base};
use super::judge::{self, Loss};
use super::machine::Steps;
use super::model::{Model, Op, Refusal};
use super::programs::by_hand::{prepare, remove};
use super::programs::classics;
use super::storage::Survivors;
use super::world::{Failure, World};

/// Fails each commit of the pool in turn, from the start of the daemon to the end of a program.
fn explore_failing_commits(base: &Base, program: &[Op]) -> Result<(), String> {
    for nth in 0.. {
        let plan = FaultPlan::at_nth(nth, "pool commit", Fault::ErrorBefore(Errno::EIO));
        let mut world = World::on(base.image(), base.setup(), &plan, Steps::Durable);
        let mut model = judge::nothing();
        let sick = || plan.tripped().is_some();
        if let (Err(error), false) = (world.start(), sick()) {
            return Err(error);
        }
        for op in program {
            if world.runs() {
                call(&mut world, &mut model, op, sick)
                    .map_err(|what| format!("commit {nth} fails: {op:?}: {what}"))?;
            }
        }
        if !sick() {
            return Ok(());
        }
        explored("failed commits of the pool");
        repaired(base, world, &model).map_err(|what| format!("commit {nth} fails: {what}"))?;
    }
    unreachable!("programs end")
}

fn call(
    world: &mut World,
    model: &mut Model,
    op: &Op,
    sick: impl Fn() -> bool,
) -> Result<(), String> {
    let by_a_user = matches!(op, Op::Attach { .. } | Op::Detach { .. } | Op::Write { .. });
    if sick() && (by_a_user || *op == Op::Restart) {
        return Ok(());
    }
    let mut after = model.clone();
    match (world.run(op), after.apply(op)) {
        (Ok(()), Ok(())) => *model = after,
        (Err(Failure::Snapshotter(error)), Err(refusal))
            if Refusal::of(&error) == Some(refusal) => {}
        (Err(Failure::Snapshotter(error)), _) if sick() => {
            if Refusal::of(&error).is_some() {
                return Err(format!("the error of a sick pool looks like a refusal: {error}"));
            }
        }
        (Err(Failure::Other(_)), _) if sick() => *model = model.after_unanswered(op).remove(0),
        (Err(failure), expected) => {
            return Err(format!("failed: {failure}; expected {expected:?}"))
        }
        (Ok(()), Err(refusal)) => return Err(format!("succeeds, expected {refusal:?}")),
    }
    Ok(())
}

/// The next start says what to do. After that is done, every acknowledged call has its effect.
fn repaired(base: &Base, mut world: World, model: &Model) -> Result<(), String> {
    world.stop();
    // If the failed start assembled the pool, it has also removed it.
    if world.dm().info(&World::pool_name()).is_ok_and(|info| info.is_some()) {
        match world.start() {
            Err(said) if said.contains("thin_check") => {}
            other => return Err(format!("the start on a sick pool: {other:?}")),
        }
    }
    world.switch_off();
    let image = world.power_cut(Unflushed::Lost, Survivors::Nothing);
    recovered(base, image, Loss::Unflushed, std::slice::from_ref(model), None)
}

#[test]
fn a_thin_whose_deletion_was_not_committed_is_deleted_once_the_pool_is_well() {
    let program = [prepare("a", ""), remove("a"), Op::Cleanup];
    explore_failing_commits(&Base::new(false), &program).unwrap();
}

#[test]
fn a_commit_of_the_pool_that_fails_in_the_classics_loses_and_leaks_nothing() {
    for discard in [true, false] {
        let base = Base::new(discard);
        for (story, program) in classics() {
            explore_failing_commits(&base, &program)
                .unwrap_or_else(|what| panic!("{story}: {what}"));
        }
    }
    print_explored("classics, failed commits", &[]);
}

#[test]
fn a_commit_of_the_pool_that_fails_in_generated_programs_loses_and_leaks_nothing() {
    let base = Base::new(true);
    super::points::for_generated(100, 20, |program| explore_failing_commits(&base, program));
    print_explored("generated, failed commits", &[]);
}
