//! What the kernel's log says of thin pools: each change of a pool's mode and each low water mark,
//! in order.
//!
//! The pool's event number counts the same things and does not say which it was. Each of them
//! prints one line to the log as well: a change of mode right after its event, a low water mark
//! right before (notify_of_pool_mode_change, check_low_water_mark and metadata_low_callback in
//! drivers/md/dm-thin.c; the words are the same in all kernels from 4.14 to 6.1 and later). Other
//! programs cannot write lines that look like the kernel's own: theirs carry another facility.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::makedev;

use crate::units::DeviceNumber;

/// Something that a thin pool says of itself. Each is one event of the pool's device, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolNotice {
    /// From here on a write that needs a new block gets one, or waits until there is one.
    ServesWrites,
    /// From here on a write that needs a new block fails: the pool is out of data space and does
    /// not queue (or its time-out for queueing has passed), it is out of metadata space, read-only,
    /// or failed.
    RefusesWrites,
    /// The free blocks for data or for metadata have fallen to the low water mark.
    LowWater,
}

/// What the log holds of one pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Noticed {
    /// In the order in which they happened.
    pub notices: Vec<PoolNotice>,
    /// The number of the first record that has not been read yet.
    pub next: u64,
    /// No record is missing between where the reading began and its end.
    pub complete: bool,
}

/// A place in the kernel's log, from where it is read on.
pub trait PoolLog: Send + Debug {
    /// What has been logged of `pool` in the records from number `since` on that were not read
    /// before. Never waits.
    fn read(&mut self, pool: DeviceNumber, since: u64) -> Noticed;
}

/// Reads a line of dm-thin's.
pub(super) fn parse(line: &str) -> Option<(DeviceNumber, PoolNotice)> {
    let (device, said) = line.strip_prefix("device-mapper: thin: ")?.split_once(": ")?;
    let (major, minor) = device.split_once(':')?;
    let device = DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? };
    let notice =
        match said.strip_prefix("switching pool to ").and_then(|rest| rest.strip_suffix(" mode")) {
            Some("write" | "out-of-data-space (queue IO)") => PoolNotice::ServesWrites,
            Some(_) => PoolNotice::RefusesWrites,
            None if said.starts_with("reached low water mark for ") => PoolNotice::LowWater,
            None => return None,
        };
    Some((device, notice))
}

/// A record of `/dev/kmsg`: `priority,number,microseconds,flags[,…];text`, then lines of
/// properties.
fn record(bytes: &[u8]) -> Option<(u64, Option<(DeviceNumber, PoolNotice)>)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (header, rest) = text.split_once(';')?;
    let mut fields = header.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let number = fields.next()?.parse().ok()?;
    let by_the_kernel = priority >> 3 == 0;
    Some((number, rest.lines().next().filter(|_| by_the_kernel).and_then(parse)))
}

/// Where the running kernel's log is read.
const KMSG: &str = "/dev/kmsg";
/// The number of [`KMSG`] (Documentation/admin-guide/devices.txt).
const KMSG_NUMBER: (u64, u64) = (1, 11);
/// The kernel's longest record is 8 KiB with its header (CONSOLE_EXT_LOG_MAX in kernel/printk).
const LONGEST_RECORD: usize = 16 << 10;
/// More records than any log holds: one that grows faster than it can be read has to be left at
/// some point.
const MOST_RECORDS: usize = 1 << 20;

/// The running kernel's log.
#[derive(Debug)]
pub(super) struct RealLog {
    file: File,
    next: u64,
}

impl RealLog {
    /// `None` where it cannot be read: there is no such device, something else is in its place, or
    /// it is forbidden.
    pub fn open() -> Option<RealLog> {
        let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(KMSG).ok()?;
        let found = file.metadata().ok()?;
        let is_the_log = found.file_type().is_char_device()
            && found.rdev() == makedev(KMSG_NUMBER.0, KMSG_NUMBER.1);
        is_the_log.then_some(RealLog { file, next: 0 })
    }
}

impl PoolLog for RealLog {
    fn read(&mut self, pool: DeviceNumber, since: u64) -> Noticed {
        let mut noticed =
            Noticed { notices: Vec::new(), next: since.max(self.next), complete: true };
        let mut buffer = vec![0; LONGEST_RECORD];
        let mut at_the_end = false;
        for _ in 0..MOST_RECORDS {
            let read = match self.file.read(&mut buffer) {
                Ok(0) => Err(Errno::EAGAIN),
                Ok(length) => Ok(length),
                Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))),
            };
            match read.map(|length| record(&buffer[..length])) {
                Ok(Some((number, _))) if number < noticed.next => {}
                Ok(Some((number, said))) => {
                    noticed.complete &= number == noticed.next;
                    noticed.next = number + 1;
                    noticed.notices.extend(
                        said.filter(|(device, _)| *device == pool).map(|(_, notice)| notice),
                    );
                }
                Ok(None) => noticed.complete = false,
                // EPIPE: it was overwritten before it was read; the next record's number tells how
                // many are missing.
                Err(Errno::EPIPE | Errno::EINTR) => {}
                Err(errno) => {
                    at_the_end = errno == Errno::EAGAIN;
                    break;
                }
            }
        }
        noticed.complete &= at_the_end;
        self.next = noticed.next;
        noticed
    }
}

#[cfg(test)]
mod tests {
    use super::PoolNotice::{LowWater, RefusesWrites, ServesWrites};
    use super::*;

    #[test]
    fn the_kernels_lines_are_told_apart() {
        let pool = DeviceNumber { major: 253, minor: 2 };
        for (said, notice) in [
            ("switching pool to write mode", ServesWrites),
            ("switching pool to out-of-data-space (queue IO) mode", ServesWrites),
            ("switching pool to out-of-data-space (error IO) mode", RefusesWrites),
            ("switching pool to read-only mode", RefusesWrites),
            ("switching pool to fail mode", RefusesWrites),
            ("switching pool to failure mode", RefusesWrites),
            ("reached low water mark for data device: sending event.", LowWater),
            ("reached low water mark for metadata device: sending event.", LowWater),
        ] {
            assert_eq!(
                parse(&format!("device-mapper: thin: 253:2: {said}")),
                Some((pool, notice)),
                "{said}"
            );
        }
        for line in [
            "device-mapper: thin: 253:2: growing the data device from 1 to 2 blocks",
            "device-mapper: thin: Data device (loop0) discard unsupported: Disabling discard passdown.",
            "device-mapper: thin: metadata operation failed",
            "thin: 253:2: switching pool to write mode",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_record_is_believed_when_the_kernel_wrote_it() {
        let line = "device-mapper: thin: 253:2: switching pool to read-only mode";
        let pool = DeviceNumber { major: 253, minor: 2 };
        let said = |header: &str| record(format!("{header};{line}\n SUBSYSTEM=block\n").as_bytes());
        assert_eq!(said("6,17,5,-"), Some((17, Some((pool, RefusesWrites)))));
        assert_eq!(said("4,18,5,-,caller=T1"), Some((18, Some((pool, RefusesWrites)))));
        // Written by a program into /dev/kmsg: facility 1.
        assert_eq!(said("14,19,5,-"), Some((19, None)));
        assert_eq!(record(b"nonsense"), None);
        assert_eq!(record(b"6,20,5,-;another line\n"), Some((20, None)));
    }
}
