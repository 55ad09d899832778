//! Taking disks into use for a new pool: each must be free before its first write. When the pool
//! could not be made, the disks are let go again.

use std::fs;

use super::embedded::EmbeddedFiles;
use super::label::{erase, Found, Holds, Label, LABEL_SPACE};
use super::own::{OwnDisks, Source};
use super::place::{Place, Places, Stage};
use super::sizes::{DATA_LEAST, METADATA_USABLE};
use crate::block::{find_content, Access, BlockError, BLANK_HEAD};
use crate::pool::error::PoolError;
use crate::units::Sectors;

impl OwnDisks {
    /// Makes sure that the pool `uuid`, which is not on record as made, may be made on these disks:
    /// each is large enough, is given once, and is blank or was labelled for this pool before.
    /// Writes nothing.
    pub fn must_be_usable(&self, uuid: &str) -> Result<(), PoolError> {
        match &self.source {
            Source::Embedded(files) => self.must_be_usable_files(files, uuid),
            Source::Given(given) => self.must_be_usable_disks(&given.places(self.disks())?, uuid),
        }
    }

    /// Files that do not exist are made later.
    fn must_be_usable_files(&self, files: &EmbeddedFiles, uuid: &str) -> Result<(), PoolError> {
        for (area, file) in self.existing_files() {
            self.must_be_free(area, &files.place(area, &file, Stage::Apart)?, uuid)?;
        }
        Ok(())
    }

    fn must_be_usable_disks(&self, places: &Places, uuid: &str) -> Result<(), PoolError> {
        if let Places::Two { data, metadata } = places {
            if data.number == metadata.number {
                return Err(PoolError::SameDisk {
                    data: data.path.clone(),
                    metadata: metadata.path.clone(),
                });
            }
        }
        // All are held together, so that a disk and a partition of it are not taken for two disks.
        let mut held = Vec::new();
        for (area, place, holds) in places.each() {
            match self.disks.open(&place.node, Access::ReadExclusive) {
                Ok(disk) => held.push(disk),
                // Areas that a crash of an earlier start left behind hold their disks.
                Err(BlockError::Busy { .. }) if self.is_labelled(area, place, uuid)? => {}
                Err(source) => return Err(PoolError::area(area, &place.path, source)),
            }
            self.must_be_free(area, place, uuid)?;
            let needed = LABEL_SPACE.0
                + match holds {
                    Holds::Data => DATA_LEAST.0,
                    Holds::Metadata => METADATA_USABLE.0,
                    Holds::Both => self.sizes.metadata_for(place.size).0 + DATA_LEAST.0,
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
            .map_err(|source| PoolError::area(area, &place.path, source))?;
        Ok(matches!(found, Found::Label(label) if label.uuid == uuid))
    }

    fn must_be_free(&self, area: &'static str, place: &Place, uuid: &str) -> Result<(), PoolError> {
        let fail = |source| PoolError::area(area, &place.path, source);
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

    /// Lets the disks of the pool `uuid` go, which could not be made: removes its labels, and the
    /// embedded pool's files. The devices of the pool must be gone.
    pub fn abandon(&self, uuid: &str) -> Result<(), PoolError> {
        let embedded = self.embedded().is_some();
        if embedded && self.existing_files().len() < 2 {
            return Ok(());
        }
        let places = self.places(Stage::Apart)?;
        for (area, place, holds) in places.each() {
            let fail = |source| PoolError::area(area, &place.path, source);
            if !self.is_labelled(area, place, uuid)? {
                continue;
            }
            let disk = self.disks.open(&place.node, Access::WriteExclusive).map_err(fail)?;
            if holds != Holds::Data {
                // The kernel has made its metadata of the zeros that were in the area. The next
                // start looks for content here.
                let (from, end) = (LABEL_SPACE.0 * 512, (place.size.0 * 512).min(BLANK_HEAD));
                disk.write_at(&vec![0; end.saturating_sub(from) as usize], from).map_err(fail)?;
                disk.flush().map_err(fail)?;
            }
            erase(disk.as_ref()).map_err(fail)?;
            drop(disk);
            if embedded {
                fs::remove_file(&place.path).map_err(|source| {
                    fail(BlockError::Open { path: place.path.clone(), source })
                })?;
            }
        }
        Ok(())
    }
}
