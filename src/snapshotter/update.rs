//! Update: changes the labels of a snapshot.

use std::time::SystemTime;

use super::labels::{check_key, check_labels};
use super::{Error, Info, Labels, Snapshotter};

/// What an update changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldUpdate {
    /// All labels are replaced.
    Labels(Labels),
    /// One label is set, or deleted by an empty value.
    Label(String, String),
}

impl Snapshotter {
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
}
