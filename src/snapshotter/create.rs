//! Prepare and View: a new key on a committed parent, or on nothing.
//!
//! Prepare is one pool message and one database commit, then the activation's three ioctls (before the commit where the
//! file system has to be grown). A crash before the commit leaves an unrecorded thin, which the next start deletes; one
//! after it leaves a snapshot that Mounts activates.

use std::time::SystemTime;

use super::error::During;
use super::labels::{check_key, check_labels, wanted_size};
use super::{templates, Error, Labels, Mount, Shared, Snapshotter};
use crate::fs::{FsType, Writer};
use crate::pool::{IdGuard, Role};
use crate::store::{Kind, ReclaimKind, ReclaimRecord, SnapshotRecord};
use crate::units::{Sectors, ThinId};

/// What a new snapshot starts from.
struct Origin {
    thin: ThinId,
    size: Sectors,
    fs: String,
}

impl Snapshotter {
    /// Makes a writable snapshot under `key` and says how to mount it.
    pub fn prepare(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>, Error> {
        let (labels, parent) = checked(key, parent, labels)?;
        let wanted = wanted_size(&labels)?;
        let _lock = self.locks.lock(&[key]);
        let shared = &*self.shared;
        shared.must_be_new(key)?;
        let origin = shared.origin(parent)?;
        shared.pool.check_room().during(key, "cannot be prepared")?;
        let size = origin.size.max(shared.settings.base_image_size).max(wanted.unwrap_or(Sectors(0)));
        let (thin, made_at) = shared.pool.create_timed(Some(origin.thin)).map_err(|source| match parent {
            // The parent was removed since it was looked up.
            Some(parent) if source.is_no_such_thin() => Error::ParentNotFound { parent: parent.into() },
            _ => Error::Pool { key: key.into(), step: "cannot be prepared", source: Box::new(source) },
        })?;
        let record = SnapshotRecord {
            thin: thin.get(),
            size,
            made_at: Some(made_at),
            ..new_record(thin.get(), Kind::Active, parent, &origin, labels)
        };
        // A larger one is grown before it is recorded, so that no crash leaves it on record and too small.
        let grown = if size > origin.size { shared.grow(key, &record) } else { Ok(()) };
        let recorded = grown.and_then(|()| Ok(shared.store.commit(|c| c.insert_snapshot(key, &record))?));
        if let Err(error) = recorded {
            if !shared.surely(&error, key, |found| found.is_none_or(|found| found.thin != record.thin)) {
                thin.stay_leased();
                return Err(error);
            }
            return Err(undone(error, shared.take_back(key, super::role(&record), thin)));
        }
        drop(thin);
        shared.note_host_lapses_before(&record);
        shared.activate(key, &record).map_err(|error| undone(error, self.forget(key, &record)))
    }

    /// Makes a read-only view of `parent` under `key` and says how to mount it: the parent's own thin, on a device of its
    /// own. Nothing is made in the pool.
    pub fn view(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>, Error> {
        let (labels, parent) = checked(key, parent, labels)?;
        let _lock = self.locks.lock(&[key]);
        let shared = &*self.shared;
        shared.must_be_new(key)?;
        let origin = shared.origin(parent)?;
        let number = shared.pool.take_id().during(key, "cannot be viewed")?;
        let record = new_record(number.get(), Kind::View, parent, &origin, labels);
        shared.store.commit(|c| c.insert_snapshot(key, &record))?;
        drop(number);
        shared.activate(key, &record).map_err(|error| undone(error, self.forget(key, &record)))
    }

    /// Takes back a snapshot that was recorded and could not be finished, so that its key is free again.
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

    fn origin(&self, parent: Option<&str>) -> Result<Origin, Error> {
        let Some(parent) = parent else {
            let template = templates::template(self)?;
            let fs = self.settings.fs.fs_type.to_string();
            return Ok(Origin { thin: template.thin, size: template.size, fs });
        };
        let record = self.parent(parent)?;
        Ok(Origin { thin: record.thin, size: record.size, fs: record.fs })
    }

    /// Grows the file system of a snapshot that is made larger than what it is made from, and leaves it active.
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

    /// Whether a failed change is surely not on disk, and `holds` of what is under `key`. A write that failed may have got
    /// through: then the database is asked, and where it does not answer nothing is sure.
    pub(super) fn surely(&self, error: &Error, key: &str, holds: impl FnOnce(Option<&SnapshotRecord>) -> bool) -> bool {
        if !matches!(error, Error::Store(_)) {
            return true;
        }
        self.store.read(|r| r.find_snapshot(key)).is_ok_and(|found| holds(found.as_ref()))
    }
}

fn checked<'a>(key: &str, parent: &'a str, labels: Labels) -> Result<(Labels, Option<&'a str>), Error> {
    check_key("key", key)?;
    Ok((check_labels(labels)?, Some(parent).filter(|parent| !parent.is_empty())))
}

fn new_record(number: ThinId, kind: Kind, parent: Option<&str>, origin: &Origin, labels: Labels) -> SnapshotRecord {
    let now = SystemTime::now();
    SnapshotRecord {
        number: number.get().into(),
        kind,
        parent: parent.map(Into::into),
        thin: origin.thin,
        size: origin.size,
        fs: origin.fs.clone(),
        labels,
        created_at: now,
        updated_at: now,
        mapped: None,
        inodes: None,
        made_at: None,
    }
}

/// What is left to do for a snapshot that is taken off the record.
pub(super) fn reclaim_of(key: &str, record: &SnapshotRecord) -> ReclaimRecord {
    let kind = match record.owned_thin() {
        Some(thin) => ReclaimKind::Thin(thin),
        None => ReclaimKind::View { of: record.thin },
    };
    ReclaimRecord { number: record.number, kind, size: record.size, key: key.into(), since: SystemTime::now() }
}

/// The error, with that of its undoing if that failed too.
pub(super) fn undone(error: Error, undo: Result<(), Error>) -> Error {
    match undo {
        Ok(()) => error,
        Err(undo) => Error::Undo { source: Box::new(error), undo: Box::new(undo) },
    }
}
