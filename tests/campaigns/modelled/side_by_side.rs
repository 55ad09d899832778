//! Several callers at once, with the reclaimer at work, and an end in the middle.

use devmapper_snapshotter::dm::fake::Unflushed;
use devmapper_snapshotter::dm::{Fault, FaultPlan};
use devmapper_snapshotter::snapshotter::Reclaiming;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::explore::{explored, print_explored, recovered, Base, End, Remains};
use super::judge::{self, Loss};
use super::model::{Model, Op, Refusal};
use super::programs::{by_hand::*, program, seeds};
use super::storage::Survivors;
use super::world::{Failure, Users, World};

const CALLERS: usize = 3;

/// What one caller knows at the end.
struct Outcome {
    model: Model,
    pending: Option<Op>,
    users: Users,
}

/// Runs the program of one caller until its end, or until everything ends.
fn caller(world: &World, mut model: Model, program: &[Op]) -> Result<Outcome, String> {
    let mut users = Users::default();
    for op in program {
        let mut after = model.clone();
        let expected = after.apply(op);
        match (world.call(&mut users, op), expected) {
            (Ok(()), Ok(())) => model = after,
            (Err(_), _) if world.machine.plan.halted() => {
                return Ok(Outcome { model, pending: Some(op.clone()), users })
            }
            (Err(Failure::Snapshotter(error)), Err(refusal))
                if Refusal::of(&error) == Some(refusal) => {}
            (Err(failure), expected) => {
                return Err(format!("{op:?} failed: {failure}; expected {expected:?}"))
            }
            (Ok(()), Err(refusal)) => return Err(format!("{op:?} succeeds, expected {refusal:?}")),
        }
    }
    Ok(Outcome { model, pending: None, users })
}

/// All models that may be true. The last call of each caller took effect or did not.
fn possible(outcomes: &[Outcome]) -> Vec<Model> {
    let mut all = vec![judge::nothing()];
    for outcome in outcomes {
        let each = match &outcome.pending {
            Some(op) => outcome.model.after_unanswered(op),
            None => vec![outcome.model.clone()],
        };
        all = all.iter().flat_map(|one| each.iter().map(|other| joined(one, other))).collect();
    }
    all
}

fn joined(one: &Model, other: &Model) -> Model {
    let mut joined = one.clone();
    joined.snapshots.extend(other.snapshots.clone());
    joined.attached.extend(other.attached.iter().cloned());
    joined
}

/// The program of one caller. Every other base layer in it is made on the shared one.
fn own_program(runner: &mut TestRunner, caller: usize) -> Vec<Op> {
    let seeds = seeds(10).new_tree(runner).expect("seeds").current();
    let mut odd = false;
    let shared = |op| match op {
        Op::Prepare { key, parent, size } if parent.is_empty() => {
            odd = !odd;
            Op::Prepare { key, parent: if odd { "shared".into() } else { parent }, size }
        }
        op => op,
    };
    program(&seeds, &format!("{caller}-")).into_iter().map(shared).collect()
}

/// The snapshots that exist before the callers start. Ends while they are made are explored
/// elsewhere.
fn common() -> [Op; 3] {
    [prepare("layer", ""), write("layer", 3, 33, true), commit("shared", "layer")]
}

fn first_step_of_callers(base: &Base, end: End) -> u64 {
    let plan = FaultPlan::counting();
    let mut world = base.started(&plan, end.steps());
    common().iter().for_each(|op| world.run(op).expect("nothing ends here"));
    // The reclaimer may take a few more steps before the callers start.
    plan.taken() + 8
}

fn explore_one(base: &Base, runner: &mut TestRunner, end: End, step: u64) -> Result<bool, String> {
    let plan = FaultPlan::at(
        step,
        if step.is_multiple_of(2) { Fault::CrashBefore } else { Fault::CrashAfter },
    );
    let programs: Vec<Vec<Op>> = (0..CALLERS).map(|caller| own_program(runner, caller)).collect();
    let mut world = base.started(&plan, end.steps());
    let mut model = judge::nothing();
    for op in common() {
        judge::try_op(&mut world, &mut model, &op)?;
    }
    let outcomes = std::thread::scope(|scope| {
        let (world, model) = (&world, &model);
        let callers: Vec<_> = programs
            .iter()
            .map(|program| scope.spawn(move || caller(world, model.clone(), program)))
            .collect();
        callers
            .into_iter()
            .map(|caller| caller.join().expect("no caller panics"))
            .collect::<Result<Vec<_>, _>>()
    });
    let mut outcomes = outcomes.map_err(|what| format!("{what}\nin {programs:#?}"))?;
    let possible = possible(&outcomes);
    for outcome in &mut outcomes {
        let users = std::mem::take(&mut outcome.users);
        world.users.attached.extend(users.attached);
        world.users.orphans.extend(users.orphans);
    }
    let halted = plan.halted();
    let images = match end {
        End::Killed => vec![(Loss::Nothing, world.killed())],
        End::PowerCut => {
            world.switch_off();
            let remains = Remains::of(&world, step);
            let cut = |(unflushed, survivors): (Unflushed, Survivors)| {
                (Loss::Unflushed, world.power_cut(unflushed, survivors))
            };
            remains.0.into_iter().map(cut).collect()
        }
    };
    for (loss, image) in images {
        if halted {
            explored("ends of callers side by side");
        }
        recovered(base, image, loss, &possible, None).map_err(|what| {
            format!("{end:?} at step {step} ({:?}): {what}\nin {programs:#?}", plan.tripped())
        })?;
    }
    Ok(halted)
}

#[test]
fn an_end_in_the_middle_of_many_calls_is_mended_by_the_next_start() {
    let rounds: u64 =
        std::env::var("CRASH_SEEDS").ok().map_or(60, |n| n.parse().expect("a number"));
    let base = Base::new(true).with(Reclaiming::Behind);
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        TestRng::deterministic_rng(RngAlgorithm::ChaCha),
    );
    for end in [End::Killed, End::PowerCut] {
        let first = first_step_of_callers(&base, end);
        let spread = if end == End::Killed { 400 } else { 80 };
        for round in 0..rounds {
            let step = first + round * 37 % spread;
            explore_one(&base, &mut runner, end, step).unwrap_or_else(|what| panic!("{what}"));
        }
    }
    print_explored("side by side", &[]);
}
