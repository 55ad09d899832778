//! Faults on purpose: the n-th step fails, or everything ends just before or just after it.
//!
//! A [`FaultPlan`] counts steps of any kind. A [`FaultyKernel`](super::FaultyKernel) counts
//! requests that change something, the modelled kernel counts what it makes durable, and a test may
//! count steps of its own (writes of a database, say). All of them share one plan, so that one
//! number enumerates them all.

use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The step fails with this errno and does nothing. Later steps are not touched.
    ErrorBefore(Errno),
    /// The step does not happen, and nothing does after it.
    CrashBefore,
    /// The step happens, its caller gets no answer, and nothing happens after it.
    CrashAfter,
}

/// What the caller of [`FaultPlan::step`] has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Take the step.
    Go,
    /// Fail with this errno instead.
    Fail(Errno),
    /// Take the step, and then behave as if everything had ended.
    GoThenHalt,
    /// Everything has ended.
    Halt,
}

/// Counts steps and makes one of them go wrong. All that take steps share it.
#[derive(Debug, Default)]
pub struct FaultPlan {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: u64,
    fault: Option<(u64, Fault)>,
    /// Steps of other names go by uncounted.
    only: Option<&'static str>,
    halted: bool,
    last: String,
}

impl FaultPlan {
    /// A plan without a fault: it counts.
    #[must_use]
    pub fn counting() -> Arc<FaultPlan> {
        Arc::default()
    }

    /// A plan whose step number `step` (the first is 0) goes wrong.
    #[must_use]
    pub fn at(step: u64, fault: Fault) -> Arc<FaultPlan> {
        let state = State { fault: Some((step, fault)), ..State::default() };
        Arc::new(FaultPlan { state: Mutex::new(state) })
    }

    /// A plan that counts only the steps of one name. Of these, step number `step` goes wrong.
    #[must_use]
    pub fn at_nth(step: u64, what: &'static str, fault: Fault) -> Arc<FaultPlan> {
        let state = State { fault: Some((step, fault)), only: Some(what), ..State::default() };
        Arc::new(FaultPlan { state: Mutex::new(state) })
    }

    /// Counts a step that is about to be taken, and says what to do with it.
    pub fn step(&self, what: &str) -> Verdict {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.halted {
            return Verdict::Halt;
        }
        if state.only.is_some_and(|only| only != what) {
            return Verdict::Go;
        }
        let number = state.taken;
        state.taken += 1;
        let Some((_, fault)) = state.fault.filter(|(step, _)| *step == number) else {
            return Verdict::Go;
        };
        what.clone_into(&mut state.last);
        match fault {
            Fault::ErrorBefore(errno) => Verdict::Fail(errno),
            Fault::CrashBefore => {
                state.halted = true;
                Verdict::Halt
            }
            Fault::CrashAfter => {
                state.halted = true;
                Verdict::GoThenHalt
            }
        }
    }

    /// How many steps were taken or tried before everything ended.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).taken
    }

    /// Whether everything has ended.
    #[must_use]
    pub fn halted(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).halted
    }

    /// Which step went wrong, if one did.
    #[must_use]
    pub fn tripped(&self) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (!state.last.is_empty()).then(|| state.last.clone())
    }
}
