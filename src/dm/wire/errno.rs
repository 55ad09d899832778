//! What an errno means as the answer to a request.

use nix::errno::Errno;

use super::request::{Payload, Request};
use crate::dm::error::{Error, MessageError};
use crate::dm::interface::{Flags, Verb};
use crate::dm::text::{PoolMessage, Target};

impl Error {
    /// What `errno` means as the answer to `request`. All kernels, real and modelled, make their
    /// errors with it.
    #[must_use]
    pub fn from_errno(request: &Request, errno: Errno) -> Error {
        let verb = request.verb();
        let device = request.subject();
        match (verb, errno) {
            (_, Errno::EACCES | Errno::EPERM) => {
                Error::NoPermission { what: request.to_string(), errno }
            }
            (_, Errno::EINTR) => Error::Interrupted { verb, device },
            (Verb::Create, Errno::ENXIO) if request.new_minor().is_some() => {
                Error::MinorInUse { device, minor: request.new_minor().unwrap_or_default() }
            }
            (_, Errno::ENXIO) => Error::NoSuchDevice { verb, device },
            (Verb::Create, Errno::EBUSY) => Error::NameOrUuidInUse {
                verb,
                device: match request.new_uuid() {
                    Some(uuid) => format!("{device} (uuid {uuid})"),
                    None => device,
                },
            },
            (Verb::Rename, Errno::EBUSY) => Error::NameOrUuidInUse {
                verb,
                device: match request.carried() {
                    Payload::Text(new) => format!("{device} to {new}"),
                    _ => device,
                },
            },
            (Verb::Rename, Errno::EINVAL) if request.has(Flags::UUID) => {
                Error::UuidAlreadySet { device }
            }
            (Verb::Message, _) => from_message(request, device, errno),
            (Verb::Load, _) => from_load(request, device, errno),
            (_, Errno::EBUSY) => Error::Busy { verb, device },
            (_, Errno::ENOSPC) => Error::PoolFull { verb, device },
            _ => Error::Kernel { verb, device, errno },
        }
    }
}

fn from_message(request: &Request, pool: String, errno: Errno) -> Error {
    let verb = Verb::Message;
    let Payload::Message { text, .. } = request.carried() else {
        return Error::Kernel { verb, device: pool, errno };
    };
    match (errno, PoolMessage::parse(text)) {
        (Errno::EOPNOTSUPP, _) => Error::PoolFailed { pool },
        (Errno::ENOSPC, _) => Error::PoolFull { verb, device: pool },
        (Errno::EEXIST, Ok(PoolMessage::CreateThin(id) | PoolMessage::CreateSnap { id, .. })) => {
            Error::ThinExists { pool, id }
        }
        (
            Errno::ENODATA,
            Ok(PoolMessage::CreateSnap { origin: id, .. } | PoolMessage::Delete(id)),
        ) => Error::NoSuchThin { verb, pool, id },
        (Errno::EBUSY, Ok(PoolMessage::Delete(id))) => Error::ThinInUse { pool, id },
        (Errno::EBUSY, Ok(PoolMessage::ReserveMetadataSnap)) => Error::MetadataSnapHeld { pool },
        (Errno::EBUSY, _) => Error::Busy { verb, device: pool },
        (Errno::EINVAL, Ok(PoolMessage::SetTransactionId { old, new })) => {
            Error::TransactionMismatch { pool, expected: old, wanted: new }
        }
        (Errno::EINVAL, Ok(PoolMessage::ReleaseMetadataSnap)) => Error::NoMetadataSnap { pool },
        (Errno::EINVAL, Err(MessageError::ThinIdOutOfRange { id })) => {
            Error::ThinIdOutOfRange { pool, id }
        }
        (Errno::EINVAL, _) => Error::MessageRefused { device: pool, text: text.clone() },
        _ => Error::Kernel { verb, device: pool, errno },
    }
}

fn from_load(request: &Request, device: String, errno: Errno) -> Error {
    let verb = Verb::Load;
    let Payload::Table(lines) = request.carried() else {
        return Error::Kernel { verb, device, errno };
    };
    let table = || {
        let lines: Vec<String> = lines
            .iter()
            .map(|l| format!("{} {} {} {}", l.start.0, l.length.0, l.kind, l.params))
            .collect();
        lines.join("; ")
    };
    match errno {
        Errno::ENODATA => {
            for line in lines {
                if let Ok(Target::Thin(thin)) = Target::from_line(line) {
                    return Error::NoSuchThin { verb, pool: thin.pool.to_string(), id: thin.id };
                }
            }
            Error::Kernel { verb, device, errno }
        }
        Errno::ENODEV | Errno::ENOENT => {
            Error::BackingDeviceMissing { device, table: table(), errno }
        }
        Errno::EINVAL | Errno::ERANGE => Error::TableRefused { device, table: table(), errno },
        Errno::EBUSY => Error::Busy { verb, device },
        Errno::ENOSPC => Error::PoolFull { verb, device },
        _ => Error::Kernel { verb, device, errno },
    }
}
