//! Which minor number the device of a thin gets: one that was not another's a moment ago.
//!
//! The kernel hands out the lowest free number, so a number comes back at once, and whoever still
//! goes by `/dev/dm-N` of a removed snapshot would be shown somebody else's. Here the number
//! follows from the pool and the thin id. Ids go upwards and are on record before they are used, so
//! numbers come back only when the range has gone round, whatever ends in between: the daemon, or
//! the machine. Nothing has to be kept for it.

/// The numbers below are left to programs that take what the kernel gives them.
const FIRST: u32 = 1 << 16;
/// How many activations of different thins there are between two uses of a number.
const COUNT: u32 = crate::dm::MAX_MINOR + 1 - FIRST;

/// The minor numbers for the thin `id` of the pool with this UUID, in the order in which they are
/// to be tried; pools begin at different places. The later ones, for when a number is taken by
/// somebody else's device, come back after a quarter of the range.
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
