//! Who keeps block devices busy, as far as /proc tells: mounts in any mount namespace, and open
//! files.
//!
//! For messages only. It is a snapshot of moving things, reads what the caller may read, and
//! reports what it found.
//!
//! Invariant: nothing here asks a file system for anything but /proc. The links in `/proc/PID/fd`
//! are read (the kernel prints a name it has in memory) and never followed: a stat through one that
//! leads into the mount of a stopped FUSE or NFS server would wait for that server, for good. So an
//! open file is known by its name alone, and one that was opened through a node of another name is
//! not found.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::units::DeviceNumber;

/// A device-mapper device to look for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watched {
    /// Its number.
    pub device: DeviceNumber,
    /// Its name under `/dev/mapper`.
    pub name: String,
}

/// Who was found to hold each of the devices that were looked for.
pub type Found = BTreeMap<DeviceNumber, Vec<Holder>>;

/// Somebody who keeps a device busy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// A process: the one with the file open, or one in the mount namespace.
    pub pid: u32,
    /// Its name.
    pub command: String,
    /// What it has.
    pub how: Hold,
}

/// How a device is held.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// Mounted there, as seen by the process.
    Mounted(PathBuf),
    /// Open as a file.
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

/// Everybody found to hold any of the devices, in one pass over all processes. A mount namespace is
/// named once, by its process with the lowest pid.
pub fn holders(watched: &[Watched]) -> Found {
    let mut found: Found = watched.iter().map(|watched| (watched.device, Vec::new())).collect();
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

/// What a mount namespace has of the devices.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mounts {
    /// Where they are mounted.
    mounted: Vec<(DeviceNumber, PathBuf)>,
    /// Where a node of theirs is bind mounted, as containers get it, under whatever name.
    nodes: BTreeMap<PathBuf, DeviceNumber>,
}

impl Mounts {
    /// From a mountinfo file (proc_pid_mountinfo(5)): the third word of a line is the device, the
    /// fourth what of the file system is mounted, the fifth where, and the one behind the dash the
    /// file system's type.
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

/// Blanks, tabs, line ends and backslashes are in octal in a mountinfo file.
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
    // Its node may be gone: ours is, once a removal has been asked for.
    let text = link.to_str()?;
    let path = Path::new(text.strip_suffix(" (deleted)").unwrap_or(text));
    named(path, watched).or_else(|| nodes.get(path).copied())
}

/// The device whose node has this name, below whatever root: `dev/dm-N`, `mapper/NAME`,
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
    fn nobody_holds_a_device_that_is_not_there() {
        let device = DeviceNumber { major: 4095, minor: 1_000_000 };
        let found = holders(&[Watched { device, name: "no-such-device".into() }]);
        assert_eq!(found, [(device, vec![])].into_iter().collect());
    }
}
