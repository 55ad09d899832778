//! Changes that are not on disk yet: what to put and what to delete, table by table.
//!
//! An overlay lies over something older and hides what it changes. Laying one over another cannot
//! fail, which is why a change is either in a commit whole or not at all.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::tables::Table;

/// A key's new value, or none where the key is deleted.
pub(super) type Fate = Option<Vec<u8>>;

/// Puts and deletes that wait for their commit.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    tables: BTreeMap<Table, BTreeMap<Vec<u8>, Fate>>,
}

impl Overlay {
    /// Whether nothing is changed.
    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// What becomes of a key, if this overlay says anything about it.
    pub(super) fn get(&self, table: Table, key: &[u8]) -> Option<&Fate> {
        self.tables.get(&table)?.get(key)
    }

    /// Puts a value.
    pub(super) fn put(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.tables.entry(table).or_default().insert(key, Some(value));
    }

    /// Deletes a key.
    pub(super) fn delete(&mut self, table: Table, key: Vec<u8>) {
        self.tables.entry(table).or_default().insert(key, None);
    }

    /// Lays newer changes over these.
    pub(super) fn absorb(&mut self, newer: Overlay) {
        for (table, entries) in newer.tables {
            self.tables.entry(table).or_default().extend(entries);
        }
    }

    /// What this overlay says about a range of one table.
    pub(super) fn range<'a>(
        &'a self,
        table: Table,
        range: (Bound<&'a [u8]>, Bound<&'a [u8]>),
    ) -> impl Iterator<Item = (&'a [u8], &'a Fate)> {
        let entries = self.tables.get(&table);
        entries
            .into_iter()
            .flat_map(move |entries| entries.range::<[u8], _>(range))
            .map(|(key, fate)| (key.as_slice(), fate))
    }

    /// Everything, table by table.
    pub(super) fn tables(&self) -> impl Iterator<Item = (Table, &BTreeMap<Vec<u8>, Fate>)> {
        self.tables.iter().map(|(table, entries)| (*table, entries))
    }
}
