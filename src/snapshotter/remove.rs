//! Remove: takes a snapshot out of the database. The reclaimer does the rest.

use super::labels::check_key;
use super::record::reclaim_of;
use super::{Error, Snapshotter};

impl Snapshotter {
    /// Removes a snapshot. Its key is free again when this returns; its blocks are free when the
    /// reclaimer has deleted its thin.
    pub fn remove(&self, key: &str) -> Result<(), Error> {
        check_key("key", key)?;
        let _lock = self.locks.lock(&[key]);
        let number = self.shared.store.commit(|c| {
            let record = c.remove_snapshot(key)?;
            c.put_reclaim(&reclaim_of(key, &record)).map(|()| record.number)
        })?;
        self.shared.host_lapses.forget(number);
        self.reclaimer.kick();
        Ok(())
    }
}
