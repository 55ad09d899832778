//! Writing: the operations on records, and the invariants they keep.
//!
//! A change collects its puts and deletes in its own overlay and does not write to the database.
//! These invariants are checked here, so that no caller can break them:
//! - A parent exists, is committed, and is the one that was looked up. A snapshot with children
//!   cannot be removed and stays committed.
//! - A view shows its parent's thin, and a snapshot with children keeps its thin. So no thin is
//!   deleted while a view shows it.
//! - A thin id and a device number belong to one record at most. (A view does not own its thin.)
//! - The indexes (children, owners) agree with the records, because only this file writes them.
//!
//! A refused operation changes nothing: all checks come before the first change.
//!
//! Within a change, the thin or the number of one record can pass to another: remove or replace the
//! old record first, then add the new one.

use std::ops::Deref;

use serde::Serialize;

use crate::units::ThinId;

use super::error::StoreError;
use super::overlay::Overlay;
use super::owners::{Owned, Owns};
use super::reader::Reader;
use super::records::{
    BalloonRecord, ClaimRecord, IdRange, Kind, LapsesRecord, Owner, ParentRef, PoolRecord,
    ReclaimRecord, SnapshotRecord, TemplateKey, TemplateRecord,
};
use super::tables::{self, meta, Table};

/// The number after the largest thin id.
const THIN_IDS: u32 = 1 << 24;

/// The records in a change. They can be read as with [`Reader`], including the changes so far.
pub struct Changes<'a> {
    reader: Reader<'a>,
}

impl<'a> Deref for Changes<'a> {
    type Target = Reader<'a>;

    fn deref(&self) -> &Reader<'a> {
        &self.reader
    }
}

impl<'a> Changes<'a> {
    pub(super) fn new(reader: Reader<'a>) -> Self {
        Changes { reader }
    }

    pub(super) fn into_overlay(self) -> Overlay {
        self.reader.own
    }

    /// Adds a snapshot. `parent` is the parent as it was when its thin was used.
    ///
    /// # Errors
    /// [`StoreError::EmptyKey`], [`StoreError::AlreadyExists`]. For the parent,
    /// [`StoreError::NoParent`], [`StoreError::NotCommitted`], or [`StoreError::ParentChanged`] if
    /// another snapshot has its key now. [`StoreError::ViewOfOther`]. [`StoreError::ThinOwned`] and
    /// [`StoreError::NumberOwned`] if another record owns them.
    pub fn insert_snapshot(
        &mut self,
        key: &str,
        record: &SnapshotRecord,
        parent: Option<&ParentRef>,
    ) -> Result<(), StoreError> {
        self.check_key_free(key)?;
        let changed = |parent: &str| StoreError::ParentChanged {
            key: key.to_owned(),
            parent: parent.to_owned(),
        };
        if record.parent.as_deref() != parent.map(|parent| parent.key.as_str()) {
            return Err(changed(record.parent.as_deref().unwrap_or_default()));
        }
        if let Some(parent) = parent {
            let now = self
                .find_snapshot(&parent.key)?
                .ok_or_else(|| StoreError::NoParent { key: parent.key.clone() })?;
            if now.kind != Kind::Committed {
                return Err(StoreError::NotCommitted { key: parent.key.clone(), kind: now.kind });
            }
            if !parent.is(&now) {
                return Err(changed(&parent.key));
            }
            // A view owns no thin. Its parent's thin exists as long as the view, because a
            // snapshot with children cannot be removed.
            if record.kind == Kind::View && record.thin != now.thin {
                return Err(StoreError::ViewOfOther {
                    key: key.to_owned(),
                    thin: record.thin.get(),
                });
            }
        }
        self.add(key, record)
    }

    /// Replaces the snapshot `key` by `record` under the key `name`, for a commit. The parent stays
    /// the same.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::HasChildren`]; [`StoreError::ParentFixed`]; and
    /// those of [`Changes::insert_snapshot`] for the name, the thin and the number.
    pub fn rename_snapshot(
        &mut self,
        key: &str,
        name: &str,
        record: &SnapshotRecord,
    ) -> Result<SnapshotRecord, StoreError> {
        let old = self.snapshot(key)?;
        if old.parent != record.parent {
            return Err(StoreError::ParentFixed { key: key.to_owned() });
        }
        if name != key {
            self.check_key_free(name)?;
        }
        let (from, to) = (Owner::Snapshot(key.to_owned()), Owner::Snapshot(name.to_owned()));
        for owned in record.owns() {
            match self.owner(owned)? {
                Some(other) if other != from => return Err(taken(owned, other, &to)),
                _ => {}
            }
        }
        self.remove_snapshot(key)?;
        self.add(name, record)?;
        Ok(old)
    }

    fn check_key_free(&self, key: &str) -> Result<(), StoreError> {
        if key.is_empty() {
            return Err(StoreError::EmptyKey);
        }
        match self.find_snapshot(key)? {
            Some(_) => Err(StoreError::AlreadyExists { key: key.to_owned() }),
            None => Ok(()),
        }
    }

    fn add(&mut self, key: &str, record: &SnapshotRecord) -> Result<(), StoreError> {
        self.write_snapshot(key, None, record)?;
        if let Some(parent) = &record.parent {
            let entry = tables::child(parent, key);
            self.put(Table::Children, entry, Vec::new());
        }
        Ok(())
    }

    /// Replaces the record of a snapshot. The parent stays the same.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::ParentFixed`]; [`StoreError::HasChildren`] if a
    /// snapshot with children would change its kind or its thin; and, for thin and number, those of
    /// [`Changes::insert_snapshot`].
    pub fn replace_snapshot(
        &mut self,
        key: &str,
        record: &SnapshotRecord,
    ) -> Result<(), StoreError> {
        let old = self.snapshot(key)?;
        if old.parent != record.parent {
            return Err(StoreError::ParentFixed { key: key.to_owned() });
        }
        if record.kind != Kind::Committed || record.thin != old.thin {
            self.check_childless(key)?;
        }
        self.write_snapshot(key, Some(&old), record)
    }

    /// Removes a snapshot and returns its record. Another record can own its number and its thin
    /// afterwards.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::HasChildren`].
    pub fn remove_snapshot(&mut self, key: &str) -> Result<SnapshotRecord, StoreError> {
        let old = self.snapshot(key)?;
        self.check_childless(key)?;
        if let Some(parent) = &old.parent {
            let entry = tables::child(parent, key);
            self.delete(Table::Children, entry);
        }
        self.release(&old);
        self.delete(Table::Snapshots, key.into());
        Ok(old)
    }

    /// Adds or replaces a template.
    ///
    /// # Errors
    /// [`StoreError::ThinOwned`], [`StoreError::NumberOwned`].
    pub fn put_template(
        &mut self,
        key: &TemplateKey,
        record: &TemplateRecord,
    ) -> Result<(), StoreError> {
        let old = self.template(key)?;
        let claim = self.claim(&Owner::Template(key.clone()), record)?;
        let value = encode(Table::Templates, record)?;
        self.settle(old.as_ref(), claim);
        self.put(Table::Templates, tables::template(key), value);
        Ok(())
    }

    /// Adds or replaces a reclaim entry.
    ///
    /// # Errors
    /// [`StoreError::ThinOwned`], [`StoreError::NumberOwned`]: remove the snapshot first.
    pub fn put_reclaim(&mut self, record: &ReclaimRecord) -> Result<(), StoreError> {
        let old = self.reclaim(record.number)?;
        let claim = self.claim(&Owner::Reclaim(record.number), record)?;
        let value = encode(Table::Reclaim, record)?;
        self.settle(old.as_ref(), claim);
        self.put(Table::Reclaim, tables::number(record.number).into(), value);
        Ok(())
    }

    /// Removes a reclaim entry and returns it; `None` if there is none.
    pub fn remove_reclaim(&mut self, number: u64) -> Result<Option<ReclaimRecord>, StoreError> {
        let Some(old) = self.reclaim(number)? else {
            return Ok(None);
        };
        self.release(&old);
        self.delete(Table::Reclaim, tables::number(number).into());
        Ok(Some(old))
    }

    /// Writes the pool's record.
    pub fn put_pool(&mut self, record: &PoolRecord) -> Result<(), StoreError> {
        let value = encode(Table::Meta, record)?;
        self.put(Table::Meta, meta::POOL.into(), value);
        Ok(())
    }

    /// Removes the record of a pool that could not be created.
    pub fn remove_pool(&mut self) -> Result<(), StoreError> {
        self.delete(Table::Meta, meta::POOL.into());
        Ok(())
    }

    /// Writes when the pool refused writes.
    pub fn put_lapses(&mut self, record: &LapsesRecord) -> Result<(), StoreError> {
        let value = encode(Table::Meta, record)?;
        self.put(Table::Meta, meta::LAPSES.into(), value);
        Ok(())
    }

    /// Writes the claim in an external pool.
    pub fn put_id_claim(&mut self, record: &ClaimRecord) -> Result<(), StoreError> {
        let value = encode(Table::Meta, record)?;
        self.put(Table::Meta, meta::CLAIM.into(), value);
        Ok(())
    }

    /// Replaces the open leases of thin ids.
    ///
    /// # Errors
    /// [`StoreError::BadLease`] if one ends before it starts, or beyond 24 bits.
    pub fn put_leases(&mut self, leases: &[IdRange]) -> Result<(), StoreError> {
        let bad = |lease: &&IdRange| lease.start > lease.end || lease.end > THIN_IDS;
        if let Some(&IdRange { start, end }) = leases.iter().find(bad) {
            return Err(StoreError::BadLease { start, end });
        }
        let value = encode(Table::Meta, &leases)?;
        self.put(Table::Meta, meta::LEASES.into(), value);
        Ok(())
    }

    /// Adds or replaces the balloon.
    ///
    /// # Errors
    /// [`StoreError::ThinOwned`].
    pub fn put_balloon(&mut self, record: &BalloonRecord) -> Result<(), StoreError> {
        let old = self.balloon()?;
        let claim = self.claim(&Owner::Balloon, record)?;
        let value = encode(Table::Meta, record)?;
        self.settle(old.as_ref(), claim);
        self.put(Table::Meta, meta::BALLOON.into(), value);
        Ok(())
    }

    /// Records a thin of the pool that is not this daemon's.
    ///
    /// # Errors
    /// [`StoreError::ThinOwned`] if a record owns it.
    pub fn put_foreign(&mut self, thin: ThinId) -> Result<(), StoreError> {
        let claim = self.claim(&Owner::Foreign, &thin)?;
        self.settle(None::<&ThinId>, claim);
        self.put(Table::Foreign, tables::foreign(thin).into(), Vec::new());
        Ok(())
    }

    /// Removes the record of a foreign thin. Gives whether there was one.
    pub fn remove_foreign(&mut self, thin: ThinId) -> Result<bool, StoreError> {
        if self.thin_owner(thin)? != Some(Owner::Foreign) {
            return Ok(false);
        }
        self.release(&thin);
        self.delete(Table::Foreign, tables::foreign(thin).into());
        Ok(true)
    }

    fn check_childless(&self, key: &str) -> Result<(), StoreError> {
        match self.first_child(key)? {
            None => Ok(()),
            Some(child) => Err(StoreError::HasChildren { key: key.to_owned(), child }),
        }
    }

    /// Writes a snapshot, and the owners of its thin and number in place of the old record's.
    fn write_snapshot(
        &mut self,
        key: &str,
        old: Option<&SnapshotRecord>,
        record: &SnapshotRecord,
    ) -> Result<(), StoreError> {
        let claim = self.claim(&Owner::Snapshot(key.to_owned()), record)?;
        let value = encode(Table::Snapshots, record)?;
        self.settle(old, claim);
        self.put(Table::Snapshots, key.into(), value);
        Ok(())
    }

    /// Checks that `owner` may own the thin and the number of `record`. Changes nothing.
    fn claim(&self, owner: &Owner, record: &impl Owns) -> Result<Claim, StoreError> {
        let what = record.owns();
        for owned in &what {
            match self.owner(*owned)? {
                Some(other) if other != *owner => return Err(taken(*owned, other, owner)),
                _ => {}
            }
        }
        let owner = encode(Table::Owners, owner)?;
        Ok(Claim { what, owner })
    }

    /// Writes the owners of a claim in place of those of the old record.
    fn settle(&mut self, old: Option<&impl Owns>, claim: Claim) {
        if let Some(old) = old {
            self.release(old);
        }
        for owned in claim.what {
            self.put(Table::Owners, tables::owned(owned), claim.owner.clone());
        }
    }

    fn release(&mut self, old: &impl Owns) {
        for owned in old.owns() {
            self.delete(Table::Owners, tables::owned(owned));
        }
    }

    fn put(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.reader.own.put(table, key, value);
    }

    fn delete(&mut self, table: Table, key: Vec<u8>) {
        self.reader.own.delete(table, key);
    }
}

/// What a record may own, and its owner as bytes of the index.
struct Claim {
    what: Vec<Owned>,
    owner: Vec<u8>,
}

fn taken(what: Owned, owner: Owner, wanted_by: &Owner) -> StoreError {
    let (owner, wanted_by) = (Box::new(owner), Box::new(wanted_by.clone()));
    match what {
        Owned::Thin(thin) => StoreError::ThinOwned { thin: thin.get(), owner, wanted_by },
        Owned::Number(number) => StoreError::NumberOwned { number, owner, wanted_by },
    }
}

fn encode<T: Serialize>(table: Table, value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value)
        .map_err(|error| StoreError::Encode { table: table.name(), reason: error.to_string() })
}
