//! The running kernel's log, read from `/dev/kmsg`.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::makedev;

use super::api::{Noticed, PoolLog};
use crate::dm::text::notice_of_record;
use crate::units::DeviceNumber;

/// The device of the kernel's log.
const KMSG: &str = "/dev/kmsg";
/// The number of [`KMSG`] (Documentation/admin-guide/devices.txt).
const KMSG_NUMBER: (u64, u64) = (1, 11);
/// The kernel's longest record is 8 KiB with its header (CONSOLE_EXT_LOG_MAX in kernel/printk).
const LONGEST_RECORD: usize = 16 << 10;
/// More records than any log holds. A log that grows faster than it can be read must not keep the
/// reader for ever.
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
            match read.map(|length| notice_of_record(&buffer[..length])) {
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
