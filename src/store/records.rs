//! The records as the rest of the crate sees them.
//!
//! They are stored as JSON. A field that was added later has its default value in an older record.
//! A change that an older program would misread needs a new schema version (`database`). The state
//! of the kernel (active, suspended, open) is never recorded.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::units::{Sectors, ThinId};

/// The kind of a snapshot, as containerd names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Read-only; shows its parent.
    View,
    /// Writable; cannot be a parent.
    Active,
    /// Never changes; can be a parent.
    Committed,
}

impl Kind {
    /// The kind's name in containerd's filters: `view`, `active` or `committed`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::View => "view",
            Kind::Active => "active",
            Kind::Committed => "committed",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A snapshot, without its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// The device's number. The device is named `<pool>-snap-<number>`, for a view
    /// `<pool>-view-<number>`. No other record has the same number.
    pub number: u64,
    /// Its kind.
    pub kind: Kind,
    /// The key of its parent, a committed snapshot.
    pub parent: Option<String>,
    /// The thin that the device shows: the snapshot's own, or for a view that of its parent (of the
    /// template if it has no parent).
    #[serde(with = "thin")]
    pub thin: ThinId,
    /// The device's length.
    #[serde(with = "sectors")]
    pub size: Sectors,
    /// The file system's type, as `mount` names it.
    pub fs: String,
    /// containerd's labels.
    pub labels: BTreeMap<String, String>,
    /// When it was created.
    pub created_at: SystemTime,
    /// When its labels or its kind last changed.
    pub updated_at: SystemTime,
    /// The bytes that the thin mapped when it was committed.
    #[serde(default)]
    pub mapped: Option<u64>,
    /// The inodes in use when it was committed, including its parent's.
    #[serde(default)]
    pub inodes: Option<u64>,
    /// The pool's moment at which an active snapshot was created; `None` if an earlier version has
    /// created it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_at: Option<Moment>,
    /// How the owners of its files are stored and mapped.
    #[serde(default)]
    pub ownership: Ownership,
}

/// The owners of a snapshot's files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ownership {
    /// They are not mapped.
    #[default]
    Stored,
    /// The mount maps them. Mappings are `CONTAINER-ID:HOST-ID:COUNT`, separated by commas.
    Mapped {
        /// The mappings of users.
        uids: String,
        /// The mappings of groups.
        gids: String,
    },
    /// containerd has changed each file's owner to the mapped one. A mount of a child must not map
    /// it again.
    Shifted,
}

/// A parent as it was when it was looked up. A snapshot is added only to this parent. Its key may
/// belong to another snapshot by then, with another thin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentRef {
    /// The parent's key.
    pub key: String,
    number: u64,
    thin: ThinId,
    created_at: SystemTime,
}

impl ParentRef {
    /// Refers to the snapshot that was found under `key`.
    pub fn new(key: &str, found: &SnapshotRecord) -> Self {
        ParentRef {
            key: key.to_owned(),
            number: found.number,
            thin: found.thin,
            created_at: found.created_at,
        }
    }

    /// Whether `now` is still the same snapshot.
    pub fn is(&self, now: &SnapshotRecord) -> bool {
        (self.number, self.thin, self.created_at) == (now.number, now.thin, now.created_at)
    }
}

impl SnapshotRecord {
    /// The thin that is deleted with the snapshot; `None` for a view.
    pub fn owned_thin(&self) -> Option<ThinId> {
        (self.kind != Kind::View).then_some(self.thin)
    }
}

/// The key of a template. Base layers with the same file system, options and size share a template.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TemplateKey {
    /// The file system's type.
    pub fs: String,
    /// A digest of the options of mkfs.
    pub options: String,
    /// The device's length.
    #[serde(with = "sectors")]
    pub size: Sectors,
}

impl fmt::Display for TemplateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{} sectors", self.fs, self.options, self.size.0)
    }
}

/// A thin with an empty file system. Base layers are snapshots of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateRecord {
    /// The device's number, as in [`SnapshotRecord::number`].
    pub number: u64,
    /// The template's thin.
    #[serde(with = "thin")]
    pub thin: ThinId,
    /// The device's length.
    #[serde(with = "sectors")]
    pub size: Sectors,
    /// The bytes that the thin mapped when it was made.
    #[serde(default)]
    pub mapped: Option<u64>,
    /// The inodes that the empty file system uses.
    #[serde(default)]
    pub inodes: Option<u64>,
    /// When it was made.
    pub created_at: SystemTime,
}

/// What a removed snapshot has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReclaimKind {
    /// A thin, which must be deactivated and deleted. The entry owns it.
    Thin(#[serde(with = "thin")] ThinId),
    /// The device of a view, which must be deactivated. The thin belongs to another record.
    View {
        /// The thin that the view showed; it is kept.
        #[serde(with = "thin")]
        of: ThinId,
    },
}

/// A removed snapshot whose device and thin still have to be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReclaimRecord {
    /// The device's number, which is also the entry's key.
    pub number: u64,
    /// What has to be done.
    pub kind: ReclaimKind,
    /// The device's length.
    #[serde(with = "sectors")]
    pub size: Sectors,
    /// The snapshot's key, for messages; empty if unknown.
    pub key: String,
    /// When it was removed.
    pub since: SystemTime,
}

impl ReclaimRecord {
    /// The thin that has to be deleted, if any.
    pub fn thin(&self) -> Option<ThinId> {
        match self.kind {
            ReclaimKind::Thin(thin) => Some(thin),
            ReclaimKind::View { .. } => None,
        }
    }
}

/// The pool that this database belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRecord {
    /// The identity of the pool, in the database and in the pool's dm uuid.
    pub uuid: String,
    /// The device name and dm uuid of an external pool; `None` for the daemon's own pool.
    #[serde(default)]
    pub external: Option<ExternalPool>,
    /// The prefix of its device names.
    pub name: String,
    /// The pool's block size.
    #[serde(with = "sectors")]
    pub block_size: Sectors,
    /// Whether the pool's metadata was formatted. It is never formatted again.
    pub formatted: bool,
    /// The transaction id that the pool is expected to have.
    pub epoch: u64,
    /// The next transaction id, while a start is changing it.
    #[serde(default)]
    pub epoch_next: Option<u64>,
}

/// A moment of the pool, by its events. The default is before all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Moment {
    /// The number of the pool's assembly, counted by this database. An assembly ends with a reboot,
    /// or when the pool's device is removed.
    pub assembly: u64,
    /// The event number of the pool in this assembly.
    pub event: u32,
}

/// When the pool refused writes, as of the last look at it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LapsesRecord {
    /// The last look; the default if there was none.
    pub seen: Moment,
    /// The identity of that assembly's device.
    pub device: String,
    /// The number of the first record of the kernel's log that was not read then.
    pub log_next: u64,
    /// Whether the pool refused writes then.
    pub refusing: bool,
    /// When the pool last stopped refusing writes, or may have. A snapshot that was created before
    /// may lack writes.
    pub refused_until: Moment,
}

/// The balloon: a thin that holds the blocks whose space was returned to the file system below the
/// pool. The pool cannot allocate these blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonRecord {
    /// The balloon's thin.
    #[serde(with = "thin")]
    pub thin: ThinId,
}

/// The identity of an external pool: one that another program assembles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalPool {
    /// Its device-mapper name.
    pub name: String,
    /// Its dm uuid, if it has one.
    pub uuid: Option<String>,
}

/// The range of an external pool's thin ids that this database has claimed. The claim is also
/// written into a thin of the pool, the marker, so that the database can be compared with the pool,
/// and so that other daemons see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRecord {
    /// The thin id of the marker.
    #[serde(with = "thin")]
    pub marker: ThinId,
    /// The ids that leases are taken from.
    pub range: IdRange,
    /// The number in the marker, which each start increases by one; 0 until there is a marker.
    pub epoch: u64,
    /// The next number of the marker, while a start is changing it.
    #[serde(default)]
    pub next: Option<u64>,
    /// Whether there are file systems that rely on the pool to zero new blocks.
    pub zeroed: bool,
}

/// A range of thin ids, such as a lease. Leased ids may be in use without a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first id.
    pub start: u32,
    /// The first id beyond the range; 2²⁴ at most.
    pub end: u32,
}

impl IdRange {
    /// Whether the range contains this id.
    pub fn contains(&self, thin: ThinId) -> bool {
        (self.start..self.end).contains(&thin.get())
    }

    /// Its ids in ascending order.
    pub fn ids(&self) -> impl Iterator<Item = ThinId> {
        (self.start..self.end).filter_map(|id| ThinId::new(id).ok())
    }

    /// Takes the first id out of the range.
    pub fn take_first(&mut self) -> Option<ThinId> {
        let first = self.ids().next()?;
        self.start += 1;
        Some(first)
    }
}

/// The owner of a thin id or a device number. Each has one owner at most.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// A snapshot, by its key.
    Snapshot(String),
    /// A template.
    Template(TemplateKey),
    /// A reclaim entry, by its number.
    Reclaim(u64),
    /// The balloon.
    Balloon,
    /// No record: the thin was found in the pool and is not this daemon's.
    Foreign,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Snapshot(key) => write!(f, "snapshot {key:?}"),
            Owner::Template(key) => write!(f, "template {key}"),
            Owner::Reclaim(number) => write!(f, "reclaim entry {number}"),
            Owner::Balloon => f.write_str("the balloon"),
            Owner::Foreign => f.write_str("a thin that is not this daemon's"),
        }
    }
}

/// Serialises a thin id as a number. A number that is no thin id is an error.
mod thin {
    use serde::{de::Error, Deserialize, Deserializer, Serialize, Serializer};

    use crate::units::ThinId;

    pub fn serialize<S: Serializer>(thin: &ThinId, to: S) -> Result<S::Ok, S::Error> {
        thin.get().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ThinId, D::Error> {
        ThinId::new(u32::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// Serialises a length as its number of sectors.
mod sectors {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::units::Sectors;

    pub fn serialize<S: Serializer>(sectors: &Sectors, to: S) -> Result<S::Ok, S::Error> {
        sectors.0.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Sectors, D::Error> {
        u64::deserialize(from).map(Sectors)
    }
}
