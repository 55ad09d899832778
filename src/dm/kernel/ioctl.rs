//! The system calls: the one ioctl of device-mapper, and the SysV semaphores that udev's rules
//! decrement.
//!
//! The only file of `dm` with `unsafe` in it. Each call is wrapped in one safe function that
//! upholds what the kernel relies on. It does not know what the bytes mean, except for the size
//! field.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;

use crate::dm::wire::codec::HEADER_BYTES;

/// The type of all device-mapper ioctls (`DM_IOCTL`).
const DM_IOCTL: u8 = 0xfd;

/// Offset of `data_size` in `struct dm_ioctl`.
const DATA_SIZE: usize = 12;

/// Runs ioctl `command` on the control device. The kernel reads its request from `buffer` and
/// writes its answer there.
///
/// # Errors
/// The kernel's errno; EINVAL without asking it when `buffer` is smaller than a header or larger
/// than 4 GiB.
pub fn control(device: BorrowedFd<'_>, command: u8, buffer: &mut [u8]) -> Result<(), Errno> {
    let size = u32::try_from(buffer.len()).map_err(|_| Errno::EINVAL)?;
    if buffer.len() < HEADER_BYTES {
        return Err(Errno::EINVAL);
    }
    buffer[DATA_SIZE..DATA_SIZE + 4].copy_from_slice(&size.to_ne_bytes());
    let request = nix::request_code_readwrite!(DM_IOCTL, command, HEADER_BYTES);
    // SAFETY: the kernel accesses at most `data_size` bytes at the pointer, and at least the header
    // (ctl_ioctl, copy_params and copy_to_user in drivers/md/dm-ioctl.c). `data_size` has just been
    // set to the length of `buffer`, which is no smaller than the header and is borrowed mutably
    // for the call. The buffer holds no pointers. A descriptor of another kind refuses the request
    // with ENOTTY: 0xfd is device-mapper's own type.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), request as _, buffer.as_mut_ptr()) };
    Errno::result(result).map(drop)
}

/// Makes a set of one semaphore for root alone and sets it to 1.
///
/// # Errors
/// EEXIST when there is one with this key, ENOSPC when the system has too many.
pub fn semaphore_create(key: i32) -> Result<i32, Errno> {
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | 0o600;
    // SAFETY: semget takes no pointers.
    let id = Errno::result(unsafe { libc::semget(key, 1, flags) })?;
    let one: libc::c_int = 1;
    // SAFETY: SETVAL takes an int as its fourth argument, which union semun passes by value; no
    // pointers.
    let set = Errno::result(unsafe { libc::semctl(id, 0, libc::SETVAL, one) });
    if let Err(errno) = set {
        let _ = semaphore_remove(id);
        return Err(errno);
    }
    Ok(id)
}

/// Adds `change` to a semaphore without waiting.
///
/// # Errors
/// EAGAIN when it would fall below zero, EINVAL or EIDRM when it is gone.
pub fn semaphore_add(id: i32, change: i16) -> Result<(), Errno> {
    let mut operation =
        libc::sembuf { sem_num: 0, sem_op: change, sem_flg: libc::IPC_NOWAIT as i16 };
    // SAFETY: the pointer is to one `sembuf` that lives through the call, and the count says one;
    // semop only reads it.
    Errno::result(unsafe { libc::semop(id, &mut operation, 1) }).map(drop)
}

/// A semaphore's value.
///
/// # Errors
/// EINVAL or EIDRM when it is gone.
pub fn semaphore_value(id: i32) -> Result<i32, Errno> {
    // SAFETY: GETVAL takes no fourth argument and writes nowhere.
    Errno::result(unsafe { libc::semctl(id, 0, libc::GETVAL) })
}

/// Removes a semaphore. Processes that wait on it get EIDRM.
///
/// # Errors
/// EINVAL or EIDRM when it is gone.
pub fn semaphore_remove(id: i32) -> Result<(), Errno> {
    // SAFETY: IPC_RMID takes no fourth argument and writes nowhere.
    Errno::result(unsafe { libc::semctl(id, 0, libc::IPC_RMID) }).map(drop)
}
