//! Thins in this daemon's range of a shared pool that are on no record.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use crate::pool::error::PoolError;
use crate::pool::handle::Pool;
use crate::pool::naming::Role;
use crate::store::{IdRange, ReclaimKind, ReclaimRecord};
use crate::units::{Sectors, ThinId};

impl Pool {
    /// Sorts the thins in our range that are on no record. A thin is ours if a device of ours
    /// stands on it; it is then reclaimed. Any other is set aside for good. `thins` are those in
    /// the pool.
    pub(super) fn sort_unrecorded(&self, thins: &BTreeSet<ThinId>) -> Result<(), PoolError> {
        let unrecorded = self.unrecorded_of(thins)?;
        let ours = self.shown_by_own(&unrecorded)?;
        let set_aside = self.store.read(|r| r.foreign_thins())?;
        let gone: Vec<ThinId> = set_aside.into_iter().filter(|id| !thins.contains(id)).collect();
        let foreign: Vec<ThinId> =
            unrecorded.iter().copied().filter(|id| !ours.contains_key(id)).collect();
        if ours.is_empty() && gone.is_empty() && foreign.is_empty() {
            return Ok(());
        }
        self.store.commit(|c| {
            for (&id, &size) in &ours {
                let kind = ReclaimKind::Thin(id);
                let (number, key, since) = (id.get().into(), String::new(), SystemTime::now());
                c.put_reclaim(&ReclaimRecord { number, kind, size, key, since })?;
            }
            gone.iter().try_for_each(|id| c.remove_foreign(*id).map(drop))?;
            foreign.iter().try_for_each(|id| c.put_foreign(*id))
        })?;
        Ok(())
    }

    /// Those of `thins` that are in our range or on lease, and on no record.
    fn unrecorded_of(&self, thins: &BTreeSet<ThinId>) -> Result<BTreeSet<ThinId>, PoolError> {
        let (claim, leases) = self.store.read(|r| Ok((r.id_claim()?, r.leases()?)))?;
        let ranges: Vec<IdRange> =
            claim.map(|claim| claim.range).into_iter().chain(leases).collect();
        let inside = thins.iter().filter(|id| ranges.iter().any(|range| range.contains(**id)));
        Ok(self.store.read(|r| {
            let mut unrecorded = BTreeSet::new();
            for id in inside {
                if r.thin_owner(*id)?.is_none() {
                    unrecorded.insert(*id);
                }
            }
            Ok(unrecorded)
        })?)
    }

    /// Those of these thins on which a device with our uuid stands that was made for that thin, and
    /// the sizes of the devices. Such a device is made only after its thin. While it exists, the
    /// thin cannot be deleted and another one be made of its id.
    fn shown_by_own(
        &self,
        thins: &BTreeSet<ThinId>,
    ) -> Result<BTreeMap<ThinId, Sectors>, PoolError> {
        let mut shown = BTreeMap::new();
        for role in self.devices()? {
            let made_for = match role {
                Role::Snapshot(number) => {
                    u32::try_from(number).ok().and_then(|id| ThinId::new(id).ok())
                }
                Role::Template(id) | Role::Reclaim(id) => Some(id),
                _ => None,
            };
            let Some(id) = made_for.filter(|id| thins.contains(id)) else { continue };
            let Some(info) = self.info(role)? else { continue };
            if info.live_table && info.is_ours {
                shown.extend(self.shown(role)?.filter(|(thin, _)| *thin == id));
            }
        }
        Ok(shown)
    }

    /// Those ids in `range` of which the pool has thins already. If that cannot be told, none, and
    /// a warning is logged; an id that is taken is noticed when a thin of it is to be made.
    pub(in crate::pool) fn taken(&self, range: IdRange) -> Vec<ThinId> {
        match self.thins() {
            Ok(thins) => thins.into_keys().filter(|id| range.contains(*id)).collect(),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "it is not known which ids of a new lease have thins of others already"
                );
                Vec::new()
            }
        }
    }
}
