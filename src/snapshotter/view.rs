//! View: a read-only snapshot of a committed parent, or of the template.
//!
//! It shows the parent's own thin on a device of its own. Nothing is made in the pool.

use super::creation::{checked, retried};
use super::error::During;
use super::undo::undone;
use super::{Error, Labels, Mount, Snapshotter};
use crate::store::{Kind, SnapshotRecord};

impl Snapshotter {
    /// Makes a read-only view of `parent` under `key` and says how to mount it.
    pub fn view(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>, Error> {
        let (labels, parent) = checked(key, parent, labels)?;
        let _lock = self.locks.lock(&[key]);
        self.shared.must_be_new(key)?;
        retried(|| self.view_once(key, parent, &labels))
    }

    fn view_once(
        &self,
        key: &str,
        parent: Option<&str>,
        labels: &Labels,
    ) -> Result<Vec<Mount>, Error> {
        let shared = &*self.shared;
        let origin =
            parent.map_or_else(|| shared.on_template(), |parent| shared.on_parent(parent))?;
        let draft = origin.record(key, Kind::View, labels)?;
        let number = shared.pool.take_id().during(key, "cannot be viewed")?;
        let record = SnapshotRecord { number: number.get().get().into(), ..draft };
        shared.record_new(key, &record, &origin)?;
        drop(number);
        shared.activate(key, &record).map_err(|error| undone(error, self.forget(key, &record)))
    }
}
