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

/// Why something could not be done. Each variant is a situation that a caller can act on. The
/// kernel's errno is kept ([`Error::errno`]). Devices are named as the caller named them: by name,
/// `uuid …` or `major:minor`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel has no device-mapper: it is not built in and the module is not loaded.
    #[error(
        "the kernel has no device-mapper: load its module with `modprobe dm_mod` \
         (looked in {path}: {errno})"
    )]
    NoDeviceMapper {
        /// The control node.
        path: PathBuf,
        /// The answer to opening it.
        errno: Errno,
    },
    /// The control node is missing and could not be made, or cannot be opened.
    #[error(
        "cannot make or open device-mapper's control node {path}: {errno}. Only root \
         can make it; a container must be privileged, with the host's /dev"
    )]
    NoControlNode {
        /// The control node.
        path: PathBuf,
        /// The answer to making or opening it.
        errno: Errno,
    },
    /// EACCES or EPERM: device-mapper wants root (`CAP_SYS_ADMIN`).
    #[error(
        "no permission for device-mapper's {what}: it needs root, or CAP_SYS_ADMIN ({errno}). \
         Start it as root; a container must be privileged, with the host's /dev"
    )]
    NoPermission {
        /// The node or the request.
        what: String,
        /// EACCES or EPERM.
        errno: Errno,
    },
    /// The kernel's interface is older than what is needed.
    #[error(
        "the kernel's device-mapper interface is version {found}, {needed} is needed: run a \
         newer kernel (4.14 or later)"
    )]
    DriverTooOld {
        /// The kernel's version.
        found: DriverVersion,
        /// The oldest version that would do.
        needed: DriverVersion,
    },
    /// The kernel does not have this target.
    #[error(
        "the kernel has no {target} target: load its module with `modprobe {module}`, \
         or set {option} in the kernel's configuration"
    )]
    TargetMissing {
        /// The target's type, such as `thin-pool`.
        target: String,
        /// The kernel module that has the target.
        module: String,
        /// The option of the kernel's configuration that builds it.
        option: &'static str,
    },
    /// ENXIO: there is no device of this name, uuid or number.
    #[error("{verb}: there is no device {device}")]
    NoSuchDevice {
        /// The verb that failed.
        verb: Verb,
        /// The device.
        device: String,
    },
    /// ENXIO on create with a minor number: another device has it. (`dm_create` in drivers/md/dm.c
    /// gives the same answer whatever keeps it from making the device.)
    #[error("create of {device}: the minor number {minor} is in use by another device")]
    MinorInUse {
        /// The name of the device that was to be made.
        device: String,
        /// The minor number that was asked for.
        minor: u32,
    },
    /// EBUSY on create and rename: another device has this name or uuid.
    #[error("{verb} of {device}: the name or the uuid is in use by another device")]
    NameOrUuidInUse {
        /// Create or rename.
        verb: Verb,
        /// The name and the uuid that were asked for.
        device: String,
    },
    /// EINVAL on setting a uuid: the device has one, and it cannot be changed.
    #[error("{device} has a uuid already, and it cannot be changed")]
    UuidAlreadySet {
        /// The device.
        device: String,
    },
    /// EBUSY: the device is open, mounted, or below another device. On a load this is about a
    /// device that the table names.
    #[error(
        "{verb} of {device}: {} is in use (open, mounted, or below another device)",
        if *verb == Verb::Load { "a device that its table names" } else { "it" }
    )]
    Busy {
        /// The verb that failed.
        verb: Verb,
        /// The device.
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
        /// The verb that failed.
        verb: Verb,
        /// The pool's name or number.
        pool: String,
        /// The id.
        id: ThinId,
    },
    /// EINVAL: an id in a message is above 2^24 - 1. A [`ThinId`] is smaller, but the text
    /// of a message can have such an id.
    #[error("pool {pool}: {id} is above the largest thin id, {max}", max = ThinId::MAX)]
    ThinIdOutOfRange {
        /// The pool's name.
        pool: String,
        /// The id in the message.
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
    /// EINVAL on `set_transaction_id`: the current id is not the one that the caller expected.
    #[error("the transaction id of pool {pool} is not {expected}, so it does not become {wanted}")]
    TransactionMismatch {
        /// The pool's name.
        pool: String,
        /// The id that the caller expected.
        expected: u64,
        /// The id that it was to become.
        wanted: u64,
    },
    /// EBUSY on `reserve_metadata_snap`: the pool holds one already.
    #[error(
        "pool {pool} holds a metadata snapshot already, of another program; it goes with \
         'dmsetup message {pool} 0 release_metadata_snap'"
    )]
    MetadataSnapHeld {
        /// The pool's name.
        pool: String,
    },
    /// EINVAL on `release_metadata_snap`: the pool holds none.
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
    /// ENOSPC: no space left in the pool's data or metadata.
    #[error("{verb} of {device}: no space left in the pool")]
    PoolFull {
        /// The verb that failed.
        verb: Verb,
        /// The device.
        device: String,
    },
    /// EINVAL on the load of a thin: the device that it names as its pool is no pool.
    #[error("load of {device}: {pool} is not a thin pool")]
    WrongPool {
        /// The device that was to be a thin.
        device: String,
        /// The pool in its table.
        pool: String,
    },
    /// EINVAL on the load of a thin: its pool is suspended.
    #[error(
        "load of {device}: its pool {pool} is suspended; the program that suspended it must \
         resume it ('dmsetup resume {pool}')"
    )]
    PoolSuspended {
        /// The device that was to be a thin.
        device: String,
        /// Its pool.
        pool: String,
    },
    /// EINVAL: the table reaches past the end of the device below.
    #[error(
        "load of {device}: the table needs {needed} of the device below, {below}, which has {size}"
    )]
    TableTooLong {
        /// The device whose table it is.
        device: String,
        /// The device below.
        below: DeviceNumber,
        /// How much of it the table needs.
        needed: Sectors,
        /// Its size.
        size: Sectors,
    },
    /// The devices below do not allow this table.
    #[error("load of {device}: {misfit}")]
    TableUnfit {
        /// The device whose table it is.
        device: String,
        /// The reason.
        misfit: Misfit,
    },
    /// A device below is not there (ENODEV, ENXIO, ENOENT).
    #[error("load of {device}: a device that its table names is not there ({errno}): {table}")]
    BackingDeviceMissing {
        /// The device whose table it is.
        device: String,
        /// The table.
        table: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// EINVAL: the kernel does not take the table. Its log says why.
    #[error(
        "load of {device}: the kernel refuses the table ({errno}; the kernel's log, `dmesg`, \
         says why): {table}"
    )]
    TableRefused {
        /// The device whose table it is.
        device: String,
        /// The table.
        table: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// EINVAL: the target does not know this message, or not with these arguments.
    #[error("{device} does not take the message {text:?}")]
    MessageRefused {
        /// The device.
        device: String,
        /// The message.
        text: String,
    },
    /// EINTR: a signal came before the answer.
    #[error("{verb} of {device} was interrupted by a signal")]
    Interrupted {
        /// The verb that failed.
        verb: Verb,
        /// The device.
        device: String,
    },
    /// Any other errno.
    #[error("{verb} of {device}: {errno}")]
    Kernel {
        /// The verb that failed.
        verb: Verb,
        /// The device.
        device: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The answer does not fit in the largest buffer that this library offers (64 MiB).
    #[error("{verb} of {device}: the answer does not fit in {limit} bytes")]
    ReplyTooLarge {
        /// The verb that failed.
        verb: Verb,
        /// The device.
        device: String,
        /// The size of that buffer in bytes.
        limit: usize,
    },
    /// A request that cannot be laid out in memory, or an answer that is malformed.
    #[error("{verb} of {device}: {source}")]
    Codec {
        /// The verb that failed.
        verb: Verb,
        /// The device.
        device: String,
        /// The field and what is wrong with it.
        source: CodecError,
    },
    /// A table or status line that is malformed.
    #[error("{verb} of {device}: {source}")]
    Table {
        /// The verb that failed.
        verb: Verb,
        /// The device.
        device: String,
        /// The field and what is wrong with it.
        source: TableError,
    },
    /// The device exists and is of another kind than the verb is for.
    #[error("{device} is not a {wanted} device, but {found}")]
    WrongKind {
        /// The device.
        device: String,
        /// The target that the verb is for.
        wanted: &'static str,
        /// The targets that it has.
        found: String,
    },
    /// A node could not be made, read or removed.
    #[error("cannot {action} the node {path}: {errno}")]
    Node {
        /// The step that failed, as a verb: `make`, `remove`.
        action: &'static str,
        /// The node.
        path: PathBuf,
        /// The system's answer.
        errno: Errno,
    },
    /// A cookie's semaphore could not be made or changed.
    #[error("cannot {action} a semaphore to wait for udev with: {errno}")]
    Cookie {
        /// The step that failed, as a verb.
        action: &'static str,
        /// ENOSPC: the system has too many; ENOSYS: the kernel has no SysV IPC.
        errno: Errno,
    },
    /// udev did not handle an event in time. The change itself is done.
    #[error("udev has not handled the event after {limit:?}")]
    UdevTimeout {
        /// The time limit.
        limit: Duration,
    },
    /// A fault plan has ended everything (`Fault`, feature `model`). No real kernel answers so.
    #[error("{request}: halted by a fault plan")]
    Halted {
        /// The request.
        request: String,
    },
    /// A step failed, and then undoing the steps before it failed too.
    #[error("{cause}; and it could not be undone: {rollback}")]
    Rollback {
        /// The first failure.
        cause: Box<Error>,
        /// The failure of the undoing.
        rollback: Box<Error>,
    },
}

impl Error {
    /// The kernel's errno, where there was one. For a failed rollback it is the cause's.
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

    /// Whether the device does not exist.
    #[must_use]
    pub fn is_no_such_device(&self) -> bool {
        matches!(self, Error::NoSuchDevice { .. })
    }

    /// Whether the device was in use, so that trying again later may help.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Error::Busy { .. } | Error::ThinInUse { .. })
    }

    /// This error, or both when undoing the steps before it failed too.
    #[must_use]
    pub fn after_rollback(self, rollback: Result<()>) -> Error {
        match rollback {
            Ok(()) => self,
            // After a halt nothing can be undone.
            Err(_) if matches!(self, Error::Halted { .. }) => self,
            Err(rollback) => {
                Error::Rollback { cause: Box::new(self), rollback: Box::new(rollback) }
            }
        }
    }
}
