//! The areas that a pool stands on: each a dm-linear device over a stretch of a disk, behind the
//! disk's label.
//!
//! Architecture Invariant: a disk is taken for the pool's when its label says so, and an area that
//! is active already when its uuid is ours and its table leads to that disk. Nothing is written,
//! made longer or assembled before that is sure.

use std::path::{Path, PathBuf};

use super::backing::{Backer, Place, Places, State};
use super::label::{self, Found, Holds, Label};
use super::{expected, metadata, DeviceNames, PoolError, Role};
use crate::block::{Access, BlockError};
use crate::dm::{ActivateOptions, Dm, LinearTable, Target};
use crate::names::DmName;
use crate::store::PoolRecord;
use crate::units::{DeviceNumber, Sectors};

/// The two areas, ready to be made a pool of.
#[derive(Debug, Clone)]
pub struct Areas {
    pub metadata: DeviceNumber,
    pub data: DeviceNumber,
    /// In whole blocks of the pool.
    pub data_size: Sectors,
    /// The label of the disk that the data area lies on, and what opens the disk.
    label: (Label, PathBuf),
}

/// Finds a pool's areas, or makes them.
#[derive(Debug)]
pub struct Finder<'a> {
    pub dm: &'a Dm,
    pub names: &'a DeviceNames,
    pub backer: &'a Backer,
    pub record: &'a PoolRecord,
    /// The database's file, for messages.
    pub store: &'a Path,
}

/// A stretch of a disk.
struct Piece<'a> {
    place: &'a Place,
    start: Sectors,
    length: Sectors,
}

impl Finder<'_> {
    /// The areas of the pool. Names of devices that were made for it are added to `made`.
    ///
    /// For a pool that is assembled (`live`), nothing is made: its areas must be there.
    pub fn areas(&self, live: bool, made: &mut Vec<DmName>) -> Result<Areas, PoolError> {
        let state = match (live, self.record.formatted) {
            (true, _) => State::Live,
            (false, true) => State::Apart,
            (false, false) => State::New,
        };
        let places = self.backer.places(state)?;
        let label = self.labels(&places)?;
        let (metadata, data) = self.pieces(&places, &label)?;
        if !live {
            self.check_metadata(&metadata, data.length)?;
            expected::expected_on_disk(self.record, label.epoch)
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

    /// Makes sure of the label of each disk, and labels those of a pool that is being made. Gives
    /// the data disk's.
    fn labels(&self, places: &Places) -> Result<Label, PoolError> {
        let mut labels = Vec::new();
        for (area, place, holds) in places.each() {
            labels.push((area, place, holds, self.label(area, place, holds)?));
        }
        // All of them have been looked at before the first is written to.
        let mut data = None;
        for (area, place, holds, label) in labels {
            let label = match label {
                Some(label) => label,
                None => {
                    let label = self.backer.new_label(&self.record.uuid, place, holds);
                    let disk = self.backer.disks().open(&place.node, Access::Write);
                    let written = disk.and_then(|disk| label.write(disk.as_ref()));
                    written.map_err(|source| self.backer.area(area, &place.path, source))?;
                    label
                }
            };
            data.get_or_insert(label);
        }
        Ok(data.expect("a pool has a data disk"))
    }

    /// The label of a disk if it is this pool's; `None` when a new pool may put one there.
    fn label(
        &self,
        area: &'static str,
        place: &Place,
        holds: Holds,
    ) -> Result<Option<Label>, PoolError> {
        let record = self.record;
        let fail = |source: BlockError| self.backer.area(area, &place.path, source);
        let wrong = |found: String| {
            Err(PoolError::WrongDisk {
                path: place.path.clone(),
                area,
                pool: self.names.name(Role::Pool),
                found,
            })
        };
        let disk = self.backer.disks().open(&place.node, Access::Read).map_err(fail)?;
        disk.forget_cached().map_err(fail)?;
        let label = match Label::read(disk.as_ref()).map_err(fail)? {
            Found::Label(label) => label,
            Found::Nothing if !record.formatted => return Ok(None),
            Found::Nothing | Found::Other => {
                let content = crate::block::find_content(disk.as_ref()).map_err(fail)?;
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
        let start = label::SPACE;
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

    /// What is in the metadata area must be this pool's metadata, and the data area large enough
    /// for it. Only that of a pool which is being made may be blank: the kernel formats it.
    fn check_metadata(&self, piece: &Piece<'_>, data: Sectors) -> Result<(), PoolError> {
        let (record, path) = (self.record, &piece.place.path);
        let fail = |source| self.backer.area("metadata", path, source);
        let foreign = |what: &str| Err(self.foreign(what));
        let disk = self.backer.disks().open(&piece.place.node, Access::Read).map_err(fail)?;
        disk.forget_cached().map_err(fail)?;
        let read = metadata::find_superblock(disk.as_ref(), piece.start);
        let found = read
            .map_err(|source| PoolError::Metadata { pool: self.names.name(Role::Pool), source })?;
        let Some(found) = found else {
            return match record.formatted {
                true => foreign("its metadata area is empty, so the pool it held is lost; put the metadata back, or start with an empty state directory"),
                false => Ok(()),
            };
        };
        if let Err(what) = expected::expected(record, found.transaction_id) {
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

    /// The device of an area and its length.
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
                return Err(PoolError::NotOurs { device: name.clone(), uuid: uuid.into() });
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
                        .map_err(|source| PoolError::Thaw { device: name.clone(), source })?;
                }
                if !live && length < piece.length {
                    self.dm
                        .reload(&name, &table)
                        .map_err(|source| PoolError::Assemble { pool: name.clone(), source })?;
                    return Ok((info.device, piece.length));
                }
                return Ok((info.device, length));
            }
            // Created and never loaded: a crash came between.
            self.dm
                .remove(&name)
                .map_err(|source| PoolError::Deactivate { device: name.clone(), source })?;
        }
        if live {
            return Err(elsewhere("nothing: it is not there, though the pool is".into()));
        }
        let device = self.dm.activate(
            &name,
            Some(&self.names.uuid(role)),
            &table,
            ActivateOptions::default(),
        );
        let device = device.map_err(|source| PoolError::Assemble { pool: name.clone(), source })?;
        made.push(name);
        Ok((device.device, piece.length))
    }
}

impl Areas {
    /// The epoch at which the data disk was last taken into use.
    pub fn epoch(&self) -> Option<u64> {
        self.label.0.epoch
    }

    /// Notes on the data disk at which epoch it is in use. What a daemon that was killed has noted
    /// may not be on the disk yet.
    pub fn mark(&mut self, backer: &Backer, epoch: u64) -> Result<(), PoolError> {
        let (label, node) = &mut self.label;
        let noted = label.epoch.replace(epoch) == Some(epoch);
        let disk = backer.disks().open(node, Access::Write);
        let marked =
            disk.and_then(|disk| if noted { disk.flush() } else { label.write(disk.as_ref()) });
        marked.map_err(|source| backer.area("data", node, source))
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
