//! A snapshot, mounted as containerd mounts it.

use std::path::Path;

use containerd_snapshots::api::types::Mount;
use tempfile::TempDir;

use crate::programs::{run, try_run};

/// A mounted file system; unmounted when dropped. It is mounted below /run, since what is tested
/// may be below /tmp, and full.
pub struct Mounted {
    directory: TempDir,
    is_mounted: bool,
}

impl Mounted {
    pub fn new(mount: &Mount) -> Result<Mounted, String> {
        let directory = tempfile::tempdir_in("/run").map_err(|error| error.to_string())?;
        let options = mount.options.join(",");
        let mut arguments = vec!["-t", &mount.r#type, &mount.source, text(directory.path())];
        if !options.is_empty() {
            arguments.extend(["-o", &options]);
        }
        try_run("mount", &arguments)?;
        Ok(Mounted { directory, is_mounted: true })
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Unmounts, which must succeed.
    #[track_caller]
    pub fn unmount(mut self) {
        self.is_mounted = false;
        run("umount", &[text(self.path())]);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.is_mounted {
            let _ = try_run("umount", &["--lazy", text(self.path())]);
        }
    }
}

/// Mounts, runs, unmounts.
#[track_caller]
pub fn with_mounted<T>(mount: &Mount, action: impl FnOnce(&Path) -> T) -> T {
    let mounted = Mounted::new(mount).unwrap_or_else(|error| panic!("{error}"));
    let done = action(mounted.path());
    mounted.unmount();
    done
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary directory's path is text")
}
