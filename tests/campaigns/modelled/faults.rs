//! A single step fails, with each errno, at each step of each call. The call returns an error
//! that says so, nothing else changes, and the call succeeds when it is repeated.

use std::sync::Arc;

use devmapper_snapshotter::dm::{Errno, Fault, FaultPlan};
use devmapper_snapshotter::snapshotter::{Error, Finding};

use super::explore::{explored, print_explored, Base};
use super::judge::{self, Loss};
use super::machine::Steps;
use super::model::{Model, Op, Refusal};
use super::programs::classics;
use super::world::{Failure, World};

const ERRNOS: [Errno; 7] = [
    Errno::EIO,
    Errno::EBUSY,
    Errno::ENOSPC,
    Errno::ENXIO,
    Errno::EINTR,
    Errno::ENODATA,
    Errno::EEXIST,
];

/// Errors that no kernel gives for a thing that exists. The daemon would believe them and leave a
/// device or a thin behind.
fn is_impossible(what: &str, errno: Errno) -> bool {
    let gone = errno == Errno::ENXIO && (what.starts_with("remove") || what.starts_with("info"));
    let deleted = errno == Errno::ENODATA && (what.contains("(delete") || what.starts_with("load"));
    gone || deleted || (errno == Errno::ENODATA && what.contains("(create_snap"))
}

/// A program in which one step fails.
struct Spoilt {
    world: World,
    model: Model,
    plan: Arc<FaultPlan>,
}

/// Runs a program with a failure at one step. Returns `false` if the program has fewer steps.
fn spoil(base: &Base, program: &[Op], step: u64, errno: Errno) -> Result<bool, String> {
    let plan = FaultPlan::at(step, Fault::ErrorBefore(errno));
    let world = base.started(&plan, Steps::Everything);
    let mut spoilt = Spoilt { world, model: judge::nothing(), plan };
    for op in program {
        let before = spoilt.plan.tripped();
        let called = spoilt.call(op);
        let now = spoilt.plan.tripped().filter(|_| before.is_none());
        if now.as_ref().is_some_and(|what| is_impossible(what, errno)) {
            return Ok(true);
        }
        called?;
        let Some(what) = now else { continue };
        explored("failed steps");
        spoilt
            .after_fault()
            .map_err(|error| format!("{errno} at step {step} ({what}) in {op:?}: {error}"))?;
    }
    if spoilt.plan.tripped().is_none() {
        return Ok(false);
    }
    let Spoilt { mut world, model, .. } = spoilt;
    let finish = |world: &mut World| {
        world.stop();
        world.start().map_err(|error| format!("I7: {error}"))?;
        let model = judge::after_start(world, &[model], Loss::Nothing)?;
        judge::remove_everything(world, model, base.empty)
    };
    finish(&mut world).map_err(|error| format!("{errno} at step {step}, at the end: {error}"))?;
    Ok(true)
}

impl Spoilt {
    /// Makes a call and notes what is known after it. After a failure either of two models may be
    /// true.
    fn call(&mut self, op: &Op) -> Result<(), String> {
        let mut after = self.model.clone();
        let expected = after.apply(op);
        match (self.world.run(op), expected) {
            (Ok(()), Ok(())) => self.model = after,
            (Err(Failure::Snapshotter(error)), Err(refusal))
                if Refusal::of(&error) == Some(refusal) => {}
            (Err(failure), expected) => self.failed(op, failure, expected)?,
            (Ok(()), Err(refusal)) => return Err(format!("{op:?} succeeds, expected {refusal:?}")),
        }
        Ok(())
    }

    fn failed(
        &mut self,
        op: &Op,
        failure: Failure,
        expected: Result<(), Refusal>,
    ) -> Result<(), String> {
        let Some(what) = self.plan.tripped() else {
            return Err(format!("{op:?} failed: {failure}, expected {expected:?}"));
        };
        if let Failure::Snapshotter(error) = &failure {
            says_so(error, &what).map_err(|why| format!("{what} in {op:?}: {why}: {error}"))?;
        }
        // After a failed write of the database its content on the disk is unknown. After any other
        // failure nothing has changed.
        let unknown = what.starts_with("database");
        let possible =
            if unknown { self.model.after_unanswered(op) } else { vec![self.model.clone()] };
        if !self.answers() {
            self.restart()?;
        }
        self.model = judge::state(&self.world, &possible)
            .map_err(|error| format!("{what} in {op:?} ({failure}): {error}"))?
            .clone();
        judge::forget_users(&mut self.world, &self.model);
        // The call may have been the one that failed. Repeated, it must succeed.
        judge::ask_again(&mut self.world, &mut self.model, op)
            .map_err(|error| format!("{what}: {error}"))
    }

    /// Whether the database still takes calls. After a failed sync it takes none until a restart.
    fn answers(&self) -> bool {
        self.world.runs() && self.world.store().read(|r| r.pool()).is_ok()
    }

    fn restart(&mut self) -> Result<(), String> {
        self.world.stop();
        self.world.start().map_err(|error| format!("I7: the daemon does not start: {error}"))
    }

    fn after_fault(&mut self) -> Result<(), String> {
        if !self.answers() {
            self.restart()?;
        }
        let transient = |finding: &Finding| {
            matches!(
                finding,
                Finding::ThinUnrecorded { leased: true, .. } | Finding::Unwanted { .. }
            )
        };
        judge::findings(&self.world, "after a failure", transient)?;
        judge::contents(&self.world, &mut self.model, Loss::Nothing)
    }
}

/// A failure must not look like one of the refusals that callers act upon; lack of space must
/// look like it.
fn says_so(error: &Error, what: &str) -> Result<(), &'static str> {
    if Refusal::of(error).is_some() {
        return Err("a failure looks like a refusal");
    }
    let names_no_space = error.to_string().to_lowercase().contains("no space left");
    let needs_space = what.starts_with("database write") || what.contains("(create_");
    if names_no_space && needs_space && !error.is_full() {
        return Err("an error for lack of space is not reported as one");
    }
    Ok(())
}

#[test]
fn any_step_that_fails_ends_in_an_error_and_the_call_can_be_repeated() {
    let all = std::env::var_os("CRASH_SEEDS").is_some();
    let base = Base::new(true);
    for (number, (story, program)) in classics().into_iter().enumerate() {
        for step in base.first_step_of(Steps::Everything).. {
            // Each step fails with one errno, or with all of them if the environment asks for it.
            let turn = (step as usize + number) % ERRNOS.len();
            let errnos = if all { &ERRNOS[..] } else { &ERRNOS[turn..=turn] };
            let mut over = true;
            for errno in errnos {
                over &= !spoil(&base, &program, step, *errno)
                    .unwrap_or_else(|what| panic!("{story}: {what}"));
            }
            if over {
                break;
            }
        }
    }
    print_explored("faults", &[]);
}
