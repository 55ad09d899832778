//! The reclaimer: takes away, behind the answers, what removed snapshots left in the kernel and in
//! the pool.
//!
//! What it has to do is on record, so a crash loses none of it. What somebody still has open is
//! tried again later, and holds nothing else up; nor does a device whose removal the kernel does
//! not answer. Devices wait for the kernel's grace periods when they go, so several go side by
//! side.
//!
//! Invariant: a sweep reads the table once, in one view of the database, so a thin in it is there
//! with all the removed views that show it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::crew::{Crew, Job};
use super::delete::Outcome;
use super::trouble::{Tally, Troubles, RETRY};
use super::{Error, Shared, Stuck};
use crate::pool::{PoolError, Role};
use crate::store::{ReclaimKind, ReclaimRecord};
use crate::units::ThinId;

/// How many devices the thread takes away side by side.
const WORKERS: usize = 8;
/// Entries ticked off with one database commit.
const BATCH: usize = 256;
/// How long a removal may take before the others go on without it, and a stop does.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long a stop may take beyond the calls under way: what the kernel does not end by then is
/// left to the next start.
pub const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How long a cleanup waits for a sweep that makes no progress.
const CLEANUP_LIMIT: Duration = Duration::from_secs(10);

/// When what removals left behind is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reclaiming {
    /// By a thread of its own, behind the answers; several devices side by side.
    #[default]
    Behind,
    /// Only by [`Snapshotter::cleanup`](super::Snapshotter::cleanup), one after the other: whoever
    /// asks decides when each step is taken.
    OnCall,
}

/// What one sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    pub reclaimed: usize,
    /// Still open or mounted somewhere; tried again later.
    pub busy: usize,
    /// Failed for another reason, or not answered by the kernel yet; what is known of it is in the
    /// log, and it is tried again.
    pub failed: usize,
}

/// Sweeps when it is asked to, and owns the thread, if there is one, that sweeps when it is kicked.
#[derive(Debug)]
pub struct Reclaimer {
    work: Arc<Work>,
    /// There is a thread.
    behind: bool,
}

#[derive(Debug)]
struct Work {
    shared: Arc<Shared>,
    crew: Crew,
    wake: Mutex<Wake>,
    woken: Condvar,
    /// Set once and for all; asked for between the steps of everything here.
    stop: AtomicBool,
    troubles: Troubles,
    /// What a thread is at work on, whether anybody still waits for it or not.
    under_way: Mutex<BTreeSet<Role>>,
    /// Devices of committed snapshots, which are only in the way.
    idle: Mutex<BTreeSet<Role>>,
}

#[derive(Debug, Default)]
struct Wake {
    kicked: bool,
    /// A sweep is under way; one at a time.
    sweeping: bool,
    /// When the last sweep began, ended, or was done with an entry.
    progress: Option<Instant>,
    /// The thread has ended.
    ended: bool,
}

impl Reclaimer {
    pub fn start(shared: Arc<Shared>, idle: BTreeSet<Role>, reclaiming: Reclaiming) -> Reclaimer {
        let behind = reclaiming == Reclaiming::Behind;
        let work = Arc::new(Work {
            shared,
            crew: Crew::new(if behind { WORKERS } else { 1 }, PATIENCE),
            wake: Mutex::new(Wake { kicked: true, ..Wake::default() }),
            woken: Condvar::new(),
            stop: AtomicBool::new(false),
            troubles: Troubles::default(),
            under_way: Mutex::default(),
            idle: Mutex::new(idle),
        });
        if behind {
            let work = Arc::clone(&work);
            std::thread::Builder::new()
                .name("reclaimer".into())
                .spawn(move || work.run())
                .expect("a thread can be started");
        }
        Reclaimer { work, behind }
    }

    /// There is something new on record.
    pub fn kick(&self) {
        self.work.kick();
    }

    /// The device is not needed any more, and no record says so.
    pub fn deactivate(&self, role: Role) {
        locked(&self.work.idle).insert(role);
        self.kick();
    }

    /// Takes away what can be taken away now. Where a sweep that is under way gets no further, it
    /// is not waited for.
    pub fn sweep(&self) -> Result<Swept, Error> {
        match self.work.begin(Some(CLEANUP_LIMIT)) {
            Some(alone) => self.work.sweep(&alone, true),
            None => {
                tracing::warn!(
                    "a sweep gets no further; removals go on behind the answer to this cleanup"
                );
                Ok(Swept::default())
            }
        }
    }

    /// What could not be taken away when it was last tried, and who holds it now.
    pub fn stuck(&self) -> Vec<Stuck> {
        self.work.troubles.stuck(&self.work.shared.pool)
    }

    /// Begins no further step from now on; does not wait.
    pub fn stop(&self) {
        self.work.stop.store(true, Ordering::SeqCst);
        self.work.woken.notify_all();
    }
}

impl Drop for Reclaimer {
    /// Waits for the steps under way, but not for one that the kernel does not end: each is safe to
    /// be cut short anywhere.
    fn drop(&mut self) {
        self.stop();
        if !self.behind {
            return;
        }
        let wake = locked(&self.work.wake);
        let waited = self.work.woken.wait_timeout_while(wake, STOP_LIMIT, |wake| !wake.ended);
        if waited.is_ok_and(|(wake, _)| !wake.ended) {
            tracing::warn!(
                "the reclaimer is not waited for; what it was at is taken up by the next start"
            );
        }
    }
}

/// Says, when it is dropped, that the thread has ended.
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

/// The one sweep that is under way.
struct Alone<'a>(&'a Work);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        locked(&self.0.wake).sweeping = false;
        self.0.woken.notify_all();
    }
}

impl Work {
    fn run(self: &Arc<Self>) {
        let _ending = Ending(self);
        let mut left = false;
        while self.wait(left) {
            let Some(alone) = self.begin(None) else { break };
            left = match self.sweep(&alone, false) {
                Ok(swept) => swept.busy + swept.failed > 0,
                Err(error) => {
                    tracing::error!(%error, "reclaiming stopped; it is tried again");
                    true
                }
            };
        }
    }

    fn kick(&self) {
        locked(&self.wake).kicked = true;
        self.woken.notify_all();
    }

    /// Waits for a kick, or until something that is left is to be tried again; false when it is
    /// time to stop.
    fn wait(&self, left: bool) -> bool {
        let idle = |wake: &mut Wake| !wake.kicked && !self.stopping();
        let wake = locked(&self.wake);
        let mut wake = if left {
            let pause = self.troubles.next().unwrap_or(RETRY);
            self.woken.wait_timeout_while(wake, pause, idle).unwrap_or_else(|e| e.into_inner()).0
        } else {
            self.woken.wait_while(wake, idle).unwrap_or_else(|e| e.into_inner())
        };
        wake.kicked = false;
        !self.stopping()
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Waits until no other sweep is under way; `None` when it is time to stop, or one that is
    /// makes no progress for `limit`.
    fn begin(&self, limit: Option<Duration>) -> Option<Alone<'_>> {
        let mut wake = locked(&self.wake);
        while wake.sweeping {
            let stands_still =
                |limit: Duration| wake.progress.is_none_or(|at| at.elapsed() >= limit);
            if self.stopping() || limit.is_some_and(stands_still) {
                return None;
            }
            wake = self
                .woken
                .wait_timeout(wake, Duration::from_millis(100))
                .unwrap_or_else(|e| e.into_inner())
                .0;
        }
        (wake.sweeping, wake.progress) = (true, Some(Instant::now()));
        Some(Alone(self))
    }

    /// Does `action` for each of these, side by side.
    fn each<I: Clone + Send + 'static, T: Send + 'static>(
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

    /// Takes away what can be taken away, `all` of it or what it is time to try again.
    fn sweep(self: &Arc<Self>, _alone: &Alone<'_>, all: bool) -> Result<Swept, Error> {
        let mut tally = Tally::new(&self.shared.pool, &self.troubles, all);
        let done = self.sweep_everything(all, &mut tally);
        let swept = tally.report();
        done.map(|()| swept)
    }

    fn sweep_everything(self: &Arc<Self>, all: bool, tally: &mut Tally<'_>) -> Result<(), Error> {
        self.sweep_idle(tally);
        let entries = self.shared.store.read(|r| r.reclaims(None, usize::MAX))?;
        let is_view = |entry: &ReclaimRecord| matches!(entry.kind, ReclaimKind::View { .. });
        let (views, thins): (Vec<_>, Vec<_>) = entries.into_iter().partition(is_view);
        // Views go first: a thin that a view still shows to somebody is left alone.
        let views = self.sweep_views(views, tally)?;
        let shown = self.shown(&views, &thins)?;
        let is_shown = |entry: &ReclaimRecord| matches!(entry.kind, ReclaimKind::Thin(thin) if shown.contains(&thin));
        let (shown, thins): (Vec<_>, Vec<_>) = thins.into_iter().partition(is_shown);
        tally.swept.busy += shown.len();
        self.sweep_thins(thins, all, tally)
    }

    /// Those of `entries` that it is time to try.
    fn due<I>(
        &self,
        entries: Vec<I>,
        role: impl Fn(&I) -> Role,
        tally: &mut Tally<'_>,
    ) -> Vec<(Role, I)> {
        let under_way = locked(&self.under_way).clone();
        let named = entries.into_iter().map(|entry| (role(&entry), entry));
        named.filter(|(role, _)| tally.is_due(*role, &under_way)).collect()
    }

    fn sweep_idle(self: &Arc<Self>, tally: &mut Tally<'_>) {
        let all: Vec<Role> = locked(&self.idle).iter().copied().collect();
        let due = self.due(all, |role| *role, tally);
        let results = self.each(&due, |work, role| work.shared.pool.deactivate(role));
        for ((role, _), result) in due.into_iter().zip(results) {
            if !self.was_stopped(&result) && tally.take(role, result) {
                locked(&self.idle).remove(&role);
            }
        }
    }

    /// Returns the views that are still there.
    fn sweep_views(
        self: &Arc<Self>,
        views: Vec<ReclaimRecord>,
        tally: &mut Tally<'_>,
    ) -> Result<Vec<ReclaimRecord>, Error> {
        let due = self.due(views.clone(), |entry| Role::View(entry.number), tally);
        let mut gone = BTreeSet::new();
        for batch in due.chunks(BATCH) {
            let results = self
                .each(batch, |work, entry| work.shared.pool.deactivate(Role::View(entry.number)));
            let mut done = Vec::new();
            for ((role, entry), result) in batch.iter().zip(results) {
                if !self.was_stopped(&result) && tally.take(*role, result) {
                    done.push(entry.number);
                }
            }
            self.tick_off(&done)?;
            gone.extend(done);
        }
        Ok(views.into_iter().filter(|view| !gone.contains(&view.number)).collect())
    }

    fn sweep_thins(
        self: &Arc<Self>,
        thins: Vec<ReclaimRecord>,
        all: bool,
        tally: &mut Tally<'_>,
    ) -> Result<(), Error> {
        let due = self.due(thins, |entry| Role::Snapshot(entry.number), tally);
        let mut left = due.as_slice();
        while !left.is_empty() && !self.stopping() {
            // A pool that takes no changes is asked once, and not by every thin.
            if !self.pool_takes_changes(all && left.len() == due.len()) {
                tally.swept.failed += left.len();
                return Ok(());
            }
            let (batch, rest) = left.split_at(BATCH.min(left.len()));
            let refused = Arc::new(AtomicBool::new(false));
            let results = self.each(batch, move |work, entry| work.reclaim(&entry, &refused));
            let mut done = Vec::new();
            for ((role, entry), result) in batch.iter().zip(results) {
                if matches!(result, Some(Ok(Outcome::Left))) {
                    tally.swept.failed += 1;
                } else if !self.was_stopped(&result)
                    && tally.take(*role, result.map(|result| result.map(drop)))
                {
                    done.push(entry.number);
                }
            }
            self.tick_off(&done)?;
            left = rest;
        }
        Ok(())
    }

    /// Whether something was not begun because it is time to stop; that is no trouble of its own.
    fn was_stopped<T>(&self, result: &Option<T>) -> bool {
        result.is_none() && self.stopping()
    }

    /// Looks whether thins can be deleted at all; one that could not a moment ago is not looked at,
    /// unless `now`.
    fn pool_takes_changes(&self, now: bool) -> bool {
        if !now && self.troubles.pool_rests() {
            return false;
        }
        match self.shared.pool.takes_changes() {
            Ok(()) => self.troubles.pool_is_well(),
            Err(error) => self.troubles.pool_refuses(&error),
        }
        !self.troubles.pool_rests()
    }

    /// The thins that removed views still show to somebody (`views` are those that are left), and
    /// those of `thins` that a view on record shows.
    fn shown(
        &self,
        views: &[ReclaimRecord],
        thins: &[ReclaimRecord],
    ) -> Result<BTreeSet<ThinId>, Error> {
        let of_views = views.iter().filter_map(|entry| match entry.kind {
            ReclaimKind::View { of } => Some(of),
            ReclaimKind::Thin(_) => None,
        });
        let mut shown: BTreeSet<ThinId> = of_views.collect();
        self.shared.store.read(|r| {
            for entry in thins {
                if r.is_viewed(entry)? {
                    shown.extend(entry.thin());
                }
            }
            Ok(())
        })?;
        Ok(shown)
    }

    fn tick_off(&self, done: &[u64]) -> Result<(), Error> {
        if done.is_empty() {
            return Ok(());
        }
        self.shared
            .store
            .commit(|c| done.iter().try_for_each(|number| c.remove_reclaim(*number).map(drop)))?;
        Ok(())
    }

    fn reclaim(&self, entry: &ReclaimRecord, refused: &AtomicBool) -> Result<Outcome, PoolError> {
        let ReclaimKind::Thin(thin) = entry.kind else { return Ok(Outcome::Left) };
        if refused.load(Ordering::SeqCst) {
            return Ok(Outcome::Left);
        }
        let result = self.shared.reclaim_thin(entry, thin, &|| !self.stopping());
        // Where the pool is the cause, the others need not find that out one by one.
        if result.as_ref().is_err_and(|error| !error.is_busy()) {
            if let Err(error) = self.shared.pool.takes_changes() {
                self.troubles.pool_refuses(&error);
                refused.store(true, Ordering::SeqCst);
                return Ok(Outcome::Left);
            }
        }
        result
    }
}

/// Notes what a thread is at work on, as long as it is.
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
        // Nobody waited for it any more: another sweep finishes it.
        if self.since.elapsed() >= PATIENCE {
            self.work.kick();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
