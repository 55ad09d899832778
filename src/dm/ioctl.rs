//! The system calls: the one ioctl of device-mapper, and the SysV semaphores that udev's rules wait on.
//!
//! The only file of `dm` with `unsafe` in it. Each call is wrapped in one safe function that upholds what
//! the kernel relies on; it must not know what the bytes mean beyond the size field.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;

use super::codec::HEADER_BYTES;

/// The type of all device-mapper ioctls (`DM_IOCTL`).
const DM_IOCTL: u8 = 0xfd;

/// Offset of `data_size` in `struct dm_ioctl`.
const DATA_SIZE: usize = 12;

/// Runs ioctl `command` on the control device. The kernel reads its request from `buffer` and writes its
/// answer there.
///
/// # Errors
/// The kernel's errno; EINVAL without asking it when `buffer` is smaller than a header or larger than
/// 4 GiB.
pub fn control(device: BorrowedFd<'_>, command: u8, buffer: &mut [u8]) -> Result<(), Errno> {
    let size = u32::try_from(buffer.len()).map_err(|_| Errno::EINVAL)?;
    if buffer.len() < HEADER_BYTES {
        return Err(Errno::EINVAL);
    }
    buffer[DATA_SIZE..DATA_SIZE + 4].copy_from_slice(&size.to_ne_bytes());
    let request = nix::request_code_readwrite!(DM_IOCTL, command, HEADER_BYTES);
    // SAFETY: the kernel accesses at most `data_size` bytes at the pointer, and at least the header
    // (ctl_ioctl, copy_params and copy_to_user in drivers/md/dm-ioctl.c). `data_size` has just been set to
    // the length of `buffer`, which is no smaller than the header and is borrowed mutably for the call.
    // The buffer holds no pointers. A descriptor of another kind refuses the request with ENOTTY: 0xfd is
    // device-mapper's own type.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), request as _, buffer.as_mut_ptr()) };
    Errno::result(result).map(drop)
}
