//! All ioctls of this module, each wrapped in one safe function. The only file of the module with
//! `unsafe` code.
//!
//! Numbers and layouts are from the kernel's headers: linux/fs.h (BLK*, FS_IOC_*), linux/loop.h
//! (LOOP_*) and fs/xfs/libxfs/xfs_fs.h (XFS_IOC_FSGROWFSDATA). All of them are part of the kernel's
//! stable interface. This file does not know what the calls are used for.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc::{c_int, c_long};

type Result<T> = std::result::Result<T, Errno>;

/// `LO_FLAGS_READ_ONLY`: writes are refused.
pub(super) const LO_FLAGS_READ_ONLY: u32 = 1;
/// `LO_FLAGS_AUTOCLEAR`: detached by the kernel at the last close.
pub(super) const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// `LO_FLAGS_DIRECT_IO`: the file is read and written past the page cache.
pub(super) const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64` (linux/loop.h). Plain integers without padding: 232 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct LoopInfo {
    pub device: u64,
    pub inode: u64,
    pub rdevice: u64,
    pub offset: u64,
    pub size_limit: u64,
    pub number: u32,
    pub encrypt_type: u32,
    pub encrypt_key_size: u32,
    pub flags: u32,
    pub file_name: [u8; 64],
    pub crypt_name: [u8; 64],
    pub encrypt_key: [u8; 32],
    pub init: [u64; 2],
}

impl LoopInfo {
    pub(super) const fn zeroed() -> Self {
        LoopInfo {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: 0,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

/// `struct loop_config` (linux/loop.h), Linux 5.8 and later: 304 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct LoopConfig {
    pub fd: u32,
    pub block_size: u32,
    pub info: LoopInfo,
    pub reserved: [u64; 8],
}

/// `struct xfs_growfs_data` (xfs_fs.h): 16 bytes with its tail padding, which is spelled out here.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct XfsGrowData {
    new_blocks: u64,
    inode_percent: u32,
    padding: u32,
}

/// How many extents one call reads.
pub(super) const FIEMAP_EXTENTS: usize = 128;
/// `FIEMAP_EXTENT_DELALLOC`: the blocks of the extent are not allocated yet.
pub(super) const FIEMAP_EXTENT_DELALLOC: u32 = 4;

/// `struct fiemap_extent` (linux/fiemap.h): 56 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extent {
    /// The extent's first byte in the file.
    pub logical: u64,
    pub physical: u64,
    /// Its length in bytes.
    pub length: u64,
    pub reserved: [u64; 2],
    pub flags: u32,
    pub more_reserved: [u32; 3],
}

/// `struct fiemap` (linux/fiemap.h), 32 bytes, with an array for the extents after it.
#[repr(C)]
#[derive(Debug)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [Extent; FIEMAP_EXTENTS],
}

const _: () = assert!(size_of::<Extent>() == 56);
const _: () = assert!(size_of::<Fiemap>() == 32 + 56 * FIEMAP_EXTENTS);
const _: () = assert!(size_of::<LoopInfo>() == 232);
const _: () = assert!(size_of::<LoopConfig>() == 304);
const _: () = assert!(size_of::<XfsGrowData>() == 16);

mod raw {
    use super::{Fiemap, LoopConfig, LoopInfo, XfsGrowData};

    nix::ioctl_read!(blk_get_size_64, 0x12, 114, usize);
    nix::ioctl_write_ptr_bad!(blk_discard, nix::request_code_none!(0x12, 119), [u64; 2]);
    nix::ioctl_write_ptr_bad!(blk_ro_set, nix::request_code_none!(0x12, 93), nix::libc::c_int);
    nix::ioctl_read_bad!(blk_ro_get, nix::request_code_none!(0x12, 94), nix::libc::c_int);

    nix::ioctl_write_int_bad!(loop_set_fd, 0x4C00);
    nix::ioctl_none_bad!(loop_clr_fd, 0x4C01);
    nix::ioctl_write_ptr_bad!(loop_set_status_64, 0x4C04, LoopInfo);
    nix::ioctl_read_bad!(loop_get_status_64, 0x4C05, LoopInfo);
    nix::ioctl_none_bad!(loop_set_capacity, 0x4C07);
    nix::ioctl_write_int_bad!(loop_set_direct_io, 0x4C08);
    nix::ioctl_write_int_bad!(loop_set_block_size, 0x4C09);
    nix::ioctl_write_ptr_bad!(loop_configure, 0x4C0A, LoopConfig);
    nix::ioctl_none_bad!(loop_ctl_get_free, 0x4C82);

    nix::ioctl_readwrite_bad!(fs_fiemap, nix::request_code_readwrite!(b'f', 11, 32), Fiemap);
    nix::ioctl_read!(fs_get_flags, b'f', 1, nix::libc::c_long);
    nix::ioctl_write_ptr!(fs_set_flags, b'f', 2, nix::libc::c_long);
    nix::ioctl_write_ptr!(xfs_grow_data, b'X', 110, XfsGrowData);
}

/// Size of a block device in bytes (BLKGETSIZE64).
pub(super) fn size_in_bytes(fd: BorrowedFd<'_>) -> Result<u64> {
    // The request number is computed from size_t, but the kernel writes a u64 (linux/fs.h). On
    // 64-bit machines the two have the same size.
    const { assert!(size_of::<usize>() == size_of::<u64>()) };
    let mut bytes: usize = 0;
    // SAFETY: BLKGETSIZE64 writes exactly 8 bytes through the pointer, which is to a live, aligned
    // 8-byte integer borrowed for the call only; the descriptor is open for as long as `fd` lives.
    // On a descriptor that is no block device, the kernel answers ENOTTY and writes nothing.
    unsafe { raw::blk_get_size_64(fd.as_raw_fd(), &mut bytes) }?;
    Ok(bytes as u64)
}

/// Discards `length` bytes from `offset` on (BLKDISCARD). Both are in bytes, both multiples of 512.
pub(super) fn discard(fd: BorrowedFd<'_>, offset: u64, length: u64) -> Result<()> {
    let range = [offset, length];
    // SAFETY: BLKDISCARD reads two u64 through the pointer, which is to a live array of two u64. It
    // changes the content of the device only; memory of this process is not touched.
    unsafe { raw::blk_discard(fd.as_raw_fd(), &range) }.map(drop)
}

/// Makes a block device read-only, or writable again, for all later openers (BLKROSET).
pub(super) fn set_read_only(fd: BorrowedFd<'_>, read_only: bool) -> Result<()> {
    let flag = c_int::from(read_only);
    // SAFETY: BLKROSET reads one int through the pointer, which is to a live int.
    unsafe { raw::blk_ro_set(fd.as_raw_fd(), &flag) }.map(drop)
}

/// Whether a block device is read-only (BLKROGET).
pub(super) fn is_read_only(fd: BorrowedFd<'_>) -> Result<bool> {
    let mut flag: c_int = 0;
    // SAFETY: BLKROGET writes one int through the pointer, which is to a live int borrowed for the
    // call only.
    unsafe { raw::blk_ro_get(fd.as_raw_fd(), &mut flag) }?;
    Ok(flag != 0)
}

/// The number of a free loop device, made if there was none (LOOP_CTL_GET_FREE on
/// /dev/loop-control).
pub(super) fn loop_get_free(control: BorrowedFd<'_>) -> Result<u32> {
    // SAFETY: LOOP_CTL_GET_FREE takes no argument and touches no memory of this process.
    let number = unsafe { raw::loop_ctl_get_free(control.as_raw_fd()) }?;
    u32::try_from(number).map_err(|_| Errno::ENODEV)
}

/// Binds a file to a loop device and configures it in one call (LOOP_CONFIGURE, Linux 5.8).
pub(super) fn loop_configure(device: BorrowedFd<'_>, config: &LoopConfig) -> Result<()> {
    // SAFETY: LOOP_CONFIGURE reads one struct loop_config; `LoopConfig` has its layout (size
    // asserted above) and is fully initialised. The kernel takes its own reference to the file in
    // `config.fd`.
    unsafe { raw::loop_configure(device.as_raw_fd(), config) }.map(drop)
}

/// Binds a file to a loop device (LOOP_SET_FD, all kernels).
pub(super) fn loop_set_fd(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the argument is a descriptor by value, open for the call; the kernel takes its own
    // reference to it.
    unsafe { raw::loop_set_fd(device.as_raw_fd(), file.as_raw_fd()) }.map(drop)
}

/// Detaches a loop device (LOOP_CLR_FD); at its last close, if another process has it open.
pub(super) fn loop_clear(device: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: LOOP_CLR_FD takes no argument and touches no memory of this process.
    unsafe { raw::loop_clr_fd(device.as_raw_fd()) }.map(drop)
}

/// Sets a loop device's name and flags (LOOP_SET_STATUS64).
pub(super) fn loop_set_status(device: BorrowedFd<'_>, info: &LoopInfo) -> Result<()> {
    // SAFETY: LOOP_SET_STATUS64 reads one struct loop_info64; `LoopInfo` has its layout (size
    // asserted above).
    unsafe { raw::loop_set_status_64(device.as_raw_fd(), info) }.map(drop)
}

/// The status of a loop device (LOOP_GET_STATUS64); ENXIO when it is not bound to a file.
pub(super) fn loop_status(device: BorrowedFd<'_>) -> Result<LoopInfo> {
    let mut info = LoopInfo::zeroed();
    // SAFETY: LOOP_GET_STATUS64 writes one struct loop_info64, of which every bit pattern is a
    // valid `LoopInfo` (integers and byte arrays, size asserted above), into memory borrowed for
    // the call only.
    unsafe { raw::loop_get_status_64(device.as_raw_fd(), &mut info) }?;
    Ok(info)
}

/// Updates a loop device's size to that of its file (LOOP_SET_CAPACITY).
pub(super) fn loop_set_capacity(device: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: LOOP_SET_CAPACITY takes no argument and touches no memory of this process.
    unsafe { raw::loop_set_capacity(device.as_raw_fd()) }.map(drop)
}

/// Switches direct I/O to the backing file on or off (LOOP_SET_DIRECT_IO).
pub(super) fn loop_set_direct_io(device: BorrowedFd<'_>, on: bool) -> Result<()> {
    // SAFETY: the argument is a number by value; no memory of this process is touched.
    unsafe { raw::loop_set_direct_io(device.as_raw_fd(), c_int::from(on)) }.map(drop)
}

/// Sets a loop device's logical block size in bytes (LOOP_SET_BLOCK_SIZE).
pub(super) fn loop_set_block_size(device: BorrowedFd<'_>, bytes: u32) -> Result<()> {
    let bytes = c_int::try_from(bytes).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the argument is a number by value; no memory of this process is touched.
    unsafe { raw::loop_set_block_size(device.as_raw_fd(), bytes) }.map(drop)
}

/// The first [`FIEMAP_EXTENTS`] extents of a file within `length` bytes from `start` on
/// (FS_IOC_FIEMAP).
pub(super) fn extents(file: BorrowedFd<'_>, start: u64, length: u64) -> Result<Vec<Extent>> {
    let mut map = Fiemap {
        start,
        length,
        flags: 0,
        mapped_extents: 0,
        extent_count: FIEMAP_EXTENTS as u32,
        reserved: 0,
        extents: [Extent::default(); FIEMAP_EXTENTS],
    };
    // SAFETY: FS_IOC_FIEMAP reads and writes a `struct fiemap` and writes no more than
    // `extent_count` extents after it; `Fiemap` has that layout (sizes asserted above), with an
    // array of that length, and is borrowed for the call only. Every bit pattern of it is valid.
    unsafe { raw::fs_fiemap(file.as_raw_fd(), &mut map) }?;
    let count = (map.mapped_extents as usize).min(FIEMAP_EXTENTS);
    Ok(map.extents[..count].to_vec())
}

/// `FS_NOCOW_FL` (linux/fs.h): a copy-on-write file system overwrites the file in place.
const FS_NOCOW: c_long = 0x0080_0000;

/// Sets FS_NOCOW_FL on an empty file (FS_IOC_SETFLAGS), as `chattr +C` does.
pub(super) fn set_no_copy_on_write(file: BorrowedFd<'_>) -> Result<()> {
    let mut flags: c_long = 0;
    // SAFETY: FS_IOC_GETFLAGS writes at most one long (in fact an int) through the pointer, which
    // is to a live long borrowed for the call only.
    unsafe { raw::fs_get_flags(file.as_raw_fd(), &mut flags) }?;
    let flags = flags | FS_NOCOW;
    // SAFETY: FS_IOC_SETFLAGS reads at most one long (in fact an int) through the pointer, which is
    // to a live long.
    unsafe { raw::fs_set_flags(file.as_raw_fd(), &flags) }.map(drop)
}

/// Grows a mounted xfs to `blocks` of its own blocks (XFS_IOC_FSGROWFSDATA on any descriptor inside
/// it).
///
/// `inode_percent` is the share of the space that inodes may use. The call sets it as well, so pass
/// the current value.
pub(super) fn xfs_grow(inside: BorrowedFd<'_>, blocks: u64, inode_percent: u32) -> Result<()> {
    let data = XfsGrowData { new_blocks: blocks, inode_percent, padding: 0 };
    // SAFETY: XFS_IOC_FSGROWFSDATA reads one struct xfs_growfs_data; `XfsGrowData` has its layout,
    // padding included (size asserted above), and is fully initialised.
    unsafe { raw::xfs_grow_data(inside.as_raw_fd(), &data) }.map(drop)
}
