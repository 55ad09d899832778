//! The watch over the features of a shared pool, which its owner can change at any time.

use super::{features, Pool, PoolError};
use crate::dm::{Target, ThinPoolTable};
use crate::store::ClaimRecord;

impl Pool {
    /// Whether a block that is mapped reads as zeros where it was not written to.
    pub fn zeroes_blocks(&self) -> Result<bool, PoolError> {
        Ok(self.own_table()?.is_none_or(|table| !table.features.skip_block_zeroing))
    }

    /// Refuses a pool whose owner has turned zeroing off since file systems were made that rely on
    /// it.
    pub(super) fn zeroing_kept(&self, claim: ClaimRecord) -> Result<ClaimRecord, PoolError> {
        let zeroes = self.zeroes_blocks()?;
        if claim.zeroed && !zeroes {
            let what = "has the feature skip_block_zeroing, and this database's file systems were made while it had not: they rely on \
                        zeros, their journals above all. Let its owner turn zeroing on again ('lvchange --zero y', or \
                        reload it without the feature), or start with an empty state directory";
            return Err(PoolError::External { pool: self.device_name.clone(), what: what.into() });
        }
        Ok(ClaimRecord { zeroed: zeroes, ..claim })
    }

    /// Looks at a shared pool's features, which its owner can change at any time. What is found is
    /// logged when it changes; as long as it must be refused no new snapshots are made.
    pub(super) fn look_at_features(&self) -> Result<(), PoolError> {
        let (Some(shared), Some(table)) = (&self.shared, self.own_table()?) else { return Ok(()) };
        let lost = table.features.skip_block_zeroing
            && self.store.read(|r| r.id_claim())?.is_some_and(|claim| claim.zeroed);
        let refused = features::refused(
            &self.device_name,
            &table,
            if lost { &[] } else { &shared.accepted_features },
        );
        let mut unfit = shared.unfit.lock().unwrap_or_else(|e| e.into_inner());
        if *unfit != refused {
            match &refused {
                Some(what) => {
                    tracing::error!(pool = %self.device_name, "its owner has changed it: it {what}")
                }
                None => {
                    tracing::info!(pool = %self.device_name, "its features are as they should be again")
                }
            }
        }
        *unfit = refused;
        Ok(())
    }

    /// Refuses a pool whose features were not fit at the last look.
    pub(super) fn must_be_fit(&self) -> Result<(), PoolError> {
        let unfit = self
            .shared
            .as_ref()
            .and_then(|s| s.unfit.lock().unwrap_or_else(|e| e.into_inner()).clone());
        unfit.map_or(Ok(()), |what| {
            Err(PoolError::External { pool: self.device_name.clone(), what })
        })
    }

    /// The table of a pool that somebody else assembles.
    fn own_table(&self) -> Result<Option<ThinPoolTable>, PoolError> {
        if self.shared.is_none() {
            return Ok(None);
        }
        let table = self.dm.table(&self.device_name);
        let mut table =
            table.map_err(|source| PoolError::Look { device: self.device_name.clone(), source })?;
        Ok(match table.pop() {
            Some(Target::ThinPool(table)) => Some(table),
            _ => None,
        })
    }
}
