//! Disks that the operator gives: one or two block devices.

use std::path::{Path, PathBuf};

use super::place::{Place, Places};
use crate::block::{Access, Disks};
use crate::pool::advice::MetadataGrowth;
use crate::pool::error::PoolError;

/// The disks in the configuration. Without one for the metadata, both areas lie on the one for the
/// data.
#[derive(Debug, Clone)]
pub struct GivenDisks {
    pub data: PathBuf,
    pub metadata: Option<PathBuf>,
}

impl GivenDisks {
    pub fn places(&self, disks: &dyn Disks) -> Result<Places, PoolError> {
        let data = place("data", &self.data, disks)?;
        match &self.metadata {
            Some(path) => Ok(Places::Two { data, metadata: place("metadata", path, disks)? }),
            None => Ok(Places::One(data)),
        }
    }

    /// How the metadata area is made larger.
    pub fn metadata_growth(&self) -> MetadataGrowth {
        match &self.metadata {
            Some(device) => MetadataGrowth::Device(device.clone()),
            None => MetadataGrowth::Never { disk: self.data.clone() },
        }
    }
}

fn place(area: &'static str, path: &Path, disks: &dyn Disks) -> Result<Place, PoolError> {
    let fail = |source| PoolError::area(area, path, source);
    let disk = disks.open(path, Access::Read).map_err(fail)?;
    let (number, size) = (disk.number().map_err(fail)?, disk.size().map_err(fail)?);
    Ok(Place { path: path.into(), node: path.into(), number, size, _held: None })
}
