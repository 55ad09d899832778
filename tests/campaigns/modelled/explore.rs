//! Runs a program again and again, ends it at another step each time, starts the daemon on what
//! is left, and asks the judge.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use devmapper_snapshotter::dm::fake::Unflushed;
use devmapper_snapshotter::dm::{Fault, FaultPlan};
use devmapper_snapshotter::snapshotter::Reclaiming;

use super::judge::{self, Empty, Loss};
use super::machine::Steps;
use super::model::{Model, Op, Refusal};
use super::storage::Survivors;
use super::world::{Failure, Image, Setup, World};

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The daemon is killed. The kernel goes on.
    Killed,
    /// The power fails.
    PowerCut,
}

impl End {
    pub fn steps(self) -> Steps {
        match self {
            End::Killed => Steps::Changes,
            End::PowerCut => Steps::Durable,
        }
    }
}

/// The number of points that this process has explored, by kind.
static EXPLORED: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

pub fn explored(kind: &'static str) {
    *EXPLORED.lock().unwrap().entry(kind).or_default() += 1;
}

/// Prints the number of points explored so far. Returns how many of them are of `kinds`.
pub fn print_explored(what: &str, kinds: &[&'static str]) -> u64 {
    let explored = EXPLORED.lock().unwrap();
    let total: u64 = explored.values().sum();
    let all: Vec<_> = explored.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    println!("{what}: {total} crash points explored so far: {}", all.join(", "));
    kinds.iter().filter_map(|kind| explored.get(kind)).sum()
}

/// A daemon that has been started once and has only its template.
pub struct Base {
    world: World,
    setup: Setup,
    pub empty: Empty,
    /// The number of steps of its next start, for each kind of step.
    starts: BTreeMap<Steps, u64>,
}

impl Base {
    pub fn new(discard: bool) -> Base {
        let setup = Setup { discard, reclaiming: Reclaiming::OnCall };
        let mut world = World::on(Image::blank(), setup, &FaultPlan::counting(), Steps::Durable);
        world.start().unwrap();
        let empty = Empty::of(&world);
        world.switch_off();
        let mut base = Base { world, setup, empty, starts: BTreeMap::new() };
        for steps in [Steps::Durable, Steps::Changes, Steps::Everything] {
            let plan = FaultPlan::counting();
            let world = base.started(&plan, steps);
            base.starts.insert(steps, plan.taken());
            drop(world);
        }
        base
    }

    pub fn image(&self) -> Image {
        self.world.power_cut(Unflushed::Lost, Survivors::Everything)
    }

    pub fn with(mut self, reclaiming: Reclaiming) -> Base {
        self.setup.reclaiming = reclaiming;
        self
    }

    pub fn setup(&self) -> Setup {
        self.setup
    }

    pub fn started(&self, plan: &Arc<FaultPlan>, steps: Steps) -> World {
        let mut world = World::on(self.image(), self.setup, plan, steps);
        world.start().unwrap_or_else(|error| panic!("the base cannot be started: {error}"));
        world
    }

    /// The first step of a program.
    pub fn first_step(&self, end: End) -> u64 {
        self.first_step_of(end.steps())
    }

    pub fn first_step_of(&self, steps: Steps) -> u64 {
        self.starts[&steps]
    }
}

/// A program after a run, complete or up to some step.
pub struct Ran {
    pub world: World,
    /// The calls with an answer.
    pub model: Model,
    /// The call without an answer.
    pub pending: Option<Op>,
}

/// Runs a program to its end, or until `plan` stops the daemon or the machine.
pub fn run(
    base: &Base,
    program: &[Op],
    plan: &Arc<FaultPlan>,
    steps: Steps,
) -> Result<Ran, String> {
    let mut ran = Ran { world: base.started(plan, steps), model: judge::nothing(), pending: None };
    for op in program {
        let mut after = ran.model.clone();
        let expected = after.apply(op);
        match (ran.world.run(op), expected) {
            (Ok(()), Ok(())) => ran.model = after,
            (Err(_), _) if plan.halted() => {
                ran.pending = Some(op.clone());
                return Ok(ran);
            }
            (Err(Failure::Snapshotter(error)), Err(refusal))
                if Refusal::of(&error) == Some(refusal) => {}
            (Err(failure), expected) => {
                return Err(format!("{op:?} failed: {failure}; expected {expected:?}"))
            }
            (Ok(()), Err(refusal)) => return Err(format!("{op:?} succeeds, expected {refusal:?}")),
        }
    }
    Ok(ran)
}

impl Ran {
    fn possible(&self) -> Vec<Model> {
        match &self.pending {
            Some(op) => self.model.after_unanswered(op),
            None => vec![self.model.clone()],
        }
    }
}

/// The writes that the disks may have kept at a power cut.
pub struct Remains(pub Vec<(Unflushed, Survivors)>);

impl Remains {
    /// Nothing and everything; and two choices by `seed` if the database was being written.
    pub fn of(world: &World, seed: u64) -> Remains {
        use {Survivors::*, Unflushed::*};
        Remains(if world.storage.has_unsynced() {
            vec![
                (Lost, Nothing),
                (Kept, Everything),
                (Lost, Torn(2 * seed)),
                (Kept, Torn(2 * seed + 1)),
            ]
        } else {
            vec![(Lost, Nothing), (Kept, Nothing)]
        })
    }
}

/// Everything after an end: the next start, the judge, the unanswered call again, and the removal
/// of everything.
pub fn recovered(
    base: &Base,
    image: Image,
    loss: Loss,
    possible: &[Model],
    pending: Option<&Op>,
) -> Result<(), String> {
    let setup = Setup { reclaiming: Reclaiming::OnCall, ..base.setup };
    let mut world = World::on(image, setup, &FaultPlan::counting(), Steps::Durable);
    world.start().map_err(|error| format!("I7: the daemon does not start: {error}"))?;
    let mut model = judge::after_start(&mut world, possible, loss)?;
    if let Some(op) = pending {
        judge::ask_again(&mut world, &mut model, op)?;
    }
    judge::remove_everything(&mut world, model, base.empty)
}

/// Ends a program at each of its steps, before the step and after it.
pub fn explore(base: &Base, program: &[Op], end: End) -> Result<u64, String> {
    let mut steps = 0;
    for step in base.first_step(end).. {
        let mut over = true;
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            let plan = FaultPlan::at(step, fault);
            let ran = run(base, program, &plan, end.steps())?;
            if !plan.halted() {
                continue;
            }
            over = false;
            let point = || {
                format!("{end:?} at step {step} ({fault:?} {})", plan.tripped().unwrap_or_default())
            };
            ended(base, ran, end, step).map_err(|what| format!("{}: {what}", point()))?;
        }
        if over {
            return Ok(steps);
        }
        steps += 1;
    }
    unreachable!("programs end")
}

/// Continues after a program was ended: once after a killed daemon, and once for each image that a
/// power cut may leave.
fn ended(base: &Base, mut ran: Ran, end: End, step: u64) -> Result<(), String> {
    let possible = ran.possible();
    let pending = ran.pending.as_ref();
    if end == End::Killed {
        explored("daemons killed");
        return recovered(base, ran.world.killed(), Loss::Nothing, &possible, pending);
    }
    ran.world.switch_off();
    for (unflushed, survivors) in Remains::of(&ran.world, step).0 {
        explored(match survivors {
            Survivors::Torn(_) => "power cuts with torn database writes",
            _ => "power cuts",
        });
        let image = ran.world.power_cut(unflushed, survivors);
        recovered(base, image, Loss::Unflushed, &possible, pending)
            .map_err(|what| format!("{unflushed:?}, {survivors:?}: {what}"))?;
    }
    Ok(())
}

/// What is left after an end, and the models that may be true of it.
struct Left {
    image: Image,
    loss: Loss,
    possible: Vec<Model>,
    pending: Option<Op>,
    /// How the first run ended.
    how: String,
}

impl Left {
    fn of(mut ran: Ran, end: End, choice: usize, seed: u64, how: String) -> Left {
        let (possible, pending) = (ran.possible(), ran.pending.take());
        let (loss, image) = remains(ran.world, end, choice, seed);
        Left { image, loss, possible, pending, how }
    }
}

/// The image that an end leaves of a world. After a power cut, `choice` selects one of the possible
/// images.
fn remains(mut world: World, end: End, choice: usize, seed: u64) -> (Loss, Image) {
    if end == End::Killed {
        return (Loss::Nothing, world.killed());
    }
    world.switch_off();
    let all = Remains::of(&world, seed).0;
    let (unflushed, survivors) = all[choice % all.len()];
    (Loss::Unflushed, world.power_cut(unflushed, survivors))
}

/// The start deletes each id of the last lease. Few of them exist, so only some of these steps are
/// tried.
fn stride(plan: &FaultPlan) -> usize {
    if plan.tripped().is_some_and(|what| what.contains("(delete")) {
        29
    } else {
        1
    }
}

/// Starts a daemon on what `end` leaves, and ends that start at each of its steps in turn. `end`
/// gets the step. Returns `false` if `end` ended nothing.
fn starts_ended(
    base: &Base,
    second: End,
    end: impl Fn(u64) -> Result<Option<Left>, String>,
) -> Result<bool, String> {
    let mut step = 0;
    loop {
        let mut next = 1;
        for (choice, fault) in [Fault::CrashBefore, Fault::CrashAfter].into_iter().enumerate() {
            let Some(left) = end(step)? else { return Ok(false) };
            let plan = FaultPlan::at(step, fault);
            let mut world = World::on(left.image, base.setup, &plan, second.steps());
            let started = world.start();
            if !plan.halted() {
                return started
                    .map(|()| true)
                    .map_err(|error| format!("I7: {}: {error}", left.how));
            }
            explored("ends during recovery");
            next = stride(&plan);
            let (loss, image) = remains(world, second, choice, step);
            let loss = if left.loss == Loss::Unflushed { left.loss } else { loss };
            recovered(base, image, loss, &left.possible, left.pending.as_ref()).map_err(
                |what| {
                    format!(
                        "{}, then {second:?} at step {step} ({fault:?} {:?}): {what}",
                        left.how,
                        plan.tripped()
                    )
                },
            )?;
        }
        step += next as u64;
    }
}

/// Ends a program at every `every`-th step, and the start after it at each of its steps. Kills and
/// power cuts are combined in all ways.
pub fn explore_recovery(
    base: &Base,
    program: &[Op],
    first: End,
    every: usize,
) -> Result<(), String> {
    for step in (base.first_step(first)..).step_by(every) {
        for second in [End::Killed, End::PowerCut] {
            let end = |again| {
                let plan = FaultPlan::at(step, Fault::CrashAfter);
                let ran = run(base, program, &plan, first.steps())?;
                let how = format!("{first:?} at step {step} ({:?})", plan.tripped());
                Ok(plan.halted().then(|| Left::of(ran, first, usize::MAX, again, how)))
            };
            if !starts_ended(base, second, end)? {
                return Ok(());
            }
        }
    }
    unreachable!("programs end")
}

/// Ends the start of a daemon that has only its template, at each step, and the next start at each
/// of its steps as well. Kills and power cuts take turns.
pub fn explore_starts(base: &Base, first: End) -> Result<(), String> {
    let mut step = 0;
    loop {
        let mut next = 1;
        for (choice, fault) in [Fault::CrashBefore, Fault::CrashAfter].into_iter().enumerate() {
            let second = if (step as usize + choice).is_multiple_of(2) {
                End::Killed
            } else {
                End::PowerCut
            };
            let strides = Cell::new(1);
            let end = |again| {
                let plan = FaultPlan::at(step, fault);
                let mut world = World::on(base.image(), base.setup, &plan, first.steps());
                let started = world.start();
                if !plan.halted() {
                    return started.map(|()| None);
                }
                strides.set(stride(&plan));
                let how =
                    format!("{first:?} at step {step} of a start ({fault:?} {:?})", plan.tripped());
                let ran = Ran { world, model: judge::nothing(), pending: None };
                Ok(Some(Left::of(ran, first, choice, again, how)))
            };
            if !starts_ended(base, second, end)? {
                return Ok(());
            }
            next = strides.get();
        }
        step += next as u64;
    }
}

/// Ends the very first start, on blank disks, at each of its steps.
pub fn explore_first_start(base: &Base, end: End) -> Result<(), String> {
    for step in 0.. {
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            let plan = FaultPlan::at(step, fault);
            let mut world = World::on(Image::blank(), base.setup, &plan, end.steps());
            let started = world.start();
            if !plan.halted() {
                return started;
            }
            let ran = Ran { world, model: judge::nothing(), pending: None };
            ended(base, ran, end, step).map_err(|what| {
                format!("{end:?} at step {step} ({fault:?} {:?}): {what}", plan.tripped())
            })?;
        }
    }
    unreachable!("starts end")
}
