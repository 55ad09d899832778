//! What Prepare and View share: the origin of a new snapshot, its record, and another try when the
//! parent has changed.

use std::time::SystemTime;

use super::labels::{check_key, check_labels};
use super::marks::{ownership, refuse_rebase};
use super::record::reclaim_of;
use super::shared::Shared;
use super::templates::template;
use super::{Error, Labels, Snapshotter};
use crate::store::{Kind, Ownership, ParentRef, SnapshotRecord, StoreError};
use crate::units::{Sectors, ThinId};

/// How often a call is tried when its parent is replaced meanwhile.
const TRIES: usize = 3;

/// What a new snapshot is made from.
pub struct Origin {
    pub thin: ThinId,
    pub size: Sectors,
    pub fs: String,
    pub parent: Option<ParentRef>,
    ownership: Ownership,
}

impl Origin {
    /// The record of a new snapshot. The caller still has to set its number and, for an active
    /// snapshot, its thin.
    pub fn record(&self, key: &str, kind: Kind, labels: &Labels) -> Result<SnapshotRecord, Error> {
        let now = SystemTime::now();
        let below = self.parent.as_ref().map(|_| &self.ownership);
        Ok(SnapshotRecord {
            number: 0,
            kind,
            parent: self.parent.as_ref().map(|parent| parent.key.clone()),
            thin: self.thin,
            size: self.size,
            fs: self.fs.clone(),
            labels: labels.clone(),
            created_at: now,
            updated_at: now,
            mapped: None,
            inodes: None,
            made_at: None,
            ownership: ownership(key, labels, below)?,
        })
    }
}

/// Checks the arguments of a call. An empty parent means none.
pub fn checked<'a>(
    key: &str,
    parent: &'a str,
    labels: Labels,
) -> Result<(Labels, Option<&'a str>), Error> {
    check_key("key", key)?;
    let parent = Some(parent).filter(|parent| !parent.is_empty());
    refuse_rebase(key, parent, &labels)?;
    Ok((check_labels(labels)?, parent))
}

/// Repeats a call whose parent was replaced between its look-up and the database commit.
pub fn retried<T>(mut call: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    for _ in 1..TRIES {
        match call() {
            Err(Error::ParentChanged { key, parent }) => {
                tracing::debug!(key, parent, "the parent was replaced; trying again")
            }
            done => return done,
        }
    }
    call()
}

impl Snapshotter {
    /// Removes a snapshot that was recorded and could not be activated, so that its key is free
    /// again.
    pub(super) fn forget(&self, key: &str, record: &SnapshotRecord) -> Result<(), Error> {
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
    pub fn must_be_new(&self, key: &str) -> Result<(), Error> {
        match self.store.read(|r| r.find_snapshot(key))? {
            Some(_) => Err(Error::AlreadyExists { key: key.into() }),
            None => Ok(()),
        }
    }

    /// Records a new snapshot, if its parent is still the one that was looked up.
    pub fn record_new(
        &self,
        key: &str,
        record: &SnapshotRecord,
        origin: &Origin,
    ) -> Result<(), Error> {
        match self.store.commit(|c| c.insert_snapshot(key, record, origin.parent.as_ref())) {
            // The key is new, so the parent is what was not found.
            Err(StoreError::NotFound { key }) => Err(Error::ParentNotFound { parent: key }),
            done => Ok(done?),
        }
    }

    pub fn on_parent(&self, parent: &str) -> Result<Origin, Error> {
        let record = self.parent(parent)?;
        let found = ParentRef::new(parent, &record);
        let SnapshotRecord { thin, size, fs, ownership, .. } = record;
        Ok(Origin { thin, size, fs, parent: Some(found), ownership })
    }

    pub fn on_template(&self) -> Result<Origin, Error> {
        let template = template(self)?;
        let fs = self.settings.fs.fs_type.to_string();
        let (thin, size) = (template.thin, template.size);
        Ok(Origin { thin, size, fs, parent: None, ownership: Ownership::Stored })
    }
}
