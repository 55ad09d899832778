//! Undoing what a call has done before it failed.

use super::error::During;
use super::shared::Shared;
use super::Error;
use crate::pool::{IdGuard, Role};
use crate::store::SnapshotRecord;

/// The error of a call, with that of its undoing if that failed too.
pub fn undone(error: Error, undo: Result<(), Error>) -> Error {
    match undo {
        Ok(()) => error,
        Err(undo) => Error::Undo { source: Box::new(error), undo: Box::new(undo) },
    }
}

impl Shared {
    /// Removes the device of a thin that was not recorded, and deletes the thin.
    pub fn take_back(&self, key: &str, role: Role, thin: IdGuard<'_>) -> Result<(), Error> {
        if let Err(error) = self.pool.deactivate(role).during(key, "left a device behind") {
            thin.stay_leased();
            return Err(error);
        }
        self.pool.take_back(thin).during(key, "left a thin behind")
    }

    /// Whether a failed change is certainly not on disk. After an error of the database the change
    /// may be on disk all the same, so the record under `key` is read and given to `holds`. Where
    /// it cannot be read, nothing is certain.
    pub fn surely(
        &self,
        error: &Error,
        key: &str,
        holds: impl FnOnce(Option<&SnapshotRecord>) -> bool,
    ) -> bool {
        if !matches!(error, Error::Store(_)) {
            return true;
        }
        self.store.read(|r| r.find_snapshot(key)).is_ok_and(|found| holds(found.as_ref()))
    }
}
