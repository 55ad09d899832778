//! What the guest's tests of block devices share: a file on a loop device, gone at the end.

use std::path::{Path, PathBuf};

use devmapper_snapshotter::block::{create_sparse, LoopDevice, LoopOptions, Loops};
use kit::run;

use super::text;

/// A directory with a sparse file in it, and the file's loop device, detached at the end.
pub struct OnLoop {
    pub directory: tempfile::TempDir,
    pub file: PathBuf,
    pub device: LoopDevice,
}

impl OnLoop {
    pub fn new(bytes: u64) -> OnLoop {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        create_sparse(&file, bytes).unwrap();
        let device = Loops::default().attach(&file, LoopOptions::default()).unwrap();
        OnLoop { directory, file, device }
    }

    pub fn ext4(bytes: u64) -> OnLoop {
        let disk = OnLoop::new(bytes);
        run("mke2fs", &["-q", "-t", "ext4", text(disk.path())]);
        disk
    }

    pub fn path(&self) -> &Path {
        self.device.path()
    }

    pub fn mount(&self) -> PathBuf {
        let place = self.directory.path().join("mounted");
        std::fs::create_dir_all(&place).unwrap();
        run("mount", &["-t", "ext4", text(self.path()), text(&place)]);
        place
    }
}

impl Drop for OnLoop {
    fn drop(&mut self) {
        let _ = Loops::default().detach_all(&self.file);
    }
}

pub fn is_attached(file: &Path) -> bool {
    !Loops::default().find(file).unwrap().is_empty()
}
