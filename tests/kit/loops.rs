//! Loop devices.

use std::fmt;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::programs::{run, try_run};

/// A loop device over a sparse file in the temporary directory; detached when dropped.
pub struct LoopDevice {
    /// Its node.
    pub node: String,
    file: NamedTempFile,
}

impl LoopDevice {
    /// `size` as truncate takes it.
    #[track_caller]
    pub fn new(size: &str) -> LoopDevice {
        LoopDevice::with_options(size, &[])
    }

    /// With more options of losetup.
    #[track_caller]
    pub fn with_options(size: &str, options: &[&str]) -> LoopDevice {
        let file = NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        run("truncate", &["-s", size, path]);
        let node = run("losetup", &[options, &["--find", "--show", path]].concat());
        LoopDevice { node, file }
    }

    pub fn file(&self) -> &Path {
        self.file.path()
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = try_run("losetup", &["--detach", &self.node]);
    }
}

impl fmt::Display for LoopDevice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.node)
    }
}
