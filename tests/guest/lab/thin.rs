//! What the guest's tests of file systems share: a pool with a thin to make one on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use devmapper_snapshotter::dm::ThinStatus;
use devmapper_snapshotter::fs::{FsSpec, FsType};
use devmapper_snapshotter::names::DmName;
use devmapper_snapshotter::units::DeviceNumber;

use kit::run;

use super::{text, thin_id, Bench, BLOCK};

pub const GIB: u64 = 1 << 30;

/// How long the kernel is given to do what it does behind a mount: lazy initialisation starts
/// within 5 seconds (fs/ext4/ext4.h, `EXT4_DEF_LI_MAX_START_DELAY`).
pub const LAZY: Duration = Duration::from_secs(10);

/// A pool large enough for what the tests write, and the thin with id 1 on it.
pub struct ThinLab {
    pub bench: Bench,
    pub pool: DmName,
    number: DeviceNumber,
    pub directory: tempfile::TempDir,
}

impl ThinLab {
    pub fn new(test: &str) -> ThinLab {
        let mut bench = Bench::new(test);
        let (pool, number) = bench.pool(40 * GIB);
        bench.dm.create_thin(&pool, thin_id(1)).unwrap();
        let directory = tempfile::tempdir().unwrap();
        ThinLab { bench, pool, number, directory }
    }

    /// Activates a thin; its node.
    pub fn open(&self, id: u32, bytes: u64) -> PathBuf {
        let name = self.bench.thin(self.number, id, bytes);
        self.bench.dm.node(&name)
    }

    pub fn close(&self, id: u32) {
        self.bench.dm.remove(&self.bench.name(&format!("thin{id}"))).unwrap();
    }

    pub fn snapshot(&self, of: u32, id: u32) {
        self.bench.dm.create_snap(&self.pool, thin_id(id), thin_id(of)).unwrap();
    }

    /// Pool blocks that an active thin maps.
    pub fn mapped(&self, id: u32) -> u64 {
        match self.bench.dm.thin_status(&self.bench.name(&format!("thin{id}"))).unwrap() {
            ThinStatus::Working { mapped, .. } => mapped.blocks_up(BLOCK).unwrap(),
            other => panic!("thin {id}: {other:?}"),
        }
    }

    pub fn mount(&self, device: &Path, fs_type: &str, options: &str) -> PathBuf {
        let place = self.directory.path().join(device.file_name().unwrap());
        std::fs::create_dir_all(&place).unwrap();
        run("mount", &["-t", fs_type, "-o", options, text(device), text(&place)]);
        place
    }
}

pub fn unmount(place: &Path) {
    run("umount", &[text(place)]);
}

pub fn spec(fs_type: FsType, options: &[&str]) -> FsSpec {
    FsSpec { options: options.iter().map(ToString::to_string).collect(), ..FsSpec::plain(fs_type) }
}

/// The file system's own checker finds nothing to say.
pub fn assert_sound(device: &Path, fs_type: FsType) {
    match fs_type {
        FsType::Ext4 => run("e2fsck", &["-fn", text(device)]),
        FsType::Xfs => run("xfs_repair", &["-n", text(device)]),
    };
}

pub fn names_in(place: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(place).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
