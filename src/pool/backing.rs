//! Where the pool's two areas come from: sparse files on loop devices, one block device or two.
//!
//! Nothing here is ever formatted or shortened; an area that holds something else is refused.

use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{DeviceNames, PoolError, Role};
use crate::block::{
    create_sparse, find_content, host_space, set_aside, Access, BlockError, Disk, Disks, LoopDevice, LoopOptions,
    Loops, Space,
};
use crate::config::{Backing, Config};
use crate::dm::{ActivateOptions, Dm, Target};
use crate::store::PoolRecord;
use crate::units::{DeviceNumber, Sectors};

/// The superblock of dm-thin's metadata (dm-thin-metadata.c, one block of 4 KiB); the kernel formats what has it all zero.
const SUPERBLOCK: u64 = 4096;
/// A mapped block takes about 48 bytes of metadata; twice that leaves room for snapshots that share little.
const METADATA_BYTES_PER_BLOCK: u64 = 96;
const METADATA_LEAST: Sectors = Sectors((64 << 20) / 512);
/// dm-thin uses at most 255 × 64 MiB less a little (dm-thin-metadata.h, THIN_METADATA_MAX_SECTORS).
const METADATA_MOST: Sectors = Sectors(255 * ((1 << 14) - 64) * 8);
const DATA_LEAST: Sectors = Sectors((64 << 20) / 512);
/// The carved device's first MiB holds [`Header`] alone.
const HEADER: Sectors = Sectors((1 << 20) / 512);
const MAGIC: &str = "devmapper-snapshotter pool\n";

/// The two areas, ready to be made a pool of.
#[derive(Debug, Clone)]
pub struct Areas {
    pub metadata: DeviceNumber,
    pub data: DeviceNumber,
    pub data_size: Sectors,
    /// The metadata's superblock is all zero: the kernel would format it.
    pub metadata_blank: bool,
    /// Loop devices detach themselves when nobody has them open: these are kept until the pool has them.
    pub held: Vec<Arc<LoopDevice>>,
}

/// Provides a pool's areas.
pub trait Backer: Send + Sync + Debug {
    /// Makes sure that a new pool may be put here: refuses whatever is not blank.
    fn claim(&self) -> Result<(), PoolError>;
    /// Makes the areas of the pool on `record` available; idempotent.
    fn areas(&self, dm: &Dm, names: &DeviceNames, record: &PoolRecord) -> Result<Areas, PoolError>;
    /// The file system the areas lie on, where they do.
    fn host_space(&self) -> Option<Space>;
    /// Where the metadata can be reached while the pool is not assembled, for messages.
    fn metadata_path(&self, names: &DeviceNames) -> PathBuf;
}

/// Areas that exist already, as they are: for a pool on a modelled kernel.
#[derive(Debug, Clone)]
pub struct GivenAreas(pub Areas);

impl Backer for GivenAreas {
    fn claim(&self) -> Result<(), PoolError> {
        Ok(())
    }
    fn areas(&self, _: &Dm, _: &DeviceNames, _: &PoolRecord) -> Result<Areas, PoolError> {
        Ok(self.0.clone())
    }
    fn host_space(&self) -> Option<Space> {
        None
    }
    fn metadata_path(&self, _: &DeviceNames) -> PathBuf {
        format!("/dev/block/{}", self.0.metadata).into()
    }
}

/// Areas on this host, as the configuration says.
#[derive(Debug)]
pub struct HostBacker {
    root: PathBuf,
    backing: Backing,
    block_size: Sectors,
    metadata_size: Option<Sectors>,
    disks: Arc<dyn Disks>,
}

impl HostBacker {
    pub fn new(config: &Config, disks: Arc<dyn Disks>) -> Self {
        HostBacker {
            root: config.root.clone(),
            backing: config.backing.clone(),
            block_size: config.block_size,
            metadata_size: config.metadata_size,
            disks,
        }
    }

    /// The sparse file that holds the embedded pool's data.
    fn data_file(&self) -> PathBuf {
        self.root.join("data.img")
    }

    fn metadata_file(&self) -> PathBuf {
        self.root.join("metadata.img")
    }

    fn metadata_size_for(&self, data: Sectors) -> Sectors {
        let blocks = data.0 / self.block_size.0;
        let derived = Sectors((blocks * METADATA_BYTES_PER_BLOCK).div_ceil(4096) * 8);
        self.metadata_size.unwrap_or(derived.clamp(METADATA_LEAST, METADATA_MOST))
    }

    fn embedded(&self, configured: Option<Sectors>) -> Result<Areas, PoolError> {
        let data_file = self.data_file();
        let data_size = self.data_file_size(configured)?;
        let metadata_file = self.metadata_file();
        let metadata_size = existing_size(&metadata_file).unwrap_or_else(|| self.metadata_size_for(data_size));
        let data = loop_device("data", &data_file, data_size)?;
        let metadata = loop_device("metadata", &metadata_file, metadata_size)?;
        // A pool whose metadata meets a full disk wants thin_check before it takes another change.
        set_aside(&metadata_file, metadata_size.0 * 512)
            .map_err(|source| self.area("metadata", &metadata_file, source))?;
        let metadata_blank = superblock_blank(self.open("metadata", metadata.path())?.as_ref(), Sectors(0))
            .map_err(|source| self.area("metadata", &metadata_file, source))?;
        Ok(Areas {
            metadata: metadata.number(),
            data: data.number(),
            data_size,
            metadata_blank,
            held: vec![Arc::new(data), Arc::new(metadata)],
        })
    }

    /// The data file's size: what is configured, else as large as the file system it lies on; never less than it has.
    fn data_file_size(&self, configured: Option<Sectors>) -> Result<Sectors, PoolError> {
        let file = self.data_file();
        let has = existing_size(&file);
        let size = match (configured, has) {
            (Some(wanted), Some(has)) if wanted < has => {
                tracing::warn!(file = %file.display(), %wanted, %has, "data_size is less than the pool has; a pool cannot shrink, it is left as it is");
                has
            }
            (Some(wanted), _) => wanted,
            (None, Some(has)) => has,
            (None, None) => {
                let space = host_space(&self.root).map_err(|source| self.area("data", &file, source))?;
                Sectors(space.total / 512)
            }
        };
        let size = Sectors(size.0 / self.block_size.0 * self.block_size.0);
        if size < DATA_LEAST {
            return Err(PoolError::TooSmall { path: file, found: size, needed: DATA_LEAST });
        }
        Ok(size)
    }

    fn area(&self, area: &'static str, path: &Path, source: BlockError) -> PoolError {
        PoolError::Area { area, path: path.into(), source }
    }

    fn open(&self, area: &'static str, path: &Path) -> Result<Box<dyn Disk>, PoolError> {
        self.disks.open(path, Access::Read).map_err(|source| self.area(area, path, source))
    }

    fn two_devices(&self, data: &Path, metadata: &Path) -> Result<Areas, PoolError> {
        let data_size = self.device_size("data", data, DATA_LEAST)?;
        let disk = self.open("metadata", metadata)?;
        let metadata_blank =
            superblock_blank(disk.as_ref(), Sectors(0)).map_err(|source| self.area("metadata", metadata, source))?;
        Ok(Areas {
            metadata: device_number("metadata", metadata)?,
            data: device_number("data", data)?,
            data_size,
            metadata_blank,
            held: Vec::new(),
        })
    }

    fn device_size(&self, area: &'static str, path: &Path, needed: Sectors) -> Result<Sectors, PoolError> {
        let found = self.open(area, path)?.size().map_err(|source| self.area(area, path, source))?;
        if found < needed {
            return Err(PoolError::TooSmall { path: path.into(), found, needed });
        }
        Ok(found)
    }

    /// One device: a header of 1 MiB, the metadata, and the data behind it, carved out with dm-linear.
    fn carved(&self, path: &Path, dm: &Dm, names: &DeviceNames, record: &PoolRecord) -> Result<Areas, PoolError> {
        let size = self.device_size("data", path, Sectors(HEADER.0 + METADATA_LEAST.0 + DATA_LEAST.0))?;
        let header = self.header(path, size, record)?;
        let data_start = Sectors(HEADER.0 + header.metadata_sectors);
        let data_size = Sectors((size.0 - data_start.0) / self.block_size.0 * self.block_size.0);
        let device = device_number("data", path)?;
        let disk = self.open("data", path)?;
        let metadata_blank =
            superblock_blank(disk.as_ref(), HEADER).map_err(|source| self.area("metadata", path, source))?;
        drop(disk);
        Ok(Areas {
            metadata: carve(dm, names, Role::Metadata, device, HEADER, Sectors(header.metadata_sectors))?,
            data: carve(dm, names, Role::Data, device, data_start, data_size)?,
            data_size,
            metadata_blank,
            held: Vec::new(),
        })
    }

    /// Reads the header, or writes it on a device that was claimed for this pool and has none yet.
    fn header(&self, path: &Path, size: Sectors, record: &PoolRecord) -> Result<Header, PoolError> {
        let disk = self.disks.open(path, Access::Write).map_err(|source| self.area("data", path, source))?;
        let found = Header::read(disk.as_ref()).map_err(|source| self.area("data", path, source))?;
        match found {
            Some(header) if header.uuid == record.uuid => Ok(header),
            Some(header) => Err(PoolError::NotBlank {
                path: path.into(),
                found: format!("the pool of another database, {}; this database's is {}", header.uuid, record.uuid),
            }),
            None if record.formatted => Err(PoolError::NotBlank {
                path: path.into(),
                found: format!("no header of this daemon; pool {} was on it", record.uuid),
            }),
            None => {
                let header = Header { uuid: record.uuid.clone(), metadata_sectors: self.metadata_size_for(size).0 };
                header.write(disk.as_ref()).map_err(|source| self.area("data", path, source))?;
                Ok(header)
            }
        }
    }

    /// `path` is what messages call what is opened by `node`.
    fn must_be_blank(&self, area: &'static str, path: &Path, node: &Path) -> Result<(), PoolError> {
        let disk = self.open(area, node)?;
        if let Some(header) = Header::read(disk.as_ref()).map_err(|source| self.area(area, path, source))? {
            let found = format!("it holds pool {} of this daemon, whose database is not here", header.uuid);
            return Err(PoolError::NotBlank { path: path.into(), found });
        }
        match find_content(disk.as_ref()).map_err(|source| self.area(area, path, source))? {
            None => Ok(()),
            Some(found) => Err(PoolError::NotBlank { path: path.into(), found: found.to_string() }),
        }
    }
}

impl Backer for HostBacker {
    fn claim(&self) -> Result<(), PoolError> {
        match &self.backing {
            Backing::Embedded { .. } => {
                let path = self.metadata_file();
                match existing_size(&path) {
                    Some(size) => self.must_be_blank("metadata", &path, loop_device("metadata", &path, size)?.path()),
                    None => Ok(()),
                }
            }
            Backing::Devices { data, metadata } => {
                self.must_be_blank("data", data, data)?;
                metadata.as_ref().map_or(Ok(()), |path| self.must_be_blank("metadata", path, path))
            }
            Backing::External { .. } => Ok(()),
        }
    }

    fn areas(&self, dm: &Dm, names: &DeviceNames, record: &PoolRecord) -> Result<Areas, PoolError> {
        match &self.backing {
            Backing::Embedded { data_size } => self.embedded(*data_size),
            Backing::Devices { data, metadata: Some(metadata) } => self.two_devices(data, metadata),
            Backing::Devices { data, metadata: None } => self.carved(data, dm, names, record),
            Backing::External { pool_name } => unreachable!("pool {pool_name} is not assembled here"),
        }
    }

    fn host_space(&self) -> Option<Space> {
        match self.backing {
            Backing::Embedded { .. } => host_space(&self.root).ok(),
            _ => None,
        }
    }

    fn metadata_path(&self, names: &DeviceNames) -> PathBuf {
        match &self.backing {
            Backing::Embedded { .. } => self.metadata_file(),
            Backing::Devices { metadata: Some(metadata), .. } => metadata.clone(),
            Backing::Devices { metadata: None, .. } => format!("/dev/mapper/{}", names.name(Role::Metadata)).into(),
            Backing::External { pool_name } => format!("<metadata device of {pool_name}>").into(),
        }
    }
}

/// What a carved device starts with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    uuid: String,
    metadata_sectors: u64,
}

impl Header {
    fn read(disk: &dyn Disk) -> Result<Option<Header>, BlockError> {
        let mut block = vec![0; SUPERBLOCK as usize];
        if disk.size()?.0 * 512 < SUPERBLOCK {
            return Ok(None);
        }
        disk.read_at(&mut block, 0)?;
        let text = String::from_utf8_lossy(&block);
        let Some(rest) = text.strip_prefix(MAGIC) else { return Ok(None) };
        Ok(serde_json::from_str(rest.trim_end_matches('\0')).ok())
    }

    fn write(&self, disk: &dyn Disk) -> Result<(), BlockError> {
        let mut block = format!("{MAGIC}{}", serde_json::json!(self)).into_bytes();
        block.resize(SUPERBLOCK as usize, 0);
        disk.write_at(&block, 0)?;
        disk.flush()
    }
}

fn superblock_blank(disk: &dyn Disk, at: Sectors) -> Result<bool, BlockError> {
    let mut block = vec![0; SUPERBLOCK as usize];
    disk.read_at(&mut block, at.0 * 512)?;
    Ok(block.iter().all(|&byte| byte == 0))
}

fn existing_size(path: &Path) -> Option<Sectors> {
    fs::metadata(path).ok().map(|file| Sectors(file.len() / 512)).filter(|size| size.0 > 0)
}

/// The loop device over `path`, found or attached; the file is made, or lengthened to `size`, first.
fn loop_device(area: &'static str, path: &Path, size: Sectors) -> Result<LoopDevice, PoolError> {
    let attach = || {
        create_sparse(path, size.0 * 512)?;
        match Loops::default().find(path)?.pop() {
            Some(found) => Ok(found),
            // It goes by itself when the pool is taken away.
            None => Loops::default().attach(path, LoopOptions { autoclear: true, ..LoopOptions::default() }),
        }
    };
    attach().map_err(|source| PoolError::Area { area, path: path.into(), source })
}

fn device_number(area: &'static str, path: &Path) -> Result<DeviceNumber, PoolError> {
    let fail = |source| PoolError::Area { area, path: path.into(), source };
    let metadata = fs::metadata(path).map_err(|e| fail(BlockError::Open { path: path.into(), source: e }))?;
    if !metadata.file_type().is_block_device() {
        return Err(fail(BlockError::NotABlockDevice { path: path.into() }));
    }
    Ok(DeviceNumber::from_u64(metadata.rdev()))
}

fn carve(
    dm: &Dm,
    names: &DeviceNames,
    role: Role,
    device: DeviceNumber,
    at: Sectors,
    length: Sectors,
) -> Result<DeviceNumber, PoolError> {
    let name = names.name(role);
    let look = |source| PoolError::Look { device: name.clone(), source };
    if let Some(info) = dm.info(&name).map_err(look)?.filter(|info| info.live_table) {
        return Ok(info.device);
    }
    let table = [Target::linear(device, at, length)];
    dm.activate(&name, Some(&names.uuid(role)), &table, ActivateOptions::default())
        .map(|info| info.device)
        .map_err(|source| PoolError::Assemble { pool: name.clone(), source })
}
