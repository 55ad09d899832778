//! A small file system below a daemon under test, which can be filled.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{fallocate, FallocateFlags};

pub const KIB: u64 = 1 << 10;

/// A small file system under everything that is made in the temporary directory, until this is
/// dropped.
pub struct SmallHost(PathBuf);

impl SmallHost {
    pub fn new(fs: &str, size: &str) -> SmallHost {
        let root = Path::new("/run/small-host");
        std::fs::create_dir_all(root.join("mounted")).unwrap();
        let image = root.join("image").to_string_lossy().into_owned();
        let place = root.join("mounted");
        let _ = std::fs::remove_file(&image);
        run("truncate", &["-s", size, &image]);
        run(&format!("mkfs.{fs}"), &["-q", &image]);
        run("mount", &["-o", "loop", &image, &place.to_string_lossy()]);
        std::env::set_var("TMPDIR", &place);
        SmallHost(place)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Takes all the space there is, what is kept for root included, but for `left` bytes.
    pub fn fill(&self, left: u64) {
        let filler = File::create(self.filler()).unwrap();
        let (mut end, mut step) = (0, 256 << 20);
        while step >= 4 * KIB {
            match fallocate(&filler, FallocateFlags::empty(), end as i64, step as i64) {
                Ok(()) => end += step,
                Err(_) => {
                    // What a failed call has taken beyond the end.
                    filler.set_len(end).unwrap();
                    step /= 2;
                }
            }
        }
        filler.set_len(end.saturating_sub(left)).unwrap();
    }

    pub fn free(&self) {
        let _ = std::fs::remove_file(self.filler());
    }

    /// How many bytes are free.
    pub fn free_space(&self) -> u64 {
        let stat = nix::sys::statvfs::statvfs(&self.0).unwrap();
        stat.blocks_available() * stat.fragment_size()
    }

    pub fn is_full(&self) -> bool {
        nix::sys::statvfs::statvfs(&self.0).unwrap().blocks_available() == 0
    }
}

impl Drop for SmallHost {
    fn drop(&mut self) {
        std::env::remove_var("TMPDIR");
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

pub fn run(program: &str, arguments: &[&str]) {
    assert!(
        Command::new(program).args(arguments).status().unwrap().success(),
        "{program} {arguments:?}"
    );
}
