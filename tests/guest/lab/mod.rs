//! What the tests in guests stand on.
//!
//! | file | what it is |
//! |---|---|
//! | `bench` | a device-mapper, with loop devices to build on; its devices are swept before and after |
//! | `daemon` | a daemon under test and a client of it |
//! | `disk` | a file on a loop device |
//! | `host` | a small file system below a daemon, which can be filled |
//! | `thin` | a pool with a thin to make a file system on |

mod bench;
mod daemon;
mod disk;
mod host;
mod thin;

pub use bench::{thin_id, Bench, DirectFile, BLOCK};
pub use daemon::{daemon_program, fs_size, refused, says, Daemon};
pub use disk::{is_attached, OnLoop};
pub use host::SmallHost;
pub use thin::{assert_sound, names_in, spec, unmount, ThinLab, GIB, LAZY};

use std::path::Path;

use devmapper_snapshotter::units::Sectors;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn sectors(bytes: u64) -> Sectors {
    Sectors(bytes / 512)
}
