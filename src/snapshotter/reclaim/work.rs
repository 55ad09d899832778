//! What the reclaimer's thread and the calls share: wake-ups, the one sweep under way, and the
//! threads that remove devices.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::crew::{Crew, Job};
use super::trouble::{Troubles, RETRY};
use crate::pool::Role;
use crate::snapshotter::shared::Shared;

/// How long a removal can take before other removals, and a stop, go on without it.
const PATIENCE: Duration = Duration::from_secs(4);

/// What the reclaimer's thread and the calls share.
#[derive(Debug)]
pub struct Work {
    pub shared: Arc<Shared>,
    crew: Crew,
    pub wake: Mutex<Wake>,
    pub woken: Condvar,
    /// Set once, and read before each step.
    pub stop: AtomicBool,
    pub troubles: Troubles,
    /// The devices that threads are working on now, also those that are not waited for any more.
    pub under_way: Mutex<BTreeSet<Role>>,
    /// Devices that must be removed and are on no reclaim record: those of committed snapshots.
    pub idle: Mutex<BTreeSet<Role>>,
}

/// What the threads wait for.
#[derive(Debug, Default)]
pub struct Wake {
    kicked: bool,
    /// A sweep is under way. There is one at a time.
    sweeping: bool,
    /// When the last sweep began, ended, or finished a device.
    progress: Option<Instant>,
    /// The reclaimer's thread has ended.
    pub ended: bool,
}

/// The only sweep that is under way, until this is dropped.
pub struct Alone<'a>(&'a Work);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        locked(&self.0.wake).sweeping = false;
        self.0.woken.notify_all();
    }
}

impl Work {
    /// `workers` devices are removed at the same time.
    pub fn new(shared: Arc<Shared>, workers: usize, idle: BTreeSet<Role>) -> Work {
        Work {
            shared,
            crew: Crew::new(workers, PATIENCE),
            wake: Mutex::new(Wake { kicked: true, ..Wake::default() }),
            woken: Condvar::new(),
            stop: AtomicBool::new(false),
            troubles: Troubles::default(),
            under_way: Mutex::default(),
            idle: Mutex::new(idle),
        }
    }

    pub fn kick(&self) {
        locked(&self.wake).kicked = true;
        self.woken.notify_all();
    }

    /// Waits for a kick, or until something that is left must be tried again. False if the
    /// reclaimer must stop.
    pub fn wait(&self, left: bool) -> bool {
        let idle = |wake: &mut Wake| !wake.kicked && !self.stopping();
        let wake = locked(&self.wake);
        let mut wake = if left {
            let pause = self.troubles.next().unwrap_or(RETRY);
            let waited = self.woken.wait_timeout_while(wake, pause, idle);
            waited.unwrap_or_else(PoisonError::into_inner).0
        } else {
            self.woken.wait_while(wake, idle).unwrap_or_else(PoisonError::into_inner)
        };
        wake.kicked = false;
        !self.stopping()
    }

    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Waits until no other sweep is under way. `None` if the reclaimer must stop, or if the other
    /// sweep makes no progress for `limit`.
    pub fn begin(&self, limit: Option<Duration>) -> Option<Alone<'_>> {
        let mut wake = locked(&self.wake);
        while wake.sweeping {
            let stands_still =
                |limit: Duration| wake.progress.is_none_or(|at| at.elapsed() >= limit);
            if self.stopping() || limit.is_some_and(stands_still) {
                return None;
            }
            let waited = self.woken.wait_timeout(wake, Duration::from_millis(100));
            wake = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        (wake.sweeping, wake.progress) = (true, Some(Instant::now()));
        Some(Alone(self))
    }

    /// Does `action` for each of these, several at the same time. See [`Crew::run`] for the
    /// results.
    pub fn each<I: Clone + Send + 'static, T: Send + 'static>(
        self: &Arc<Self>,
        items: &[(Role, I)],
        action: impl Fn(&Work, I) -> T + Clone + Send + 'static,
    ) -> Vec<Option<T>> {
        let job = |(role, item): &(Role, I)| -> Job<T> {
            let (work, action, role, item) =
                (Arc::clone(self), action.clone(), *role, item.clone());
            Box::new(move || {
                let _under_way = UnderWay::begin(&work, role);
                let result = action(&work, item);
                locked(&work.wake).progress = Some(Instant::now());
                result
            })
        };
        self.crew.run(items.iter().map(job).collect(), || self.stopping())
    }
}

/// Notes the device that a thread is working on, until this is dropped.
struct UnderWay<'a> {
    work: &'a Work,
    role: Role,
    since: Instant,
}

impl UnderWay<'_> {
    fn begin(work: &Work, role: Role) -> UnderWay<'_> {
        locked(&work.under_way).insert(role);
        UnderWay { work, role, since: Instant::now() }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        locked(&self.work.under_way).remove(&self.role);
        // No sweep waits for it any more, so another one has to finish it.
        if self.since.elapsed() >= PATIENCE {
            self.work.kick();
        }
    }
}

pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
