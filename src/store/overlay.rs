//! Changes that are not on disk yet: puts and deletes for each table.
//!
//! An overlay hides the older values of the keys that it changes. Merging two overlays cannot fail,
//! so a change is in a commit completely or not at all.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::tables::Table;

/// A key's new value; `None` if the key is deleted.
pub(super) type Fate = Option<Vec<u8>>;

/// Puts and deletes that are not committed yet.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    tables: BTreeMap<Table, BTreeMap<Vec<u8>, Fate>>,
}

impl Overlay {
    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// The change of a key; `None` if this overlay does not change it.
    pub(super) fn get(&self, table: Table, key: &[u8]) -> Option<&Fate> {
        self.tables.get(&table)?.get(key)
    }

    pub(super) fn put(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.tables.entry(table).or_default().insert(key, Some(value));
    }

    pub(super) fn delete(&mut self, table: Table, key: Vec<u8>) {
        self.tables.entry(table).or_default().insert(key, None);
    }

    /// Adds newer changes, which replace older changes of the same keys.
    pub(super) fn absorb(&mut self, newer: Overlay) {
        for (table, entries) in newer.tables {
            self.tables.entry(table).or_default().extend(entries);
        }
    }

    /// The changes in a range of one table.
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

    /// All changes, table by table.
    pub(super) fn tables(&self) -> impl Iterator<Item = (Table, &BTreeMap<Vec<u8>, Fate>)> {
        self.tables.iter().map(|(table, entries)| (*table, entries))
    }
}
