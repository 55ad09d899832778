//! How devices are presented to the rest of the system.

use std::path::PathBuf;

use super::udev::UdevPolicy;
use crate::dm::kernel::NODE_DIR;

/// Who looks after the nodes under `/dev/mapper`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NodePolicy {
    /// This library makes, renames and removes them.
    #[default]
    Manage,
    /// Somebody else, or nobody.
    Leave,
}

/// How devices are presented to the rest of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the nodes are; `/dev/mapper`.
    pub node_dir: PathBuf,
    /// Who looks after them.
    pub nodes: NodePolicy,
    /// What udev is told, and whether it is waited for. It keeps out unless set.
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
