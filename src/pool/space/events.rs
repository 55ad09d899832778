//! The kernel's events of the pool.

use crate::dm::Dm;
use crate::names::DmName;
use crate::pool::error::PoolError;
use crate::pool::handle::Pool;

/// The events of a pool: a low water mark, or a change of its mode.
#[derive(Debug)]
pub struct PoolEvents {
    dm: Dm,
    pool: DmName,
}

impl PoolEvents {
    /// Waits until the pool has had more than `seen` events since its assembly. Returns their
    /// number.
    pub fn next(&self, seen: u32) -> Result<u32, PoolError> {
        let waited = self.dm.wait_event(&self.pool, seen);
        waited.map_err(|source| PoolError::Look { device: self.pool.clone(), source })
    }
}

impl Pool {
    /// The pool's events, for a thread that must not keep the pool open.
    pub fn events(&self) -> PoolEvents {
        PoolEvents { dm: self.dm.clone(), pool: self.device_name.clone() }
    }
}
