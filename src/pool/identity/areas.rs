//! The two areas that a pool stands on. Each is a dm-linear device over a part of a disk, behind
//! the disk's label.
//!
//! Architecture Invariant: a disk is used only if its label says that it is of this pool. An area
//! that is active already is used only if its uuid is ours and its table leads to that disk. Before
//! that is certain, nothing is written, made longer or assembled.

use std::path::{Path, PathBuf};

use super::epoch;
use crate::block::{find_content, Access, BlockError};
use crate::dm::{ActivateOptions, Dm, LinearTable, Target};
use crate::names::DmName;
use crate::pool::backing::{Found, Holds, Label, OwnDisks, Place, Places, Stage, LABEL_SPACE};
use crate::pool::error::PoolError;
use crate::pool::naming::{DeviceNames, Role};
use crate::pool::thins::metadata;
use crate::store::PoolRecord;
use crate::units::{DeviceNumber, Sectors};

/// The two areas, ready to be made a pool of.
#[derive(Debug, Clone)]
pub struct Areas {
    pub metadata: DeviceNumber,
    pub data: DeviceNumber,
    /// The length of the data area, in whole blocks of the pool.
    pub data_size: Sectors,
    /// The label of the disk that the data area lies on, and the node that opens the disk.
    label: (Label, PathBuf),
}

/// Finds the areas of a pool, or makes them.
#[derive(Debug)]
pub struct Finder<'a> {
    pub dm: &'a Dm,
    pub names: &'a DeviceNames,
    pub disks: &'a OwnDisks,
    pub record: &'a PoolRecord,
    /// The database's file, for messages.
    pub store: &'a Path,
}

/// A part of a disk.
struct Piece<'a> {
    place: &'a Place,
    start: Sectors,
    length: Sectors,
}

impl Finder<'_> {
    /// The areas of the pool. Adds the names of the devices that it makes to `made`.
    ///
    /// If the pool is assembled (`live`), nothing is made, and its areas must exist.
    pub fn areas(&self, live: bool, made: &mut Vec<DmName>) -> Result<Areas, PoolError> {
        let stage = match (live, self.record.formatted) {
            (true, _) => Stage::Live,
            (false, true) => Stage::Apart,
            (false, false) => Stage::New,
        };
        let places = self.disks.places(stage)?;
        let label = self.labels(&places)?;
        let (metadata, data) = self.pieces(&places, &label)?;
        if !live {
            self.check_metadata(&metadata, data.length)?;
            epoch::expected_on_disk(self.record, label.epoch)
                .map_err(|what| self.foreign(&what))?;
        }
        let (metadata, _) = self.area(Role::Metadata, &metadata, live, made)?;
        let (number, length) = self.area(Role::Data, &data, live, made)?;
        let block = self.record.block_size.0;
        Ok(Areas {
            metadata,
            data: number,
            data_size: Sectors(length.0 / block * block),
            label: (label, places.data().node.clone()),
        })
    }

    /// Checks the label of each disk, and writes labels for a pool that is being made. Returns the
    /// label of the data disk.
    fn labels(&self, places: &Places) -> Result<Label, PoolError> {
        let mut labels = Vec::new();
        for (area, place, holds) in places.each() {
            labels.push((area, place, holds, self.label(area, place, holds)?));
        }
        // All are checked before the first is written.
        let mut data = None;
        for (area, place, holds, label) in labels {
            let label = match label {
                Some(label) => label,
                None => {
                    let label = self.disks.new_label(&self.record.uuid, place, holds);
                    let disk = self.disks.disks().open(&place.node, Access::Write);
                    let written = disk.and_then(|disk| label.write(disk.as_ref()));
                    written.map_err(|source| PoolError::area(area, &place.path, source))?;
                    label
                }
            };
            data.get_or_insert(label);
        }
        Ok(data.expect("a pool has a data disk"))
    }

    /// The label of a disk, if it is of this pool. `None` if a new pool may write one.
    fn label(
        &self,
        area: &'static str,
        place: &Place,
        holds: Holds,
    ) -> Result<Option<Label>, PoolError> {
        let record = self.record;
        let fail = |source: BlockError| PoolError::area(area, &place.path, source);
        let wrong = |found: String| {
            Err(PoolError::WrongDisk {
                path: place.path.clone(),
                area,
                pool: self.names.name(Role::Pool),
                found,
            })
        };
        let disk = self.disks.disks().open(&place.node, Access::Read).map_err(fail)?;
        disk.forget_cached().map_err(fail)?;
        let label = match Label::read(disk.as_ref()).map_err(fail)? {
            Found::Label(label) => label,
            Found::Nothing if !record.formatted => return Ok(None),
            Found::Nothing | Found::Other => {
                let content = find_content(disk.as_ref()).map_err(fail)?;
                let content =
                    content.map_or("it is blank".into(), |content| format!("it holds {content}"));
                return wrong(format!("it has no label of this pool; {content}"));
            }
        };
        if label.uuid != record.uuid {
            return wrong(format!(
                "its label is of pool {}, this database's is {}",
                label.uuid, record.uuid
            ));
        }
        if label.holds != holds {
            return wrong(format!("its label says that it holds {}", held(label.holds)));
        }
        Ok(Some(label))
    }

    /// Where the metadata and the data area are.
    fn pieces<'p>(
        &self,
        places: &'p Places,
        label: &Label,
    ) -> Result<(Piece<'p>, Piece<'p>), PoolError> {
        let start = LABEL_SPACE;
        let rest = |place: &Place, used: Sectors| {
            let too_small = || PoolError::TooSmall {
                path: place.path.clone(),
                found: place.size,
                needed: used,
            };
            place.size.checked_sub(used).filter(|rest| rest.0 > 0).ok_or_else(too_small)
        };
        match places {
            Places::One(place) => {
                let length = Sectors(label.metadata_sectors);
                let data_start = Sectors(start.0 + length.0);
                let metadata = Piece { place, start, length };
                Ok((metadata, Piece { place, start: data_start, length: rest(place, data_start)? }))
            }
            Places::Two { data, metadata } => Ok((
                Piece { place: metadata, start, length: rest(metadata, start)? },
                Piece { place: data, start, length: rest(data, start)? },
            )),
        }
    }

    /// Checks that the metadata area holds the metadata of this pool, and that the data area is
    /// large enough for it. The metadata area may be blank only for a pool that is being made; the
    /// kernel then formats it.
    fn check_metadata(&self, piece: &Piece<'_>, data: Sectors) -> Result<(), PoolError> {
        let (record, path) = (self.record, &piece.place.path);
        let fail = |source| PoolError::area("metadata", path, source);
        let foreign = |what: &str| Err(self.foreign(what));
        let disk = self.disks.disks().open(&piece.place.node, Access::Read).map_err(fail)?;
        disk.forget_cached().map_err(fail)?;
        let read = metadata::find_superblock(disk.as_ref(), piece.start);
        let found = read
            .map_err(|source| PoolError::Metadata { pool: self.names.name(Role::Pool), source })?;
        let Some(found) = found else {
            return match record.formatted {
                true => foreign(
                    "its metadata area is empty, so the pool it held is lost; put the metadata \
                     back, or start with an empty state directory",
                ),
                false => Ok(()),
            };
        };
        if let Err(what) = epoch::expected(record, found.transaction_id) {
            return foreign(&what);
        }
        if found.block_size != record.block_size {
            return foreign(&format!(
                "its block size is {}, the database's {}",
                found.block_size, record.block_size
            ));
        }
        let needed = Sectors(found.data_blocks.saturating_mul(found.block_size.0));
        if needed > data {
            let path = piece.place.path.clone();
            return Err(PoolError::Shrunk {
                path,
                pool: self.names.name(Role::Pool),
                found: data,
                needed,
            });
        }
        Ok(())
    }

    fn foreign(&self, what: &str) -> PoolError {
        PoolError::Foreign {
            pool: self.names.name(Role::Pool),
            store: self.store.into(),
            what: what.into(),
        }
    }

    /// The device of an area and its length. Makes it if it does not exist and the pool is not
    /// live.
    fn area(
        &self,
        role: Role,
        piece: &Piece<'_>,
        live: bool,
        made: &mut Vec<DmName>,
    ) -> Result<(DeviceNumber, Sectors), PoolError> {
        let name = self.names.name(role);
        let look = |source| PoolError::Look { device: name.clone(), source };
        let elsewhere = |found: String| PoolError::StandsElsewhere {
            device: name.clone(),
            found,
            wanted: format!(
                "{} ({}) from sector {} on",
                piece.place.path.display(),
                piece.place.number,
                piece.start.0
            ),
        };
        let table = [Target::linear(piece.place.number, piece.start, piece.length)];
        let found = self.dm.info(&name).map_err(look)?;
        if let Some(info) = &found {
            let uuid = info.uuid.as_ref().map_or("", |uuid| uuid.as_str());
            if uuid != self.names.uuid(role).as_str() {
                return Err(PoolError::AreaNotOurs { device: name.clone(), uuid: uuid.into() });
            }
            if info.live_table {
                let has = self.dm.table(&name).map_err(look)?;
                let length = match has.as_slice() {
                    [Target::Linear(LinearTable { length, device, offset, .. })]
                        if device.number() == Some(piece.place.number)
                            && *offset == piece.start
                            && *length <= piece.length =>
                    {
                        *length
                    }
                    other => return Err(elsewhere(listed(other))),
                };
                if info.suspended {
                    self.dm
                        .resume(&name)
                        .map_err(|source| PoolError::Resume { device: name.clone(), source })?;
                }
                if !live && length < piece.length {
                    self.dm
                        .reload(&name, &table)
                        .map_err(|source| PoolError::Reload { device: name.clone(), source })?;
                    return Ok((info.device, piece.length));
                }
                return Ok((info.device, length));
            }
            // A crash left it without a table.
            self.dm
                .remove(&name)
                .map_err(|source| PoolError::Deactivate { device: name.clone(), source })?;
        }
        if live {
            return Err(elsewhere("nothing: it does not exist, though the pool does".into()));
        }
        let device = self.dm.activate(
            &name,
            Some(&self.names.uuid(role)),
            &table,
            ActivateOptions::default(),
        );
        let device =
            device.map_err(|source| PoolError::Assemble { device: name.clone(), source })?;
        made.push(name);
        Ok((device.device, piece.length))
    }
}

impl Areas {
    /// The epoch at which the data disk was last used.
    pub fn epoch(&self) -> Option<u64> {
        self.label.0.epoch
    }

    /// Writes the epoch into the label of the data disk. If the label has this epoch already, the
    /// disk is only flushed: a daemon that was killed may have written it and not flushed it.
    pub fn mark(&mut self, disks: &OwnDisks, epoch: u64) -> Result<(), PoolError> {
        let (label, node) = &mut self.label;
        let noted = label.epoch.replace(epoch) == Some(epoch);
        let disk = disks.disks().open(node, Access::Write);
        let marked =
            disk.and_then(|disk| if noted { disk.flush() } else { label.write(disk.as_ref()) });
        marked.map_err(|source| PoolError::area("data", node, source))
    }
}

fn held(holds: Holds) -> &'static str {
    match holds {
        Holds::Both => "both areas of the pool, so there is no metadata_device",
        Holds::Data => "the pool's data area",
        Holds::Metadata => "the pool's metadata area",
    }
}

fn listed(table: &[Target]) -> String {
    table.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
