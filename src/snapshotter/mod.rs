//! containerd's snapshots, on thins: keys, parents, kinds, and what each call on them does.
//! Synchronous; runs on threads that may block.
//!
//! Knows the pool, the store and the file systems; knows nothing of gRPC.
//!
//! Architecture Invariant: no database change is open while the kernel, mkfs or a disk is at work.
//! What changes both does the kernel's part first, so that one database commit decides, and
//! whatever a crash leaves is unrecorded.

mod check;
mod commit;
mod create;
mod crew;
mod delete;
mod error;
mod info;
mod labels;
mod lapses;
mod locks;
mod marks;
mod overview;
mod reclaim;
mod recover;
mod sizes;
mod templates;
mod trouble;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

pub use crate::fs::FsError;
pub use check::{check, Finding};
pub use error::{Error, Subject};
pub use info::{FieldUpdate, Info, Usage};
pub use labels::Labels;
pub use overview::{Overview, PoolView, Stuck};
pub use reclaim::{Reclaiming, Swept, STOP_LIMIT};

use crate::block::Disks;
use crate::fs::{Formatter, FsSpec, FsType, MountOptions};
use crate::pool::{Pool, Role};
use crate::store::{Kind, Ownership, SnapshotRecord, Store};
use crate::units::{Sectors, ThinId};
use error::During;
use labels::check_key;
use lapses::HostLapses;
use locks::KeyLocks;
use reclaim::Reclaimer;

/// How snapshots are to be made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file system of base layers.
    pub fs: FsSpec,
    /// Size of a snapshot without a parent, and the least size of any.
    pub base_image_size: Sectors,
    /// The most that an image's own label may lift the size of its layers to.
    pub max_image_size: Sectors,
    /// Whether removed thins are discarded before they are deleted, so that the space goes back
    /// below the pool.
    pub discard: bool,
}

/// One file system to mount, as containerd's mount type describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The file system's type.
    pub fs_type: String,
    /// The block device.
    pub source: String,
    pub options: Vec<String>,
}

/// The snapshotter. Every method may be called from any number of threads at once.
#[derive(Debug)]
pub struct Snapshotter {
    shared: Arc<Shared>,
    reclaimer: Reclaimer,
    locks: KeyLocks,
}

/// What the calls and the reclaimer's thread both work with.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    pool: Arc<Pool>,
    store: Arc<Store>,
    disks: Arc<dyn Disks>,
    formatter: Arc<dyn Formatter>,
    host_lapses: HostLapses,
    maker: templates::Maker,
}

impl Snapshotter {
    /// Puts right whatever the last run left behind, makes the template if it can be made, and
    /// starts the reclaimer.
    pub fn start(
        settings: Settings,
        pool: impl Into<Arc<Pool>>,
        store: Arc<Store>,
        disks: Arc<dyn Disks>,
        formatter: Arc<dyn Formatter>,
    ) -> Result<Snapshotter, Error> {
        Self::start_reclaiming(Reclaiming::Behind, settings, pool, store, disks, formatter)
    }

    /// The same, with a say in when what removals left behind is taken away.
    pub fn start_reclaiming(
        reclaiming: Reclaiming,
        settings: Settings,
        pool: impl Into<Arc<Pool>>,
        store: Arc<Store>,
        disks: Arc<dyn Disks>,
        formatter: Arc<dyn Formatter>,
    ) -> Result<Snapshotter, Error> {
        let pool = pool.into();
        let (host_lapses, maker) = Default::default();
        let shared =
            Arc::new(Shared { settings, pool, store, disks, formatter, host_lapses, maker });
        let left = recover::recover(&shared)?;
        templates::at_start(&shared)?;
        shared.pool.look().map_err(Error::start)?;
        let reclaimer = Reclaimer::start(Arc::clone(&shared), left, reclaiming);
        Ok(Snapshotter { shared, reclaimer, locks: KeyLocks::default() })
    }

    /// Whether database, pool and kernel agree; see [`check()`].
    pub fn check(&self, thins: Option<&BTreeSet<ThinId>>) -> Result<Vec<Finding>, Error> {
        check(&self.shared.store, &self.shared.pool, thins)
    }

    pub fn pool(&self) -> &Pool {
        &self.shared.pool
    }

    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// What to mount for an active snapshot or a view; activates its device if a reboot took it
    /// away.
    pub fn mounts(&self, key: &str) -> Result<Vec<Mount>, Error> {
        check_key("key", key)?;
        let _lock = self.locks.lock(&[key]);
        let record = self.shared.mountable(key)?;
        self.shared.ensure_active(key, &record)
    }

    /// The same where nothing has to be waited for, because the device is active: one look into the
    /// database and one at the device. `None` where it is not; then [`Snapshotter::mounts`]
    /// answers.
    pub fn mounts_at_once(&self, key: &str) -> Result<Option<Vec<Mount>>, Error> {
        check_key("key", key)?;
        let record = self.shared.mountable(key)?;
        let active = self.shared.pool.active(role(&record)).during(key, "cannot be looked at")?;
        active.map(|node| mounts(&record, &node)).transpose()
    }

    /// No removal is taken further than the step it is at; what is left is taken up by the next
    /// start. Does not wait.
    pub fn stop_reclaiming(&self) {
        self.reclaimer.stop();
    }

    /// Finishes what removals left to do, as far as nobody has it open and the kernel answers,
    /// before it returns.
    pub fn cleanup(&self) -> Result<Swept, Error> {
        self.reclaimer.sweep()
    }
}

impl Shared {
    fn find(&self, key: &str) -> Result<SnapshotRecord, Error> {
        self.store
            .read(|r| r.find_snapshot(key))?
            .ok_or_else(|| Error::NotFound { key: key.into() })
    }

    fn mountable(&self, key: &str) -> Result<SnapshotRecord, Error> {
        let record = self.find(key)?;
        if record.kind == Kind::Committed {
            let what = "only active snapshots and views have mounts; prepare or view it under a key of its own";
            return Err(Error::NotActive { key: key.into(), kind: "committed", what });
        }
        Ok(record)
    }

    /// A parent as something can be made of it: it exists and is committed.
    fn parent(&self, parent: &str) -> Result<SnapshotRecord, Error> {
        let record = self
            .store
            .read(|r| r.find_snapshot(parent))?
            .ok_or_else(|| Error::ParentNotFound { parent: parent.into() })?;
        if record.kind != Kind::Committed {
            return Err(Error::ParentNotCommitted { parent: parent.into() });
        }
        Ok(record)
    }

    /// Activates the device of a new snapshot or view, and says how to mount it.
    fn activate(&self, key: &str, record: &SnapshotRecord) -> Result<Vec<Mount>, Error> {
        let view = record.kind == Kind::View;
        let active = self.pool.activate(role(record), record.thin, record.size, view);
        mounts(record, &active.during(key, "cannot be activated")?)
    }

    /// The same where it is likely to be active already; a reboot may have taken it away.
    fn ensure_active(&self, key: &str, record: &SnapshotRecord) -> Result<Vec<Mount>, Error> {
        let view = record.kind == Kind::View;
        let active = self.pool.ensure_active(role(record), record.thin, record.size, view);
        mounts(record, &active.during(key, "cannot be activated")?)
    }
}

/// How to mount a snapshot whose device is `node`.
fn mounts(record: &SnapshotRecord, node: &Path) -> Result<Vec<Mount>, Error> {
    let mut options =
        MountOptions::of(fs_type(&record.fs)?).read_only(record.kind == Kind::View).list();
    // containerd since 2.0 makes an idmapped mount of it, and older ones fail on them
    // (core/mount/mount_linux.go).
    if let Ownership::Mapped { uids, gids } = &record.ownership {
        options.extend([format!("uidmap={uids}"), format!("gidmap={gids}")]);
    }
    Ok(vec![Mount {
        fs_type: record.fs.clone(),
        source: node.to_string_lossy().into_owned(),
        options,
    }])
}

/// The device of a snapshot; a committed one has it only until it is deactivated.
fn role(record: &SnapshotRecord) -> Role {
    match record.kind {
        Kind::View => Role::View(record.number),
        Kind::Active | Kind::Committed => Role::Snapshot(record.number),
    }
}

fn fs_type(name: &str) -> Result<FsType, Error> {
    name.parse().map_err(|e: crate::fs::UnknownFsType| {
        Error::invalid(format!("file system {name:?}"), e.to_string())
    })
}
