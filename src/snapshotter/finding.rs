//! The disagreements between database, pool and devices that a check can find.

use std::fmt;

use crate::store::Owner;
use crate::units::{Sectors, ThinId};

/// One disagreement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// An index of the database disagrees with the records.
    Index(String),
    /// The thin of a record is not in the pool. Its content is lost.
    ThinMissing { thin: ThinId, owner: Owner },
    /// The pool has a thin that is on no record. Inside an open lease it may belong to a call under
    /// way, and the next start deletes it. Outside of all leases it is never deleted.
    ThinUnrecorded { thin: ThinId, leased: bool },
    /// A shared pool has a thin in this database's range that is on no record. The next start
    /// deletes it if a device of this daemon stands on it. If not, another program may have made
    /// it, and the start sets it aside.
    ThinDoubtful { thin: ThinId },
    /// The pool takes no more changes, or wants thin_check.
    PoolSick { what: &'static str },
    /// A device of this daemon has no table: its activation was interrupted.
    HalfMade { device: String },
    /// A device of this daemon is suspended, so its users wait.
    Suspended { device: String },
    /// A device that is needed will be removed as soon as it is closed.
    Leaving { device: String },
    /// A device has a name of this daemon, but its UUID does not belong to this pool.
    NotOurs { device: String },
    /// No record needs this device, or its snapshot is committed and needs none.
    Unwanted { device: String, open: u32 },
    /// A device shows another thin or another length than its record says.
    ShowsOther { device: String, shows: Option<(ThinId, Sectors)>, recorded: (ThinId, Sectors) },
    /// The device of a committed snapshot takes writes.
    Writable { device: String, key: String },
    /// The device of an active snapshot takes no writes.
    ReadOnly { device: String, key: String },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Index(what) => write!(f, "the database: {what}"),
            Finding::ThinMissing { thin, owner } => {
                write!(f, "thin {thin} of {owner} is not in the pool, so what was in it is lost")
            }
            Finding::ThinUnrecorded { thin, leased: true } => {
                write!(
                    f,
                    "thin {thin} is on no record; its id is on lease, so the next start deletes it"
                )
            }
            Finding::ThinUnrecorded { thin, leased: false } => {
                write!(
                    f,
                    "thin {thin} is on no record and on no lease, so it is not this daemon's \
                     and is left alone"
                )
            }
            Finding::ThinDoubtful { thin } => write!(
                f,
                "thin {thin} is in this daemon's range of a shared pool and on no record; the next \
                 start deletes it if a device of this daemon stands on it, and sets it aside if not"
            ),
            Finding::PoolSick { what } => write!(f, "the pool {what}"),
            Finding::HalfMade { device } => {
                write!(f, "device {device} has no table; the next start removes it")
            }
            Finding::Suspended { device } => write!(
                f,
                "device {device} is suspended, so its users wait; the next start resumes it"
            ),
            Finding::Leaving { device } => write!(
                f,
                "device {device} is wanted, and goes as soon as nobody has it open; the next start \
                 takes that back"
            ),
            Finding::NotOurs { device } => write!(
                f,
                "device {device} has a name of this daemon and does not belong to this pool; look \
                 at it with 'dmsetup info {device}'"
            ),
            Finding::Unwanted { device, open } => {
                write!(f, "device {device} is wanted by nothing (opened {open} times)")
            }
            Finding::ShowsOther { device, shows: Some((thin, size)), recorded } => {
                let (wanted, length) = recorded;
                write!(
                    f,
                    "device {device} shows {size} of thin {thin}, not {length} of thin {wanted}"
                )
            }
            Finding::ShowsOther { device, shows: None, recorded: (thin, _) } => {
                write!(f, "device {device} shows no thin; it should show thin {thin}")
            }
            Finding::Writable { device, key } => {
                write!(f, "device {device} of snapshot {key:?} can be written to")
            }
            Finding::ReadOnly { device, key } => {
                write!(f, "device {device} of snapshot {key:?} cannot be written to")
            }
        }
    }
}
