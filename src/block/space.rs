//! The space that a file has, and that its file system has.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::error::BlockError;

/// The bytes on disk that are allocated to a file. For a sparse file they are fewer than its size.
///
/// # Errors
/// [`BlockError::Step`].
pub fn allocated(path: &Path) -> Result<u64, BlockError> {
    // The unit of st_blocks is 512 bytes for every block size of the file system (stat(2)).
    let metadata = std::fs::metadata(path).map_err(|e| BlockError::step("look up", path, e))?;
    Ok(metadata.blocks().saturating_mul(512))
}

/// The size of an area and its free part, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// The whole size.
    pub total: u64,
    /// The free part.
    pub free: u64,
}

/// The size and the free space of the file system that holds `path` (statvfs(3)). Blocks that are
/// reserved for root do not count as free.
///
/// # Errors
/// [`BlockError::Step`].
pub fn host_space(path: &Path) -> Result<Space, BlockError> {
    let stat = statvfs(path).map_err(|e| BlockError::step("read the free space of", path, e))?;
    let unit = stat.fragment_size();
    Ok(Space {
        total: stat.blocks().saturating_mul(unit),
        free: stat.blocks_available().saturating_mul(unit),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_has_no_more_free_space_than_its_size() {
        let space = host_space(Path::new("/")).unwrap();
        assert!(space.total >= space.free && space.total > 0, "{space:?}");
        let error = host_space(Path::new("/no/such/place")).unwrap_err();
        assert!(error.to_string().contains("/no/such/place"), "{error}");
    }
}
