//! What can go wrong with a pool, named after the step that failed.

use std::path::PathBuf;

use bytesize::ByteSize;

use super::MetadataError;
use crate::block::BlockError;
use crate::dm;
use crate::names::DmName;
use crate::store::StoreError;
use crate::units::{Sectors, ThinId};

/// A failed step on the pool. Device, thin id and the kernel's own error are in each message.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    #[error("thin {id} cannot be made in pool {pool}{}: {source}", of(origin))]
    Create { pool: DmName, id: ThinId, origin: Option<ThinId>, source: dm::Error },
    #[error("thin {id} cannot be deleted from pool {pool}: {source}")]
    Delete { pool: DmName, id: ThinId, source: dm::Error },
    #[error("device {device} cannot be activated on thin {id}: {source}")]
    Activate { device: DmName, id: ThinId, source: dm::Error },
    #[error("device {device} exists and does not belong to this daemon's pool, or is half made ({source}); look at it with 'dmsetup info {device}' and remove or rename it")]
    NameTaken { device: DmName, source: dm::Error },
    #[error("device {device} cannot be removed: {source}")]
    Deactivate { device: DmName, source: dm::Error },
    #[error("device {device} is to go with its last user, and that cannot be taken back: {source}")]
    Keep { device: DmName, source: dm::Error },
    #[error("device {device} cannot be looked at: {source}")]
    Look { device: DmName, source: dm::Error },
    #[error("device {device} cannot be frozen: {source}")]
    Freeze { device: DmName, source: dm::Error },
    #[error("device {device} cannot be thawed and stays suspended: {source}")]
    Thaw { device: DmName, source: dm::Error },
    #[error("pool {pool} is short of room: {} of {} of {what} free, less than the {percent} % that min_free_percent keeps; remove images or containers, or give it more room", ByteSize(*free).display().iec(), ByteSize(*total).display().iec())]
    Full { pool: DmName, what: &'static str, free: u64, total: u64, percent: u8 },
    #[error("pool {pool} has failed: the kernel takes no more changes to it; stop what uses it, run thin_check on its metadata and assemble it again")]
    Failed { pool: DmName },
    #[error("pool {pool} must be checked: the kernel could not write its metadata (a disk that failed or was full) and takes no changes since. Once the disk is well, {}run 'thin_check --clear-needs-check-flag {}' and start the daemon again", if *active { "stop what uses the pool, remove its devices and then itself ('dmsetup remove', or a reboot), " } else { "" }, metadata.display())]
    NeedsCheck { pool: DmName, metadata: PathBuf, active: bool },
    #[error("no thin id is left below 2^24 in this pool")]
    NoIds,
    #[error("{0}")]
    Kernel(#[source] dm::Error),
    #[error("pool {pool} cannot be given more room: {source}")]
    Grow { pool: DmName, source: dm::Error },
    #[error("pool {pool} cannot be assembled: {source}")]
    Assemble { pool: DmName, source: dm::Error },
    #[error("pool {pool} is not the one that the database {store} belongs to: {what}")]
    Foreign { pool: DmName, store: PathBuf, what: String },
    #[error("the devices of the database {} are named {has:?}, the configuration's name is {wanted:?}; set name back, or start with an empty state directory", store.display())]
    Name { store: PathBuf, has: String, wanted: String },
    #[error("block_size is fixed for a pool's life: pool {pool} has {} KiB, the configuration says {} KiB; set it back, or start with an empty state directory and empty devices", has.0 / 2, wanted.0 / 2)]
    BlockSize { pool: DmName, has: Sectors, wanted: Sectors },
    #[error("pool {pool}, which pool_name says somebody else assembles, {what}")]
    External { pool: DmName, what: String },
    #[error("{area} area {path}: {source}")]
    Area { area: &'static str, path: PathBuf, source: BlockError },
    #[error("{path} is not empty and the database knows no pool on it: {found}. It is left untouched; if it is this daemon's pool, put the database back; if its content may go, empty it (wipefs -a, blkdiscard, or remove the file)")]
    NotBlank { path: PathBuf, found: String },
    #[error("{path} is not the disk that the {area} area of pool {pool} lies on: {found}. Nothing was written to it. Disks change their names: name the right one by /dev/disk/by-id, or put it back")]
    WrongDisk { path: PathBuf, area: &'static str, pool: DmName, found: String },
    #[error("{path}, which holds the {area} area of the pool, is not there{}", if *live { ", or is another file than the one that the assembled pool has open (/proc and losetup -a show that one). Put it back under this name: copy it while the pool is assembled, or stop what uses the pool first" } else { ". Put it back, or start with an empty state directory and pull anew" })]
    AreaMissing { area: &'static str, path: PathBuf, live: bool },
    #[error("device {device} stands on {found}; by configuration and database it should stand on {wanted}. It is left as it is: set the configuration right, or stop what uses the pool, remove its devices ('dmsetup remove', or a reboot) and start again")]
    StandsElsewhere { device: DmName, found: String, wanted: String },
    #[error("there is a device {device} already, and it is not of this daemon's pool (its dm uuid is {uuid:?}): another daemon or program has made it. Choose another 'name' for this daemon, or remove that device")]
    NotOurs { device: DmName, uuid: String },
    #[error("data_device {data} and metadata_device {metadata} are the same device; name two, or leave metadata_device out to have both areas on the one")]
    SameDisk { data: PathBuf, metadata: PathBuf },
    #[error("the data area of pool {pool} on {path} has become smaller: {} found, {} in use by the pool", ByteSize(found.0 * 512).display().iec(), ByteSize(needed.0 * 512).display().iec())]
    Shrunk { path: PathBuf, pool: DmName, found: Sectors, needed: Sectors },
    #[error("pool {pool} has no areas of its own: somebody else assembles it")]
    NoAreas { pool: String },
    #[error("{path} is too small for a pool: {} found, {} needed at least", ByteSize(found.0 * 512).display().iec(), ByteSize(needed.0 * 512).display().iec())]
    TooSmall { path: PathBuf, found: Sectors, needed: Sectors },
    #[error("the metadata of pool {pool} cannot be read: {source}")]
    Metadata { pool: DmName, source: MetadataError },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What went wrong first, where undoing it went wrong as well.
fn cause(error: &dm::Error) -> &dm::Error {
    match error {
        dm::Error::Rollback { cause: first, .. } => cause(first),
        other => other,
    }
}

fn of(origin: &Option<ThinId>) -> String {
    origin.map(|id| format!(" as a snapshot of thin {id}")).unwrap_or_default()
}

impl PoolError {
    /// Somebody has the device open or mounted: worth trying again later.
    pub fn is_busy(&self) -> bool {
        match self {
            PoolError::Deactivate { source, .. } | PoolError::Delete { source, .. } => {
                source.is_busy() || matches!(source, dm::Error::ThinInUse { .. })
            }
            _ => false,
        }
    }

    /// There is no room, or the kernel answered that there is none.
    pub fn is_full(&self) -> bool {
        match self {
            PoolError::Full { .. } => true,
            PoolError::Create { source, .. } | PoolError::Activate { source, .. } => {
                matches!(cause(source), dm::Error::PoolFull { .. })
            }
            PoolError::Store(source) => source.is_no_space(),
            _ => false,
        }
    }

    /// The thin that was to be snapshotted or activated is gone.
    pub fn is_no_such_thin(&self) -> bool {
        match self {
            PoolError::Create { source, .. } | PoolError::Activate { source, .. } => {
                matches!(cause(source), dm::Error::NoSuchThin { .. })
            }
            _ => false,
        }
    }
}
