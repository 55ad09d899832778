//! What can go wrong with a pool, named after the step that failed.

use std::path::{Path, PathBuf};

use super::advice::{
    bytes, known_by, lost_database, missing_area, of_origin, owner, shortage, taken_apart, way_out,
    MetadataGrowth,
};
use super::thins::MetadataError;
use crate::block::BlockError;
use crate::dm;
use crate::names::{DevicePrefix, DmName};
use crate::store::StoreError;
use crate::units::{Sectors, ThinId};

/// A step on the pool that failed. Each message names the device or the pool, the thin, and the
/// error of the kernel.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    #[error("thin {id} cannot be made in pool {pool}{}: {source}", of_origin(origin))]
    Create { pool: DmName, id: ThinId, origin: Option<ThinId>, source: dm::Error },
    #[error("thin {id} cannot be made as a copy of device {device}: {source}")]
    Copy { device: DmName, id: ThinId, source: dm::Error },
    #[error("thin {id} cannot be deleted from pool {pool}: {source}")]
    Delete { pool: DmName, id: ThinId, source: dm::Error },
    #[error("device {device} cannot be activated on thin {id}: {source}")]
    Activate { device: DmName, id: ThinId, source: dm::Error },
    #[error(
        "device {device} exists and is not of this daemon's pool, or is half made ({source}); look \
         at it with 'dmsetup info {device}', and remove it ('dmsetup remove {device}') or rename it"
    )]
    DeviceNotOurs { device: DmName, source: dm::Error },
    #[error("device {device} cannot be removed: {source}")]
    Deactivate { device: DmName, source: dm::Error },
    #[error(
        "device {device} is to be removed when it is closed, and that cannot be cancelled: {source}"
    )]
    Keep { device: DmName, source: dm::Error },
    #[error("device {device} cannot be looked at: {source}")]
    Look { device: DmName, source: dm::Error },
    #[error("the devices of this host cannot be listed: {source}")]
    List { source: dm::Error },
    #[error("the nodes of the devices named {prefix}-… cannot be repaired: {source}")]
    Nodes { prefix: String, source: dm::Error },
    #[error("device {device} cannot be resumed and stays suspended: {source}")]
    Resume { device: DmName, source: dm::Error },
    #[error(
        "pool {pool} is short of free space: {}; remove images or containers, or make it larger",
        shortage(what, *free, *total, *percent)
    )]
    Full { pool: DmName, what: &'static str, free: u64, total: u64, percent: u8 },
    #[error(
        "pool {pool} has failed: it can be neither read nor written any more; stop what uses it, \
         remove its devices ('dmsetup remove', or a reboot), run thin_check on its metadata, and \
         start the daemon again"
    )]
    Failed { pool: DmName },
    #[error(
        "pool {pool} must be checked: the kernel could not write its metadata (a disk that failed \
         or was full) and takes no changes since. Once the disk is well, {}run \
         'thin_check --clear-needs-check-flag {}' and start the daemon again",
        taken_apart(*active), metadata.display()
    )]
    NeedsCheck { pool: DmName, metadata: PathBuf, active: bool },
    /// The disk is well and nothing is damaged: the metadata area has no free block.
    #[error(
        "the metadata of pool {pool} is full, all {} of it, and the kernel takes no changes, \
         removals among them, until it is larger. {}",
        bytes(*total), way_out(growth, check.as_deref(), *active)
    )]
    MetadataFull {
        pool: DmName,
        total: u64,
        growth: MetadataGrowth,
        /// What thin_check must be run on before the pool takes changes again.
        check: Option<PathBuf>,
        active: bool,
    },
    /// A device on this host has one of our names and is not of our pool.
    #[error(
        "name \"{name}\" is taken: device {device} ({}) belongs to {}. Nothing was changed. Choose \
         another 'name' in the configuration. If no daemon uses this one any more, look at the \
         device ('dmsetup info {device}') and remove it ('dmsetup remove {device}'){}",
        known_by(uuid),
        owner(*of_this_program, store, ours.as_deref()),
        lost_database(*of_this_program, ours.as_deref())
    )]
    NameTaken {
        device: DmName,
        uuid: String,
        of_this_program: bool,
        name: DevicePrefix,
        store: PathBuf,
        ours: Option<String>,
    },
    #[error(
        "no thin id is left for this daemon in this pool: start with an empty state directory and \
         a new pool"
    )]
    NoIds,
    /// The kernel cannot have a thin pool. The message of the library says why.
    #[error("{0}")]
    Kernel(#[source] dm::Error),
    #[error("the table of device {device} cannot be replaced: {source}")]
    Reload { device: DmName, source: dm::Error },
    #[error("device {device} cannot be made: {source}")]
    Assemble { device: DmName, source: dm::Error },
    #[error("the metadata snapshot that pool {pool} holds cannot be released: {source}")]
    ReleaseSnap { pool: DmName, source: dm::Error },
    #[error("the epoch of pool {pool}, its transaction id, cannot be moved on: {source}")]
    MoveEpoch { pool: DmName, source: dm::Error },
    #[error("pool {pool} is not the one that the database {store} belongs to: {what}")]
    Foreign { pool: DmName, store: PathBuf, what: String },
    #[error(
        "the devices of the database {} are named {has:?}, the configuration's name is {wanted:?}; \
         set 'name' back, or choose another 'root' for a pool of that name",
        store.display()
    )]
    Name { store: PathBuf, has: String, wanted: String },
    #[error(
        "block_size is fixed for a pool's life: pool {pool} has {} KiB, the configuration says {} \
         KiB; set it back, or start with an empty state directory and empty devices",
        has.0 / 2, wanted.0 / 2
    )]
    BlockSize { pool: DmName, has: Sectors, wanted: Sectors },
    #[error("pool {pool}, which another program assembles (pool_name), {what}")]
    External { pool: DmName, what: String },
    #[error("{area} area {path}: {source}")]
    Area { area: &'static str, path: PathBuf, source: BlockError },
    #[error("the claim of pool {pool} cannot be written into its thin {marker}: {source}")]
    Marker { pool: DmName, marker: ThinId, source: BlockError },
    #[error(
        "{path} is not empty and the database knows no pool on it: {found}. It is left untouched; \
         if it is this daemon's pool, put the database back; if its content may go, empty it \
         ('blkdiscard -z', which writes zeros all over it, or remove the file)"
    )]
    NotBlank { path: PathBuf, found: String },
    #[error(
        "{path} is not the disk that the {area} area of pool {pool} lies on: {found}. Nothing was \
         written to it. Disks change their names: name the right one by /dev/disk/by-id, or put it \
         back"
    )]
    WrongDisk { path: PathBuf, area: &'static str, pool: DmName, found: String },
    #[error(
        "{path}, which holds the {area} area of the pool, is not there{}",
        missing_area(*live)
    )]
    AreaMissing { area: &'static str, path: PathBuf, live: bool },
    #[error(
        "device {device} stands on {found}; by configuration and database it should stand on \
         {wanted}. It is left as it is: set the configuration right, or stop what uses the pool, \
         remove its devices ('dmsetup remove', or a reboot) and start again"
    )]
    StandsElsewhere { device: DmName, found: String, wanted: String },
    #[error(
        "there is a device {device} already, and it is not of this daemon's pool (its dm uuid is \
         {uuid:?}): another daemon or program has made it. Choose another 'name' for this daemon, \
         or remove that device"
    )]
    AreaNotOurs { device: DmName, uuid: String },
    #[error(
        "data_device {data} and metadata_device {metadata} are the same device; name two, or leave \
         metadata_device out to have both areas on the one"
    )]
    SameDisk { data: PathBuf, metadata: PathBuf },
    #[error(
        "the data area of pool {pool} on {path} has become smaller: {} found, {} in use by the pool",
        found.to_text(), needed.to_text()
    )]
    Shrunk { path: PathBuf, pool: DmName, found: Sectors, needed: Sectors },
    #[error(
        "{path} is too small for a pool: {} found, {} needed at least",
        found.to_text(), needed.to_text()
    )]
    TooSmall { path: PathBuf, found: Sectors, needed: Sectors },
    #[error("the metadata of pool {pool} cannot be read: {source}")]
    Metadata { pool: DmName, source: MetadataError },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The first error, where undoing what it left failed too.
fn cause(error: &dm::Error) -> &dm::Error {
    match error {
        dm::Error::Rollback { cause: first, .. } => cause(first),
        other => other,
    }
}

impl PoolError {
    /// An error on the disk or the file `path` that an area lies on.
    pub(super) fn area(area: &'static str, path: &Path, source: BlockError) -> PoolError {
        PoolError::Area { area, path: path.into(), source }
    }

    /// Whether thin_check has to be run, which reads the metadata area.
    pub(super) fn wants_check(&self) -> bool {
        matches!(
            self,
            PoolError::NeedsCheck { .. } | PoolError::MetadataFull { check: Some(_), .. }
        )
    }

    /// Whether the device is open or mounted, so that a later try can succeed.
    pub fn is_busy(&self) -> bool {
        match self {
            PoolError::Deactivate { source, .. } | PoolError::Delete { source, .. } => {
                source.is_busy() || matches!(source, dm::Error::ThinInUse { .. })
            }
            _ => false,
        }
    }

    /// Whether the pool, or the file system of the database, has no free space.
    pub fn is_full(&self) -> bool {
        match self {
            PoolError::Full { .. } | PoolError::MetadataFull { .. } => true,
            PoolError::Create { source, .. }
            | PoolError::Copy { source, .. }
            | PoolError::Activate { source, .. } => {
                matches!(cause(source), dm::Error::PoolFull { .. })
            }
            PoolError::Store(source) => source.is_no_space(),
            _ => false,
        }
    }

    /// Whether the file system or the device of an area has no free space.
    pub fn is_no_space(&self) -> bool {
        matches!(self, PoolError::Area { source, .. } if source.is_no_space())
    }

    /// Whether the thin that was to be snapshotted or activated does not exist.
    pub fn is_no_such_thin(&self) -> bool {
        match self {
            PoolError::Create { source, .. }
            | PoolError::Copy { source, .. }
            | PoolError::Activate { source, .. } => {
                matches!(cause(source), dm::Error::NoSuchThin { .. })
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> DmName {
        DmName::new("p-pool").unwrap()
    }

    fn device() -> DmName {
        DmName::new("p-snap-7").unwrap()
    }

    /// Each kind of error with what its message must contain: its subject, and what is wrong.
    #[test]
    fn each_message_names_its_subject() {
        let id = ThinId::new(7).unwrap();
        let kernel = || dm::Error::PoolFailed { pool: "p-pool".into() };
        let block = || BlockError::Open {
            path: "/dev/disk".into(),
            source: std::io::Error::from_raw_os_error(5),
        };
        let (pool, device) = (pool(), device());
        let store = || PathBuf::from("/s/metadata.redb");
        let (path, found, needed) = (PathBuf::from("/dev/disk"), Sectors(2048), Sectors(4096));
        let text = String::from;
        let cases = [
            (
                PoolError::Create { pool: pool.clone(), id, origin: Some(id), source: kernel() },
                "thin 7 cannot be made in pool p-pool as a snapshot of thin 7: ",
            ),
            (
                PoolError::Copy { device: device.clone(), id, source: kernel() },
                "thin 7 cannot be made as a copy of device p-snap-7: ",
            ),
            (
                PoolError::Delete { pool: pool.clone(), id, source: kernel() },
                "thin 7 cannot be deleted from pool p-pool: ",
            ),
            (
                PoolError::Activate { device: device.clone(), id, source: kernel() },
                "device p-snap-7 cannot be activated on thin 7: ",
            ),
            (
                PoolError::DeviceNotOurs { device: device.clone(), source: kernel() },
                "device p-snap-7 exists and is not of this daemon's pool",
            ),
            (
                PoolError::Deactivate { device: device.clone(), source: kernel() },
                "device p-snap-7 cannot be removed: ",
            ),
            (
                PoolError::Keep { device: device.clone(), source: kernel() },
                "device p-snap-7 is to be removed when it is closed",
            ),
            (
                PoolError::Look { device: device.clone(), source: kernel() },
                "device p-snap-7 cannot be looked at: ",
            ),
            (PoolError::List { source: kernel() }, "the devices of this host cannot be listed: "),
            (
                PoolError::Nodes { prefix: "p".into(), source: kernel() },
                "the nodes of the devices named p-… cannot be repaired: ",
            ),
            (
                PoolError::Resume { device: device.clone(), source: kernel() },
                "device p-snap-7 cannot be resumed and stays suspended: ",
            ),
            (PoolError::Failed { pool: pool.clone() }, "pool p-pool has failed: "),
            (
                PoolError::NameTaken {
                    device: device.clone(),
                    uuid: String::new(),
                    of_this_program: false,
                    name: DevicePrefix::new("p").unwrap(),
                    store: store(),
                    ours: None,
                },
                "name \"p\" is taken: device p-snap-7 (no dm uuid) belongs to another program",
            ),
            (PoolError::NoIds, "no thin id is left for this daemon"),
            (PoolError::Kernel(kernel()), "pool p-pool takes no messages"),
            (
                PoolError::Reload { device: pool.clone(), source: kernel() },
                "the table of device p-pool cannot be replaced: ",
            ),
            (
                PoolError::Assemble { device: pool.clone(), source: kernel() },
                "device p-pool cannot be made: ",
            ),
            (
                PoolError::ReleaseSnap { pool: pool.clone(), source: kernel() },
                "the metadata snapshot that pool p-pool holds cannot be released: ",
            ),
            (
                PoolError::MoveEpoch { pool: pool.clone(), source: kernel() },
                "the epoch of pool p-pool, its transaction id, cannot be moved on: ",
            ),
            (
                PoolError::Foreign { pool: pool.clone(), store: store(), what: text("it lies") },
                "pool p-pool is not the one that the database /s/metadata.redb belongs to: it lies",
            ),
            (
                PoolError::Name { store: store(), has: text("p"), wanted: text("q") },
                "the devices of the database /s/metadata.redb are named \"p\"",
            ),
            (
                PoolError::BlockSize {
                    pool: pool.clone(),
                    has: Sectors(128),
                    wanted: Sectors(256),
                },
                "pool p-pool has 64 KiB, the configuration says 128 KiB",
            ),
            (
                PoolError::External { pool: pool.clone(), what: text("is suspended") },
                "pool p-pool, which another program assembles (pool_name), is suspended",
            ),
            (PoolError::area("data", &path, block()), "data area /dev/disk: "),
            (
                PoolError::Marker { pool: pool.clone(), marker: id, source: block() },
                "the claim of pool p-pool cannot be written into its thin 7: ",
            ),
            (
                PoolError::NotBlank { path: path.clone(), found: text("an ext4") },
                "/dev/disk is not empty and the database knows no pool on it: an ext4",
            ),
            (
                PoolError::WrongDisk {
                    path: path.clone(),
                    area: "data",
                    pool: pool.clone(),
                    found: text("it is blank"),
                },
                "/dev/disk is not the disk that the data area of pool p-pool lies on: it is blank",
            ),
            (
                PoolError::AreaMissing { area: "metadata", path: path.clone(), live: false },
                "/dev/disk, which holds the metadata area of the pool, is not there",
            ),
            (
                PoolError::StandsElsewhere {
                    device: device.clone(),
                    found: text("a"),
                    wanted: text("b"),
                },
                "device p-snap-7 stands on a; by configuration and database it should stand on b",
            ),
            (
                PoolError::AreaNotOurs { device: device.clone(), uuid: text("LVM-x") },
                "there is a device p-snap-7 already, and it is not of this daemon's pool",
            ),
            (
                PoolError::SameDisk { data: path.clone(), metadata: path.clone() },
                "data_device /dev/disk and metadata_device /dev/disk are the same device",
            ),
            (
                PoolError::Shrunk { path: path.clone(), pool: pool.clone(), found, needed },
                "the data area of pool p-pool on /dev/disk has become smaller: 1.0 MiB found",
            ),
            (
                PoolError::TooSmall { path: path.clone(), found, needed },
                "/dev/disk is too small for a pool: 1.0 MiB found, 2.0 MiB needed",
            ),
            (
                PoolError::Metadata { pool, source: MetadataError::Changing },
                "the metadata of pool p-pool cannot be read: ",
            ),
        ];
        for (error, part) in cases {
            let message = error.to_string();
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }

    #[test]
    fn a_pool_without_free_space_is_not_told_of_a_percentage() {
        let full = |free, percent| {
            PoolError::Full { pool: pool(), what: "data", free, total: 1 << 30, percent }
                .to_string()
        };
        assert!(
            full(0, 0).contains("short of free space: nothing of 1.0 GiB of data is free"),
            "{}",
            full(0, 0)
        );
        assert!(!full(0, 5).contains('%'), "{}", full(0, 5));
        assert!(
            full(1 << 20, 5).contains("1.0 MiB of 1.0 GiB of data free, less than the 5 %"),
            "{}",
            full(1 << 20, 5)
        );
    }

    #[test]
    fn metadata_that_is_full_is_told_from_metadata_that_must_be_checked() {
        let full = |growth, check: Option<&str>, active| {
            let (pool, check) = (pool(), check.map(PathBuf::from));
            PoolError::MetadataFull { pool, total: 2 << 20, growth, check, active }.to_string()
        };
        let file = || MetadataGrowth::File("/s/metadata.img".into());
        let active = full(file(), None, true);
        assert!(
            active.contains("full, all 2.0 MiB of it") && active.contains("Stop what uses"),
            "{active}"
        );
        assert!(!active.contains("thin_check"), "{active}");
        let apart = full(file(), Some("/dev/mapper/p-metadata"), false);
        assert!(
            apart.contains("Now make /s/metadata.img larger by a quarter or more ('truncate -s')"),
            "{apart}"
        );
        assert!(
            apart.contains("run 'thin_check --clear-needs-check-flag /dev/mapper/p-metadata'"),
            "{apart}"
        );
        let device = full(MetadataGrowth::Device("/dev/vg/meta".into()), None, false);
        assert!(
            device.contains("Now make /dev/vg/meta larger by a quarter or more ('lvextend'"),
            "{device}"
        );
        let carved = full(MetadataGrowth::Never { disk: "/dev/sdb".into() }, None, false);
        assert!(
            carved.contains("It lies on /dev/sdb") && carved.contains("a larger 'metadata_size'"),
            "{carved}"
        );
        assert!(full(MetadataGrowth::ItsOwner, None, true).contains("lvextend --poolmetadatasize"));
        let sick = PoolError::NeedsCheck { pool: pool(), metadata: "/m".into(), active: false }
            .to_string();
        assert!(sick.contains("must be checked") && !sick.contains("is full, "), "{sick}");
    }
}
