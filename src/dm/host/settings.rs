//! How devices are presented to the rest of the system.

use std::path::PathBuf;

use super::udev::UdevPolicy;
use crate::dm::kernel::NODE_DIR;

/// Whether this library makes the nodes under `/dev/mapper`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NodePolicy {
    /// It makes, renames and removes them.
    #[default]
    Manage,
    /// It leaves them alone: another program makes them, or there are none.
    Leave,
}

/// How devices are presented to the rest of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The directory of the nodes; `/dev/mapper` by default.
    pub node_dir: PathBuf,
    /// Whether this library makes them.
    pub nodes: NodePolicy,
    /// What udev is told, and whether it is waited for. By default it is told to leave the devices
    /// alone.
    pub udev: UdevPolicy,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            node_dir: PathBuf::from(NODE_DIR),
            nodes: NodePolicy::Manage,
            udev: UdevPolicy::KEEP_OUT,
        }
    }
}

impl Settings {
    /// Without any nodes: for a modelled kernel.
    #[must_use]
    pub fn without_nodes() -> Settings {
        Settings { nodes: NodePolicy::Leave, ..Settings::default() }
    }
}
