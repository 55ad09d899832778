//! Whether a snapshot holds all that was written to it.
//!
//! A full pool refuses writes to new blocks. A program that writes through the page cache learns of
//! it only if it syncs, and containerd does not sync when it unpacks a layer. So a commit is
//! refused when the pool has refused writes since the snapshot was made. The record says when it
//! was made ([`SnapshotRecord::made_at`]), so this survives a restart.

use super::error::During;
use super::shared::Shared;
use super::Error;
use crate::store::SnapshotRecord;

impl Shared {
    /// Must be called before a new snapshot is handed out to be written to.
    pub fn note_host_lapses_before(&self, record: &SnapshotRecord) {
        self.host_lapses.note(record.number, self.pool.host_lapses());
    }

    /// Refuses a snapshot that may not hold all that was written to it until now. The answer is
    /// final once nothing writes to it any more and all writes are flushed.
    pub fn must_be_whole(&self, key: &str, record: &SnapshotRecord) -> Result<(), Error> {
        const STEP: &str = "cannot be committed";
        let seen = self.pool.look().during(key, STEP)?;
        self.pool.must_be_well(&seen).during(key, STEP)?;
        // The record of a snapshot that an earlier version made has no time. It counts as older
        // than all that is known of the pool.
        let refused = self.pool.has_refused_since(record.made_at.unwrap_or_default());
        if !refused && self.pool.host_lapses() == self.host_lapses.before(record.number) {
            return Ok(());
        }
        Err(Error::Incomplete { key: key.into(), pool: self.pool.device_name().to_string() })
    }
}
