//! The options of mke2fs.

use crate::fs::options::{Own, Syntax};
use crate::units::Sectors;

/// The syntax of mke2fs's arguments (misc/mke2fs.c, the string given to getopt).
pub(crate) const SYNTAX: Syntax =
    Syntax { with_value: "bCdeEgGiIJlLmMNoOrRtTUz", joined: Some('E') };

/// Descriptor blocks are reserved for growth to ten times the size.
const GROWTH_FACTOR: u64 = 10;

/// The smallest size for which descriptor blocks are reserved, in blocks of 4 KiB: 100 GiB.
const GROWTH_FLOOR: u64 = 26_214_400;

/// The largest number of blocks that `resize=` accepts. Beyond it the kernel uses another layout.
const GROWTH_CEILING: u64 = u32::MAX as u64;

/// The largest reserve for growth beyond the size, in blocks of 4 KiB: 4 TiB, which takes 512
/// descriptor blocks (each describes 64 groups of 32,768 blocks). When the file system grows, the
/// kernel adds all of them in one transaction. A journal of 16 MiB allows at most 1024 blocks in a
/// transaction: with 1024 reserved, growing failed with ENOSPC (1 TiB to 2 TiB, Linux 6.1).
const GROWTH_RESERVE: u64 = 512 * 64 * 32_768;

/// Below this size, 512 MiB, mke2fs uses blocks of 1 KiB instead of 4 KiB (mke2fs.conf, type
/// "small").
const SMALL: Sectors = Sectors(512 << 11);

/// The option that tells mke2fs (e2fsprogs 1.47 and later) that unwritten blocks read as zeros, so
/// that it does not write them.
pub(crate) const PREZEROED: &str = "assume_storage_prezeroed=1";

/// This crate's options.
///
/// There is no `-J` if the operator wants no journal: it would win over `-O ^has_journal`.
///
/// Measured on thins of 10 GiB with blocks of 64 KiB (mke2fs 1.47.0, User-Mode Linux 6.1), always
/// with `-m 0 -J size=16` and `assume_storage_prezeroed=1,nodiscard,resize=26214400`. The column
/// "template" is the number of pool blocks that an empty file system maps. "200 files" is what a
/// layer of 200 files of 10 kB in ten directories maps beyond the template. "1 TiB" is what is
/// mapped after growing to 1000 GiB:
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
/// Linux 7.2 can also grow a file system with these options. The size of the journal (4 to 64 MiB)
/// changes none of the numbers: its unwritten part is not mapped. 16 MiB limits what a long-lived
/// layer can map for its journal. Without `assume_storage_prezeroed`, mke2fs or the kernel writes
/// the inode tables (2641 to 3664 blocks). Both kinds of lazy initialisation are off, because the
/// kernel would write the same zeros after the first mount of every layer.
pub(crate) fn own_options(size: Sectors, prezeroed: bool, user: &[String]) -> Vec<Own> {
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
    let reserved = blocks
        .saturating_mul(GROWTH_FACTOR)
        .clamp(GROWTH_FLOOR, GROWTH_CEILING)
        .min(blocks + GROWTH_RESERVE);
    let mut options = vec!["nodiscard".to_owned()];
    if size >= SMALL {
        // With blocks of 1 KiB mke2fs 1.47 reports a problem with this option.
        options.push("packed_meta_blocks=1".to_owned());
    }
    let zeros =
        if prezeroed { &[PREZEROED][..] } else { &["lazy_itable_init=0", "lazy_journal_init=0"] };
    options.extend(zeros.iter().map(ToString::to_string));
    if reserved > blocks {
        options.push(format!("resize={reserved}"));
    }
    options
}

/// The journal's size in MiB; `None` leaves the choice to mke2fs, for small file systems.
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
    fn growth_is_reserved_to_100_gib_or_tenfold_as_far_as_there_are_blocks() {
        let reserved = |gib: u64| {
            let options = own_options(Sectors(gib << 21), true, &[]);
            value(&options, 'E')
                .split(',')
                .find_map(|item| item.strip_prefix("resize=")?.parse::<u64>().ok())
        };
        assert_eq!(reserved(1), Some(100 << 18));
        assert_eq!(reserved(64), Some(640 << 18));
        assert_eq!(reserved(4000), Some((4000 << 18) + GROWTH_RESERVE));
        assert_eq!(reserved(16_000), Some(u64::from(u32::MAX)));
        assert_eq!(reserved(20_000), None, "nothing to reserve beyond the largest size");
    }

    #[test]
    fn without_has_journal_there_is_no_journal_option() {
        let has = |user: &[&str]| {
            let user: Vec<_> = user.iter().map(ToString::to_string).collect();
            own_options(Sectors(1 << 21), true, &user).iter().any(|option| option.letter == 'J')
        };
        assert!(has(&["-O", "^metadata_csum"]));
        assert!(!has(&["-O", "^metadata_csum,^has_journal"]));
    }

    #[test]
    fn without_prezeroed_storage_the_kernel_initialises_nothing_later() {
        let options = own_options(Sectors(1 << 21), false, &[]);
        let extended = value(&options, 'E');
        assert!(!extended.contains(PREZEROED), "{extended}");
        assert!(extended.contains("lazy_itable_init=0,lazy_journal_init=0"), "{extended}");
    }
}
