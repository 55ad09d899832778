//! The reclaimer as the calls use it: it is told of new work, asked to sweep, and stopped.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use super::report::{Stuck, Swept};
use super::work::{locked, Work};
use crate::pool::Role;
use crate::snapshotter::shared::Shared;
use crate::snapshotter::Error;

/// How many devices are removed at the same time.
const WORKERS: usize = 8;
/// How long a stop can take after the calls under way have ended. Removals that the kernel has not
/// finished by then are left to the next start.
pub const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How long a cleanup waits for another sweep that makes no progress.
const CLEANUP_LIMIT: Duration = Duration::from_secs(10);

/// When removed snapshots are reclaimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reclaiming {
    /// By a thread of its own, several devices at the same time.
    #[default]
    Behind,
    /// Only by [`Snapshotter::cleanup`](crate::snapshotter::Snapshotter::cleanup), one device after
    /// the other, so that a test decides when each step is taken.
    #[cfg(any(test, feature = "model"))]
    OnCall,
}

/// Sweeps when it is asked to. Usually it has a thread that sweeps whenever there is new work.
#[derive(Debug)]
pub struct Reclaimer {
    work: Arc<Work>,
    has_thread: bool,
}

impl Reclaimer {
    /// `idle` are devices that must be removed, besides those on record.
    pub fn start(shared: Arc<Shared>, idle: BTreeSet<Role>, reclaiming: Reclaiming) -> Reclaimer {
        let has_thread = reclaiming == Reclaiming::Behind;
        let work = Arc::new(Work::new(shared, if has_thread { WORKERS } else { 1 }, idle));
        if has_thread {
            let work = Arc::clone(&work);
            std::thread::Builder::new()
                .name("reclaimer".into())
                .spawn(move || run(&work))
                .expect("a thread can be started");
        }
        Reclaimer { work, has_thread }
    }

    /// Tells the reclaimer that there is new work on record.
    pub fn kick(&self) {
        self.work.kick();
    }

    /// Removes a device that is not needed any more and on no reclaim record.
    pub fn deactivate(&self, role: Role) {
        locked(&self.work.idle).insert(role);
        self.kick();
    }

    /// Removes what can be removed now. If another sweep is under way and makes no progress, this
    /// does not wait for it.
    pub fn sweep(&self) -> Result<Swept, Error> {
        match self.work.begin(Some(CLEANUP_LIMIT)) {
            Some(alone) => self.work.sweep(&alone, true),
            None => {
                tracing::warn!(
                    "another sweep makes no progress; this cleanup does not wait for it, and the \
                     reclaimer goes on"
                );
                Ok(Swept::default())
            }
        }
    }

    /// The devices that could not be removed when it was last tried, and who holds them now.
    pub fn stuck(&self) -> Vec<Stuck> {
        self.work.troubles.stuck(&self.work.shared.pool)
    }

    /// No further step is begun from now on. Does not wait.
    pub fn stop(&self) {
        self.work.stop.store(true, Ordering::SeqCst);
        self.work.woken.notify_all();
    }
}

impl Drop for Reclaimer {
    /// Waits for the steps under way, but not for one that the kernel does not finish. A step can
    /// be interrupted anywhere.
    fn drop(&mut self) {
        self.stop();
        if !self.has_thread {
            return;
        }
        let wake = locked(&self.work.wake);
        let waited = self.work.woken.wait_timeout_while(wake, STOP_LIMIT, |wake| !wake.ended);
        if waited.is_ok_and(|(wake, _)| !wake.ended) {
            tracing::warn!(
                "the reclaimer has not ended and is not waited for; the next start takes up \
                 its work"
            );
        }
    }
}

/// What the reclaimer's thread does.
fn run(work: &Arc<Work>) {
    let _ending = Ending(work);
    let mut left = false;
    while work.wait(left) {
        let Some(alone) = work.begin(None) else { break };
        left = match work.sweep(&alone, false) {
            Ok(swept) => swept.busy + swept.failed > 0,
            Err(error) => {
                tracing::error!(%error, "reclaiming has failed; it is tried again");
                true
            }
        };
    }
}

/// Notes, when it is dropped, that the thread has ended.
struct Ending<'a>(&'a Work);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        locked(&self.0.wake).ended = true;
        self.0.woken.notify_all();
        if std::thread::panicking() {
            tracing::error!("the reclaimer has panicked; removals wait for the next start");
        }
    }
}
