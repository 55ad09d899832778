//! Any sequence of operations has the same effect on the store as on a simple model, and the
//! indexes always agree with the records.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::disk::{Disk, Power, Survivors};
use super::fixture::*;
use crate::store::{Changes, Kind, SnapshotRecord, Store, StoreError};

/// An operation on few keys and ids, so that conflicts are frequent.
#[derive(Debug, Clone)]
enum Operation {
    Insert(u8, u32, Kind, Option<u8>),
    Replace(u8, u32, Kind),
    Remove(u8),
    Retire(u8),
    Tick(u8),
    Template(u8, u32),
    Foreign(u32),
}

fn operation() -> impl Strategy<Value = Operation> {
    let kind = prop_oneof![Just(Kind::View), Just(Kind::Active), Just(Kind::Committed)];
    let (key, id) = (0..6u8, 1..10u32);
    prop_oneof![
        4 => (key.clone(), id.clone(), kind.clone(), prop::option::of(key.clone()))
            .prop_map(|(key, id, kind, parent)| Operation::Insert(key, id, kind, parent)),
        2 => (key.clone(), id.clone(), kind)
            .prop_map(|(key, id, kind)| Operation::Replace(key, id, kind)),
        2 => key.clone().prop_map(Operation::Remove),
        2 => key.clone().prop_map(Operation::Retire),
        1 => (1..10u8).prop_map(Operation::Tick),
        1 => (0..2u8, id.clone()).prop_map(|(key, id)| Operation::Template(key, id)),
        1 => id.prop_map(Operation::Foreign),
    ]
}

/// Some keys are prefixes of others.
fn name(key: u8) -> String {
    "k".repeat(usize::from(key) + 1)
}

/// The store as plain maps. Ids are found by a search through all owners.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    snapshots: BTreeMap<String, SnapshotRecord>,
    reclaim: BTreeMap<u64, u32>,
    templates: BTreeMap<u64, u32>,
    foreign: Vec<u32>,
}

impl Model {
    fn thin_taken(&self, id: u32, but: Option<&str>) -> bool {
        self.snapshots
            .iter()
            .filter(|(key, record)| record.kind != Kind::View && but != Some(key))
            .any(|(_, record)| record.thin == thin(id))
            || self.reclaim.values().any(|taken| *taken == id)
            || self.templates.values().any(|taken| *taken == id)
            || self.foreign.contains(&id)
    }

    fn number_taken(&self, id: u32, but: Option<&str>) -> bool {
        self.snapshots
            .iter()
            .any(|(key, record)| record.number == u64::from(id) && but != Some(key))
            || self.reclaim.contains_key(&u64::from(id))
            || self.templates.values().any(|taken| *taken == id)
    }

    fn free(&self, record: &SnapshotRecord, but: Option<&str>) -> bool {
        let id = record.number as u32;
        let thin_free = record.kind == Kind::View || !self.thin_taken(id, but);
        thin_free && !self.number_taken(id, but)
    }

    fn has_children(&self, key: &str) -> bool {
        self.snapshots.values().any(|record| record.parent.as_deref() == Some(key))
    }

    /// Applies an operation. Gives whether it was valid.
    fn apply(&mut self, operation: &Operation) -> bool {
        match operation.clone() {
            Operation::Insert(key, id, kind, parent) => {
                let parent = parent.map(name);
                let mut record = snapshot(id, kind, parent.as_deref());
                if let (Kind::View, Some(parent)) =
                    (kind, parent.as_ref().and_then(|key| self.snapshots.get(key)))
                {
                    record.thin = parent.thin;
                }
                let parent_fits = parent.is_none_or(|parent| {
                    let parent = self.snapshots.get(&parent);
                    parent.is_some_and(|parent| parent.kind == Kind::Committed)
                });
                let fits = parent_fits
                    && !self.snapshots.contains_key(&name(key))
                    && self.free(&record, None);
                if fits {
                    self.snapshots.insert(name(key), record);
                }
                fits
            }
            Operation::Replace(key, id, kind) => {
                let key = name(key);
                let Some(old) = self.snapshots.get(&key) else {
                    return false;
                };
                let record = snapshot(id, kind, old.parent.as_deref());
                let stays = kind == Kind::Committed && record.thin == old.thin;
                let fits = self.free(&record, Some(&key)) && (stays || !self.has_children(&key));
                if fits {
                    self.snapshots.insert(key, record);
                }
                fits
            }
            Operation::Remove(key) => {
                let key = name(key);
                !self.has_children(&key) && self.snapshots.remove(&key).is_some()
            }
            Operation::Retire(key) => {
                let key = name(key);
                let Some(old) = self.snapshots.get(&key) else {
                    return false;
                };
                let fits = old.kind != Kind::View && !self.has_children(&key);
                if fits {
                    self.reclaim.insert(old.number, old.number as u32);
                    self.snapshots.remove(&key);
                }
                fits
            }
            Operation::Tick(number) => self.reclaim.remove(&number.into()).is_some(),
            Operation::Template(key, id) => {
                let old = self.templates.remove(&key.into());
                let fits = !self.thin_taken(id, None) && !self.number_taken(id, None);
                match (fits, old) {
                    (true, _) => drop(self.templates.insert(key.into(), id)),
                    (false, Some(old)) => drop(self.templates.insert(key.into(), old)),
                    (false, None) => {}
                }
                fits
            }
            Operation::Foreign(id) => {
                let fits = self.foreign.contains(&id) || !self.thin_taken(id, None);
                if fits && !self.foreign.contains(&id) {
                    self.foreign.push(id);
                    self.foreign.sort_unstable();
                }
                fits
            }
        }
    }
}

fn apply(c: &mut Changes<'_>, operation: &Operation) -> Result<(), StoreError> {
    match operation.clone() {
        Operation::Insert(key, id, kind, parent) => {
            let parent = parent.map(name);
            let mut record = snapshot(id, kind, parent.as_deref());
            if let (Kind::View, Some(parent)) = (kind, &parent) {
                record.thin = c.snapshot(parent)?.thin;
            }
            add(c, &name(key), &record)
        }
        Operation::Replace(key, id, kind) => {
            let parent = c.snapshot(&name(key))?.parent;
            c.replace_snapshot(&name(key), &snapshot(id, kind, parent.as_deref()))
        }
        Operation::Remove(key) => c.remove_snapshot(&name(key)).map(drop),
        Operation::Retire(key) => {
            let old = c.remove_snapshot(&name(key))?;
            let Some(_) = old.owned_thin() else {
                return Err(StoreError::EmptyKey);
            };
            c.put_reclaim(&reclaim(old.number as u32))
        }
        Operation::Tick(number) => match c.remove_reclaim(number.into())? {
            Some(_) => Ok(()),
            None => Err(StoreError::EmptyKey),
        },
        Operation::Template(key, id) => {
            c.put_template(&template_key("ext4", key.into()), &template(id))
        }
        Operation::Foreign(id) => c.put_foreign(thin(id)),
    }
}

fn observed(store: &Store) -> Model {
    store
        .read(|r| {
            assert_eq!(r.check_indexes()?, [""; 0]);
            let templates = r.templates()?.into_iter();
            let reclaims = r.reclaims(None, usize::MAX)?.into_iter();
            let foreign = r.foreign_thins()?.into_iter();
            Ok(Model {
                snapshots: r.page(None, usize::MAX)?.into_iter().collect(),
                reclaim: reclaims.map(|entry| (entry.number, entry.number as u32)).collect(),
                templates: templates.map(|(key, t)| (key.size.0, t.thin.get())).collect(),
                foreign: foreign.map(|thin| thin.get()).collect(),
            })
        })
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(
        changes in prop::collection::vec(prop::collection::vec(operation(), 1..4), 1..20)
    ) {
        let disk = Disk::blank(&Power::steady());
        let store = Store::with_backend(disk.clone()).unwrap();
        let mut model = Model::default();
        for operations in &changes {
            let mut next = model.clone();
            let sensible = operations.iter().all(|operation| next.apply(operation));
            let done = store.commit(|c| operations.iter().try_for_each(|o| apply(c, o)));
            prop_assert_eq!(done.is_ok(), sensible, "{:?}: {:?}", operations, done);
            if sensible {
                model = next;
            }
            prop_assert_eq!(&observed(&store), &model);
        }
        drop(store);
        let found = disk.after_cut(Survivors::Nothing, &Power::steady());
        prop_assert_eq!(observed(&Store::with_backend(found).unwrap()), model);
    }
}
