//! Reading: one consistent view of all records.
//!
//! In a change, the view consists of the records on disk, the earlier changes of the same commit
//! over them, and this change's own puts and deletes on top.

use std::collections::BTreeMap;
use std::ops::Bound;

use serde::de::DeserializeOwned;

use crate::units::ThinId;

use super::database::ReadTransaction;
use super::error::StoreError;
use super::overlay::{Fate, Overlay};
use super::owners::Owned;
use super::records::{
    BalloonRecord, ClaimRecord, IdRange, Kind, LapsesRecord, Owner, PoolRecord, ReclaimRecord,
    SnapshotRecord, TemplateKey, TemplateRecord,
};
use super::tables::{self, meta, Table};

pub(super) type Entry = (Vec<u8>, Vec<u8>);

/// A consistent view of all records.
pub struct Reader<'a> {
    disk: &'a ReadTransaction,
    group: &'a Overlay,
    pub(super) own: Overlay,
}

impl<'a> Reader<'a> {
    pub(super) fn new(disk: &'a ReadTransaction, group: &'a Overlay) -> Self {
        Reader { disk, group, own: Overlay::default() }
    }

    /// The snapshot with this key, if there is one.
    pub fn find_snapshot(&self, key: &str) -> Result<Option<SnapshotRecord>, StoreError> {
        self.record(Table::Snapshots, key.as_bytes())
    }

    /// The snapshot with this key.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is none.
    pub fn snapshot(&self, key: &str) -> Result<SnapshotRecord, StoreError> {
        self.find_snapshot(key)?.ok_or_else(|| StoreError::NotFound { key: key.to_owned() })
    }

    /// Up to `count` snapshots after the key `after`, in the order of their keys.
    ///
    /// To go through all snapshots, read one page at a time, each in its own read of the store.
    /// That keeps neither a transaction open nor all records in memory.
    pub fn page(
        &self,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<(String, SnapshotRecord)>, StoreError> {
        let from = match after {
            Some(key) => Bound::Excluded(key.as_bytes()),
            None => Bound::Unbounded,
        };
        self.scan(Table::Snapshots, (from, Bound::Unbounded), count)?
            .into_iter()
            .map(|(key, value)| {
                let record = decode(Table::Snapshots, &key, &value)?;
                Ok((text(Table::Snapshots, key)?, record))
            })
            .collect()
    }

    /// One of the children of this snapshot, if there is any.
    pub fn first_child(&self, parent: &str) -> Result<Option<String>, StoreError> {
        Ok(self.some_children(parent, 1)?.pop())
    }

    /// The keys of all children of this snapshot, in order.
    pub fn children_of(&self, parent: &str) -> Result<Vec<String>, StoreError> {
        self.some_children(parent, usize::MAX)
    }

    fn some_children(&self, parent: &str, count: usize) -> Result<Vec<String>, StoreError> {
        self.prefix(Table::Children, &tables::children_of(parent), count)?
            .into_iter()
            .map(|(key, _)| match tables::child_from(&key) {
                Some((_, child)) => Ok(child.to_owned()),
                None => Err(bad_key(Table::Children, &key)),
            })
            .collect()
    }

    /// The template with this key, if there is one.
    pub fn template(&self, key: &TemplateKey) -> Result<Option<TemplateRecord>, StoreError> {
        self.record(Table::Templates, &tables::template(key))
    }

    /// All templates.
    pub fn templates(&self) -> Result<Vec<(TemplateKey, TemplateRecord)>, StoreError> {
        self.prefix(Table::Templates, &[], usize::MAX)?
            .into_iter()
            .map(|(key, value)| {
                let record = decode(Table::Templates, &key, &value)?;
                let key =
                    tables::template_from(&key).ok_or_else(|| bad_key(Table::Templates, &key))?;
                Ok((key, record))
            })
            .collect()
    }

    /// The reclaim entry with this device number, if there is one.
    pub fn reclaim(&self, number: u64) -> Result<Option<ReclaimRecord>, StoreError> {
        self.record(Table::Reclaim, &tables::number(number))
    }

    /// Up to `count` reclaim entries after the device number `after`, in the order of their
    /// numbers.
    pub fn reclaims(
        &self,
        after: Option<u64>,
        count: usize,
    ) -> Result<Vec<ReclaimRecord>, StoreError> {
        let after = after.map(tables::number);
        let from = match &after {
            Some(number) => Bound::Excluded(number.as_slice()),
            None => Bound::Unbounded,
        };
        self.scan(Table::Reclaim, (from, Bound::Unbounded), count)?
            .into_iter()
            .map(|(key, value)| decode(Table::Reclaim, &key, &value))
            .collect()
    }

    /// Whether a view shows the thin that this reclaim entry is to delete. `changes` does not allow
    /// this, but a database of an earlier release may contain it.
    pub fn is_viewed(&self, entry: &ReclaimRecord) -> Result<bool, StoreError> {
        let Some(thin) = entry.thin() else { return Ok(false) };
        for child in self.children_of(&entry.key)? {
            if self
                .find_snapshot(&child)?
                .is_some_and(|child| child.kind == Kind::View && child.thin == thin)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The pool of this database; `None` before the first start.
    pub fn pool(&self) -> Result<Option<PoolRecord>, StoreError> {
        self.record(Table::Meta, meta::POOL)
    }

    /// When the pool refused writes, as far as it is known.
    pub fn lapses(&self) -> Result<LapsesRecord, StoreError> {
        Ok(self.record(Table::Meta, meta::LAPSES)?.unwrap_or_default())
    }

    /// This database's claim in an external pool; `None` for the daemon's own pool, and before the
    /// first start.
    pub fn id_claim(&self) -> Result<Option<ClaimRecord>, StoreError> {
        self.record(Table::Meta, meta::CLAIM)
    }

    /// The open leases of thin ids, oldest first.
    pub fn leases(&self) -> Result<Vec<IdRange>, StoreError> {
        Ok(self.record(Table::Meta, meta::LEASES)?.unwrap_or_default())
    }

    /// The balloon, if there is one.
    pub fn balloon(&self) -> Result<Option<BalloonRecord>, StoreError> {
        self.record(Table::Meta, meta::BALLOON)
    }

    /// The owner of a thin id.
    pub fn thin_owner(&self, thin: ThinId) -> Result<Option<Owner>, StoreError> {
        self.owner(Owned::Thin(thin))
    }

    /// The owner of a device number.
    pub fn number_owner(&self, number: u64) -> Result<Option<Owner>, StoreError> {
        self.owner(Owned::Number(number))
    }

    /// All recorded thin ids with their owners: those of snapshots, templates, reclaim entries and
    /// the balloon, and the foreign ones.
    pub fn recorded_thins(&self) -> Result<BTreeMap<ThinId, Owner>, StoreError> {
        self.prefix(Table::Owners, tables::OWNED_THINS, usize::MAX)?
            .into_iter()
            .map(|(key, value)| match tables::owned_from(&key) {
                Some(Owned::Thin(thin)) => Ok((thin, decode(Table::Owners, &key, &value)?)),
                _ => Err(bad_key(Table::Owners, &key)),
            })
            .collect()
    }

    /// The thin ids in the pool that are not this daemon's, in order.
    pub fn foreign_thins(&self) -> Result<Vec<ThinId>, StoreError> {
        self.prefix(Table::Foreign, &[], usize::MAX)?
            .into_iter()
            .map(|(key, _)| tables::foreign_from(&key).ok_or_else(|| bad_key(Table::Foreign, &key)))
            .collect()
    }

    pub(super) fn owner(&self, what: Owned) -> Result<Option<Owner>, StoreError> {
        self.record(Table::Owners, &tables::owned(what))
    }

    pub(super) fn record<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &[u8],
    ) -> Result<Option<T>, StoreError> {
        match self.bytes(table, key)? {
            Some(value) => decode(table, key, &value).map(Some),
            None => Ok(None),
        }
    }

    fn bytes(&self, table: Table, key: &[u8]) -> Result<Fate, StoreError> {
        let changed = self.own.get(table, key).or_else(|| self.group.get(table, key));
        match changed {
            Some(fate) => Ok(fate.clone()),
            None => self.disk.get(table, key),
        }
    }

    /// Up to `count` entries whose keys start with `prefix`.
    pub(super) fn prefix(
        &self,
        table: Table,
        prefix: &[u8],
        count: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let end = successor(prefix);
        let to = match &end {
            Some(end) => Bound::Excluded(end.as_slice()),
            None => Bound::Unbounded,
        };
        self.scan(table, (Bound::Included(prefix), to), count)
    }

    /// Up to `count` entries of a range: those on disk, as changed by the overlays.
    fn scan(
        &self,
        table: Table,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        count: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let mut changed: BTreeMap<&[u8], &Fate> = self.group.range(table, range).collect();
        changed.extend(self.own.range(table, range));
        let mut changed = changed.into_iter().peekable();
        let mut disk = self.disk.range(table, range)?.peekable();
        let mut found = Vec::new();
        while found.len() < count {
            let from_disk = match (disk.peek(), changed.peek()) {
                (None, None) => break,
                (Some(Err(_)), _) | (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some(Ok((old, _))), Some((new, _))) => old.as_slice() < *new,
            };
            if from_disk {
                found.extend(disk.next().transpose()?);
            } else if let Some((key, fate)) = changed.next() {
                disk.next_if(|entry| matches!(entry, Ok((old, _)) if old == key));
                found.extend(fate.clone().map(|value| (key.to_vec(), value)));
            }
        }
        Ok(found)
    }
}

/// The smallest key that is greater than all keys with this prefix.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=kept].to_vec();
    end[kept] += 1;
    Some(end)
}

fn decode<T: DeserializeOwned>(table: Table, key: &[u8], value: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(value).map_err(|error| StoreError::Decode {
        table: table.name(),
        key: printable(key),
        reason: error.to_string(),
    })
}

fn bad_key(table: Table, key: &[u8]) -> StoreError {
    StoreError::Decode {
        table: table.name(),
        key: printable(key),
        reason: "not a key of this table".to_owned(),
    }
}

fn text(table: Table, key: Vec<u8>) -> Result<String, StoreError> {
    String::from_utf8(key).map_err(|error| bad_key(table, error.as_bytes()))
}

fn printable(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}
