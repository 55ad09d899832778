//! How a snapshot is mounted, as containerd's mount type describes it.

use std::path::Path;

use super::record::fs_type;
use super::Error;
use crate::fs::MountOptions;
use crate::store::{Kind, Ownership, SnapshotRecord};

/// One file system to mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The file system's type.
    pub fs_type: String,
    /// The block device.
    pub source: String,
    /// Options for mount(8), each in the form `name` or `name=value`.
    pub options: Vec<String>,
}

impl Mount {
    /// The mounts of a snapshot whose device is `node`: always one.
    pub(super) fn list_of(record: &SnapshotRecord, node: &Path) -> Result<Vec<Mount>, Error> {
        let fs = fs_type(&record.fs)?;
        let mut options = MountOptions::of(fs).read_only(record.kind == Kind::View).list();
        // containerd 2.0 and later make an idmapped mount of these options. Older ones fail on them
        // (core/mount/mount_linux.go).
        if let Ownership::Mapped { uids, gids } = &record.ownership {
            options.extend([format!("uidmap={uids}"), format!("gidmap={gids}")]);
        }
        let source = node.to_string_lossy().into_owned();
        Ok(vec![Mount { fs_type: record.fs.clone(), source, options }])
    }
}
