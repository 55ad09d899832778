//! Commit: an active snapshot becomes a committed one, which never changes again and whose file
//! system is clean.
//!
//! Nobody has it open: its own thin becomes the committed one, made read-only before it is
//! recorded. Somebody has: it is frozen for the moment it takes to snapshot it, and the copy
//! becomes the committed one.

use std::path::Path;
use std::time::SystemTime;

use super::create::{reclaim_of, undone};
use super::error::During;
use super::labels::{check_key, check_labels};
use super::marks::is_remapped;
use super::{fs_type, role, Error, Labels, Shared, Snapshotter};
use crate::block::{Access, Disk};
use crate::fs::{FsState, FsType};
use crate::pool::Role;
use crate::store::{Kind, Ownership, SnapshotRecord};
use crate::units::ThinId;

const STEP: &str = "cannot be committed";

/// Content that is on disk, clean, and takes no more writes.
struct Content {
    thin: ThinId,
    mapped: u64,
    inodes: u64,
}

impl Snapshotter {
    /// Refuses a commit of `key` that would put it on `parent`, where it does not stand there
    /// already: containerd unpacked the layer by itself, since it was told of a capability that is
    /// not ours.
    pub fn must_stand_on(&self, key: &str, parent: &str) -> Result<(), Error> {
        check_key("key", key)?;
        match self.shared.find(key)?.parent.as_deref() {
            Some(now) if now == parent => Ok(()),
            _ => Err(Error::Rebase { key: key.into() }),
        }
    }

    /// Turns the active snapshot `key` into the committed snapshot `name`. What was written to it
    /// is on disk when this returns. `labels` replace those it had.
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
        // Asked once more at the end; whatever else would be found wrong before that is so for this
        // reason.
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
            // Where it is not known whether the change is on disk, the next start makes the device
            // writable, if the snapshot is still an active one.
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

    /// Commits a snapshot that somebody has mounted: what they write from now on does not reach the
    /// committed one.
    fn commit_copy(
        &self,
        name: &str,
        key: &str,
        record: &SnapshotRecord,
        labels: Labels,
    ) -> Result<(), Error> {
        let shared = &*self.shared;
        tracing::info!(key, "committed while it is open: a frozen copy is taken");
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

/// Makes a device writable again; a second try saves the next start the work.
fn unseal(disk: &dyn Disk, key: &str) -> Result<(), Error> {
    disk.set_read_only(false).or_else(|_| disk.set_read_only(false)).during(key, "stays read-only")
}

/// A device that only we have open, flushed and read-only.
struct Sealed {
    disk: Box<dyn Disk>,
    content: Content,
}

impl Shared {
    /// Seals the active device of `record`; `None` when somebody else has it open.
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
        // Whoever opened it before it was made read-only may still write; whoever comes later
        // cannot.
        if self.others_have_it_open(key, record, 1)? {
            return Ok(None);
        }
        disk.flush().during(key, STEP)?;
        self.must_be_whole(key, record)?;
        let mapped = self.pool.mapped(role(record)).during(key, STEP)?;
        Ok(Some(Content { thin: record.thin, mapped, inodes: state.used_inodes }))
    }

    fn others_have_it_open(
        &self,
        key: &str,
        record: &SnapshotRecord,
        ours: u32,
    ) -> Result<bool, Error> {
        let info = self.pool.info(role(record)).during(key, STEP)?;
        Ok(info.is_some_and(|info| info.open_count > ours))
    }

    /// The state of the file system on `node`; one that was not unmounted (power went) is made
    /// clean first. One that has noted errors is refused before anything could make it look clean,
    /// and so is one whose journal brings such a note.
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

    /// Makes the copy's file system clean, and takes its device away again.
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
