//! Stat, Update, List, Usage and Remove: what is on record, and what a snapshot takes of the pool.

use std::time::SystemTime;

use super::create::reclaim_of;
use super::error::During;
use super::labels::{check_key, check_labels};
use super::{role, templates, Error, Labels, Shared, Snapshotter};
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

    /// Up to `most` snapshots in the order of their keys, from the first behind `after`. A list in
    /// pages holds no database transaction between them.
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
        record.updated_at = SystemTime::now();
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
            Kind::Committed => self.shared.beyond_parent(
                &record,
                record.mapped.unwrap_or(0),
                record.inodes.unwrap_or(0),
            ),
            Kind::Active => self.shared.active_usage(key, &record),
        }
    }

    /// Removes a snapshot. The key is free again when this returns; its blocks are when the
    /// reclaimer comes to them.
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

impl Shared {
    /// What is left of these figures when the parent's are taken off. The blocks of an empty file
    /// system count with the layer that was made of it.
    fn beyond_parent(
        &self,
        record: &SnapshotRecord,
        mapped: u64,
        inodes: u64,
    ) -> Result<Usage, Error> {
        let (mapped_below, inodes_below) = match &record.parent {
            Some(parent) => {
                let parent = self.parent(parent)?;
                (parent.mapped.unwrap_or(0), parent.inodes.unwrap_or(0))
            }
            None => (0, templates::empty_inodes(self, record)?),
        };
        Ok(Usage {
            bytes: mapped.saturating_sub(mapped_below),
            inodes: inodes.saturating_sub(inodes_below),
        })
    }

    fn active_usage(&self, key: &str, record: &SnapshotRecord) -> Result<Usage, Error> {
        self.ensure_active(key, record)?;
        let mapped = self.pool.mapped(role(record)).during(key, "cannot be measured")?;
        let node = self.pool.node(role(record));
        let state = self
            .formatter
            .inspect(&node, super::fs_type(&record.fs)?)
            .during(key, "cannot be measured")?;
        self.beyond_parent(record, mapped, state.used_inodes)
    }
}
