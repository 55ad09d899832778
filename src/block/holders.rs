//! Finds the processes that keep block devices busy: by mounts in any mount namespace, and by open
//! files.
//!
//! The result is for messages only. It is not atomic, and it shows only what the caller may read in
//! /proc.
//!
//! Invariant: this file reads no file system except /proc. The links in `/proc/PID/fd` are read
//! (the kernel prints a name from memory) and never followed: a stat through a link into the mount
//! of a dead FUSE or NFS server would block until that server answers. So an open file is known
//! only by its name, and a device that was opened through a node with an unusual name is not found.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::units::DeviceNumber;

/// A device-mapper device to look for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watched {
    /// The device number.
    pub device: DeviceNumber,
    /// The device's name under `/dev/mapper`.
    pub name: String,
}

/// The holders of each device that was looked for.
pub type HoldersByDevice = BTreeMap<DeviceNumber, Vec<Holder>>;

/// A process that keeps a device busy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// The process that has the file open, or one process of the mount namespace.
    pub pid: u32,
    /// The name of the process.
    pub command: String,
    /// Whether it has the device mounted or open.
    pub how: Hold,
}

/// How a device is held.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// Mounted at this path, as the process sees it.
    Mounted(PathBuf),
    /// Opened as a file.
    Open,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.how {
            Hold::Mounted(at) => {
                write!(f, "mounted on {} for pid {} ({})", at.display(), self.pid, self.command)
            }
            Hold::Open => write!(f, "open in pid {} ({})", self.pid, self.command),
        }
    }
}

/// Finds all holders of the devices in one pass over all processes. A mount namespace is listed
/// once, under its process with the lowest pid.
pub fn holders(watched: &[Watched]) -> HoldersByDevice {
    let mut found: HoldersByDevice =
        watched.iter().map(|watched| (watched.device, Vec::new())).collect();
    let mut pids: Vec<u32> =
        entries(Path::new("/proc")).filter_map(|name| name.parse().ok()).collect();
    pids.sort_unstable();
    let mut namespaces: BTreeMap<PathBuf, Mounts> = BTreeMap::new();
    for pid in pids {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let mut note = |device, how| {
            let holder = Holder { pid, command: command(&process), how };
            found.entry(device).or_default().push(holder);
        };
        let Ok(namespace) = fs::read_link(process.join("ns/mnt")) else { continue };
        if !namespaces.contains_key(&namespace) {
            let text = fs::read(process.join("mountinfo")).unwrap_or_default();
            let mounts = Mounts::read(&String::from_utf8_lossy(&text), watched);
            mounts.mounted.iter().for_each(|(device, at)| note(*device, Hold::Mounted(at.clone())));
            namespaces.insert(namespace.clone(), mounts);
        }
        let nodes = &namespaces[&namespace].nodes;
        let files = process.join("fd");
        let mut open: Vec<DeviceNumber> = entries(&files)
            .filter_map(|name| fs::read_link(files.join(name)).ok())
            .filter_map(|link| opened(&link, watched, nodes))
            .collect();
        open.sort_unstable();
        open.dedup();
        open.into_iter().for_each(|device| note(device, Hold::Open));
    }
    found
}

fn entries(folder: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

fn command(process: &Path) -> String {
    fs::read_to_string(process.join("comm")).unwrap_or_default().trim_end().to_owned()
}

/// The mounts in one mount namespace that concern the watched devices.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mounts {
    /// The mount points of the devices.
    mounted: Vec<(DeviceNumber, PathBuf)>,
    /// The paths at which device nodes are bind mounted, as containers get them.
    nodes: BTreeMap<PathBuf, DeviceNumber>,
}

impl Mounts {
    /// Reads a mountinfo file (proc_pid_mountinfo(5)). In each line the third word is the device,
    /// the fourth the mounted directory of the file system, the fifth the mount point, and the word
    /// after the dash the file system type.
    fn read(mountinfo: &str, watched: &[Watched]) -> Mounts {
        let mut mounts = Mounts::default();
        for line in mountinfo.lines() {
            let mut words = line.split(' ');
            let (Some(device), Some(root), Some(at)) = (words.nth(2), words.next(), words.next())
            else {
                continue;
            };
            let at = || PathBuf::from(unescaped(at));
            if let Some(watched) =
                watched.iter().find(|watched| watched.device.to_string() == device)
            {
                mounts.mounted.push((watched.device, at()));
            }
            let has_nodes =
                matches!(words.skip_while(|word| *word != "-").nth(1), Some("devtmpfs" | "tmpfs"));
            let root = Path::new("/dev").join(root.trim_start_matches('/'));
            if let Some(device) = has_nodes.then(|| named(&root, watched)).flatten() {
                mounts.nodes.insert(at(), device);
            }
        }
        mounts
    }
}

/// In a mountinfo file spaces, tabs, line ends and backslashes are written in octal.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (octal, plain)| text.replace(octal, plain))
}

/// The device that is open behind a link of `/proc/PID/fd`.
fn opened(
    link: &Path,
    watched: &[Watched],
    nodes: &BTreeMap<PathBuf, DeviceNumber>,
) -> Option<DeviceNumber> {
    // The node is gone once the removal of the device was requested; the kernel then adds a suffix.
    let text = link.to_str()?;
    let path = Path::new(text.strip_suffix(" (deleted)").unwrap_or(text));
    named(path, watched).or_else(|| nodes.get(path).copied())
}

/// The device whose node has this name, below any root directory: `dev/dm-N`, `mapper/NAME` or
/// `block/MAJOR:MINOR`.
fn named(path: &Path, watched: &[Watched]) -> Option<DeviceNumber> {
    let name = path.file_name()?.to_str()?;
    let folder = path.parent()?.file_name()?.to_str()?;
    let is = |watched: &&Watched| match folder {
        "dev" => {
            name.strip_prefix("dm-").is_some_and(|minor| minor.parse() == Ok(watched.device.minor))
        }
        "mapper" => name == watched.name,
        "block" => name == watched.device.to_string(),
        _ => false,
    };
    watched.iter().find(is).map(|watched| watched.device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched() -> [Watched; 2] {
        let device = |minor, name: &str| Watched {
            device: DeviceNumber { major: 253, minor },
            name: name.into(),
        };
        [device(5, "pool-snap-1"), device(70_000, "pool-snap-2")]
    }

    #[test]
    fn mounts_and_bind_mounted_nodes_are_read_from_a_namespace() {
        let text = "36 35 253:5 /mnt1 /mnt\\040two rw,noatime master:1 - ext4 /dev/mapper/x rw\n\
                    37 35 253:55 / /other rw - ext4 /dev/x rw\nnonsense\n38 35 253:5 / /again rw - ext4 /dev/root rw\n\
                    39 35 0:5 /dm-70000 /vols/pvc\\134x rw - devtmpfs udev rw\n\
                    40 35 0:5 /mapper/pool-snap-1 /vols/b rw shared:7 - devtmpfs udev rw\n\
                    41 35 8:1 /dm-70000 /file rw - ext4 /dev/sda1 rw\n";
        let [first, second] = watched().map(|watched| watched.device);
        let mounts = Mounts::read(text, &watched());
        assert_eq!(mounts.mounted, [(first, "/mnt two".into()), (first, "/again".into())]);
        assert_eq!(
            mounts.nodes,
            [("/vols/pvc\\x".into(), second), ("/vols/b".into(), first)].into_iter().collect()
        );
    }

    #[test]
    fn an_open_device_is_known_by_the_names_its_nodes_can_have() {
        let [first, second] = watched().map(|watched| watched.device);
        let nodes = [(PathBuf::from("/vols/pvc"), second)].into_iter().collect();
        for (link, device) in [
            ("/dev/dm-5", Some(first)),
            ("/dev/mapper/pool-snap-2", Some(second)),
            ("/dev/mapper/pool-snap-2 (deleted)", Some(second)),
            ("/run/jail/root/dev/dm-70000", Some(second)),
            ("/dev/block/253:5", Some(first)),
            ("/vols/pvc", Some(second)),
            ("/dev/dm-55", None),
            ("/dev/mapper/pool-snap-22", None),
            ("/sys/devices/virtual/block/dm-5", None),
            ("/home/dm-5", None),
            ("socket:[5]", None),
            ("/", None),
        ] {
            assert_eq!(opened(Path::new(link), &watched(), &nodes), device, "{link}");
        }
    }

    #[test]
    fn a_device_that_does_not_exist_has_no_holder() {
        let device = DeviceNumber { major: 4095, minor: 1_000_000 };
        let found = holders(&[Watched { device, name: "no-such-device".into() }]);
        assert_eq!(found, [(device, vec![])].into_iter().collect());
    }
}
