//! The verbs of thin pools: messages to the pool, and the status of pools and thins.
//!
//! Each message that succeeds is on disk when it returns. There is one exception: the kernel hides
//! a failure of the commit itself, and only the pool's status shows it (`pool_message` in
//! drivers/md/dm-thin.c).

use nix::errno::Errno;

use super::client::Dm;
use super::explain;
use super::options::{StatusOptions, SuspendOptions};
use crate::dm::error::{Error, Result};
use crate::dm::interface::{DriverVersion, Verb};
use crate::dm::text::{PoolMessage, Status, TargetStatus, ThinPoolStatus, ThinStatus};
use crate::dm::wire::{Payload, ReplyData, Request, Selector, TargetVersion};
use crate::names::DmName;
use crate::units::{Sectors, ThinId};

/// The first interface with `DM_GET_TARGET_VERSION`, of kernel 5.5.
const TARGET_VERSION_SINCE: DriverVersion = DriverVersion::new(4, 41, 0);

impl Dm {
    /// Makes sure that the kernel has the thin-pool target, and loads its module if necessary.
    ///
    /// # Errors
    /// [`Error::TargetMissing`], which names the module.
    pub fn require_thin(&self) -> Result<TargetVersion> {
        self.require_target("thin-pool")
    }

    /// Makes sure that the kernel has a target, and loads its module if necessary
    /// (`DM_GET_TARGET_VERSION`, kernel 5.5 and later; an older kernel is asked for the targets
    /// that are loaded).
    ///
    /// # Errors
    /// [`Error::TargetMissing`], which names the module.
    pub fn require_target(&self, target: &str) -> Result<TargetVersion> {
        let missing = || explain::target_missing(target);
        let found = if self.driver_version()? >= TARGET_VERSION_SINCE {
            let name = DmName::new(target).map_err(|_| missing())?;
            match self.submit(&Request::new(Verb::TargetVersion).name(name)) {
                Ok(reply) => match reply.data {
                    ReplyData::Versions(versions) => versions,
                    _ => Vec::new(),
                },
                Err(Error::Kernel { errno: Errno::EINVAL, .. }) => Vec::new(),
                Err(error) => return Err(error),
            }
        } else {
            self.target_versions()?
        };
        found.into_iter().find(|version| version.name == target).ok_or_else(missing)
    }

    fn pool_message(&self, pool: impl Into<Selector>, message: PoolMessage) -> Result<()> {
        self.message(pool, Sectors::ZERO, &message.to_string()).map(drop)
    }

    /// Does what [`Dm::create_thin`] does, or with an `origin` what [`Dm::create_snap`] does.
    /// Returns how many events the pool had had by then, which the kernel's answer to a message
    /// contains (`target_message` in drivers/md/dm-ioctl.c).
    ///
    /// # Errors
    /// Those of the two.
    pub fn make_thin(
        &self,
        pool: impl Into<Selector>,
        id: ThinId,
        origin: Option<ThinId>,
    ) -> Result<u32> {
        let message = match origin {
            Some(origin) => PoolMessage::CreateSnap { id, origin },
            None => PoolMessage::CreateThin(id),
        };
        let payload = Payload::Message { sector: Sectors::ZERO, text: message.to_string() };
        let request = Request::new(Verb::Message).device(pool).payload(payload);
        Ok(self.submit(&request)?.header.event_nr)
    }

    /// Makes a new, empty thin in the pool. It takes no data block.
    ///
    /// # Errors
    /// [`Error::ThinExists`] (EEXIST), [`Error::PoolFailed`] (EOPNOTSUPP), [`Error::NoSuchDevice`]
    /// (ENXIO), [`Error::PoolFull`] (ENOSPC) when there is no metadata block left.
    pub fn create_thin(&self, pool: impl Into<Selector>, id: ThinId) -> Result<()> {
        self.pool_message(pool, PoolMessage::CreateThin(id))
    }

    /// Makes `id` a snapshot of `origin`. The kernel accepts an origin that is in use, and the
    /// snapshot may then lack writes: use [`Dm::create_snap_of_device`] for an origin that is
    /// active.
    ///
    /// # Errors
    /// [`Error::ThinExists`] (EEXIST), [`Error::NoSuchThin`] (ENODATA) for the origin, and as
    /// [`Dm::create_thin`].
    pub fn create_snap(&self, pool: impl Into<Selector>, id: ThinId, origin: ThinId) -> Result<()> {
        self.pool_message(pool, PoolMessage::CreateSnap { id, origin })
    }

    /// Makes `id` a snapshot of `origin`, on which the device `device` stands, as it is at this
    /// moment. The device is suspended for it, which freezes a file system that is mounted from it,
    /// and always resumed afterwards. A device that was suspended before stays suspended. A device
    /// that does not exist needs no suspend.
    ///
    /// # Errors
    /// As [`Dm::create_snap`]. [`Error::Rollback`] when the device could not be resumed after a
    /// failure; when only the resume failed, its error, and the snapshot exists.
    pub fn create_snap_of_device(
        &self,
        pool: impl Into<Selector>,
        id: ThinId,
        device: impl Into<Selector>,
        origin: ThinId,
    ) -> Result<()> {
        let (pool, device) = (pool.into(), device.into());
        let running = match self.info(&device)? {
            Some(info) => info.live_table && !info.suspended,
            None => false,
        };
        if !running {
            return self.create_snap(&pool, id, origin);
        }
        match self.suspend(&device, SuspendOptions::default()) {
            Ok(_) => {}
            // It has gone since, so nothing can write to it.
            Err(Error::NoSuchDevice { .. }) => return self.create_snap(&pool, id, origin),
            Err(error) => return Err(error),
        }
        let made = self.create_snap(&pool, id, origin);
        let resumed = self.resume(&device).map(drop);
        match made {
            Ok(()) => resumed,
            Err(error) => Err(error.after_rollback(resumed)),
        }
    }

    /// Deletes a thin and frees its blocks, without a discard to the data device.
    ///
    /// # Errors
    /// [`Error::NoSuchThin`] (ENODATA), [`Error::ThinInUse`] (EBUSY), [`Error::PoolFailed`]
    /// (EOPNOTSUPP).
    pub fn delete_thin(&self, pool: impl Into<Selector>, id: ThinId) -> Result<()> {
        self.pool_message(pool, PoolMessage::Delete(id))
    }

    /// Compare-and-swap of the pool's transaction id. Going backwards is allowed.
    ///
    /// # Errors
    /// [`Error::TransactionMismatch`] (EINVAL) when it is not `old`, [`Error::PoolFailed`]
    /// (EOPNOTSUPP).
    pub fn set_transaction_id(&self, pool: impl Into<Selector>, old: u64, new: u64) -> Result<()> {
        self.pool_message(pool, PoolMessage::SetTransactionId { old, new })
    }

    /// Holds a snapshot of the pool's metadata, which `thin_dump -m` and similar programs can read.
    /// Its root is in the pool's status. A pool holds at most one.
    ///
    /// # Errors
    /// [`Error::MetadataSnapHeld`] (EBUSY), [`Error::PoolFailed`] (EOPNOTSUPP).
    pub fn reserve_metadata_snap(&self, pool: impl Into<Selector>) -> Result<()> {
        self.pool_message(pool, PoolMessage::ReserveMetadataSnap)
    }

    /// Releases the metadata snapshot.
    ///
    /// # Errors
    /// [`Error::NoMetadataSnap`] (EINVAL), [`Error::PoolFailed`] (EOPNOTSUPP).
    pub fn release_metadata_snap(&self, pool: impl Into<Selector>) -> Result<()> {
        self.pool_message(pool, PoolMessage::ReleaseMetadataSnap)
    }

    /// The status of a pool.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO), [`Error::WrongKind`] when it is no pool.
    pub fn pool_status(
        &self,
        pool: impl Into<Selector>,
        options: StatusOptions,
    ) -> Result<ThinPoolStatus> {
        self.pool_status_and_events(pool, options).map(|(status, _)| status)
    }

    /// The status of a pool, and how many events it had had right before: one request.
    ///
    /// # Errors
    /// Those of [`Dm::pool_status`].
    pub fn pool_status_and_events(
        &self,
        pool: impl Into<Selector>,
        options: StatusOptions,
    ) -> Result<(ThinPoolStatus, u32)> {
        let pool = pool.into();
        let (lines, events) = self.status_and_events(&pool, options)?;
        match lines.as_slice() {
            [TargetStatus { status: Status::ThinPool(status), .. }] => Ok((*status, events)),
            _ => Err(wrong_kind(&pool, "thin-pool", &lines)),
        }
    }

    /// The status of a thin: how much of it has blocks.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO), [`Error::WrongKind`] when it is no thin.
    pub fn thin_status(&self, device: impl Into<Selector>) -> Result<ThinStatus> {
        let device = device.into();
        let (lines, _) = self.status_and_events(&device, StatusOptions::default())?;
        match lines.as_slice() {
            [TargetStatus { status: Status::Thin(status), .. }] => Ok(*status),
            _ => Err(wrong_kind(&device, "thin", &lines)),
        }
    }
}

fn wrong_kind(device: &Selector, wanted: &'static str, lines: &[TargetStatus]) -> Error {
    let kinds: Vec<&str> = lines.iter().map(|line| line.kind()).collect();
    let found = if kinds.is_empty() { "one without a table".to_owned() } else { kinds.join(", ") };
    Error::WrongKind { device: device.to_string(), wanted, found }
}
