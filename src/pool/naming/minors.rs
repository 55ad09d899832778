//! The minor numbers of thin devices: a number is not used again soon.
//!
//! The kernel gives out the lowest free number, so a number comes back at once. A program that
//! still uses `/dev/dm-N` of a removed snapshot would then get another snapshot. So the number is
//! derived from the pool and the thin id. Ids go upwards and are on record before they are used, so
//! a number comes back only after the whole range has been used, even if the daemon or the machine
//! ends in between. Nothing has to be stored for it.

/// Lower numbers are left to programs that take what the kernel gives them.
const FIRST: u32 = 1 << 16;
/// How many different thins are activated between two uses of a number.
const COUNT: u32 = crate::dm::MAX_MINOR + 1 - FIRST;

/// The minor numbers for the thin `id` of the pool with this UUID, in the order in which to try
/// them. Pools begin at different numbers. All but the first are for a number that another device
/// has; they come back after a quarter of the range.
pub fn minors(pool: &str, id: u32) -> impl Iterator<Item = u32> {
    // FNV-1a, which stays the same from one build to the next.
    let start = pool
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let place = (u64::from(start) + u64::from(id)) % u64::from(COUNT);
    let steps = [0, COUNT / 2, COUNT / 4, COUNT / 4 * 3];
    steps.into_iter().map(move |step| FIRST + ((place as u32) + step) % COUNT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn first(pool: &str, id: u32) -> u32 {
        minors(pool, id).next().unwrap()
    }

    #[test]
    fn a_number_comes_back_only_when_the_whole_range_has_been_used() {
        let pool = "00112233445566778899aabbccddeeff";
        let once: BTreeSet<u32> = (7..7 + COUNT).map(|id| first(pool, id)).collect();
        assert_eq!(once.len(), COUNT as usize);
        assert_eq!((once.first(), once.last()), (Some(&FIRST), Some(&((1 << 20) - 1))));
        assert_eq!(first(pool, 7 + COUNT), first(pool, 7));
    }

    #[test]
    fn the_numbers_to_try_are_all_different_and_pools_begin_at_different_places() {
        for id in [0, 1, COUNT - 1, (1 << 24) - 1] {
            let tried: BTreeSet<u32> = minors("aa", id).collect();
            assert_eq!(tried.len(), 4);
            assert!(tried.iter().all(|minor| (FIRST..1 << 20).contains(minor)), "{tried:?}");
        }
        assert_ne!(first("aa", 1), first("ab", 1));
    }
}
