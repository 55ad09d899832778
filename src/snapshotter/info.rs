//! Stat, Update, List, Usage and Remove: what is on record, and what a snapshot takes of the pool.

use std::time::SystemTime;

use super::create::reclaim_of;
use super::error::During;
use super::labels::{check_key, check_labels};
use super::{now, role, templates, Error, Labels, Shared, Snapshotter};
use crate::store::{Kind, SnapshotRecord};

/// A snapshot as its callers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    pub key: String,
    pub kind: Kind,
    pub parent: Option<String>,
    pub labels: Labels,
    pub created_at: SystemTime,
    pub updated_at: SystemTime,
}

/// What a snapshot takes beyond what its parent takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// In the pool.
    pub bytes: u64,
    pub inodes: u64,
}

/// What an update changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldUpdate {
    /// All labels are replaced.
    Labels(Labels),
    /// One label is set, or deleted by an empty value.
    Label(String, String),
}

impl Info {
    fn new(key: String, record: SnapshotRecord) -> Self {
        let SnapshotRecord { kind, parent, labels, created_at, updated_at, .. } = record;
        Info { key, kind, parent, labels, created_at, updated_at }
    }
}

impl Snapshotter {
    pub fn stat(&self, key: &str) -> Result<Info, Error> {
        check_key("key", key)?;
        Ok(Info::new(key.into(), self.shared.find(key)?))
    }

    /// Up to `most` snapshots in the order of their keys, from the first behind `after`. A list in pages holds no
    /// database transaction between them.
    pub fn page(&self, after: Option<&str>, most: usize) -> Result<Vec<Info>, Error> {
        let page = self.shared.store.read(|r| r.page(after, most))?;
        Ok(page.into_iter().map(|(key, record)| Info::new(key, record)).collect())
    }

    /// Changes labels; nothing else of a snapshot can be changed.
    pub fn update(&self, key: &str, updates: Vec<FieldUpdate>) -> Result<Info, Error> {
        check_key("key", key)?;
        let _lock = self.locks.lock(&[key]);
        let mut record = self.shared.find(key)?;
        for update in updates {
            match update {
                FieldUpdate::Labels(labels) => record.labels = labels,
                FieldUpdate::Label(name, value) => drop(record.labels.insert(name, value)),
            }
        }
        record.labels = check_labels(record.labels)?;
        record.updated_at = now();
        self.shared.store.commit(|c| c.replace_snapshot(key, &record))?;
        Ok(Info::new(key.into(), record))
    }

    /// What the snapshot takes of the pool, its parent's share excluded.
    pub fn usage(&self, key: &str) -> Result<Usage, Error> {
        check_key("key", key)?;
        let _lock = self.locks.lock(&[key]);
        let record = self.shared.find(key)?;
        match record.kind {
            Kind::View => Ok(Usage::default()),
            Kind::Committed => Ok(Usage { bytes: record.own.unwrap_or(0), inodes: record.own_inodes.unwrap_or(0) }),
            Kind::Active => self.shared.active_usage(key, &record),
        }
    }

    /// Removes a snapshot. The key is free again when this returns; its blocks are when the reclaimer comes to them.
    pub fn remove(&self, key: &str) -> Result<(), Error> {
        check_key("key", key)?;
        let _lock = self.locks.lock(&[key]);
        self.shared.store.commit(|c| {
            let record = c.remove_snapshot(key)?;
            c.put_reclaim(&reclaim_of(key, &record))
        })?;
        self.reclaimer.kick();
        Ok(())
    }
}

/// What lies below a snapshot: its parent's, or the template's.
pub(super) struct Below {
    pub mapped: u64,
    pub inodes: u64,
}

impl Shared {
    pub(super) fn below(&self, record: &SnapshotRecord) -> Result<Below, Error> {
        Ok(match &record.parent {
            Some(parent) => {
                let parent = self.parent(parent)?;
                Below { mapped: parent.mapped.unwrap_or(0), inodes: parent.inodes.unwrap_or(0) }
            }
            // An empty file system is part of the layer that is made of it, so its blocks count with the layer.
            None => Below { mapped: 0, inodes: templates::EMPTY_INODES },
        })
    }

    fn active_usage(&self, key: &str, record: &SnapshotRecord) -> Result<Usage, Error> {
        self.activate(key, record)?;
        let below = self.below(record)?;
        let mapped = self.pool.mapped(role(record)).during(key, "cannot be measured")?;
        let inodes = self
            .formatter
            .inspect(&self.pool.node(role(record)), super::fs_type(&record.fs)?)
            .during(key, "cannot be measured")?
            .used_inodes;
        Ok(Usage { bytes: mapped.saturating_sub(below.mapped), inodes: inodes.saturating_sub(below.inodes) })
    }
}
