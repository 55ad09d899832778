//! How far the embedded pool's data file may grow, and its growth.

use super::embedded::{existing_size, EmbeddedFiles};
use super::label::LABEL_SPACE;
use crate::block::{allocate, host_space};
use crate::pool::error::PoolError;
use crate::units::Sectors;

impl EmbeddedFiles {
    /// The longest that the data area may get: the configured size, or else the size of the host's
    /// file system.
    pub(super) fn limit(&self) -> Result<Sectors, PoolError> {
        let limit = match self.data_size {
            Some(size) => size,
            None => {
                let space = host_space(&self.root)
                    .map_err(|source| PoolError::area("data", &self.data_file(), source))?;
                Sectors(space.total / 512)
            }
        };
        Ok(self.sizes.whole_blocks(limit))
    }

    /// By how much the data area grows at a time. `None` if the limit is not known.
    pub fn growth_step(&self) -> Option<Sectors> {
        self.limit().ok().map(|limit| self.sizes.step(limit))
    }

    /// By how much a data area of the length `has` can still grow: up to the limit, and as long as
    /// `min_free_percent` of the host's file system stay free.
    pub fn growable(&self, has: Sectors) -> Sectors {
        let (allowed, possible) = self.allowed_and_possible(has);
        self.sizes.whole_blocks(allowed.min(possible))
    }

    /// Whether the host's file system keeps a data area of the length `has` from growing to the
    /// limit.
    pub fn is_held_back(&self, has: Sectors) -> bool {
        let (allowed, possible) = self.allowed_and_possible(has);
        possible < allowed
    }

    /// By how much a data area of the length `has` may grow, and for how much of that the host's
    /// file system has space.
    fn allowed_and_possible(&self, has: Sectors) -> (Sectors, Sectors) {
        let (Ok(limit), Some(host)) = (self.limit(), self.host_space()) else {
            return (Sectors(0), Sectors(0));
        };
        let kept = host.total / 100 * u64::from(self.min_free_percent);
        (Sectors(limit.0.saturating_sub(has.0)), Sectors(host.free.saturating_sub(kept) / 512))
    }

    /// Makes the data file long enough for an area of the length `data`, with all its blocks, and
    /// then its loop device.
    pub fn lengthen(&self, data: Sectors) -> Result<(), PoolError> {
        let file = self.data_file();
        let fail = |source| PoolError::area("data", &file, source);
        let has = existing_size(&file).unwrap_or_default().0 * 512;
        let bytes = (LABEL_SPACE.0 + data.0) * 512;
        if has < bytes {
            allocate(&file, has, bytes).map_err(fail)?;
        }
        for device in self.loops.find(&file).map_err(fail)? {
            device.set_capacity().map_err(fail)?;
        }
        Ok(())
    }
}
