//! The messages that a thin pool takes, as values and as the kernel's text.
//!
//! Source: Documentation/admin-guide/device-mapper/thin-provisioning.rst ("Messages") and
//! `pool_message` in drivers/md/dm-thin.c. The modelled kernel reads messages with this parser, and
//! errors of both kernels are explained with it.

use std::fmt;

use crate::dm::error::MessageError;
use crate::units::{ThinId, UnitError};

/// One message to a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolMessage {
    /// A new, empty thin. EEXIST when the id is taken.
    CreateThin(ThinId),
    /// A snapshot `id` of `origin`. EEXIST when `id` is taken, ENODATA when there is no `origin`.
    CreateSnap {
        /// The id of the snapshot.
        id: ThinId,
        /// The id of the origin.
        origin: ThinId,
    },
    /// Deletes a thin and frees its blocks. ENODATA when there is none, EBUSY when a device stands
    /// on it.
    Delete(ThinId),
    /// Compare-and-swap of the pool's transaction id. EINVAL when `old` is not the current one.
    SetTransactionId {
        /// The id that the pool must have.
        old: u64,
        /// The id that the pool gets.
        new: u64,
    },
    /// Holds a snapshot of the metadata for user space to read. EBUSY when one is held.
    ReserveMetadataSnap,
    /// Releases the metadata snapshot. EINVAL when none is held.
    ReleaseMetadataSnap,
}

impl PoolMessage {
    /// Reads a message.
    ///
    /// # Errors
    /// [`MessageError`] for what the kernel would answer EINVAL to, before looking at the pool.
    pub fn parse(text: &str) -> Result<PoolMessage, MessageError> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let first = words.first().map(|word| word.to_ascii_lowercase()).unwrap_or_default();
        match (first.as_str(), &words[1.min(words.len())..]) {
            ("create_thin", [id]) => Ok(PoolMessage::CreateThin(thin_id("id", id)?)),
            ("create_snap", [id, origin]) => Ok(PoolMessage::CreateSnap {
                id: thin_id("id", id)?,
                origin: thin_id("origin", origin)?,
            }),
            ("delete", [id]) => Ok(PoolMessage::Delete(thin_id("id", id)?)),
            ("set_transaction_id", [old, new]) => Ok(PoolMessage::SetTransactionId {
                old: number("current transaction id", old)?,
                new: number("new transaction id", new)?,
            }),
            ("reserve_metadata_snap", []) => Ok(PoolMessage::ReserveMetadataSnap),
            ("release_metadata_snap", []) => Ok(PoolMessage::ReleaseMetadataSnap),
            (
                "create_thin"
                | "create_snap"
                | "delete"
                | "set_transaction_id"
                | "reserve_metadata_snap"
                | "release_metadata_snap",
                _,
            ) => Err(MessageError::WordCount { text: text.to_owned() }),
            _ => Err(MessageError::Unknown { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for PoolMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolMessage::CreateThin(id) => write!(f, "create_thin {id}"),
            PoolMessage::CreateSnap { id, origin } => write!(f, "create_snap {id} {origin}"),
            PoolMessage::Delete(id) => write!(f, "delete {id}"),
            PoolMessage::SetTransactionId { old, new } => {
                write!(f, "set_transaction_id {old} {new}")
            }
            PoolMessage::ReserveMetadataSnap => f.write_str("reserve_metadata_snap"),
            PoolMessage::ReleaseMetadataSnap => f.write_str("release_metadata_snap"),
        }
    }
}

fn thin_id(field: &'static str, word: &str) -> Result<ThinId, MessageError> {
    word.parse().map_err(|error| match error {
        UnitError::ThinIdOutOfRange { .. } => {
            MessageError::ThinIdOutOfRange { id: word.to_owned() }
        }
        _ => MessageError::Invalid { field, value: word.to_owned() },
    })
}

fn number(field: &'static str, word: &str) -> Result<u64, MessageError> {
    let digits = word.bytes().all(|b| b.is_ascii_digit());
    digits
        .then(|| word.parse().ok())
        .flatten()
        .ok_or_else(|| MessageError::Invalid { field, value: word.to_owned() })
}
