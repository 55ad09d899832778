//! ext4: its mke2fs options.

use crate::units::Sectors;

use super::options::{Own, Syntax};

/// How mke2fs reads its arguments (misc/mke2fs.c, the string given to getopt).
pub(super) const SYNTAX: Syntax =
    Syntax { with_value: "bCdeEgGiIJlLmMNoOrRtTUz", joined: Some('E') };

/// Room to grow online without a change of layout, in blocks of 4 KiB: 100 GiB, or ten times the
/// size.
const GROWTH_FLOOR: u64 = 26_214_400;
const GROWTH_FACTOR: u64 = 10;

/// The most blocks that `resize=` can name; what lies beyond takes another layout, which the kernel
/// makes by itself.
const GROWTH_CEILING: u64 = u32::MAX as u64;

/// The most that is reserved for growth beyond the size, in blocks of 4 KiB: 4 TiB, 512 blocks of
/// descriptors (64 groups of 32,768 blocks in each). The kernel adds all of them in one transaction
/// when it grows, and a journal of 16 MiB takes no more than 1024 blocks in one: with 1024
/// reserved, growing failed with ENOSPC (1 TiB to 2 TiB, Linux 6.1).
const GROWTH_RESERVE: u64 = 512 * 64 * 32_768;

/// Below this, 512 MiB, mke2fs makes blocks of 1 KiB instead of 4 (mke2fs.conf, type "small").
const SMALL: Sectors = Sectors(512 << 11);

/// What tells mke2fs (e2fsprogs 1.47 and later) that unwritten blocks read as zeros, so that it
/// need not write them.
pub(super) const PREZEROED: &str = "assume_storage_prezeroed=1";

/// This crate's own options.
///
/// No journal is asked for where the user wants none: `-J` would win over `-O ^has_journal`.
///
/// Measured on thins of 10 GiB with blocks of 64 KiB (mke2fs 1.47.0, User-Mode Linux 6.1), always
/// with `-m 0 -J size=16` and `assume_storage_prezeroed=1,nodiscard,resize=26214400`; "200 files"
/// is what a layer of 200 files of 10 kB in ten directories takes beyond the template, "1 TiB" is
/// all that is mapped after growing to 1000 GiB:
///
/// | options | template | 200 files | 1 TiB |
/// |---|---|---|---|
/// | none | 19 | 57 | 815 |
/// | `packed_meta_blocks=1` | 14 | 64 | 811 |
/// | `-G 64 packed_meta_blocks=1` | 14 | 42 | 489 |
/// | `-G 128` | 16 | 42 | 417 |
/// | `-G 128 packed_meta_blocks=1` (taken) | 14 | 43 | 416 |
/// | `-O sparse_super2 packed_meta_blocks=1` | 8 | | refuses to grow |
/// | `-O ^resize_inode packed_meta_blocks=1` | 14 | 58 | 821 |
///
/// Linux 7.2 grows the one taken as well. The size of the journal (4 to 64 MiB) changes none of
/// these: what of it is not written yet is not mapped. 16 MiB bounds what a long-lived layer can
/// map for it. Without `assume_storage_prezeroed` the kernel or mke2fs writes the inode tables
/// (2641 to 3664 blocks); both kinds of lazy initialisation are off, since the kernel would write
/// the same zeros behind the first mount of every layer.
pub(super) fn own_options(size: Sectors, prezeroed: bool, user: &[String]) -> Vec<Own> {
    let with = |letter, value: &str| Own { letter, value: Some(value.to_owned()) };
    let mut options =
        vec![Own { letter: 'q', value: None }, with('t', "ext4"), with('m', "0"), with('G', "128")];
    let wants_none = user.iter().any(|item| item.contains("^has_journal"));
    let journal = journal_size(size)
        .filter(|_| !wants_none)
        .map(|mebibytes| with('J', &format!("size={mebibytes}")));
    options.extend(journal);
    options.push(with('E', &extended_options(size, prezeroed).join(",")));
    options
}

fn extended_options(size: Sectors, prezeroed: bool) -> Vec<String> {
    let blocks = size.0 / 8;
    let room = blocks
        .saturating_mul(GROWTH_FACTOR)
        .clamp(GROWTH_FLOOR, GROWTH_CEILING)
        .min(blocks + GROWTH_RESERVE);
    let mut options = vec!["nodiscard".to_owned()];
    if size >= SMALL {
        // With the blocks of 1 KiB that smaller ones get, mke2fs 1.47 trips over it and says so.
        options.push("packed_meta_blocks=1".to_owned());
    }
    let zeros =
        if prezeroed { &[PREZEROED][..] } else { &["lazy_itable_init=0", "lazy_journal_init=0"] };
    options.extend(zeros.iter().map(ToString::to_string));
    if room > blocks {
        options.push(format!("resize={room}"));
    }
    options
}

/// The journal's size in MiB; `None` leaves the choice to mke2fs, for file systems too small for
/// any of ours.
fn journal_size(size: Sectors) -> Option<u32> {
    const MIB: u64 = 2048;
    match size.0 / MIB {
        0..16 => None,
        16..48 => Some(4),
        _ => Some(16),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(options: &[Own], letter: char) -> &str {
        let option = options.iter().find(|option| option.letter == letter).unwrap();
        option.value.as_deref().unwrap()
    }

    #[test]
    fn there_is_room_to_grow_to_100_gib_or_tenfold_as_far_as_there_are_blocks() {
        let room = |gib: u64| {
            let options = own_options(Sectors(gib << 21), true, &[]);
            value(&options, 'E')
                .split(',')
                .find_map(|item| item.strip_prefix("resize=")?.parse::<u64>().ok())
        };
        assert_eq!(room(1), Some(100 << 18));
        assert_eq!(room(64), Some(640 << 18));
        assert_eq!(room(4000), Some((4000 << 18) + GROWTH_RESERVE));
        assert_eq!(room(16_000), Some(u64::from(u32::MAX)));
        assert_eq!(room(20_000), None, "beyond the largest there is nothing to reserve");
    }

    #[test]
    fn a_user_who_wants_no_journal_gets_none() {
        let has = |user: &[&str]| {
            let user: Vec<_> = user.iter().map(ToString::to_string).collect();
            own_options(Sectors(1 << 21), true, &user).iter().any(|option| option.letter == 'J')
        };
        assert!(has(&["-O", "^metadata_csum"]));
        assert!(!has(&["-O", "^metadata_csum,^has_journal"]));
    }

    #[test]
    fn without_prezeroed_storage_nothing_is_left_for_the_kernel_to_do_later() {
        let options = own_options(Sectors(1 << 21), false, &[]);
        let extended = value(&options, 'E');
        assert!(!extended.contains(PREZEROED), "{extended}");
        assert!(extended.contains("lazy_itable_init=0,lazy_journal_init=0"), "{extended}");
    }
}
