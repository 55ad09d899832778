//! Whether a snapshot holds what was written to it.
//!
//! A pool that is full refuses writes to new blocks, and whoever writes through a page cache hears
//! of it only if they sync. containerd does not when it unpacks a layer. So a commit is refused
//! when the pool has had such a lapse since the snapshot was made. When it was made is in its
//! record ([`SnapshotRecord::made_at`]), so a restart forgets nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use super::error::During;
use super::{Error, Shared};
use crate::store::SnapshotRecord;

/// How often the file system under the pool had been full when a snapshot was made, by the
/// snapshot's number; those that are not in it were made before the first time. The pool has no
/// events for that, so a restart forgets it.
#[derive(Debug, Default)]
pub struct HostLapses(Mutex<HashMap<u64, u64>>);

impl HostLapses {
    fn marks(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The snapshot is not going to be committed any more.
    pub fn forget(&self, number: u64) {
        self.marks().remove(&number);
    }
}

impl Shared {
    /// A new snapshot is about to be handed out to be written to.
    pub fn note_host_lapses_before(&self, record: &SnapshotRecord) {
        let lapses = self.pool.host_lapses();
        if lapses > 0 {
            self.host_lapses.marks().insert(record.number, lapses);
        }
    }

    /// Refuses a snapshot that may not hold all that was written to it until now. Holds for good
    /// once nobody writes any more and what was written is flushed.
    pub fn must_be_whole(&self, key: &str, record: &SnapshotRecord) -> Result<(), Error> {
        const STEP: &str = "cannot be committed";
        let seen = self.pool.look().during(key, STEP)?;
        self.pool.must_be_well(&seen).during(key, STEP)?;
        let host_before = self.host_lapses.marks().get(&record.number).copied().unwrap_or(0);
        // One that an earlier version made does not say when, and was there before everything that
        // is known.
        let refused = self.pool.has_refused_since(record.made_at.unwrap_or_default());
        if !refused && self.pool.host_lapses() == host_before {
            return Ok(());
        }
        Err(Error::Incomplete { key: key.into(), pool: self.pool.device_name().to_string() })
    }
}
