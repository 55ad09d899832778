//! Where the disks of a pool's areas come from: files on loop devices, one block device or two.
//!
//! Nothing here is ever formatted or shortened. What a disk holds is looked at by
//! [`areas`](super::areas), before anything is written to it or made longer.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::label::{self, Found, Holds, Label};
use super::{DeviceNames, MetadataGrowth, PoolError, Role};
use crate::block::{
    allocate, allocate_ranges, allocated, find_content, host_space, punch, without_blocks, Access,
    BlockError, Disk, Disks, LoopDevice, LoopOptions, Loops, Space, BLANK_HEAD,
};
use crate::config::{Backing, Config};
use crate::units::{DeviceNumber, Sectors};

/// A mapped block takes about 48 bytes of metadata; twice that leaves room for snapshots that share
/// little.
const METADATA_BYTES_PER_BLOCK: u64 = 96;
const METADATA_LEAST: Sectors = Sectors((64 << 20) / 512);
/// What the kernel takes of a metadata area at the least (thin_metadata_size says 2 MiB).
const METADATA_USABLE: Sectors = Sectors((2 << 20) / 512);
/// dm-thin uses at most 255 × 64 MiB less a little (dm-thin-metadata.h, THIN_METADATA_MAX_SECTORS).
const METADATA_MOST: Sectors = Sectors(255 * ((1 << 14) - 64) * 8);
const DATA_LEAST: Sectors = Sectors((64 << 20) / 512);
/// Areas begin and end on whole blocks of 64 KiB, whatever the sector size of the disk is.
const ALIGNMENT: u64 = 128;
/// By how much the embedded pool's data area grows: a 32nd of what it may take, between these.
const STEP_LEAST: Sectors = Sectors((64 << 20) / 512);
const STEP_MOST: Sectors = Sectors((1 << 30) / 512);

/// A disk that areas lie on.
#[derive(Debug, Clone)]
pub struct Place {
    /// What the operator calls it.
    pub path: PathBuf,
    /// What opens it.
    pub node: PathBuf,
    pub number: DeviceNumber,
    pub size: Sectors,
    /// A loop device detaches itself when nobody has it open: it is kept until an area stands on
    /// it.
    _held: Option<Arc<LoopDevice>>,
}

/// The disks of a pool.
#[derive(Debug, Clone)]
pub enum Places {
    /// Both areas lie on the one.
    One(Place),
    Two {
        data: Place,
        metadata: Place,
    },
}

impl Places {
    pub fn data(&self) -> &Place {
        match self {
            Places::One(place) | Places::Two { data: place, .. } => place,
        }
    }

    pub fn metadata(&self) -> &Place {
        match self {
            Places::One(place) | Places::Two { metadata: place, .. } => place,
        }
    }

    /// Each disk, with what it holds and what messages call that.
    pub fn each(&self) -> Vec<(&'static str, &Place, Holds)> {
        match self {
            Places::One(place) => vec![("data", place, Holds::Both)],
            Places::Two { data, metadata } => {
                vec![("data", data, Holds::Data), ("metadata", metadata, Holds::Metadata)]
            }
        }
    }
}

/// What is known of a pool before its disks are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is being made: files that are missing are made.
    New,
    /// It has been made, and is not assembled.
    Apart,
    /// It is assembled: nothing is attached that is not.
    Live,
}

/// Finds the disks of a pool, as the configuration says.
#[derive(Debug)]
pub struct Backer {
    root: PathBuf,
    backing: Backing,
    block_size: Sectors,
    metadata_size: Option<Sectors>,
    min_free_percent: u8,
    gives_back: bool,
    disks: Arc<dyn Disks>,
}

impl Backer {
    pub fn new(config: &Config, disks: Arc<dyn Disks>) -> Self {
        Backer {
            root: config.root.clone(),
            backing: config.backing.clone(),
            block_size: config.block_size,
            metadata_size: config.metadata_size,
            min_free_percent: config.min_free_percent,
            gives_back: matches!(config.backing, Backing::Embedded { .. })
                && config.discard.unwrap_or(true),
            disks,
        }
    }

    /// The file that holds the embedded pool's data.
    fn data_file(&self) -> PathBuf {
        self.root.join("data.img")
    }

    fn metadata_file(&self) -> PathBuf {
        self.root.join("metadata.img")
    }

    /// The length of the metadata area of a pool that is made for so much data.
    fn metadata_size_for(&self, data: Sectors) -> Sectors {
        let blocks = data.0 / self.block_size.0;
        let derived = Sectors((blocks * METADATA_BYTES_PER_BLOCK).div_ceil(512));
        let size = self.metadata_size.unwrap_or(derived.clamp(METADATA_LEAST, METADATA_MOST));
        Sectors(size.0.div_ceil(ALIGNMENT) * ALIGNMENT)
    }

    /// Makes sure that the pool `uuid`, which is not on record as made, may be put here: each disk
    /// is large enough, is blank or was claimed for this very pool before, and is given once.
    /// Writes nothing.
    pub fn look(&self, uuid: &str) -> Result<(), PoolError> {
        let places = match &self.backing {
            Backing::Embedded { .. } => {
                for (area, file) in [("data", self.data_file()), ("metadata", self.metadata_file())]
                {
                    if existing_size(&file).is_some() {
                        let place = self.file_place(area, &file, State::Apart)?;
                        self.must_be_free(area, &place, uuid)?;
                    }
                }
                return Ok(());
            }
            Backing::Devices { .. } => self.places(State::New)?,
            Backing::External { .. } => return Ok(()),
        };
        if let Places::Two { data, metadata } = &places {
            if data.number == metadata.number {
                return Err(PoolError::SameDisk {
                    data: data.path.clone(),
                    metadata: metadata.path.clone(),
                });
            }
        }
        // Held together, so that a disk and a partition of it are not taken for two.
        let mut claims = Vec::new();
        for (area, place, holds) in places.each() {
            let claim = self.disks.open(&place.node, Access::ReadExclusive);
            // Areas that a start which was cut short left behind hold their disks.
            match claim {
                Ok(claim) => claims.push(claim),
                Err(BlockError::Busy { .. }) if self.is_labelled(area, place, uuid)? => {}
                Err(source) => return Err(self.area(area, &place.path, source)),
            }
            self.must_be_free(area, place, uuid)?;
            let needed = label::SPACE.0
                + match holds {
                    Holds::Data => DATA_LEAST.0,
                    Holds::Metadata => METADATA_USABLE.0,
                    Holds::Both => self.metadata_size_for(place.size).0 + DATA_LEAST.0,
                };
            if place.size.0 < needed {
                let (path, found) = (place.path.clone(), place.size);
                return Err(PoolError::TooSmall { path, found, needed: Sectors(needed) });
            }
        }
        Ok(())
    }

    fn is_labelled(
        &self,
        area: &'static str,
        place: &Place,
        uuid: &str,
    ) -> Result<bool, PoolError> {
        let found = Label::read(self.open(area, place)?.as_ref())
            .map_err(|e| self.area(area, &place.path, e))?;
        Ok(matches!(found, Found::Label(label) if label.uuid == uuid))
    }

    fn must_be_free(&self, area: &'static str, place: &Place, uuid: &str) -> Result<(), PoolError> {
        let fail = |source| self.area(area, &place.path, source);
        let disk = self.open(area, place)?;
        disk.forget_cached().map_err(fail)?;
        let taken = |found| Err(PoolError::NotBlank { path: place.path.clone(), found });
        match Label::read(disk.as_ref()).map_err(fail)? {
            Found::Label(label) if label.uuid == uuid => return Ok(()),
            Found::Label(label) => {
                return taken(format!(
                    "it holds pool {} of this daemon, whose database is not here",
                    label.uuid
                ))
            }
            Found::Nothing | Found::Other => {}
        }
        match find_content(disk.as_ref()).map_err(fail)? {
            None => Ok(()),
            Some(found) => taken(found.to_string()),
        }
    }

    /// The disks of the pool.
    pub fn places(&self, state: State) -> Result<Places, PoolError> {
        match &self.backing {
            Backing::Embedded { .. } => {
                if state == State::New {
                    self.make_files()?;
                }
                let data = self.file_place("data", &self.data_file(), state)?;
                Ok(Places::Two {
                    data,
                    metadata: self.file_place("metadata", &self.metadata_file(), state)?,
                })
            }
            Backing::Devices { data, metadata } => {
                let data = self.device_place("data", data)?;
                match metadata {
                    Some(path) => {
                        Ok(Places::Two { data, metadata: self.device_place("metadata", path)? })
                    }
                    None => Ok(Places::One(data)),
                }
            }
            Backing::External { pool_name } => {
                Err(PoolError::NoAreas { pool: pool_name.to_string() })
            }
        }
    }

    /// Makes the embedded pool's files, with all their blocks: the metadata for all that the pool
    /// may grow to, the data for a first step. A pool whose metadata met a full disk would want
    /// thin_check before it takes another change.
    fn make_files(&self) -> Result<(), PoolError> {
        let limit = self.limit()?;
        if limit < DATA_LEAST {
            let (path, needed) = (self.data_file(), DATA_LEAST);
            return Err(PoolError::TooSmall { path, found: limit, needed });
        }
        let files = [
            ("metadata", self.metadata_file(), self.metadata_size_for(limit)),
            ("data", self.data_file(), self.step(limit)),
        ];
        let mut new = Vec::new();
        for (area, file, size) in files {
            if !file.exists() {
                new.push(file.clone());
            }
            if let Err(source) = allocate(&file, 0, (label::SPACE.0 + size.0) * 512) {
                new.iter().for_each(|file| drop(fs::remove_file(file)));
                return Err(self.area(area, &file, source));
            }
        }
        Ok(())
    }

    /// How long the embedded pool's data area may get: what is configured, else as large as the
    /// file system it lies on.
    fn limit(&self) -> Result<Sectors, PoolError> {
        let limit = match self.backing {
            Backing::Embedded { data_size: Some(size) } => size,
            _ => {
                let space = host_space(&self.root)
                    .map_err(|source| self.area("data", &self.data_file(), source))?;
                Sectors(space.total / 512)
            }
        };
        Ok(Sectors(limit.0 / self.block_size.0 * self.block_size.0))
    }

    fn step(&self, limit: Sectors) -> Sectors {
        let step = Sectors(limit.0 / 32).clamp(STEP_LEAST, STEP_MOST).0.div_ceil(self.block_size.0);
        Sectors(step * self.block_size.0).min(limit)
    }

    /// By how much the data area grows at a time; `None` where it is not this daemon's to grow.
    pub fn growth_step(&self) -> Option<Sectors> {
        match self.backing {
            Backing::Embedded { .. } => self.limit().ok().map(|limit| self.step(limit)),
            _ => None,
        }
    }

    /// How much longer a data area of this length can get: up to the limit, and no further than
    /// min_free_percent of the host's file system stay free.
    pub fn room_to_grow(&self, has: Sectors) -> Sectors {
        let (allowed, possible) = self.growth(has);
        Sectors(allowed.0.min(possible.0) / self.block_size.0 * self.block_size.0)
    }

    /// Whether it is the host's file system that keeps a data area of this length from growing.
    pub fn is_held_back(&self, has: Sectors) -> bool {
        let (allowed, possible) = self.growth(has);
        possible < allowed
    }

    /// By how much a data area of this length may grow, and by how much the host's file system lets
    /// it.
    fn growth(&self, has: Sectors) -> (Sectors, Sectors) {
        let (Backing::Embedded { .. }, Ok(limit), Some(host)) =
            (&self.backing, self.limit(), self.host_space())
        else {
            return (Sectors(0), Sectors(0));
        };
        let kept = host.total / 100 * u64::from(self.min_free_percent);
        (Sectors(limit.0.saturating_sub(has.0)), Sectors(host.free.saturating_sub(kept) / 512))
    }

    /// Makes the file of the data area long enough for an area of `data`, with all its blocks, and
    /// its loop device with it.
    pub fn lengthen(&self, data: Sectors) -> Result<(), PoolError> {
        let file = self.data_file();
        let fail = |source| self.area("data", &file, source);
        let has = existing_size(&file).unwrap_or_default().0 * 512;
        let bytes = (label::SPACE.0 + data.0) * 512;
        if has < bytes {
            allocate(&file, has, bytes).map_err(fail)?;
        }
        for device in Loops::default().find(&file).map_err(fail)? {
            device.set_capacity().map_err(fail)?;
        }
        Ok(())
    }

    /// Sees to it that all that the embedded pool can hand out has its space: all of its files but
    /// for these blocks of the data area.
    pub fn restore_blocks(&self, except: &[Range<u64>]) -> Result<(), PoolError> {
        if !matches!(self.backing, Backing::Embedded { .. }) {
            return Ok(());
        }
        let all = |file: &Path| 0..existing_size(file).unwrap_or_default().0 * 512;
        let (metadata, data) = (self.metadata_file(), self.data_file());
        let ranges = [
            ("metadata", &metadata, vec![all(&metadata)]),
            ("data", &data, around(&self.bytes(except), all(&data).end)),
        ];
        for (area, file, ranges) in ranges {
            let restored =
                without_blocks(file, &ranges).and_then(|missing| match missing.as_slice() {
                    // A full file system may refuse to be asked for nothing.
                    [] => Ok(()),
                    [one] if *one == all(file) => allocate(file, 0, one.end),
                    some => {
                        let bytes: u64 = some.iter().map(|range| range.end - range.start).sum();
                        let there = allocated(file)?;
                        let needed: u64 = ranges.iter().map(|range| range.end - range.start).sum();
                        allocate_ranges(file, some, bytes.min(needed.saturating_sub(there)))
                    }
                });
            restored.map_err(|source| self.area(area, file, source))?;
        }
        Ok(())
    }

    /// Whether space that the embedded pool does not need goes back to its file system.
    pub fn gives_back(&self) -> bool {
        self.gives_back
    }

    /// Gives the space of these blocks of the data area back. The pool must not hand them out.
    pub fn punch(&self, blocks: &[Range<u64>]) -> Result<(), PoolError> {
        let file = self.data_file();
        punch(&file, &self.bytes(blocks)).map_err(|source| self.area("data", &file, source))
    }

    /// Gives these blocks of the data area, which have none, their space again.
    pub fn allocate(&self, blocks: &[Range<u64>]) -> Result<(), PoolError> {
        let file = self.data_file();
        let ranges = self.bytes(blocks);
        let missing = ranges.iter().map(|range| range.end - range.start).sum();
        allocate_ranges(&file, &ranges, missing).map_err(|source| self.area("data", &file, source))
    }

    /// The bytes of the data file that these blocks of the area take.
    fn bytes(&self, blocks: &[Range<u64>]) -> Vec<Range<u64>> {
        let byte = |block: u64| (label::SPACE.0 + block * self.block_size.0) * 512;
        blocks.iter().map(|range| byte(range.start)..byte(range.end)).collect()
    }

    /// Takes the claim of a pool that was not made off its disks. Its devices are gone already.
    pub fn abandon(&self, uuid: &str) -> Result<(), PoolError> {
        let missing = |file: PathBuf| existing_size(&file).is_none();
        let embedded = matches!(self.backing, Backing::Embedded { .. });
        if embedded && (missing(self.data_file()) || missing(self.metadata_file())) {
            return Ok(());
        }
        let places = self.places(State::Apart)?;
        for (area, place, holds) in places.each() {
            let fail = |source| self.area(area, &place.path, source);
            if !self.is_labelled(area, place, uuid)? {
                continue;
            }
            let disk = self.disks.open(&place.node, Access::WriteExclusive).map_err(fail)?;
            if holds != Holds::Data {
                // Where a next start looks for content, the kernel has made its metadata of the
                // area's zeros.
                let (from, end) = (label::SPACE.0 * 512, (place.size.0 * 512).min(BLANK_HEAD));
                disk.write_at(&vec![0; end.saturating_sub(from) as usize], from).map_err(fail)?;
                disk.flush().map_err(fail)?;
            }
            label::erase(disk.as_ref()).map_err(fail)?;
            drop(disk);
            if embedded {
                fs::remove_file(&place.path).map_err(|source| {
                    fail(BlockError::Open { path: place.path.clone(), source })
                })?;
            }
        }
        Ok(())
    }

    pub fn disks(&self) -> &dyn Disks {
        self.disks.as_ref()
    }

    /// What a label on a disk of a new pool says.
    pub fn new_label(&self, uuid: &str, place: &Place, holds: Holds) -> Label {
        let metadata_sectors =
            if holds == Holds::Both { self.metadata_size_for(place.size).0 } else { 0 };
        Label { uuid: uuid.into(), holds, metadata_sectors, epoch: None }
    }

    fn file_place(
        &self,
        area: &'static str,
        path: &Path,
        state: State,
    ) -> Result<Place, PoolError> {
        if existing_size(path).is_none() {
            return Err(PoolError::AreaMissing {
                area,
                path: path.into(),
                live: state == State::Live,
            });
        }
        let fail = |source| self.area(area, path, source);
        let loops = Loops::default();
        let device = match loops.find(path).map_err(fail)?.pop() {
            Some(found) => {
                // The file may have been made larger since.
                if state == State::Apart {
                    found.set_capacity().map_err(fail)?;
                }
                found
            }
            None if state == State::Live => {
                return Err(PoolError::AreaMissing { area, path: path.into(), live: true });
            }
            // It goes by itself when the pool is taken away.
            None => loops
                .attach(path, LoopOptions { autoclear: true, ..LoopOptions::default() })
                .map_err(fail)?,
        };
        Ok(Place {
            path: path.into(),
            node: device.path().into(),
            number: device.number(),
            size: device.size().map_err(fail)?,
            _held: Some(Arc::new(device)),
        })
    }

    fn device_place(&self, area: &'static str, path: &Path) -> Result<Place, PoolError> {
        let fail = |source| self.area(area, path, source);
        let disk = self.disks.open(path, Access::Read).map_err(fail)?;
        let (number, size) = (disk.number().map_err(fail)?, disk.size().map_err(fail)?);
        Ok(Place { path: path.into(), node: path.into(), number, size, _held: None })
    }

    pub fn area(&self, area: &'static str, path: &Path, source: BlockError) -> PoolError {
        PoolError::Area { area, path: path.into(), source }
    }

    fn open(&self, area: &'static str, place: &Place) -> Result<Box<dyn Disk>, PoolError> {
        self.disks
            .open(&place.node, Access::Read)
            .map_err(|source| self.area(area, &place.path, source))
    }

    /// The file system the areas lie on, where they do.
    pub fn host_space(&self) -> Option<Space> {
        match self.backing {
            Backing::Embedded { .. } => host_space(&self.root).ok(),
            _ => None,
        }
    }

    /// Where the metadata can be reached while the pool is not assembled, for messages.
    pub fn metadata_path(&self, names: &DeviceNames) -> PathBuf {
        match &self.backing {
            Backing::External { pool_name } => format!("<metadata device of {pool_name}>").into(),
            _ => format!("/dev/mapper/{}", names.name(Role::Metadata)).into(),
        }
    }

    /// How the metadata area is made larger.
    pub fn metadata_growth(&self) -> MetadataGrowth {
        match &self.backing {
            Backing::Embedded { .. } => MetadataGrowth::File(self.metadata_file()),
            Backing::Devices { metadata: Some(device), .. } => {
                MetadataGrowth::Device(device.clone())
            }
            Backing::Devices { data, metadata: None } => {
                MetadataGrowth::Never { disk: data.clone() }
            }
            Backing::External { .. } => MetadataGrowth::ItsOwner,
        }
    }
}

/// What lies before, between and behind these ranges, which are in order, up to `end`.
fn around(ranges: &[Range<u64>], end: u64) -> Vec<Range<u64>> {
    let starts = std::iter::once(0).chain(ranges.iter().map(|range| range.end));
    let ends = ranges.iter().map(|range| range.start).chain([end]);
    starts
        .zip(ends)
        .map(|(start, end)| start..end)
        .filter(|range| range.start < range.end)
        .collect()
}

fn existing_size(path: &Path) -> Option<Sectors> {
    fs::metadata(path).ok().map(|file| Sectors(file.len() / 512)).filter(|size| size.0 > 0)
}

#[cfg(test)]
mod tests {
    use super::around;

    #[test]
    fn what_is_around_ranges_is_all_the_rest() {
        assert_eq!(around(&[], 9), [0..9]);
        assert_eq!(around(&[0..2, 4..5, 5..6], 9), [2..4, 6..9]);
        assert_eq!(around(&[3..9], 9), [0..3]);
    }
}
