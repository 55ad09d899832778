//! The records as the rest of the crate sees them.
//!
//! They are stored as JSON, which describes itself: a field added later reads as its default in a
//! record that was written before. A change that an older program would misread needs a new schema
//! version (`database`). Nothing about the kernel's state (active, suspended, open) belongs here.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::units::{Sectors, ThinId};

/// What a snapshot is, in containerd's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Read-only, shows its parent.
    View,
    /// Writable, nobody's parent.
    Active,
    /// Never changes any more; can be a parent.
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

/// A snapshot; its key is beside it, not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// The device's number: it is named `<pool>-snap-<number>`, that of a view
    /// `<pool>-view-<number>`. No other record has the same.
    pub number: u64,
    /// What the snapshot is.
    pub kind: Kind,
    /// The key of the committed snapshot it stands on.
    pub parent: Option<String>,
    /// The thin it shows: its own, or for a view that of its parent (of the template where it has
    /// none).
    #[serde(with = "thin")]
    pub thin: ThinId,
    /// The device's length.
    #[serde(with = "sectors")]
    pub size: Sectors,
    /// The file system's type, as `mount` names it.
    pub fs: String,
    /// containerd's labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: SystemTime,
    /// When its labels or its kind last changed.
    pub updated_at: SystemTime,
    /// Bytes that the thin had mapped when it was committed.
    #[serde(default)]
    pub mapped: Option<u64>,
    /// Inodes in use when it was committed, its parent's included.
    #[serde(default)]
    pub inodes: Option<u64>,
    /// The moment in the pool's life when it was made, of an active snapshot; none of one that an
    /// earlier version made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_at: Option<Moment>,
    /// How the owners of its files are stored, and how they show.
    #[serde(default)]
    pub ownership: Ownership,
}

/// The owners of a snapshot's files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ownership {
    /// They show as they are stored.
    #[default]
    Stored,
    /// A mount maps them, with `CONTAINER-ID:HOST-ID:COUNT`, several separated by commas.
    Mapped {
        /// For users.
        uids: String,
        /// For groups.
        gids: String,
    },
    /// containerd has changed each file's owner to a mapped one, so that no mount of a child may
    /// map it again.
    Shifted,
}

/// A parent as it was when it was looked up. A snapshot is added on this one or not at all: its key
/// may meanwhile be that of another snapshot, with another thin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentRef {
    /// Its key.
    pub key: String,
    number: u64,
    thin: ThinId,
    created_at: SystemTime,
}

impl ParentRef {
    /// The snapshot that was found under `key`.
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
    /// The thin that goes when the snapshot goes; a view has none.
    pub fn owned_thin(&self) -> Option<ThinId> {
        (self.kind != Kind::View).then_some(self.thin)
    }
}

/// What a template is made for: two base layers that agree in all of it share one template.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TemplateKey {
    /// The file system's type.
    pub fs: String,
    /// A digest of the options that mkfs was given.
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

/// A thin with a fresh, empty file system, of which base layers are snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateRecord {
    /// A number that no other record has, as in [`SnapshotRecord::number`].
    pub number: u64,
    /// The thin it owns.
    #[serde(with = "thin")]
    pub thin: ThinId,
    /// The device's length.
    #[serde(with = "sectors")]
    pub size: Sectors,
    /// Bytes that the thin had mapped when it was made.
    #[serde(default)]
    pub mapped: Option<u64>,
    /// Inodes that the empty file system uses for itself.
    #[serde(default)]
    pub inodes: Option<u64>,
    /// When it was made.
    pub created_at: SystemTime,
}

/// What a removed snapshot has left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReclaimKind {
    /// A thin of its own, which must be deactivated and deleted. The entry owns it.
    Thin(#[serde(with = "thin")] ThinId),
    /// A device that only showed somebody else's thin, which must be deactivated.
    View {
        /// The thin it showed; it stays.
        #[serde(with = "thin")]
        of: ThinId,
    },
}

/// Something that was removed and still has to be taken away from the kernel and the pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReclaimRecord {
    /// The device's number; also the entry's key.
    pub number: u64,
    /// What has to be done.
    pub kind: ReclaimKind,
    /// The device's length.
    #[serde(with = "sectors")]
    pub size: Sectors,
    /// The snapshot's key, for messages; empty where it is not known.
    pub key: String,
    /// When it was removed.
    pub since: SystemTime,
}

impl ReclaimRecord {
    /// The thin that has to be deleted, if there is one.
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
    /// The identity that the database and the pool's dm uuid share.
    pub uuid: String,
    /// The device name and dm uuid of a pool that somebody else assembles; none for one of our own.
    #[serde(default)]
    pub external: Option<ExternalPool>,
    /// What the names of its devices start with.
    pub name: String,
    /// The pool's block size.
    #[serde(with = "sectors")]
    pub block_size: Sectors,
    /// Whether the pool's metadata has been made. From then on it is never formatted again.
    pub formatted: bool,
    /// The transaction id that the pool is expected to have.
    pub epoch: u64,
    /// The transaction id that it is being moved to, while a start is moving it.
    #[serde(default)]
    pub epoch_next: Option<u64>,
}

/// A moment in the life of the pool, by its events. The default is before everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Moment {
    /// Which assembly of the pool it is, counted by this database: a reboot ends one, and so does
    /// whoever takes the pool apart.
    pub assembly: u64,
    /// How many events the pool had had in that assembly.
    pub event: u32,
}

/// What is known of the times at which the pool refused writes, as of the last look at it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LapsesRecord {
    /// The last look. The default is that there was none.
    pub seen: Moment,
    /// What tells that assembly's device from every other there has been.
    pub device: String,
    /// The first record of the kernel's log that had not been read then.
    pub log_next: u64,
    /// The pool refused writes then.
    pub refusing: bool,
    /// When it last ceased to refuse writes, or may have: what was made before may lack some of
    /// what was written to it.
    pub refused_until: Moment,
}

/// The thin that holds the blocks whose space was given back to the file system below the pool: as
/// long as it holds them, the pool cannot hand them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonRecord {
    /// The thin it owns.
    #[serde(with = "thin")]
    pub thin: ThinId,
}

/// What a pool that somebody else assembles is known by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalPool {
    /// Its device-mapper name.
    pub name: String,
    /// Its dm uuid, if it has one.
    pub uuid: Option<String>,
}

/// The part of an external pool's ids that this database has claimed. The same is written into a
/// thin of the pool, the marker, so that the database and the pool can be compared, and others see
/// it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRecord {
    /// The thin that the claim is written into.
    #[serde(with = "thin")]
    pub marker: ThinId,
    /// The ids that leases are taken from.
    pub range: IdRange,
    /// The number in the marker, which goes up by one at each start; 0 until there is a marker.
    pub epoch: u64,
    /// The number that the marker is being moved to, while a start is moving it.
    #[serde(default)]
    pub next: Option<u64>,
    /// Whether file systems have been made that rely on the pool to zero new blocks.
    pub zeroed: bool,
}

/// Thin ids on lease: from `start` up, below `end`. They may be in use without being recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first id.
    pub start: u32,
    /// The first id beyond; 2²⁴ at the most.
    pub end: u32,
}

impl IdRange {
    /// Whether the range covers an id.
    pub fn contains(&self, thin: ThinId) -> bool {
        (self.start..self.end).contains(&thin.get())
    }

    /// Its ids, upwards.
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

/// Whose a thin id or a device number is. Each belongs to one owner at the most.
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
    /// Nobody here: the id was found in the pool and is not ours.
    Foreign,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Snapshot(key) => write!(f, "snapshot {key:?}"),
            Owner::Template(key) => write!(f, "template {key}"),
            Owner::Reclaim(number) => write!(f, "reclaim entry {number}"),
            Owner::Balloon => f.write_str("the balloon"),
            Owner::Foreign => f.write_str("somebody else's thin"),
        }
    }
}

/// A thin id as a number; an id that cannot exist does not decode.
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

/// A length as its number of sectors.
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
