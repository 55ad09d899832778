//! Thin ids on lease.
//!
//! The database says which ranges of ids are leased. Inside a lease, ids are handed out upwards,
//! each once, without another write. In a pool of our own the ids come from the lower half of all
//! ids. In a shared pool they come from the range that this database has claimed. A range stays on
//! record as long as one of its ids is not on record yet and may get there. So a crash leaves
//! unrecorded thins only inside recorded ranges. In a pool of our own the next start deletes these.
//! In a shared pool a lease does not prove that a thin is ours, so it is no reason to delete one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ranges::SHARED_START;
use crate::pool::error::PoolError;
use crate::store::{IdRange, Reader, Store, StoreError};
use crate::units::ThinId;

/// The length of a lease. There is one database commit for that many thins.
const LEASE: u32 = 256;

/// Tells which ids in a range have thins in the pool already.
type Taken<'a> = &'a dyn Fn(IdRange) -> Vec<ThinId>;

/// The leases of thin ids.
#[derive(Debug)]
pub struct Ids {
    store: Arc<Store>,
    /// Whether other programs may make thins in the pool.
    shared: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The range that ids are taken from. Its start moves up with each.
    open: Option<IdRange>,
    /// Ids that were handed out and whose guard is not dropped.
    in_flight: BTreeSet<ThinId>,
    /// The ranges of this run that are on record.
    leased: Vec<IdRange>,
    /// The ranges of the last run, until [`Ids::settle`].
    inherited: Vec<IdRange>,
}

/// An id that was handed out. Drop it once it is on record, or once it has no thin. If neither is
/// known, call [`IdGuard::stay_leased`].
#[derive(Debug)]
pub struct IdGuard<'a> {
    ids: &'a Ids,
    id: ThinId,
}

impl IdGuard<'_> {
    pub fn get(&self) -> ThinId {
        self.id
    }

    /// Keeps the id on lease for the rest of this run. It may have a thin without a record, which
    /// the next start has to find.
    pub fn stay_leased(self) {
        std::mem::forget(self);
    }
}

impl Drop for IdGuard<'_> {
    fn drop(&mut self) {
        self.ids.state().in_flight.remove(&self.id);
    }
}

impl Ids {
    pub fn new(store: Arc<Store>, shared: bool) -> Self {
        Ids { store, shared, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next id that is on no record.
    ///
    /// The lock is held while a new lease is recorded, which happens once in [`LEASE`] ids. Other
    /// callers need that same lease, so they wait.
    pub fn take(&self, taken: Taken<'_>) -> Result<IdGuard<'_>, PoolError> {
        let mut state = self.state();
        for _ in 0..=ThinId::MAX.get() {
            let id = match state.open.as_mut().and_then(IdRange::take_first) {
                Some(id) => id,
                None => {
                    self.extend(&mut state, taken)?;
                    continue;
                }
            };
            if !state.in_flight.contains(&id) && !self.store.read(|r| owned(r, id))? {
                state.in_flight.insert(id);
                return Ok(IdGuard { ids: self, id });
            }
        }
        Err(PoolError::NoIds)
    }

    /// Records the next range, and the thins of others in it. Drops those ranges of this run that
    /// have no id in flight.
    fn extend(&self, state: &mut State, taken: Taken<'_>) -> Result<(), PoolError> {
        let bounds = self.bounds()?;
        let end = state.leased.last().map(|range| range.end);
        let end = match end {
            Some(end) => end,
            None => self.store.read(|r| r.leases())?.last().map_or(bounds.start, |range| range.end),
        };
        let next = after(end, bounds);
        let taken = if self.shared { taken(next) } else { Vec::new() };
        let busy = |range: &IdRange| state.in_flight.iter().any(|id| range.contains(*id));
        let mut leased: Vec<_> = state.leased.iter().copied().filter(busy).collect();
        leased.push(next);
        let all: Vec<_> = state.inherited.iter().chain(&leased).copied().collect();
        self.store.commit(|c| {
            for id in &taken {
                if c.thin_owner(*id)?.is_none() {
                    warn_of_foreign(*id);
                    c.put_foreign(*id)?;
                }
            }
            c.put_leases(&all)
        })?;
        state.leased = leased;
        state.open = Some(next);
        Ok(())
    }

    /// The ids that leases may cover.
    fn bounds(&self) -> Result<IdRange, PoolError> {
        if !self.shared {
            return Ok(IdRange { start: 0, end: SHARED_START });
        }
        self.store.read(|r| r.id_claim())?.map(|claim| claim.range).ok_or(PoolError::NoIds)
    }

    /// Notes that the thin of this id is not ours. The id is never handed out again, and no start
    /// deletes its thin.
    pub fn set_aside(&self, id: IdGuard<'_>) -> Result<(), PoolError> {
        let taken = id.get();
        warn_of_foreign(taken);
        Ok(self.store.commit(|c| c.put_foreign(taken))?)
    }

    /// The ids in the leases of the last run that are on no record. None in a shared pool, where a
    /// thin of such an id may belong to another program.
    pub fn unrecorded(&self) -> Result<Vec<ThinId>, PoolError> {
        let leases = self.store.read(|r| r.leases())?;
        self.state().inherited.clone_from(&leases);
        if self.shared {
            return Ok(Vec::new());
        }
        Ok(self.store.read(|r| {
            let mut unrecorded = Vec::new();
            for id in leases.iter().flat_map(IdRange::ids) {
                if !owned(r, id)? {
                    unrecorded.push(id);
                }
            }
            Ok(unrecorded)
        })?)
    }

    /// Replaces all leases of the last run by a new one.
    pub fn settle(&self, taken: Taken<'_>) -> Result<(), PoolError> {
        let mut state = self.state();
        let last = state.inherited.last().copied();
        state.inherited.clear();
        if state.leased.is_empty() {
            state.leased.extend(last.map(|range| IdRange { start: range.end, end: range.end }));
        }
        self.extend(&mut state, taken)
    }
}

fn warn_of_foreign(id: ThinId) {
    tracing::warn!(%id, "the pool holds a thin of this id that is not ours; it is set aside");
}

/// The lease after one that ends at `end`. At the end of `bounds` it starts again at their start.
fn after(end: u32, bounds: IdRange) -> IdRange {
    let start = if (bounds.start..bounds.end).contains(&end) { end } else { bounds.start };
    IdRange { start, end: bounds.end.min(start + LEASE) }
}

/// Whether a thin, or a device, of this number is on record.
fn owned(records: &Reader<'_>, id: ThinId) -> Result<bool, StoreError> {
    Ok(records.thin_owner(id)?.is_some() || records.number_owner(id.get().into())?.is_some())
}
