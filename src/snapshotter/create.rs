//! Prepare and View: a new key on a committed parent, or on nothing.
//!
//! Prepare is one pool message and one database commit, then the activation's three ioctls (before
//! the commit where the file system has to be grown). A crash before the commit leaves an
//! unrecorded thin, which the next start deletes; one after it leaves a snapshot that Mounts
//! activates.

use std::time::SystemTime;

use super::error::During;
use super::labels::{check_key, check_labels};
use super::sizes::{Asked, Basis};
use super::{marks, templates, Error, Labels, Mount, Shared, Snapshotter};
use crate::fs::{FsType, Writer};
use crate::pool::{IdGuard, Role};
use crate::store::{
    Kind, Ownership, ParentRef, ReclaimKind, ReclaimRecord, SnapshotRecord, StoreError,
};
use crate::units::{Sectors, ThinId};

/// How often a call is made again because its parent was exchanged meanwhile.
const TRIES: usize = 3;

/// What a new snapshot starts from.
struct Origin {
    thin: ThinId,
    size: Sectors,
    fs: String,
    parent: Option<ParentRef>,
    ownership: Ownership,
}

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
        shared.pool.check_free_space().during(key, "cannot be prepared")?;
        let origin = found.map_or_else(|| shared.on_template(), Ok)?;
        let basis = Basis { size: origin.size, fs: &origin.fs, parent: origin.parent.as_ref() };
        let size = shared.size_of_new(key, &basis, asked)?;
        let draft = new_record(key, Kind::Active, &origin, labels)?;
        let (thin, made_at) =
            shared.pool.create_timed(Some(origin.thin)).map_err(|source| match parent {
                // The parent was removed since it was looked up.
                Some(parent) if source.is_no_such_thin() => {
                    Error::ParentNotFound { parent: parent.into() }
                }
                _ => Error::Pool {
                    key: key.into(),
                    step: "cannot be prepared",
                    source: Box::new(source),
                },
            })?;
        let record = SnapshotRecord {
            number: thin.get().get().into(),
            thin: thin.get(),
            size,
            made_at: Some(made_at),
            ..draft
        };
        // A larger one is grown before it is recorded, so that no crash leaves it on record and too
        // small.
        let grown = if size > origin.size { shared.grow(key, &record) } else { Ok(()) };
        let recorded = grown.and_then(|()| shared.record_new(key, &record, &origin));
        if let Err(error) = recorded {
            if !shared
                .surely(&error, key, |found| found.is_none_or(|found| found.thin != record.thin))
            {
                thin.stay_leased();
                return Err(error);
            }
            return Err(undone(error, shared.take_back(key, super::role(&record), thin)));
        }
        drop(thin);
        shared.note_host_lapses_before(&record);
        shared.activate(key, &record).map_err(|error| undone(error, self.forget(key, &record)))
    }

    /// Makes a read-only view of `parent` under `key` and says how to mount it: the parent's own
    /// thin, on a device of its own. Nothing is made in the pool.
    pub fn view(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>, Error> {
        let (labels, parent) = checked(key, parent, labels)?;
        let _lock = self.locks.lock(&[key]);
        self.shared.must_be_new(key)?;
        retried(|| self.view_once(key, parent, &labels))
    }

    fn view_once(
        &self,
        key: &str,
        parent: Option<&str>,
        labels: &Labels,
    ) -> Result<Vec<Mount>, Error> {
        let shared = &*self.shared;
        let origin =
            parent.map_or_else(|| shared.on_template(), |parent| shared.on_parent(parent))?;
        let draft = new_record(key, Kind::View, &origin, labels)?;
        let number = shared.pool.take_id().during(key, "cannot be viewed")?;
        let record = SnapshotRecord { number: number.get().get().into(), ..draft };
        shared.record_new(key, &record, &origin)?;
        drop(number);
        shared.activate(key, &record).map_err(|error| undone(error, self.forget(key, &record)))
    }

    /// Takes back a snapshot that was recorded and could not be finished, so that its key is free
    /// again.
    fn forget(&self, key: &str, record: &SnapshotRecord) -> Result<(), Error> {
        self.shared.store.commit(|c| {
            c.remove_snapshot(key)?;
            c.put_reclaim(&reclaim_of(key, record))
        })?;
        self.shared.host_lapses.forget(record.number);
        self.reclaimer.kick();
        Ok(())
    }
}

impl Shared {
    fn must_be_new(&self, key: &str) -> Result<(), Error> {
        match self.store.read(|r| r.find_snapshot(key))? {
            Some(_) => Err(Error::AlreadyExists { key: key.into() }),
            None => Ok(()),
        }
    }

    fn record_new(&self, key: &str, record: &SnapshotRecord, origin: &Origin) -> Result<(), Error> {
        match self.store.commit(|c| c.insert_snapshot(key, record, origin.parent.as_ref())) {
            // The key itself is new, so it can only be the parent that is missing.
            Err(StoreError::NotFound { key }) => Err(Error::ParentNotFound { parent: key }),
            done => Ok(done?),
        }
    }

    fn on_parent(&self, parent: &str) -> Result<Origin, Error> {
        let record = self.parent(parent)?;
        let found = ParentRef::new(parent, &record);
        let SnapshotRecord { thin, size, fs, ownership, .. } = record;
        Ok(Origin { thin, size, fs, parent: Some(found), ownership })
    }

    fn on_template(&self) -> Result<Origin, Error> {
        let template = templates::template(self)?;
        let fs = self.settings.fs.fs_type.to_string();
        Ok(Origin {
            thin: template.thin,
            size: template.size,
            fs,
            parent: None,
            ownership: Ownership::Stored,
        })
    }

    /// Grows the file system of a snapshot that is made larger than what it is made from, and
    /// leaves it active.
    fn grow(&self, key: &str, record: &SnapshotRecord) -> Result<(), Error> {
        let fs: FsType = super::fs_type(&record.fs)?;
        self.activate(key, record)?;
        let node = self.pool.node(super::role(record));
        // A template was mounted by nobody else.
        let writer = if record.parent.is_none() { Writer::Us } else { Writer::Anybody };
        self.formatter.grow(&node, fs, record.size, writer).during(key, "cannot be grown")
    }

    /// Takes away a thin that did not get on record, and the device on it.
    pub(super) fn take_back(&self, key: &str, role: Role, thin: IdGuard<'_>) -> Result<(), Error> {
        if let Err(error) = self.pool.deactivate(role).during(key, "left a device behind") {
            thin.stay_leased();
            return Err(error);
        }
        self.pool.take_back(thin).during(key, "left a thin behind")
    }

    /// Whether a failed change is surely not on disk, and `holds` of what is under `key`. A write
    /// that failed may have got through: then the database is asked, and where it does not answer
    /// nothing is sure.
    pub(super) fn surely(
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

/// Makes a call again whose parent was exchanged between its look-up and the change of the
/// database.
fn retried<T>(mut call: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    for _ in 1..TRIES {
        match call() {
            Err(Error::ParentChanged { key, parent }) => {
                tracing::debug!(key, parent, "the parent was exchanged; once more")
            }
            done => return done,
        }
    }
    call()
}

fn checked<'a>(
    key: &str,
    parent: &'a str,
    labels: Labels,
) -> Result<(Labels, Option<&'a str>), Error> {
    check_key("key", key)?;
    let parent = Some(parent).filter(|parent| !parent.is_empty());
    marks::refuse_rebase(key, parent, &labels)?;
    Ok((check_labels(labels)?, parent))
}

/// A record whose number is still to be set, and so is the thin of one that gets its own.
fn new_record(
    key: &str,
    kind: Kind,
    origin: &Origin,
    labels: &Labels,
) -> Result<SnapshotRecord, Error> {
    let now = SystemTime::now();
    let below = origin.parent.as_ref().map(|_| &origin.ownership);
    Ok(SnapshotRecord {
        number: 0,
        kind,
        parent: origin.parent.as_ref().map(|parent| parent.key.clone()),
        thin: origin.thin,
        size: origin.size,
        fs: origin.fs.clone(),
        labels: labels.clone(),
        created_at: now,
        updated_at: now,
        mapped: None,
        inodes: None,
        made_at: None,
        ownership: marks::ownership(key, labels, below)?,
    })
}

/// What is left to do for a snapshot that is taken off the record.
pub(super) fn reclaim_of(key: &str, record: &SnapshotRecord) -> ReclaimRecord {
    let kind = match record.owned_thin() {
        Some(thin) => ReclaimKind::Thin(thin),
        None => ReclaimKind::View { of: record.thin },
    };
    ReclaimRecord {
        number: record.number,
        kind,
        size: record.size,
        key: key.into(),
        since: SystemTime::now(),
    }
}

/// The error, with that of its undoing if that failed too.
pub(super) fn undone(error: Error, undo: Result<(), Error>) -> Error {
    match undo {
        Ok(()) => error,
        Err(undo) => Error::Undo { source: Box::new(error), undo: Box::new(undo) },
    }
}
