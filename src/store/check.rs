//! Compares the indexes with the records.

use std::collections::{BTreeMap, BTreeSet};

use super::error::StoreError;
use super::owners::{Owned, Owns};
use super::reader::{Entry, Reader};
use super::records::{Kind, Owner, SnapshotRecord};
use super::tables::{self, Table};

impl Reader<'_> {
    /// Describes every disagreement between the indexes and the records. A sound database has none.
    ///
    /// It reads all records, so it is for the `check` command and not for every start.
    pub fn check_indexes(&self) -> Result<Vec<String>, StoreError> {
        let snapshots = self.page(None, usize::MAX)?;
        let mut wrong = self.check_parents(&snapshots);
        wrong.extend(self.check_children(&snapshots)?);
        wrong.extend(self.check_owners(&snapshots)?);
        Ok(wrong)
    }

    fn check_parents(&self, snapshots: &[(String, SnapshotRecord)]) -> Vec<String> {
        let kinds: BTreeMap<&str, Kind> =
            snapshots.iter().map(|(key, record)| (key.as_str(), record.kind)).collect();
        let wrong = |(key, record): &(String, SnapshotRecord)| {
            let parent = record.parent.as_deref()?;
            match kinds.get(parent) {
                Some(Kind::Committed) => None,
                Some(kind) => Some(format!("{key:?} stands on {parent:?}, which is {kind}")),
                None => Some(format!("{key:?} stands on {parent:?}, which does not exist")),
            }
        };
        snapshots.iter().filter_map(wrong).collect()
    }

    fn check_children(
        &self,
        snapshots: &[(String, SnapshotRecord)],
    ) -> Result<Vec<String>, StoreError> {
        let expected: BTreeSet<Vec<u8>> = snapshots
            .iter()
            .filter_map(|(key, record)| Some(tables::child(record.parent.as_deref()?, key)))
            .collect();
        let found = self.keys(Table::Children)?;
        Ok(differences("children", &expected, &found))
    }

    fn check_owners(
        &self,
        snapshots: &[(String, SnapshotRecord)],
    ) -> Result<Vec<String>, StoreError> {
        let mut expected = BTreeMap::new();
        let mut wrong = Vec::new();
        let mut own = |owner: Owner, what: Vec<Owned>| {
            for owned in what {
                if let Some(other) = expected.insert(owned, owner.clone()) {
                    wrong.push(format!("{owned:?} belongs to {other} and to {owner}"));
                }
            }
        };
        for (key, record) in snapshots {
            own(Owner::Snapshot(key.clone()), record.owns());
        }
        for (key, record) in self.templates()? {
            own(Owner::Template(key), record.owns());
        }
        for record in self.reclaims(None, usize::MAX)? {
            own(Owner::Reclaim(record.number), record.owns());
        }
        if let Some(balloon) = self.balloon()? {
            own(Owner::Balloon, balloon.owns());
        }
        for thin in self.foreign_thins()? {
            own(Owner::Foreign, thin.owns());
        }
        let keys = expected.keys().map(|owned| tables::owned(*owned)).collect();
        wrong.extend(differences("owners", &keys, &self.keys(Table::Owners)?));
        for (owned, owner) in expected {
            match self.owner(owned)? {
                Some(other) if other != owner => {
                    wrong.push(format!("{owned:?} is {owner}'s, the index says {other}'s"));
                }
                _ => {}
            }
        }
        Ok(wrong)
    }

    fn keys(&self, table: Table) -> Result<BTreeSet<Vec<u8>>, StoreError> {
        let entries = self.prefix(table, &[], usize::MAX)?;
        Ok(entries.into_iter().map(|(key, _): Entry| key).collect())
    }
}

fn differences(
    index: &str,
    expected: &BTreeSet<Vec<u8>>,
    found: &BTreeSet<Vec<u8>>,
) -> Vec<String> {
    let missing =
        expected.difference(found).map(|key| format!("index {index} lacks {}", key.escape_ascii()));
    let surplus = found
        .difference(expected)
        .map(|key| format!("index {index} has {}, which no record needs", key.escape_ascii()));
    missing.chain(surplus).collect()
}
