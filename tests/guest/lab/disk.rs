//! What the guest's tests of block devices share: a file on a loop device, gone at the end.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use devmapper_snapshotter::block::{create_sparse, LoopDevice, LoopOptions, Loops};
use devmapper_snapshotter::units::Sectors;

pub const MIB: u64 = 1 << 20;

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn sectors(bytes: u64) -> Sectors {
    Sectors(bytes / 512)
}

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

/// Whether something comes true within ten seconds.
pub fn soon(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}

/// Runs a program that must succeed; what it printed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect(program);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}{failed}");
    said
}
