//! Writes to ext4's superblock: the mount options against lost writes, and the mark of an error.

use crate::block::Disk;
use crate::fs::error::FsError;

use super::crc32c::crc32c;
use super::superblock::{RawSuperblock, Superblock, PLACE, STATE, STATE_ERRORS};

/// The first byte of `s_mount_opts`, the mount options as text, and its length.
const MOUNT_OPTIONS: (usize, usize) = (512, 64);

/// The first byte of the checksum, which covers all bytes before it.
const CHECKSUM: usize = 1020;

/// Makes ext4 abort its journal when a write of new file data fails. Commit then finds the error in
/// the journal. This writes `data_err=abort,dioread_lock` to the superblock's mount options, if
/// there is a journal and no options are set.
///
/// The options are in the superblock and not in each mount's options for two reasons. Linux 6.15
/// and later refuse to mount a file system without a journal with them. And options in the
/// superblock hold for every mount; a kernel that does not know one of them logs that and goes on.
/// `data_err=abort` alone has no effect from Linux 5.6 to 6.14: there the default is
/// `dioread_nolock`, by which new blocks are unwritten extents until their data is on the disk, and
/// the journal does not wait for the data.
///
/// The file system must be unmounted.
///
/// # Errors
/// [`FsError::Superblock`], [`FsError::Block`].
pub(crate) fn note_lost_writes(disk: &dyn Disk) -> Result<(), FsError> {
    const OPTIONS: &[u8] = b"data_err=abort,dioread_lock";
    let (superblock, mut bytes) = Superblock::read_raw(disk)?;
    let (start, length) = MOUNT_OPTIONS;
    if !superblock.has_journal || bytes[start..start + length].iter().any(|byte| *byte != 0) {
        return Ok(());
    }
    bytes[start..start + OPTIONS.len()].copy_from_slice(OPTIONS);
    write(disk, &superblock, bytes)
}

/// Marks the file system as damaged (`s_state`), as the kernel does when it finds an error.
///
/// The file system must be unmounted.
///
/// # Errors
/// [`FsError::Superblock`], [`FsError::Block`].
pub(crate) fn note_error(disk: &dyn Disk) -> Result<(), FsError> {
    let (superblock, mut bytes) = Superblock::read_raw(disk)?;
    bytes[STATE] |= STATE_ERRORS as u8;
    write(disk, &superblock, bytes)
}

fn write(
    disk: &dyn Disk,
    superblock: &Superblock,
    mut bytes: RawSuperblock,
) -> Result<(), FsError> {
    if superblock.layout.checksum_seed.is_some() {
        let sum = crc32c(!0, &bytes[..CHECKSUM]);
        bytes[CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
    }
    disk.write_at(&bytes, PLACE)?;
    Ok(disk.flush()?)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{disk_with, superblock};
    use super::*;
    use crate::fs::NotedErrors;

    #[test]
    fn a_journal_is_told_to_abort_on_a_lost_write_unless_options_are_set() {
        let options = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = superblock();
            change(&mut bytes);
            let disk = disk_with(&bytes);
            note_lost_writes(&disk).unwrap();
            let mut after = vec![0; 1024];
            disk.read_at(&mut after, 1024).unwrap();
            let sum = crc32c(!0, &after[..CHECKSUM]).to_le_bytes();
            assert!(after == bytes || after[CHECKSUM..] == sum, "the checksum is wrong");
            String::from_utf8(
                after[512..576].iter().copied().take_while(|byte| *byte != 0).collect(),
            )
            .unwrap()
        };
        assert_eq!(options(&|_| ()), "data_err=abort,dioread_lock");
        assert_eq!(options(&|bytes| bytes[92] = 0), "");
        assert_eq!(options(&|bytes| bytes[512] = b'x'), "x");
    }

    #[test]
    fn a_marked_error_is_read_back() {
        let disk = disk_with(&superblock());
        note_error(&disk).unwrap();
        let state = Superblock::read(&disk).unwrap().state(&disk).unwrap();
        assert_eq!(state.errors, Some(NotedErrors::default()));
        assert!(!state.clean);
    }
}
