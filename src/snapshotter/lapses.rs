//! How often the file system under the pool had been full when each snapshot was made.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The count at the time when a snapshot was made, by the snapshot's number. A snapshot that is not
/// in it was made while the count was zero. The pool has no events for this, so it is lost at a
/// restart.
#[derive(Debug, Default)]
pub struct HostLapses(Mutex<HashMap<u64, u64>>);

impl HostLapses {
    fn counts(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The count at the time when this snapshot was made.
    pub fn before(&self, number: u64) -> u64 {
        self.counts().get(&number).copied().unwrap_or(0)
    }

    /// Notes the count for a snapshot that is about to be handed out.
    pub fn note(&self, number: u64, lapses: u64) {
        if lapses > 0 {
            self.counts().insert(number, lapses);
        }
    }

    /// Forgets a snapshot that will not be committed any more.
    pub fn forget(&self, number: u64) {
        self.counts().remove(&number);
    }
}
