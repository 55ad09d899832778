//! Estimates how many pool blocks an empty file system maps, by its size, and which sizes are
//! possible.
//!
//! The tables show the mapped pool blocks of 64 KiB, measured with mke2fs 1.47.0 and mkfs.xfs 6.1
//! with this crate's options on Linux 6.1. (The guest test of sizes measures again and checks the
//! estimates.)
//!
//! | ext4 made | 1 GiB | 10 GiB | 100 GiB | 1 TiB | 4 TiB | 10 TiB |
//! |---|---|---|---|---|---|---|
//! | blocks | 9 | 14 | 29 | 249 | 812 | 2038 |
//!
//! | ext4 made at, grown to | 10, 20 GiB | 10, 100 GiB | 10 GiB, 1 TiB | 10 GiB, 4 TiB | 64 MiB, 10 GiB | 64 MiB, 100 GiB |
//! |---|---|---|---|---|---|---|
//! | blocks | 22 | 42 | 426 | 1692 | 88 | 2002 |
//!
//! (Below 512 MiB mke2fs uses blocks of 1 KiB, and its block groups are a sixteenth as large.)
//!
//! | xfs made | 300 MiB | 10 GiB | 1 TiB | 16 TiB | 100 TiB |
//! |---|---|---|---|---|---|
//! | blocks | 7 | 20 | 36 | 36 | 104 |
//!
//! | xfs made at, grown to | 1, 10 GiB | 10, 100 GiB | 10 GiB, 1 TiB | 10 GiB, 2 TiB | 300 MiB, 10 GiB |
//! |---|---|---|---|---|---|
//! | blocks | 116 | 196 | 1675 | 3313 | 172 |
//!
//! An xfs keeps its allocation groups and gets more of them when it grows. Each new group maps
//! about four pool blocks and needs about 250 KiB of kernel memory while it is made. 40,000 new
//! groups used all memory of a host.

use crate::units::Sectors;

use super::types::FsType;

const MIB: u64 = 2048;
const GIB: u64 = 1024 * MIB;
const TIB: u64 = 1024 * GIB;

/// The unit of the estimate in bytes: the smallest block size of a pool, with which the numbers
/// were measured.
pub const UNIT: u64 = 64 << 10;

/// The largest ext4 that Red Hat supports and that e2fsprogs' authors recommend.
const EXT4_MOST: Sectors = Sectors(50 * TIB);
/// The largest xfs that Linux distributions support.
const XFS_MOST: Sectors = Sectors(1024 * TIB);
/// The maximum number of allocation groups to which an xfs is grown. They need 256 MiB of kernel
/// memory.
pub const XFS_GROUPS_MOST: u64 = 1024;

/// Below this size mke2fs uses blocks of 1 KiB.
const EXT4_SMALL: Sectors = Sectors(512 * MIB);

/// The largest size of a file system of this type that was made with `made` sectors.
#[must_use]
pub fn largest(fs_type: FsType, made: Sectors) -> Sectors {
    match fs_type {
        FsType::Ext4 => EXT4_MOST,
        FsType::Xfs => {
            XFS_MOST.min(Sectors(xfs_group(made).saturating_mul(XFS_GROUPS_MOST)).max(made))
        }
    }
}

/// An upper limit for the bytes of a pool that an empty file system maps, which was made with
/// `made` sectors and grown to `size`. Pass the same value for both if it is not grown.
#[must_use]
pub fn bytes(fs_type: FsType, made: Sectors, size: Sectors) -> u64 {
    let grown = size.0.saturating_sub(made.0);
    let units = match fs_type {
        FsType::Ext4 if made < EXT4_SMALL => 24 + grown.div_ceil(GIB) * 24,
        FsType::Ext4 => 24 + made.0.div_ceil(4 * GIB) + grown.div_ceil(2 * GIB),
        FsType::Xfs => 48 + 2 * made.0.div_ceil(TIB) + 5 * grown.div_ceil(xfs_group(made).max(1)),
    };
    units.saturating_mul(UNIT)
}

/// The largest possible size at which [`bytes`] is not above `most`; `made` plus a whole number of
/// GiB. `None` if `made` itself needs more.
#[must_use]
pub fn fits(fs_type: FsType, made: Sectors, most: u64) -> Option<Sectors> {
    let fine = |size: Sectors| size <= largest(fs_type, made) && bytes(fs_type, made, size) <= most;
    if !fine(made) {
        return None;
    }
    Some(most_that(made, fine))
}

/// The largest size of a new file system that maps no more than `most` bytes of a pool.
#[must_use]
pub fn makes(fs_type: FsType, most: u64) -> Sectors {
    most_that(Sectors(0), |size| {
        size <= largest(fs_type, size) && bytes(fs_type, size, size) <= most
    })
}

/// The largest size for which `fine` is true; `least` plus a whole number of GiB. `fine` must be
/// true for all smaller sizes.
fn most_that(least: Sectors, fine: impl Fn(Sectors) -> bool) -> Sectors {
    let at = |step: u64| Sectors(least.0 + step * GIB);
    let (mut low, mut high) = (0, 2 * XFS_MOST.0 / GIB);
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        *(if fine(at(middle)) { &mut low } else { &mut high }) = middle;
    }
    at(low)
}

/// The sectors of an allocation group of an xfs that was made with `made` sectors and without
/// options of the operator: a quarter of the size up to 4 TiB, and 1 TiB above that (xfsprogs,
/// libxfs/topology.c, `calc_default_ag_geometry`).
fn xfs_group(made: Sectors) -> u64 {
    (made.0 / 4).clamp(1, TIB)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn gib(n: u64) -> Sectors {
        Sectors(n * GIB)
    }

    #[test]
    fn the_estimates_are_above_what_was_measured_and_not_far() {
        use FsType::{Ext4, Xfs};
        let measured = [
            (Ext4, gib(1), gib(1), 9),
            (Ext4, gib(10), gib(10), 14),
            (Ext4, gib(100), gib(100), 29),
            (Ext4, gib(1024), gib(1024), 249),
            (Ext4, gib(10240), gib(10240), 2038),
            (Ext4, gib(10), gib(100), 42),
            (Ext4, gib(10), gib(1024), 426),
            (Ext4, gib(10), gib(4096), 1692),
            (Ext4, Sectors(64 * MIB), gib(10), 88),
            (Ext4, Sectors(64 * MIB), gib(100), 2002),
            (Xfs, Sectors(300 * MIB), Sectors(300 * MIB), 7),
            (Xfs, gib(10), gib(10), 20),
            (Xfs, gib(16 * 1024), gib(16 * 1024), 36),
            (Xfs, gib(100 * 1024), gib(100 * 1024), 104),
            (Xfs, gib(1), gib(10), 116),
            (Xfs, gib(10), gib(100), 196),
            (Xfs, gib(10), gib(2048), 3313),
            (Xfs, Sectors(300 * MIB), gib(10), 172),
        ];
        for (fs_type, made, size, blocks) in measured {
            let estimate = bytes(fs_type, made, size) / UNIT;
            assert!(
                (blocks..5 * blocks + 60).contains(&estimate),
                "{fs_type} {made} {size}: {blocks}, not {estimate}"
            );
        }
    }

    #[test]
    fn an_xfs_does_not_grow_beyond_what_its_groups_allow() {
        assert_eq!(largest(FsType::Xfs, gib(10)), gib(2560));
        assert_eq!(largest(FsType::Xfs, gib(100 * 1024)), gib(1024 * 1024));
        assert_eq!(largest(FsType::Ext4, gib(10)), gib(50 * 1024));
    }

    proptest! {
        #[test]
        fn what_fits_fits_and_one_gib_more_does_not(
            made in 1u64..2048,
            most in 0u64..4 << 30, xfs in any::<bool>(),
        ) {
            let (fs_type, made) = (if xfs { FsType::Xfs } else { FsType::Ext4 }, gib(made));
            if let Some(size) = fits(fs_type, made, most) {
                prop_assert!(bytes(fs_type, made, size) <= most && size <= largest(fs_type, made) && size >= made);
                let more = Sectors(size.0 + GIB);
                prop_assert!(bytes(fs_type, made, more) > most || more > largest(fs_type, made));
            }
            let size = makes(fs_type, most);
            prop_assert!(size.0 == 0 || bytes(fs_type, size, size) <= most);
        }
    }
}
