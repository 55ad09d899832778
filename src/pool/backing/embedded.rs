//! The embedded pool's files, `data.img` and `metadata.img` in the state directory, on loop
//! devices.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::label::LABEL_SPACE;
use super::place::{Place, Places, Stage};
use super::sizes::{Sizes, DATA_LEAST};
use crate::block::{allocate, host_space, LoopOptions, Loops, Space};
use crate::pool::error::PoolError;
use crate::units::Sectors;

/// The files of the embedded pool.
#[derive(Debug, Clone)]
pub struct EmbeddedFiles {
    pub(super) root: PathBuf,
    /// What the operator has set as the limit of the data area.
    pub(super) data_size: Option<Sectors>,
    pub(super) sizes: Sizes,
    pub(super) min_free_percent: u8,
    pub(super) gives_back: bool,
    pub(super) loops: Loops,
}

impl EmbeddedFiles {
    pub(super) fn data_file(&self) -> PathBuf {
        self.root.join("data.img")
    }

    pub(super) fn metadata_file(&self) -> PathBuf {
        self.root.join("metadata.img")
    }

    /// Both files, each with the name of its area.
    pub(super) fn each(&self) -> [(&'static str, PathBuf); 2] {
        [("data", self.data_file()), ("metadata", self.metadata_file())]
    }

    pub(super) fn places(&self, stage: Stage) -> Result<Places, PoolError> {
        if stage == Stage::New {
            self.make()?;
        }
        let data = self.place("data", &self.data_file(), stage)?;
        Ok(Places::Two { data, metadata: self.place("metadata", &self.metadata_file(), stage)? })
    }

    /// Makes the files that are missing, with all their blocks. The metadata file is long enough
    /// for all that the pool may grow to, since a pool whose metadata meets a full disk takes no
    /// change until thin_check has run. The data file is long enough for a first step.
    fn make(&self) -> Result<(), PoolError> {
        let limit = self.limit()?;
        if limit < DATA_LEAST {
            return Err(PoolError::TooSmall {
                path: self.data_file(),
                found: limit,
                needed: DATA_LEAST,
            });
        }
        let files = [
            ("metadata", self.metadata_file(), self.sizes.metadata_for(limit)),
            ("data", self.data_file(), self.sizes.step(limit)),
        ];
        let mut new = Vec::new();
        for (area, file, size) in files {
            if !file.exists() {
                new.push(file.clone());
            }
            let made = allocate(&file, 0, (LABEL_SPACE.0 + size.0) * 512);
            if let Err(source) = made {
                new.iter().for_each(|file| drop(fs::remove_file(file)));
                return Err(PoolError::area(area, &file, source));
            }
        }
        Ok(())
    }

    /// The loop device of a file. It is attached if it is not, except for a live pool.
    pub(super) fn place(
        &self,
        area: &'static str,
        path: &Path,
        stage: Stage,
    ) -> Result<Place, PoolError> {
        let live = stage == Stage::Live;
        if existing_size(path).is_none() {
            return Err(PoolError::AreaMissing { area, path: path.into(), live });
        }
        let fail = |source| PoolError::area(area, path, source);
        let device = match self.loops.find(path).map_err(fail)?.pop() {
            Some(found) => {
                // The file may have been made longer since.
                if stage == Stage::Apart {
                    found.set_capacity().map_err(fail)?;
                }
                found
            }
            None if live => {
                return Err(PoolError::AreaMissing { area, path: path.into(), live });
            }
            // It detaches itself when the pool is taken apart.
            None => self
                .loops
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

    /// Whether space that the pool does not need is given back to the host's file system.
    pub fn gives_back(&self) -> bool {
        self.gives_back
    }

    /// The space of the host's file system, if it can be told.
    pub fn host_space(&self) -> Option<Space> {
        host_space(&self.root).ok()
    }
}

/// The length of a file. `None` for one that is missing or empty.
pub(super) fn existing_size(path: &Path) -> Option<Sectors> {
    fs::metadata(path).ok().map(|file| Sectors(file.len() / 512)).filter(|size| size.0 > 0)
}
