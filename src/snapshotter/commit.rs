//! Commit: an active snapshot becomes a committed one, which never changes again and has a clean
//! file system.
//!
//! If the device is not open, its own thin becomes the committed one. The device is made read-only
//! before that is recorded. If it is open, it is suspended while a snapshot of its thin is made,
//! and that copy becomes the committed one.

use std::path::Path;
use std::time::SystemTime;

use super::error::During;
use super::labels::{check_key, check_labels};
use super::marks::is_remapped;
use super::record::{fs_type, reclaim_of, role};
use super::shared::Shared;
use super::undo::undone;
use super::{Error, Labels, Snapshotter};
use crate::block::{Access, Disk};
use crate::fs::{FsState, FsType};
use crate::pool::Role;
use crate::store::{Kind, Ownership, SnapshotRecord};
use crate::units::ThinId;

const STEP: &str = "cannot be committed";

/// The content of a thin that is on disk, clean, and takes no more writes.
struct Content {
    thin: ThinId,
    mapped: u64,
    inodes: u64,
}

impl Snapshotter {
    /// Refuses a commit of `key` that names another parent than the snapshot has. containerd does
    /// that if its configuration has a capability that this snapshotter lacks: it has then unpacked
    /// the layer without the layers below it.
    pub fn must_stand_on(&self, key: &str, parent: &str) -> Result<(), Error> {
        check_key("key", key)?;
        match self.shared.find(key)?.parent.as_deref() {
            Some(now) if now == parent => Ok(()),
            _ => Err(Error::Rebase { key: key.into() }),
        }
    }

    /// Turns the active snapshot `key` into the committed snapshot `name`. All that was written to
    /// it is on disk when this returns. `labels` replace its labels.
    pub fn commit(&self, name: &str, key: &str, labels: Labels) -> Result<(), Error> {
        check_key("name", name)?;
        check_key("key", key)?;
        let labels = check_labels(labels)?;
        let _lock = self.locks.lock(&[name, key]);
        let shared = &*self.shared;
        let record = shared.find(key)?;
        match record.kind {
            Kind::Active => {}
            Kind::View => {
                return Err(Error::NotActive {
                    key: key.into(),
                    kind: "a view",
                    what: "nothing can be written to it, so there is nothing to commit",
                })
            }
            Kind::Committed => {
                return Err(Error::NotActive {
                    key: key.into(),
                    kind: "committed",
                    what: "it cannot be committed again",
                })
            }
        }
        if shared.store.read(|r| r.find_snapshot(name))?.is_some() {
            return Err(Error::AlreadyExists { key: name.into() });
        }
        shared.ensure_active(key, &record)?;
        // Asked again at the end. It is asked here too, since refused writes would cause other
        // errors below.
        shared.must_be_whole(key, &record)?;
        match shared.seal(key, &record)? {
            Some(sealed) => self.commit_own(name, key, &record, labels, sealed),
            None => self.commit_copy(name, key, &record, labels),
        }
    }

    fn commit_own(
        &self,
        name: &str,
        key: &str,
        record: &SnapshotRecord,
        labels: Labels,
        sealed: Sealed,
    ) -> Result<(), Error> {
        let committed = Shared::committed(name, key, record, labels, &sealed.content);
        let recorded = self.shared.store.commit(|c| c.rename_snapshot(key, name, &committed));
        if let Err(error) = recorded.map_err(Error::from) {
            // If it is not certain that the change is not on disk, the device stays read-only. The
            // next start makes it writable if the snapshot is still active.
            if self.shared.surely(&error, key, |found| found == Some(record)) {
                unseal(sealed.disk.as_ref(), key)?;
            }
            return Err(error);
        }
        drop(sealed);
        self.shared.host_lapses.forget(record.number);
        self.reclaimer.deactivate(role(record));
        Ok(())
    }

    /// Commits a snapshot that is mounted. Later writes to it do not reach the committed one.
    fn commit_copy(
        &self,
        name: &str,
        key: &str,
        record: &SnapshotRecord,
        labels: Labels,
    ) -> Result<(), Error> {
        let shared = &*self.shared;
        tracing::info!(key, "committed while it is open: its device is suspended and copied");
        let copy = shared.pool.copy_frozen(role(record), record.thin).during(key, STEP)?;
        let recorded = shared.copy_content(key, record, copy.get()).and_then(|content| {
            let number = copy.get().get().into();
            let committed =
                SnapshotRecord { number, ..Shared::committed(name, key, record, labels, &content) };
            shared.store.commit(|c| {
                c.rename_snapshot(key, name, &committed)?;
                c.put_reclaim(&reclaim_of(key, record))
            })?;
            Ok(())
        });
        let Err(error) = recorded else {
            drop(copy);
            shared.host_lapses.forget(record.number);
            self.reclaimer.kick();
            return Ok(());
        };
        if !shared.surely(&error, key, |found| found == Some(record)) {
            copy.stay_leased();
            return Err(error);
        }
        let role = Role::Snapshot(copy.get().get().into());
        Err(undone(error, shared.take_back(key, role, copy)))
    }
}

/// Makes a device writable again. It is tried twice; after a second failure the device stays
/// read-only until the next start.
fn unseal(disk: &dyn Disk, key: &str) -> Result<(), Error> {
    disk.set_read_only(false).or_else(|_| disk.set_read_only(false)).during(key, "stays read-only")
}

/// A device that is flushed, read-only, and open in no other process.
struct Sealed {
    disk: Box<dyn Disk>,
    content: Content,
}

impl Shared {
    /// Makes the device of an active snapshot read-only, and its content clean and durable. `None`
    /// if another process has it open.
    fn seal(&self, key: &str, record: &SnapshotRecord) -> Result<Option<Sealed>, Error> {
        let node = self.pool.node(role(record));
        if self.others_have_it_open(key, record, 0)? {
            return Ok(None);
        }
        let state = self.clean(key, record, &node)?;
        let disk = self.disks.open(&node, Access::Read).during(key, STEP)?;
        disk.set_read_only(true).during(key, STEP)?;
        let sealed = self.finish_seal(key, record, disk.as_ref(), state);
        if !matches!(sealed, Ok(Some(_))) {
            unseal(disk.as_ref(), key)?;
        }
        Ok(sealed?.map(|content| Sealed { disk, content }))
    }

    fn finish_seal(
        &self,
        key: &str,
        record: &SnapshotRecord,
        disk: &dyn Disk,
        state: FsState,
    ) -> Result<Option<Content>, Error> {
        // A process that opened it before it was made read-only can still write. One that opens it
        // later cannot.
        if self.others_have_it_open(key, record, 1)? {
            return Ok(None);
        }
        disk.flush().during(key, STEP)?;
        self.must_be_whole(key, record)?;
        let mapped = self.pool.mapped(role(record)).during(key, STEP)?;
        Ok(Some(Content { thin: record.thin, mapped, inodes: state.used_inodes }))
    }

    /// Whether the device is open more often than the `ours` times that this daemon has it open.
    fn others_have_it_open(
        &self,
        key: &str,
        record: &SnapshotRecord,
        ours: u32,
    ) -> Result<bool, Error> {
        let info = self.pool.info(role(record)).during(key, STEP)?;
        Ok(info.is_some_and(|info| info.open_count > ours))
    }

    /// The state of the file system on `node`. If it was not unmounted, as after a power cut, its
    /// journal is replayed first. A file system that has noted errors is refused before anything is
    /// changed, and so is one whose journal contains such a note.
    fn clean(&self, key: &str, record: &SnapshotRecord, node: &Path) -> Result<FsState, Error> {
        let fs = fs_type(&record.fs)?;
        let state = self.without_errors(key, node, fs)?;
        if state.clean {
            return Ok(state);
        }
        tracing::info!(key, "its file system was not unmounted; its journal is replayed");
        self.formatter.replay(node, fs).during(key, STEP)?;
        self.without_errors(key, node, fs)
    }

    fn without_errors(&self, key: &str, node: &Path, fs: FsType) -> Result<FsState, Error> {
        let state = self.formatter.inspect(node, fs).during(key, STEP)?;
        match state.errors {
            None => Ok(state),
            Some(errors) => {
                let pool = self.pool.device_name().to_string();
                Err(Error::ErrorsNoted { key: key.into(), pool, errors })
            }
        }
    }

    /// Makes the file system of the copy clean, and removes the copy's device again.
    fn copy_content(
        &self,
        key: &str,
        record: &SnapshotRecord,
        copy: ThinId,
    ) -> Result<Content, Error> {
        let role = Role::Snapshot(copy.get().into());
        let node = self.pool.activate(role, copy, record.size, false).during(key, STEP)?;
        let state = self.clean(key, record, &node)?;
        self.disks.open(&node, Access::Read).and_then(|disk| disk.flush()).during(key, STEP)?;
        self.must_be_whole(key, record)?;
        let mapped = self.pool.mapped(role).during(key, STEP)?;
        self.pool.deactivate(role).during(key, STEP)?;
        Ok(Content { thin: copy, mapped, inodes: state.used_inodes })
    }

    /// The record of the committed snapshot.
    fn committed(
        name: &str,
        key: &str,
        active: &SnapshotRecord,
        labels: Labels,
        content: &Content,
    ) -> SnapshotRecord {
        let now = SystemTime::now();
        let ownership = if is_remapped(name, key) { Ownership::Shifted } else { Ownership::Stored };
        SnapshotRecord {
            kind: Kind::Committed,
            thin: content.thin,
            labels,
            created_at: now,
            updated_at: now,
            mapped: Some(content.mapped),
            inodes: Some(content.inodes),
            made_at: None,
            ownership,
            ..active.clone()
        }
    }
}
