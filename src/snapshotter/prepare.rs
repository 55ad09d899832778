//! Prepare: a writable snapshot of a committed parent, or of the template.
//!
//! It takes one pool message and one database commit, then three ioctls to activate the device. If
//! the file system has to grow, the device is activated before the commit. A crash before the
//! commit leaves a thin that is not on record, and the next start deletes it. After a crash behind
//! the commit the snapshot exists, and Mounts activates it.

use super::creation::{checked, retried, Origin};
use super::error::During;
use super::record::{fs_type, role};
use super::shared::Shared;
use super::sizes::{Asked, Basis};
use super::undo::undone;
use super::{Error, Labels, Mount, Snapshotter};
use crate::fs::Writer;
use crate::store::{Kind, SnapshotRecord};
use crate::units::Sectors;

const STEP: &str = "cannot be prepared";

impl Snapshotter {
    /// Makes a writable snapshot under `key` and says how to mount it.
    pub fn prepare(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>, Error> {
        let (labels, parent) = checked(key, parent, labels)?;
        let asked = Asked::of(key, &labels)?;
        let _lock = self.locks.lock(&[key]);
        self.shared.must_be_new(key)?;
        retried(|| self.prepare_once(key, parent, &labels, asked))
    }

    fn prepare_once(
        &self,
        key: &str,
        parent: Option<&str>,
        labels: &Labels,
        asked: Asked,
    ) -> Result<Vec<Mount>, Error> {
        let shared = &*self.shared;
        let found = parent.map(|parent| shared.on_parent(parent)).transpose()?;
        shared.pool.check_free_space().during(key, STEP)?;
        let origin = found.map_or_else(|| shared.on_template(), Ok)?;
        let basis = Basis { size: origin.size, fs: &origin.fs, parent: origin.parent.as_ref() };
        let size = shared.size_of_new(key, &basis, asked)?;
        let record = self.make(key, &origin, labels, size)?;
        shared.note_host_lapses_before(&record);
        shared.activate(key, &record).map_err(|error| undone(error, self.forget(key, &record)))
    }

    /// Makes the thin and records it.
    fn make(
        &self,
        key: &str,
        origin: &Origin,
        labels: &Labels,
        size: Sectors,
    ) -> Result<SnapshotRecord, Error> {
        let shared = &*self.shared;
        let draft = origin.record(key, Kind::Active, labels)?;
        let created = shared.pool.create_timed(Some(origin.thin));
        let (thin, made_at) = match (created, &origin.parent) {
            // The parent was removed after it was looked up.
            (Err(error), Some(parent)) if error.is_no_such_thin() => {
                return Err(Error::ParentNotFound { parent: parent.key.clone() })
            }
            (created, _) => created.during(key, STEP)?,
        };
        let record = SnapshotRecord {
            number: thin.get().get().into(),
            thin: thin.get(),
            size,
            made_at: Some(made_at),
            ..draft
        };
        // Grown before it is recorded, so that a crash cannot leave a record of a snapshot whose
        // file system is too small.
        let grown = if size > origin.size { shared.grow(key, &record) } else { Ok(()) };
        let recorded = grown.and_then(|()| shared.record_new(key, &record, origin));
        let Err(error) = recorded else { return Ok(record) };
        let not_recorded =
            |found: Option<&SnapshotRecord>| found.is_none_or(|found| found.thin != record.thin);
        if !shared.surely(&error, key, not_recorded) {
            thin.stay_leased();
            return Err(error);
        }
        Err(undone(error, shared.take_back(key, role(&record), thin)))
    }
}

impl Shared {
    /// Grows the file system of a snapshot that is larger than its parent or template, and leaves
    /// the device active.
    fn grow(&self, key: &str, record: &SnapshotRecord) -> Result<(), Error> {
        let fs = fs_type(&record.fs)?;
        self.activate(key, record)?;
        let node = self.pool.node(role(record));
        // Only this daemon has mounted the template.
        let writer = if record.parent.is_none() { Writer::Us } else { Writer::Anybody };
        self.formatter.grow(&node, fs, record.size, writer).during(key, "cannot be grown")
    }
}
