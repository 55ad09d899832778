//! One sweep: removes the devices and thins that are on record for it.
//!
//! Invariant: a sweep reads the records in one database transaction. So if it sees the record of a
//! thin, it also sees all removed views of that thin.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use super::delete::Outcome;
use super::report::Swept;
use super::tally::Tally;
use super::work::{locked, Alone, Work};
use crate::pool::{PoolError, Role};
use crate::snapshotter::Error;
use crate::store::{ReclaimKind, ReclaimRecord};
use crate::units::ThinId;

/// How many reclaim records are deleted with one database commit.
const BATCH: usize = 256;

impl Work {
    /// Removes what can be removed: with `all` everything, else what is due.
    pub fn sweep(self: &Arc<Self>, _alone: &Alone<'_>, all: bool) -> Result<Swept, Error> {
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
        // Views first: a thin that an open view still shows is not deleted.
        let views = self.sweep_views(views, tally)?;
        let shown = self.shown(&views, &thins)?;
        let is_shown =
            |entry: &ReclaimRecord| entry.thin().is_some_and(|thin| shown.contains(&thin));
        let (shown, thins): (Vec<_>, Vec<_>) = thins.into_iter().partition(is_shown);
        tally.swept.busy += shown.len();
        self.sweep_thins(thins, all, tally)
    }

    /// The entries that are due, each with the role of its device.
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

    /// Removes the devices of removed views. Returns the views whose device is still there.
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
            self.delete_records(&done)?;
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
            // One look at the pool tells for all thins whether it takes changes.
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
            self.delete_records(&done)?;
            left = rest;
        }
        Ok(())
    }

    /// Whether a job was not begun because the reclaimer must stop. That is not an error.
    fn was_stopped<T>(&self, result: &Option<T>) -> bool {
        result.is_none() && self.stopping()
    }

    /// Whether the pool takes deletions. A pool that took none a moment ago is not asked again yet,
    /// unless `now` is set.
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

    /// The thins that are still shown: by the removed views that are left (`views`), or by a view
    /// that is on record.
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

    /// Deletes the reclaim records of what is done, in one database commit.
    fn delete_records(&self, done: &[u64]) -> Result<(), Error> {
        if done.is_empty() {
            return Ok(());
        }
        self.shared
            .store
            .commit(|c| done.iter().try_for_each(|number| c.remove_reclaim(*number).map(drop)))?;
        Ok(())
    }

    /// Reclaims one thin. `refused` is set when the pool takes no changes.
    fn reclaim(&self, entry: &ReclaimRecord, refused: &AtomicBool) -> Result<Outcome, PoolError> {
        let ReclaimKind::Thin(thin) = entry.kind else { return Ok(Outcome::Left) };
        if refused.load(Ordering::SeqCst) {
            return Ok(Outcome::Left);
        }
        let result = self.shared.reclaim_thin(entry, thin, &|| !self.stopping());
        // If the cause is the pool, the other thins are not tried.
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
