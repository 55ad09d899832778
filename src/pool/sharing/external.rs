//! Opens a pool that another program assembles.

use super::features;
use crate::dm::PoolMode;
use crate::pool::backing::SharedPool;
use crate::pool::error::PoolError;
use crate::pool::identity::{called, Opening, PoolFound};
use crate::store::{ExternalPool, PoolRecord};

/// Makes sure that the pool is there, can be used, and is the one that the database belongs to. The
/// pool's transaction id belongs to its owner and stays as it is. The record goes into the database
/// with the claim, in [`Pool::join`](crate::pool::Pool::join).
pub fn open_shared(
    opening: &Opening<'_>,
    pool: &SharedPool,
    record: PoolRecord,
) -> Result<PoolFound, PoolError> {
    let name = &pool.name;
    let refuse = |what: String| PoolError::External { pool: name.clone(), what };
    let info = opening.info(name)?.filter(|info| info.live_table).ok_or_else(|| {
        refuse(
            "is not there; assemble it first, or take pool_name out of the configuration to let \
             this daemon make one"
                .into(),
        )
    })?;
    let table = opening.pool_table(name)?.ok_or_else(|| {
        refuse(
            "is not a thin-pool device; pool_name must name the pool itself (with LVM the one \
             ending in -tpool)"
                .into(),
        )
    })?;
    let block_size = table.block_size;
    if info.suspended {
        return Err(refuse("is suspended; resume it ('dmsetup resume')".into()));
    }
    let found =
        ExternalPool { name: name.to_string(), uuid: info.uuid.as_ref().map(ToString::to_string) };
    // A first start that failed before it had a thin in the pool does not bind the database.
    let bound = record.formatted
        && opening.store.read(|r| r.id_claim())?.is_none_or(|claim| claim.epoch > 0);
    if bound && record.external.as_ref() != Some(&found) {
        let (belongs, this) = (called(record.external.as_ref()), called(Some(&found)));
        let what = format!("the database belongs to {belongs}, this is {this}");
        return Err(opening.foreign(name, &what));
    }
    if bound && record.block_size != block_size {
        return Err(PoolError::BlockSize {
            pool: name.clone(),
            has: block_size,
            wanted: record.block_size,
        });
    }
    let status = opening.working(name)?;
    if status.mode == PoolMode::ReadOnly && !status.needs_check {
        return Err(refuse(
            "is read-only; let its owner load it without read_only, or give it more metadata"
                .into(),
        ));
    }
    opening.must_take_changes(name, false)?;
    if let Some(what) = features::refused(name, &table, &pool.accepted_features) {
        return Err(refuse(what));
    }
    for what in features::notes(&table) {
        tracing::warn!(pool = %name, "{what}");
    }
    let record = PoolRecord { external: Some(found), block_size, formatted: true, ..record };
    Ok(PoolFound { name: name.clone(), device: info.device, record })
}
