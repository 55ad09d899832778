//! Making and deleting thins.

use super::ids::IdGuard;
use crate::dm;
use crate::pool::error::PoolError;
use crate::pool::handle::Pool;
use crate::store::Moment;
use crate::units::ThinId;

impl Pool {
    /// An id for a new thin, or for the device of a view. If it is not on record when the guard is
    /// dropped, the next start finds it.
    pub fn take_id(&self) -> Result<IdGuard<'_>, PoolError> {
        self.ids.take(&|range| self.taken(range))
    }

    /// The thins that the last run may have made and not recorded. None in a shared pool, where
    /// another program may have made them.
    pub fn unrecorded(&self) -> Result<Vec<ThinId>, PoolError> {
        self.ids.unrecorded()
    }

    /// Replaces the leases of the last run by a new one. No unrecorded thin may be left in them.
    pub fn settle_leases(&self) -> Result<(), PoolError> {
        self.ids.settle(&|range| self.taken(range))
    }

    /// Makes a new thin. It is empty, or a snapshot of `origin`, which must not be written to
    /// meanwhile.
    ///
    /// If an id turns out to be taken by a thin that is not ours, it is set aside for good, and the
    /// next one is used.
    pub fn create(&self, origin: Option<ThinId>) -> Result<IdGuard<'_>, PoolError> {
        self.create_timed(origin).map(|(id, _)| id)
    }

    /// As [`Pool::create`]; returns also when that was, for [`Pool::has_refused_since`].
    pub fn create_timed(&self, origin: Option<ThinId>) -> Result<(IdGuard<'_>, Moment), PoolError> {
        loop {
            let id = self.take_id()?;
            match self.dm.make_thin(&self.device_name, id.get(), origin) {
                Ok(event) => return Ok((id, Moment { assembly: self.assembly, event })),
                Err(dm::Error::ThinExists { .. }) => self.ids.set_aside(id)?,
                Err(source) => {
                    let (pool, id) = (self.device_name.clone(), id.get());
                    return Err(self.why_refused(PoolError::Create { pool, id, origin, source }));
                }
            }
        }
    }

    /// Deletes a thin, durably. A thin that does not exist counts as deleted.
    ///
    /// The kernel does not report a commit that failed, and the thin is there again once the pool
    /// has been checked. In that case this fails with [`PoolError::NeedsCheck`], and has to be
    /// called again later.
    pub fn delete(&self, id: ThinId) -> Result<(), PoolError> {
        match self.dm.delete_thin(&self.device_name, id) {
            Ok(()) | Err(dm::Error::NoSuchThin { .. }) => self.takes_changes(),
            Err(source) => Err(self.why_refused(PoolError::Delete {
                pool: self.device_name.clone(),
                id,
                source,
            })),
        }
    }

    /// Replaces the error of a pool that takes no changes by one that says what to do.
    pub(in crate::pool) fn why_refused(&self, error: PoolError) -> PoolError {
        match &error {
            PoolError::Create { source: dm::Error::PoolFailed { .. }, .. }
            | PoolError::Copy { source: dm::Error::PoolFailed { .. }, .. }
            | PoolError::Delete { source: dm::Error::PoolFailed { .. }, .. } => {
                self.takes_changes().err().unwrap_or(error)
            }
            _ => error,
        }
    }

    /// Deletes a thin that will not be recorded. If that fails, its id stays on lease, and the next
    /// start deletes it.
    pub fn take_back(&self, id: IdGuard<'_>) -> Result<(), PoolError> {
        let deleted = self.delete(id.get());
        if deleted.is_err() {
            id.stay_leased();
        }
        deleted
    }
}
