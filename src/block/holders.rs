//! Who keeps a block device busy, as far as /proc tells: mounts in any mount namespace, and open files.
//!
//! For messages only. It is a snapshot of moving things, reads what the caller may read, and reports what it found.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::units::DeviceNumber;

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
            Hold::Mounted(at) => write!(f, "mounted on {} for pid {} ({})", at.display(), self.pid, self.command),
            Hold::Open => write!(f, "open in pid {} ({})", self.pid, self.command),
        }
    }
}

/// Everybody found to hold `device`. A mount namespace is named once, by its process with the lowest pid.
pub fn holders(device: DeviceNumber) -> Vec<Holder> {
    let mut pids: Vec<u32> = entries(Path::new("/proc")).filter_map(|name| name.parse().ok()).collect();
    pids.sort_unstable();
    let mut namespaces = BTreeSet::new();
    let mut found = Vec::new();
    for pid in pids {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let hold = |how| Holder { pid, command: command(&process), how };
        if fs::read_link(process.join("ns/mnt")).is_ok_and(|namespace| namespaces.insert(namespace)) {
            let mounts = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
            found.extend(mounts_of(&mounts, device).map(|at| hold(Hold::Mounted(at))));
        }
        if has_open(&process, device) {
            found.push(hold(Hold::Open));
        }
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

/// Where a device is mounted, by the lines of a mountinfo file (proc_pid_mountinfo(5)): the third word is the device, the
/// fifth the mount point, with blanks in octal.
fn mounts_of(mountinfo: &str, device: DeviceNumber) -> impl Iterator<Item = PathBuf> + '_ {
    let device = device.to_string();
    mountinfo.lines().filter_map(move |line| {
        let mut words = line.split(' ');
        (words.nth(2)? == device).then(|| words.nth(1).map(|at| PathBuf::from(at.replace("\\040", " "))))?
    })
}

fn has_open(process: &Path, device: DeviceNumber) -> bool {
    let files = process.join("fd");
    let is_it = |file: &fs::Metadata| {
        use std::os::unix::fs::FileTypeExt;
        file.file_type().is_block_device() && DeviceNumber::from_u64(file.rdev()) == device
    };
    entries(&files).any(|name| fs::metadata(files.join(name)).is_ok_and(|file| is_it(&file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_from_the_lines_of_the_device() {
        let text = "36 35 98:0 /mnt1 /mnt\\040two rw,noatime master:1 - ext3 /dev/root rw\n\
                    37 35 98:16 / /other rw - ext4 /dev/x rw\nnonsense\n38 35 98:0 / /again rw - ext3 /dev/root rw\n";
        let at: Vec<_> = mounts_of(text, DeviceNumber { major: 98, minor: 0 }).collect();
        assert_eq!(at, [Path::new("/mnt two"), Path::new("/again")]);
    }

    #[test]
    fn nobody_holds_a_device_that_is_not_there() {
        assert_eq!(holders(DeviceNumber { major: 4095, minor: 1_000_000 }), []);
    }
}
