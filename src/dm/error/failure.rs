//! [`Error`]: what can go wrong. Situations are told apart by verb and errno, never by text.

use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;

use super::format::{CodecError, TableError};
use super::misfit::Misfit;
use crate::dm::interface::{DriverVersion, Verb};
use crate::units::{DeviceNumber, Sectors, ThinId};

/// The result of everything in this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something could not be done. Variants are situations that a caller can act on; the kernel's
/// errno is kept ([`Error::errno`]).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel has no device-mapper: it is not built in and the module is not loaded.
    #[error(
        "the kernel has no device-mapper: load its module with `modprobe dm_mod` \
         (looked in {path}: {errno})"
    )]
    NoDeviceMapper {
        /// What was tried.
        path: PathBuf,
        /// What it said.
        errno: Errno,
    },
    /// The control node is missing and could not be made, or cannot be opened.
    #[error(
        "cannot make or open device-mapper's control node {path}: {errno}. It is made by root; a container must be privileged, \
         with the host's /dev"
    )]
    NoControlNode {
        /// The node.
        path: PathBuf,
        /// Why not.
        errno: Errno,
    },
    /// EACCES or EPERM: device-mapper wants root (`CAP_SYS_ADMIN`).
    #[error(
        "no permission for device-mapper's {what}: it needs root, or CAP_SYS_ADMIN ({errno}). Start it as root; a container \
         must be privileged, with the host's /dev"
    )]
    NoPermission {
        /// The node or the request.
        what: String,
        /// EACCES or EPERM.
        errno: Errno,
    },
    /// The kernel's interface is older than what is needed.
    #[error("the kernel's device-mapper interface is version {found}, {needed} is needed: run a newer kernel (4.14 or later)")]
    DriverTooOld {
        /// The kernel's.
        found: DriverVersion,
        /// What is needed.
        needed: DriverVersion,
    },
    /// The kernel does not have this target.
    #[error(
        "the kernel has no {target} target: load its module with `modprobe {module}`, \
         or set {option} in the kernel's configuration"
    )]
    TargetMissing {
        /// The target's type.
        target: String,
        /// The module that has it.
        module: String,
        /// The kernel's option for it.
        option: &'static str,
    },
    /// ENXIO: there is no device of this name.
    #[error("{verb}: there is no device {device}")]
    NoSuchDevice {
        /// What was asked.
        verb: Verb,
        /// Of which device.
        device: String,
    },
    /// ENXIO on create with a minor number: another device has it. (`dm_create` in drivers/md/dm.c
    /// answers so whatever keeps it from making the device.)
    #[error("create of {device}: the minor number {minor} is in use by another device")]
    MinorInUse {
        /// Its name.
        device: String,
        /// The number.
        minor: u32,
    },
    /// EBUSY on create and rename: another device has this name or uuid.
    #[error("{verb} of {device}: the name or the uuid is in use by another device")]
    NameOrUuidInUse {
        /// Create or rename.
        verb: Verb,
        /// Name and uuid.
        device: String,
    },
    /// EINVAL on setting a uuid: the device has one, and it cannot be changed.
    #[error("{device} has a uuid already, and it cannot be changed")]
    UuidAlreadySet {
        /// Which device.
        device: String,
    },
    /// EBUSY: the device is open, mounted, or stands below another one; on a load that is a device
    /// that the table names.
    #[error("{verb} of {device}: {} is in use (open, mounted, or below another device)", if *verb == Verb::Load { "a device that its table names" } else { "it" })]
    Busy {
        /// What was asked.
        verb: Verb,
        /// Of which device.
        device: String,
    },
    /// EEXIST: the pool has a thin with this id.
    #[error("pool {pool} has a thin {id} already")]
    ThinExists {
        /// The pool's name.
        pool: String,
        /// The id.
        id: ThinId,
    },
    /// ENODATA: the pool has no thin with this id.
    #[error("{verb}: pool {pool} has no thin {id}")]
    NoSuchThin {
        /// What was asked.
        verb: Verb,
        /// The pool's name or number.
        pool: String,
        /// The id.
        id: ThinId,
    },
    /// EINVAL: an id in a message is above 2^24 - 1. [`ThinId`] holds none such; a text can.
    #[error("pool {pool}: {id} is above the largest thin id, {max}", max = ThinId::MAX)]
    ThinIdOutOfRange {
        /// The pool's name.
        pool: String,
        /// What was sent.
        id: String,
    },
    /// EBUSY on delete: a device stands on this thin, or is loaded for it.
    #[error("thin {id} of pool {pool} cannot be deleted: a device stands on it")]
    ThinInUse {
        /// The pool's name.
        pool: String,
        /// The id.
        id: ThinId,
    },
    /// EINVAL on `set_transaction_id`: the current one is not what the caller took it for.
    #[error("the transaction id of pool {pool} is not {expected}, so it does not become {wanted}")]
    TransactionMismatch {
        /// The pool's name.
        pool: String,
        /// What the caller took it for.
        expected: u64,
        /// What it was to become.
        wanted: u64,
    },
    /// EBUSY on `reserve_metadata_snap`: there is one.
    #[error("pool {pool} holds a metadata snapshot already, of another program; it goes with 'dmsetup message {pool} 0 release_metadata_snap'")]
    MetadataSnapHeld {
        /// The pool's name.
        pool: String,
    },
    /// EINVAL on `release_metadata_snap`: there is none.
    #[error("pool {pool} holds no metadata snapshot")]
    NoMetadataSnap {
        /// The pool's name.
        pool: String,
    },
    /// EOPNOTSUPP: the pool has failed or is read-only; its status says more.
    #[error("pool {pool} takes no messages: it has failed, or is read-only (see its status)")]
    PoolFailed {
        /// The pool's name.
        pool: String,
    },
    /// ENOSPC: no room, in the pool's data or metadata.
    #[error("{verb} of {device}: no space left in the pool")]
    PoolFull {
        /// What was asked.
        verb: Verb,
        /// Of which device.
        device: String,
    },
    /// A thin on a device that is not a pool.
    #[error("load of {device}: {pool} is not a thin pool")]
    WrongPool {
        /// The device that was to be a thin.
        device: String,
        /// What its table called the pool.
        pool: String,
    },
    /// A thin on a pool that is suspended: the kernel refuses it with EINVAL.
    #[error(
        "load of {device}: its pool {pool} is suspended; whoever suspended it must resume it ('dmsetup resume {pool}')"
    )]
    PoolSuspended {
        /// The device that was to be a thin.
        device: String,
        /// Its pool.
        pool: String,
    },
    /// A table that reaches past the end of the device below.
    #[error(
        "load of {device}: the table needs {needed} of the device below, {below}, which has {size}"
    )]
    TableTooLong {
        /// The device whose table it is.
        device: String,
        /// The device below.
        below: DeviceNumber,
        /// How much the table needs.
        needed: Sectors,
        /// How much there is.
        size: Sectors,
    },
    /// The devices below do not allow this table.
    #[error("load of {device}: {misfit}")]
    TableUnfit {
        /// The device whose table it is.
        device: String,
        /// Why not.
        misfit: Misfit,
    },
    /// A device below is not there (ENODEV, ENXIO, ENOENT).
    #[error("load of {device}: a device that its table names is not there ({errno}): {table}")]
    BackingDeviceMissing {
        /// The device whose table it is.
        device: String,
        /// The table.
        table: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// EINVAL: the kernel does not take the table. Its log says why.
    #[error("load of {device}: the kernel refuses the table ({errno}; the kernel's log, `dmesg`, says why): {table}")]
    TableRefused {
        /// The device whose table it is.
        device: String,
        /// The table.
        table: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// EINVAL: the target does not know this message, or not with these words.
    #[error("{device} does not take the message {text:?}")]
    MessageRefused {
        /// Which device.
        device: String,
        /// The message.
        text: String,
    },
    /// EINTR: a signal came before the answer.
    #[error("{verb} of {device} was interrupted by a signal")]
    Interrupted {
        /// What was asked.
        verb: Verb,
        /// Of which device.
        device: String,
    },
    /// Any other errno.
    #[error("{verb} of {device}: {errno}")]
    Kernel {
        /// What was asked.
        verb: Verb,
        /// Of which device.
        device: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// The answer does not fit in any buffer we give.
    #[error("{verb} of {device}: the answer does not fit in {limit} bytes")]
    ReplyTooLarge {
        /// What was asked.
        verb: Verb,
        /// Of which device.
        device: String,
        /// The most that was offered.
        limit: usize,
    },
    /// A request that cannot be laid out, or an answer that makes no sense.
    #[error("{verb} of {device}: {source}")]
    Codec {
        /// What was asked.
        verb: Verb,
        /// Of which device.
        device: String,
        /// What is wrong with it.
        source: CodecError,
    },
    /// A table or status line that makes no sense.
    #[error("{verb} of {device}: {source}")]
    Table {
        /// What was asked.
        verb: Verb,
        /// Of which device.
        device: String,
        /// What is wrong with it.
        source: TableError,
    },
    /// The device is there, and is not of the kind that was asked for.
    #[error("{device} is not a {wanted} device, but {found}")]
    WrongKind {
        /// Which device.
        device: String,
        /// What it was to be.
        wanted: &'static str,
        /// What it is: its targets.
        found: String,
    },
    /// A node could not be made, looked at or removed.
    #[error("cannot {action} the node {path}: {errno}")]
    Node {
        /// What was tried.
        action: &'static str,
        /// The node.
        path: PathBuf,
        /// Why not.
        errno: Errno,
    },
    /// A cookie's semaphore could not be made or changed.
    #[error("cannot {action} a semaphore to wait for udev with: {errno}")]
    Cookie {
        /// What was tried.
        action: &'static str,
        /// ENOSPC: the system has too many; ENOSYS: the kernel has no SysV IPC.
        errno: Errno,
    },
    /// udev did not say in time that it has dealt with an event. The change itself is done.
    #[error("udev has not dealt with the event after {limit:?}")]
    UdevTimeout {
        /// How long was waited.
        limit: Duration,
    },
    /// A fault plan has ended everything ([`Fault`](super::Fault)). No real kernel says so.
    #[error("{request}: halted by a fault plan")]
    Halted {
        /// What was asked.
        request: String,
    },
    /// A step failed, and so did undoing what came before it. The cause comes first.
    #[error("{cause}; and it could not be undone: {rollback}")]
    Rollback {
        /// Why it was to be undone.
        cause: Box<Error>,
        /// Why it could not.
        rollback: Box<Error>,
    },
}

impl Error {
    /// The kernel's errno, where there was one. A failed rollback answers with its cause's.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        Some(match self {
            Error::NoDeviceMapper { errno, .. }
            | Error::NoControlNode { errno, .. }
            | Error::NoPermission { errno, .. }
            | Error::BackingDeviceMissing { errno, .. }
            | Error::TableRefused { errno, .. }
            | Error::Node { errno, .. }
            | Error::Cookie { errno, .. }
            | Error::Kernel { errno, .. } => *errno,
            Error::NoSuchDevice { .. } | Error::MinorInUse { .. } => Errno::ENXIO,
            Error::NameOrUuidInUse { .. }
            | Error::Busy { .. }
            | Error::ThinInUse { .. }
            | Error::MetadataSnapHeld { .. } => Errno::EBUSY,
            Error::ThinExists { .. } => Errno::EEXIST,
            Error::NoSuchThin { .. } => Errno::ENODATA,
            Error::TransactionMismatch { .. }
            | Error::UuidAlreadySet { .. }
            | Error::ThinIdOutOfRange { .. }
            | Error::NoMetadataSnap { .. }
            | Error::WrongPool { .. }
            | Error::PoolSuspended { .. }
            | Error::TableTooLong { .. }
            | Error::TargetMissing { .. }
            | Error::MessageRefused { .. } => Errno::EINVAL,
            Error::PoolFailed { .. } => Errno::EOPNOTSUPP,
            Error::PoolFull { .. } => Errno::ENOSPC,
            Error::Interrupted { .. } => Errno::EINTR,
            Error::TableUnfit { misfit, .. } => misfit.errno(),
            Error::Rollback { cause, .. } => return cause.errno(),
            Error::DriverTooOld { .. }
            | Error::ReplyTooLarge { .. }
            | Error::Codec { .. }
            | Error::Table { .. }
            | Error::UdevTimeout { .. }
            | Error::Halted { .. }
            | Error::WrongKind { .. } => return None,
        })
    }

    /// Whether the device asked for was not there.
    #[must_use]
    pub fn is_no_such_device(&self) -> bool {
        matches!(self, Error::NoSuchDevice { .. })
    }

    /// Whether trying again later may help, since somebody had the device open.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Error::Busy { .. } | Error::ThinInUse { .. })
    }

    /// This error as the cause, with what happened when its traces were removed.
    #[must_use]
    pub fn after_rollback(self, rollback: Result<()>) -> Error {
        match rollback {
            Ok(()) => self,
            // Whoever has been halted undoes nothing.
            Err(_) if matches!(self, Error::Halted { .. }) => self,
            Err(rollback) => {
                Error::Rollback { cause: Box::new(self), rollback: Box::new(rollback) }
            }
        }
    }
}
