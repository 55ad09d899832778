//! Thin ids on lease.
//!
//! The database says which ranges of ids are leased; inside them ids are handed out upwards, each
//! once, with no further write. They are taken from the lower half of a pool's ids where the pool
//! is ours, and from the range that this database has claimed where it is not. A range stays on
//! record as long as one of its ids is still on its way into a record, so that a crash leaves
//! unrecorded thins inside recorded ranges and nowhere else. In a pool of our own these are deleted
//! by the next start; in one that others use, an id on lease does not prove that its thin is ours,
//! and nothing is deleted by that.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

use super::PoolError;
use crate::store::{IdRange, Reader, Store, StoreError};
use crate::units::ThinId;

/// The owner of a shared pool, such as LVM, takes ids upwards from 0. Its guests have the upper
/// half.
pub(super) const SHARED_START: u32 = 1 << 23;

/// Ids leased at a time: one database commit for so many thins.
const LEASE: u32 = 256;

/// Says which ids in a range the pool has thins of already.
type Taken<'a> = &'a dyn Fn(IdRange) -> Vec<ThinId>;

#[derive(Debug)]
pub struct Ids {
    store: Arc<Store>,
    /// Others may make thins in the pool.
    shared: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The range ids are taken from now, its start moved up with each.
    open: Option<IdRange>,
    in_flight: BTreeSet<ThinId>,
    /// Ranges of this run that are on record.
    leased: Vec<IdRange>,
    /// Ranges of the last run, until [`Ids::settle`].
    inherited: Vec<IdRange>,
}

/// An id on its way into a record. Dropped once it is recorded, or once there is no thin of it;
/// where neither is known, [`IdGuard::stay_leased`].
#[derive(Debug)]
pub struct IdGuard<'a> {
    ids: &'a Ids,
    id: ThinId,
}

impl IdGuard<'_> {
    pub fn get(&self) -> ThinId {
        self.id
    }

    /// Keeps the id on lease for the rest of this run: it may have a thin that is on no record,
    /// which the next start is to find.
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
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The next id that no record owns.
    ///
    /// The lock is held while a lease is extended, once in [`LEASE`] ids: those who wait need that
    /// very lease.
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

    /// Records the next range, with what others have made in it, and drops those ranges of this run
    /// in which nothing is in flight any more.
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
                    tracing::warn!(%id, "the pool holds a thin of this id that is not ours; it is set aside");
                    c.put_foreign(*id)?;
                }
            }
            c.put_leases(&all)
        })?;
        state.leased = leased;
        state.open = Some(next);
        Ok(())
    }

    /// The ids that leases are taken from.
    fn bounds(&self) -> Result<IdRange, PoolError> {
        if !self.shared {
            return Ok(IdRange { start: 0, end: SHARED_START });
        }
        self.store.read(|r| r.id_claim())?.map(|claim| claim.range).ok_or(PoolError::NoIds)
    }

    /// The thin of this id is not ours: it is never handed out again, nor deleted at a start.
    pub fn set_aside(&self, id: IdGuard<'_>) -> Result<(), PoolError> {
        let taken = id.get();
        tracing::warn!(id = %taken, "the pool holds a thin of this id that is not ours; it is set aside");
        Ok(self.store.commit(|c| c.put_foreign(taken))?)
    }

    /// Ids inside the leases of the last run that nothing on record owns, if a thin of such an id
    /// can only be ours.
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

    /// Takes a new lease in place of all those of the last run.
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

/// The lease after one that ends at `end`: inside `bounds`, from whose end it goes on at their
/// start.
fn after(end: u32, bounds: IdRange) -> IdRange {
    let start = if (bounds.start..bounds.end).contains(&end) { end } else { bounds.start };
    IdRange { start, end: bounds.end.min(start + LEASE) }
}

/// Whether a record has a thin, or a device, of this number.
fn owned(records: &Reader<'_>, id: ThinId) -> Result<bool, StoreError> {
    Ok(records.thin_owner(id)?.is_some() || records.number_owner(id.get().into())?.is_some())
}
