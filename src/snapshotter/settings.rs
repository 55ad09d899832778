//! How snapshots are made.

use crate::fs::FsSpec;
use crate::units::Sectors;

/// How snapshots are made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file system of base layers.
    pub fs: FsSpec,
    /// The size of a snapshot without a parent, and the smallest size of any writable one.
    pub base_image_size: Sectors,
    /// The largest size that the label of an image can ask for.
    pub max_image_size: Sectors,
    /// Whether removed thins are discarded before they are deleted. That gives their space back to
    /// the devices below the pool.
    pub discard: bool,
}
