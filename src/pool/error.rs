//! What can go wrong with a pool, named after the step that failed.

use std::path::{Path, PathBuf};

use super::MetadataError;
use crate::block::BlockError;
use crate::dm;
use crate::names::{DevicePrefix, DmName};
use crate::store::StoreError;
use crate::units::{bytes_text, Sectors, ThinId};

/// A failed step on the pool. Device, thin id and the kernel's own error are in each message.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    #[error("thin {id} cannot be made in pool {pool}{}: {source}", of(origin))]
    Create { pool: DmName, id: ThinId, origin: Option<ThinId>, source: dm::Error },
    #[error("thin {id} cannot be deleted from pool {pool}: {source}")]
    Delete { pool: DmName, id: ThinId, source: dm::Error },
    #[error("device {device} cannot be activated on thin {id}: {source}")]
    Activate { device: DmName, id: ThinId, source: dm::Error },
    #[error("device {device} exists and is not of this daemon's pool, or is half made ({source}); look at it with 'dmsetup info {device}', and remove it ('dmsetup remove {device}') or rename it")]
    NameTaken { device: DmName, source: dm::Error },
    #[error("device {device} cannot be removed: {source}")]
    Deactivate { device: DmName, source: dm::Error },
    #[error(
        "device {device} is to go with its last user, and that cannot be taken back: {source}"
    )]
    Keep { device: DmName, source: dm::Error },
    #[error("device {device} cannot be looked at: {source}")]
    Look { device: DmName, source: dm::Error },
    #[error("device {device} cannot be frozen: {source}")]
    Freeze { device: DmName, source: dm::Error },
    #[error("device {device} cannot be thawed and stays suspended: {source}")]
    Thaw { device: DmName, source: dm::Error },
    #[error("pool {pool} is short of room: {}; remove images or containers, or give it more room", shortage(what, *free, *total, *percent))]
    Full { pool: DmName, what: &'static str, free: u64, total: u64, percent: u8 },
    #[error("pool {pool} has failed: the kernel reads and writes nothing of it any more; stop what uses it, take its devices away ('dmsetup remove', or a reboot), run thin_check on its metadata, and start the daemon again")]
    Failed { pool: DmName },
    #[error("pool {pool} must be checked: the kernel could not write its metadata (a disk that failed or was full) and takes no changes since. Once the disk is well, {}run 'thin_check --clear-needs-check-flag {}' and start the daemon again", taken_away(*active), metadata.display())]
    NeedsCheck { pool: DmName, metadata: PathBuf, active: bool },
    /// The disk is well and nothing is damaged: the metadata area has no block left.
    #[error("the metadata of pool {pool} is full, all {} of it, and the kernel takes no changes, removals among them, until it is larger. {}", bytes_text(*total), way_out(growth, check.as_deref(), *active))]
    MetadataFull {
        pool: DmName,
        total: u64,
        growth: MetadataGrowth,
        /// What thin_check must be run on before the pool takes changes again.
        check: Option<PathBuf>,
        active: bool,
    },
    /// Somebody else on this host has devices of our name.
    #[error("name \"{name}\" is taken: device {device} ({}) belongs to {}. Nothing was changed. Choose another 'name' in the configuration. If nobody goes by this one any more, look at the device ('dmsetup info {device}') and remove it ('dmsetup remove {device}'){}", known_by(uuid), owner(*of_this_program, store, ours.as_deref()), if ours.is_none() && *of_this_program { "; if it is of this daemon's own pool, put its database back" } else { "" })]
    Company {
        device: DmName,
        uuid: String,
        of_this_program: bool,
        name: DevicePrefix,
        store: PathBuf,
        ours: Option<String>,
    },
    #[error("no thin id is left for this daemon in this pool: start with an empty state directory and a new pool")]
    NoIds,
    #[error("{0}")]
    Kernel(#[source] dm::Error),
    #[error("pool {pool} cannot be given more room: {source}")]
    Grow { pool: DmName, source: dm::Error },
    #[error("pool {pool} cannot be assembled: {source}")]
    Assemble { pool: DmName, source: dm::Error },
    #[error("pool {pool} is not the one that the database {store} belongs to: {what}")]
    Foreign { pool: DmName, store: PathBuf, what: String },
    #[error("the devices of the database {} are named {has:?}, the configuration's name is {wanted:?}; set 'name' back, or choose another 'root' for a pool of that name", store.display())]
    Name { store: PathBuf, has: String, wanted: String },
    #[error("block_size is fixed for a pool's life: pool {pool} has {} KiB, the configuration says {} KiB; set it back, or start with an empty state directory and empty devices", has.0 / 2, wanted.0 / 2)]
    BlockSize { pool: DmName, has: Sectors, wanted: Sectors },
    #[error("pool {pool}, which pool_name says somebody else assembles, {what}")]
    External { pool: DmName, what: String },
    #[error("{area} area {path}: {source}")]
    Area { area: &'static str, path: PathBuf, source: BlockError },
    #[error("{path} is not empty and the database knows no pool on it: {found}. It is left untouched; if it is this daemon's pool, put the database back; if its content may go, empty it ('blkdiscard -z', which writes zeros all over it, or remove the file)")]
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
    #[error("the data area of pool {pool} on {path} has become smaller: {} found, {} in use by the pool", found.to_text(), needed.to_text())]
    Shrunk { path: PathBuf, pool: DmName, found: Sectors, needed: Sectors },
    #[error("pool {pool} has no areas of its own: somebody else assembles it")]
    NoAreas { pool: String },
    #[error("{path} is too small for a pool: {} found, {} needed at least", found.to_text(), needed.to_text())]
    TooSmall { path: PathBuf, found: Sectors, needed: Sectors },
    #[error("the metadata of pool {pool} cannot be read: {source}")]
    Metadata { pool: DmName, source: MetadataError },
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn shortage(what: &str, free: u64, total: u64, percent: u8) -> String {
    let [free_size, total] = [free, total].map(bytes_text);
    if free == 0 {
        return format!("nothing of {total} of {what} is free");
    }
    format!("{free_size} of {total} of {what} free, less than the {percent} % that min_free_percent keeps")
}

fn taken_away(active: bool) -> &'static str {
    if active {
        "stop what uses the pool, remove its devices and then itself ('dmsetup remove', or a reboot), "
    } else {
        ""
    }
}

/// How a metadata area is made larger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataGrowth {
    File(PathBuf),
    Device(PathBuf),
    /// It lies on one disk with the data, which follows right behind it.
    Never {
        disk: PathBuf,
    },
    /// Somebody else assembles the pool.
    ItsOwner,
}

fn way_out(growth: &MetadataGrowth, check: Option<&Path>, active: bool) -> String {
    let larger = match growth {
        MetadataGrowth::File(file) => format!("make {} larger by a quarter or more ('truncate -s')", file.display()),
        MetadataGrowth::Device(device) => {
            format!("make {} larger by a quarter or more ('lvextend' for a volume)", device.display())
        }
        MetadataGrowth::Never { disk } => {
            return format!(
                "It lies on {} with the data right behind it, so it cannot get larger there. What is mounted can still be read: \
                 save what is nowhere else, then start with an empty state directory, an empty disk and a larger 'metadata_size'",
                disk.display()
            )
        }
        MetadataGrowth::ItsOwner => {
            return "Its owner makes it larger ('lvextend --poolmetadatasize' with LVM); then start the daemon again".into()
        }
    };
    let check = check
        .map(|path| format!(", run 'thin_check --clear-needs-check-flag {}'", path.display()))
        .unwrap_or_default();
    format!("{}{larger}{check}, and start the daemon again", sentence(taken_away(active)))
}

/// With a capital letter.
fn sentence(text: &str) -> String {
    match text.chars().next() {
        Some(first) => format!("{}{}", first.to_uppercase(), &text[first.len_utf8()..]),
        None => "Now ".into(),
    }
}

fn known_by(uuid: &str) -> String {
    if uuid.is_empty() {
        "no dm uuid".into()
    } else {
        format!("dm uuid {uuid}")
    }
}

fn owner(of_this_program: bool, store: &Path, ours: Option<&str>) -> String {
    let other = if of_this_program { "another daemon of this program" } else { "somebody else" };
    match ours {
        Some(uuid) => format!(
            "{other}; those of the database {} have uuids of DMSNAPSHOTTER-{uuid}-",
            store.display()
        ),
        None => format!("{other}; the database {} knows no pool yet", store.display()),
    }
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
    /// Whether it is thin_check's turn, which reads the metadata area.
    pub(super) fn wants_check(&self) -> bool {
        matches!(
            self,
            PoolError::NeedsCheck { .. } | PoolError::MetadataFull { check: Some(_), .. }
        )
    }

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
            PoolError::Full { .. } | PoolError::MetadataFull { .. } => true,
            PoolError::Create { source, .. } | PoolError::Activate { source, .. } => {
                matches!(cause(source), dm::Error::PoolFull { .. })
            }
            PoolError::Store(source) => source.is_no_space(),
            _ => false,
        }
    }

    /// A file system or a device has no room.
    pub fn is_no_space(&self) -> bool {
        matches!(self, PoolError::Area { source, .. } if source.is_no_space())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> DmName {
        DmName::new("p-pool").unwrap()
    }

    #[test]
    fn a_pool_without_any_room_is_not_told_of_a_percentage() {
        let full = |free, percent| {
            PoolError::Full { pool: pool(), what: "data", free, total: 1 << 30, percent }
                .to_string()
        };
        assert!(
            full(0, 0).contains("short of room: nothing of 1.0 GiB of data is free"),
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
