//! All options of the daemon, with their defaults.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::names::{DevicePrefix, DmName};
use crate::units::Sectors;

const DEFAULT_ROOT: &str = "/var/lib/devmapper-snapshotter";
const DEFAULT_ADDRESS: &str = "/run/devmapper-snapshotter/devmapper-snapshotter.sock";
const DEFAULT_NAME: &str = "devmapper-snapshotter";

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The state directory: the database, and the files of the embedded pool.
    pub root: PathBuf,
    /// The Unix socket to serve on.
    pub address: PathBuf,
    /// A `tracing` filter such as `info` or `devmapper_snapshotter=debug`.
    pub log_level: String,
    /// The prefix of all device names of this daemon.
    pub name: DevicePrefix,
    /// The kind of pool and its devices.
    pub backing: Backing,
    /// The pool's block size. It cannot change later.
    pub block_size: Sectors,
    /// The size of the metadata area; `None` derives it from the size of the data.
    pub metadata_size: Option<Sectors>,
    /// The size of a snapshot without a parent. A child is never smaller than its parent.
    pub base_image_size: Sectors,
    /// The largest size that an image may set with its own label; `None` means
    /// [`Config::base_image_size`].
    pub max_image_size: Option<Sectors>,
    /// `ext4` or `xfs`.
    pub fs_type: String,
    /// More arguments for mkfs, after the built-in ones.
    pub fs_options: Vec<String>,
    /// Whether this host may mount an xfs that containers or guests may have written, to replay its
    /// log or to grow it.
    pub mount_untrusted: bool,
    /// Whether removed snapshots are discarded; `None` means only on the embedded pool.
    pub discard: Option<bool>,
    /// New writable snapshots are refused when a smaller share than this of the pool is free, or of
    /// the file system below the embedded pool.
    pub min_free_percent: u8,
    /// Accepted features of an external pool that weaken the guarantees to callers.
    pub accept_pool_features: Vec<PoolFeature>,
    /// The address for metrics over HTTP; `None` for no metrics.
    pub metrics_address: Option<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            root: DEFAULT_ROOT.into(),
            address: DEFAULT_ADDRESS.into(),
            log_level: "info".into(),
            name: DevicePrefix::new(DEFAULT_NAME).expect("a plain name"),
            backing: Backing::Embedded { data_size: None },
            block_size: Sectors((64 << 10) / 512),
            metadata_size: None,
            base_image_size: Sectors((10 << 30) / 512),
            max_image_size: None,
            fs_type: "ext4".into(),
            fs_options: Vec::new(),
            mount_untrusted: true,
            discard: None,
            min_free_percent: 5,
            accept_pool_features: Vec::new(),
            metrics_address: None,
        }
    }
}

/// A feature of an external pool that is refused unless the operator accepts it. `pool/features.rs`
/// tells what each one means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolFeature {
    /// New blocks are not zeroed.
    SkipBlockZeroing,
    /// Writes to a full pool wait. This is the kernel's default, for which a pool's table has no
    /// word.
    QueueIfNoSpace,
}

impl PoolFeature {
    pub(super) const ALL: [PoolFeature; 2] =
        [PoolFeature::SkipBlockZeroing, PoolFeature::QueueIfNoSpace];
}

impl fmt::Display for PoolFeature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PoolFeature::SkipBlockZeroing => "skip_block_zeroing",
            PoolFeature::QueueIfNoSpace => "queue_if_no_space",
        })
    }
}

/// The kind of pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// Files in the state directory on loop devices. Without `data_size`, the limit is the size of
    /// the file system.
    Embedded { data_size: Option<Sectors> },
    /// The operator's block devices. Without a metadata device both areas are on the data device.
    Devices { data: PathBuf, metadata: Option<PathBuf> },
    /// A pool that another program assembles, by its device-mapper name.
    External { pool_name: DmName },
}

/// The values of flags and environment variables. They override the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub root: Option<PathBuf>,
    pub address: Option<PathBuf>,
    pub log_level: Option<String>,
}
