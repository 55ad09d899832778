//! The disks of a pool that this daemon assembles itself.

use std::path::PathBuf;
use std::sync::Arc;

use super::embedded::{existing_size, EmbeddedFiles};
use super::given::GivenDisks;
use super::label::{Holds, Label};
use super::place::{Place, Places, Stage};
use super::sizes::Sizes;
use crate::block::{Access, Disk, Disks};
use crate::pool::advice::MetadataGrowth;
use crate::pool::error::PoolError;

/// Finds the disks of a pool of our own.
#[derive(Debug, Clone)]
pub struct OwnDisks {
    pub(super) source: Source,
    pub(super) sizes: Sizes,
    pub(super) disks: Arc<dyn Disks>,
}

/// Where the disks come from.
#[derive(Debug, Clone)]
pub enum Source {
    Embedded(EmbeddedFiles),
    Given(GivenDisks),
}

impl OwnDisks {
    pub fn places(&self, stage: Stage) -> Result<Places, PoolError> {
        match &self.source {
            Source::Embedded(files) => files.places(stage),
            Source::Given(given) => given.places(self.disks()),
        }
    }

    pub fn disks(&self) -> &dyn Disks {
        self.disks.as_ref()
    }

    /// The embedded pool's files. `None` for a pool on given disks.
    pub fn embedded(&self) -> Option<&EmbeddedFiles> {
        match &self.source {
            Source::Embedded(files) => Some(files),
            Source::Given(_) => None,
        }
    }

    /// The label for a disk of a new pool.
    pub fn new_label(&self, uuid: &str, place: &Place, holds: Holds) -> Label {
        let metadata_sectors =
            if holds == Holds::Both { self.sizes.metadata_for(place.size).0 } else { 0 };
        Label { uuid: uuid.into(), holds, metadata_sectors, epoch: None }
    }

    pub(super) fn open(
        &self,
        area: &'static str,
        place: &Place,
    ) -> Result<Box<dyn Disk>, PoolError> {
        self.disks
            .open(&place.node, Access::Read)
            .map_err(|source| PoolError::area(area, &place.path, source))
    }

    /// How the metadata area is made larger.
    pub(super) fn metadata_growth(&self) -> MetadataGrowth {
        match &self.source {
            Source::Embedded(files) => MetadataGrowth::File(files.metadata_file()),
            Source::Given(given) => given.metadata_growth(),
        }
    }

    /// The files that a new pool would be made of and that exist. Each has the name of its area.
    pub(super) fn existing_files(&self) -> Vec<(&'static str, PathBuf)> {
        let files = self.embedded().map(|files| files.each().to_vec()).unwrap_or_default();
        files.into_iter().filter(|(_, file)| existing_size(file).is_some()).collect()
    }
}
