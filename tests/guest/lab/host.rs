//! A small file system below a daemon under test, which can be filled.

use std::fs::File;
use std::path::{Path, PathBuf};

use kit::{run, try_run};
use nix::fcntl::{fallocate, FallocateFlags};

use super::{text, KIB};

/// A small file system under everything that is made in the temporary directory, until this is
/// dropped.
pub struct SmallHost(PathBuf);

impl SmallHost {
    pub fn new(fs: &str, size: &str) -> SmallHost {
        SmallHost::made_by(size, &[&format!("mkfs.{fs}"), "-q"])
    }

    /// `size` as truncate takes it; `mkfs` is the program with its options.
    pub fn made_by(size: &str, mkfs: &[&str]) -> SmallHost {
        let root = Path::new("/run/small-host");
        let (image, place) = (root.join("image"), root.join("mounted"));
        std::fs::create_dir_all(&place).unwrap();
        let _ = std::fs::remove_file(&image);
        run("truncate", &["-s", size, text(&image)]);
        run(mkfs[0], &[&mkfs[1..], &[text(&image)]].concat());
        run("mount", &["-o", "loop", text(&image), text(&place)]);
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
        let _ = try_run("umount", &["-l", text(&self.0)]);
    }
}
