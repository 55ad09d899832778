//! The reclaimer: takes away, behind the answers, what removed snapshots left in the kernel and in the pool.
//!
//! What it has to do is on record, so a crash loses none of it. What somebody still has open is tried again later, and
//! holds nothing else up. Devices wait for the kernel's grace periods when they go, so several go side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Error, Shared, Stuck};
use crate::block::{discard_all, Access};
use crate::pool::{Pool, PoolError, Role};
use crate::store::{ReclaimKind, ReclaimRecord};
use crate::units::ThinId;

/// How many devices the thread takes away side by side.
const WORKERS: usize = 8;
/// Entries ticked off with one database commit.
const BATCH: usize = 256;
/// When what was busy is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// When what removals left behind is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reclaiming {
    /// By a thread of its own, behind the answers; several devices side by side.
    #[default]
    Behind,
    /// Only by [`Snapshotter::cleanup`](super::Snapshotter::cleanup), one after the other: whoever asks decides when each
    /// step is taken.
    OnCall,
}

/// What one sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    pub reclaimed: usize,
    /// Still open or mounted somewhere; tried again later.
    pub busy: usize,
    /// Failed for another reason, which is in the log; tried again later.
    pub failed: usize,
}

/// Sweeps when it is asked to, and owns the thread, if there is one, that sweeps when it is kicked.
#[derive(Debug)]
pub struct Reclaimer {
    work: Arc<Work>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Work {
    shared: Arc<Shared>,
    /// How many devices are taken away side by side.
    workers: usize,
    wake: Mutex<Wake>,
    woken: Condvar,
    /// One sweep at a time.
    sweeping: Mutex<()>,
    /// What could not be taken away when it was last tried, which is in the log already.
    stuck: Mutex<BTreeMap<Role, Trouble>>,
    /// Devices of committed snapshots, which are only in the way.
    idle: Mutex<BTreeSet<Role>>,
}

#[derive(Debug, Default)]
struct Wake {
    kicked: bool,
    stop: bool,
}

/// Why a device is still there, and since when.
#[derive(Debug)]
struct Trouble {
    busy: bool,
    since: Instant,
}

impl Reclaimer {
    pub fn start(shared: Arc<Shared>, idle: BTreeSet<Role>, reclaiming: Reclaiming) -> Reclaimer {
        let behind = reclaiming == Reclaiming::Behind;
        let work = Arc::new(Work {
            shared,
            workers: if behind { WORKERS } else { 1 },
            wake: Mutex::new(Wake { kicked: true, stop: false }),
            woken: Condvar::new(),
            sweeping: Mutex::default(),
            stuck: Mutex::default(),
            idle: Mutex::new(idle),
        });
        let thread = behind.then(|| {
            let work = Arc::clone(&work);
            std::thread::Builder::new()
                .name("reclaimer".into())
                .spawn(move || work.run())
                .expect("a thread can be started")
        });
        Reclaimer { work, thread }
    }

    /// There is something new on record.
    pub fn kick(&self) {
        locked(&self.work.wake).kicked = true;
        self.work.woken.notify_one();
    }

    /// The device is not needed any more, and no record says so.
    pub fn deactivate(&self, role: Role) {
        locked(&self.work.idle).insert(role);
        self.kick();
    }

    /// Takes away what can be taken away now.
    pub fn sweep(&self) -> Result<Swept, Error> {
        self.work.sweep()
    }

    /// What could not be taken away when it was last tried, and who holds it now.
    pub fn stuck(&self) -> Vec<Stuck> {
        let pool = &self.work.shared.pool;
        let stuck: Vec<_> =
            locked(&self.work.stuck).iter().map(|(role, t)| (*role, t.busy, t.since.elapsed())).collect();
        let stuck = stuck.into_iter().map(|(role, busy, since)| Stuck {
            device: pool.names().name(role).to_string(),
            busy,
            holders: holders(pool, role),
            since,
        });
        stuck.collect()
    }
}

impl Drop for Reclaimer {
    fn drop(&mut self) {
        locked(&self.work.wake).stop = true;
        self.work.woken.notify_one();
        if let Some(thread) = self.thread.take() {
            if thread.join().is_err() {
                tracing::error!("the reclaimer had panicked");
            }
        }
    }
}

impl Work {
    fn run(&self) {
        let mut left = false;
        while self.wait(left) {
            left = match self.sweep() {
                Ok(swept) => swept.busy + swept.failed > 0,
                Err(error) => {
                    tracing::error!(%error, "reclaiming stopped; it is tried again");
                    true
                }
            };
        }
    }

    /// Waits for a kick, or for [`RETRY`] when something is left; false when it is time to stop.
    fn wait(&self, left: bool) -> bool {
        let idle = |wake: &mut Wake| !wake.kicked && !wake.stop;
        let wake = locked(&self.wake);
        let mut wake = if left {
            self.woken.wait_timeout_while(wake, RETRY, idle).unwrap_or_else(|e| e.into_inner()).0
        } else {
            self.woken.wait_while(wake, idle).unwrap_or_else(|e| e.into_inner())
        };
        wake.kicked = false;
        !wake.stop
    }

    fn stopping(&self) -> bool {
        locked(&self.wake).stop
    }

    fn sweep(&self) -> Result<Swept, Error> {
        let _alone = locked(&self.sweeping);
        let mut tally = Tally { pool: &self.shared.pool, stuck: &self.stuck, swept: Swept::default() };
        self.sweep_idle(&mut tally);
        let mut after = None;
        while !self.stopping() {
            let batch = self.shared.store.read(|r| r.reclaims(after, BATCH))?;
            let Some(last) = batch.last() else { break };
            after = Some(last.number);
            self.sweep_batch(&batch, &mut tally)?;
        }
        Ok(tally.swept)
    }

    fn sweep_idle(&self, tally: &mut Tally<'_>) {
        let idle: Vec<Role> = std::mem::take(&mut *locked(&self.idle)).into_iter().collect();
        let outcomes = side_by_side(self.workers, &idle, |&role| self.shared.pool.deactivate(role));
        for (role, result) in idle.into_iter().zip(outcomes) {
            if !tally.take(role, result) {
                locked(&self.idle).insert(role);
            }
        }
    }

    /// Views go first: a thin that a view still shows to somebody is left alone.
    fn sweep_batch(&self, batch: &[ReclaimRecord], tally: &mut Tally<'_>) -> Result<(), Error> {
        let (views, thins): (Vec<_>, Vec<_>) =
            batch.iter().partition(|entry| matches!(entry.kind, ReclaimKind::View { .. }));
        let mut done = Vec::new();
        let outcomes =
            side_by_side(self.workers, &views, |entry| self.shared.pool.deactivate(Role::View(entry.number)));
        for (entry, result) in views.iter().zip(outcomes) {
            if tally.take(Role::View(entry.number), result) {
                done.push(entry.number);
            }
        }
        self.tick_off(&done)?;
        let shown = self.shown(&thins)?;
        let outcomes = side_by_side(self.workers, &thins, |entry| match entry.kind {
            ReclaimKind::Thin(thin) if shown.contains(&thin) => Ok(false),
            ReclaimKind::Thin(thin) => self.shared.reclaim_thin(entry, thin).map(|()| true),
            ReclaimKind::View { .. } => Ok(false),
        });
        let mut done = Vec::new();
        for (entry, result) in thins.iter().zip(outcomes) {
            match result {
                Ok(false) => tally.swept.busy += 1,
                result => {
                    if tally.take(Role::Snapshot(entry.number), result.map(drop)) {
                        done.push(entry.number);
                    }
                }
            }
        }
        self.tick_off(&done)
    }

    /// The thins that removed views, not yet taken away, still show, and those of `thins` that a view on record shows.
    fn shown(&self, thins: &[&ReclaimRecord]) -> Result<BTreeSet<ThinId>, Error> {
        let mut shown = BTreeSet::new();
        for entry in thins {
            if self.shared.store.read(|r| r.is_viewed(entry))? {
                shown.extend(entry.thin());
            }
        }
        let mut after = None;
        loop {
            let batch = self.shared.store.read(|r| r.reclaims(after, BATCH))?;
            let Some(last) = batch.last() else { return Ok(shown) };
            after = Some(last.number);
            shown.extend(batch.iter().filter_map(|entry| match entry.kind {
                ReclaimKind::View { of } => Some(of),
                ReclaimKind::Thin(_) => None,
            }));
        }
    }

    fn tick_off(&self, done: &[u64]) -> Result<(), Error> {
        if done.is_empty() {
            return Ok(());
        }
        self.shared.store.commit(|c| done.iter().try_for_each(|number| c.remove_reclaim(*number).map(drop)))?;
        Ok(())
    }
}

impl Shared {
    /// Discards and deletes a thin that nobody has open.
    fn reclaim_thin(&self, entry: &ReclaimRecord, thin: ThinId) -> Result<(), PoolError> {
        let own = Role::Snapshot(entry.number);
        let spare = Role::Reclaim(thin);
        let mut discarded = !self.settings.discard || self.discard_unused(own)?;
        self.pool.deactivate(own)?;
        if !discarded {
            match self.pool.activate(spare, thin, entry.size, false) {
                Ok(_) => discarded = self.discard_unused(spare)?,
                // It was deleted and not ticked off when everything ended; or it was never made.
                Err(gone) if gone.is_no_such_thin() => discarded = true,
                Err(error) => return Err(error),
            }
        }
        self.pool.deactivate(spare)?;
        if !discarded {
            tracing::warn!(%thin, key = entry.key, "deleted without a discard; its space stays with the pool's backing");
        }
        self.pool.delete(thin)
    }

    /// Discards the device if it is there, writable and open nowhere; says whether it did.
    fn discard_unused(&self, role: Role) -> Result<bool, PoolError> {
        match self.pool.info(role)? {
            Some(info) if info.live_table && !info.read_only && info.open_count == 0 => {}
            _ => return Ok(false),
        }
        let node = self.pool.node(role);
        let discard = || {
            let disk = self.disks.open(&node, Access::WriteExclusive)?;
            discard_all(disk.as_ref(), || true)
        };
        Ok(discard().unwrap_or_else(|error| {
            tracing::debug!(%error, "not discarded");
            false
        }))
    }
}

/// Counts results, and logs what is new about them.
struct Tally<'a> {
    pool: &'a Pool,
    stuck: &'a Mutex<BTreeMap<Role, Trouble>>,
    swept: Swept,
}

impl Tally<'_> {
    /// Says whether it is done.
    fn take(&mut self, role: Role, result: Result<(), PoolError>) -> bool {
        let Err(error) = result else {
            locked(self.stuck).remove(&role);
            self.swept.reclaimed += 1;
            return true;
        };
        let busy = error.is_busy();
        *(if busy { &mut self.swept.busy } else { &mut self.swept.failed }) += 1;
        let is_news = {
            let mut stuck = locked(self.stuck);
            let since = stuck.get(&role).map(|trouble| trouble.since);
            let before = stuck.insert(role, Trouble { busy, since: since.unwrap_or_else(Instant::now) });
            before.is_none_or(|trouble| trouble.busy != busy)
        };
        if is_news {
            let again = RETRY.as_secs();
            if busy {
                let by = holders(self.pool, role);
                tracing::info!(%error, by, "still in use; it is tried again every {again} s");
            } else {
                tracing::error!(%error, "cannot be reclaimed; it is tried again every {again} s");
            }
        }
        false
    }
}

/// Who has the device open or mounted, for people to read.
fn holders(pool: &Pool, role: Role) -> String {
    let holders: Vec<String> = pool.holders(role).iter().map(ToString::to_string).collect();
    holders.join(", ")
}

/// Runs `action` on every item, on up to `workers` threads; results in the items' order.
fn side_by_side<T: Sync, R: Send>(workers: usize, items: &[T], action: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let workers = workers.min(items.len());
    if workers <= 1 {
        return items.iter().map(action).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut results = Vec::new();
        while let Some((index, item)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            items.get(index).map(|item| (index, item))
        } {
            results.push((index, action(item)));
        }
        results
    };
    let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no action panics")).collect()
    });
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
mod tests {
    use super::side_by_side;

    #[test]
    fn results_come_in_the_items_order_whatever_thread_made_them() {
        let items: Vec<u32> = (0..1000).collect();
        assert_eq!(side_by_side(8, &items, |n| n * 2), items.iter().map(|n| n * 2).collect::<Vec<_>>());
        assert_eq!(side_by_side(8, &[7], |n| n + 1), [8]);
        assert!(side_by_side(8, &[] as &[u32], |n| *n).is_empty());
    }
}
