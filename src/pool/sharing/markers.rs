//! The markers in a shared pool: small thins that hold the claims of all databases.

use std::collections::{BTreeMap, BTreeSet};

use super::claim::{Claim, MARKER_BYTES};
use crate::pool::error::PoolError;
use crate::pool::handle::Pool;
use crate::pool::thins::{CLAIM_LENGTH, MARKERS, SHARED_START};
use crate::store::IdRange;
use crate::units::ThinId;

/// The thins in a shared pool, and the claims in its markers. A marker without a claim is `None`.
pub struct Markers {
    pub thins: BTreeSet<ThinId>,
    pub claims: BTreeMap<ThinId, Option<Claim>>,
}

impl Markers {
    pub fn read(pool: &Pool) -> Result<Markers, PoolError> {
        let thins = pool.thins()?;
        let mut claims = BTreeMap::new();
        for (&id, &blocks) in thins.iter().filter(|(id, _)| MARKERS.contains(**id)) {
            let mut bytes = vec![0; MARKER_BYTES];
            // A marker has one block. A larger thin is something else.
            let read = if blocks == 1 { pool.peek(id, &mut bytes)? } else { None };
            claims.insert(id, read.and_then(|()| Claim::decode(&bytes)));
        }
        Ok(Markers { thins: thins.into_keys().collect(), claims })
    }

    /// A range without a claim, and if possible without a thin. The first range is left to daemons
    /// that make no claims, and the last to markers.
    pub fn free_range(&self, random: u64) -> Option<IdRange> {
        let ranges = (SHARED_START + CLAIM_LENGTH..MARKERS.start - CLAIM_LENGTH)
            .step_by(CLAIM_LENGTH as usize);
        let unclaimed: Vec<IdRange> = ranges
            .map(|start| IdRange { start, end: start + CLAIM_LENGTH })
            .filter(|range| {
                !self.claims.values().flatten().any(|claim| overlap(claim.range, *range))
            })
            .collect();
        let empty = |range: &&IdRange| !self.thins.iter().any(|id| range.contains(*id));
        let free: Vec<&IdRange> = unclaimed.iter().filter(empty).collect();
        let choice = if free.is_empty() { unclaimed.iter().collect() } else { free };
        choice.get((random % choice.len().max(1) as u64) as usize).map(|range| **range)
    }

    /// Whether a marker other than `own` claims ids in `range`.
    pub fn others_claim(&self, own: ThinId, range: IdRange) -> bool {
        self.claims.iter().any(|(id, claim)| {
            *id != own && claim.as_ref().is_some_and(|claim| overlap(claim.range, range))
        })
    }
}

fn overlap(a: IdRange, b: IdRange) -> bool {
    a.start < b.end && b.start < a.end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> ThinId {
        ThinId::new(n).unwrap()
    }

    fn claim(start: u32) -> Claim {
        let range = IdRange { start, end: start + CLAIM_LENGTH };
        Claim { uuid: "00".into(), name: "n".into(), range, epoch: 1 }
    }

    #[test]
    fn a_range_is_chosen_where_no_claim_is_and_no_thin() {
        let mut markers = Markers { thins: BTreeSet::new(), claims: BTreeMap::new() };
        let mut chosen = BTreeSet::new();
        let mut turn = 0;
        while let Some(range) = markers.free_range(turn) {
            turn += 7;
            assert!(
                range.start >= SHARED_START + CLAIM_LENGTH && range.end <= MARKERS.start,
                "{range:?}"
            );
            assert!(chosen.insert(range.start), "{range:?} twice");
            markers.claims.insert(id(MARKERS.start + turn as u32), Some(claim(range.start)));
        }
        assert_eq!(chosen.len(), 30);
        // A range with thins of a daemon that makes no claims is used only when there is no other.
        markers.claims.clear();
        markers.thins = (2..31).map(|n| id(SHARED_START + n * CLAIM_LENGTH + 5)).collect();
        for turn in 0..40 {
            assert_eq!(markers.free_range(turn).unwrap().start, SHARED_START + CLAIM_LENGTH);
        }
        markers.thins.insert(id(SHARED_START + CLAIM_LENGTH));
        assert!(markers.free_range(3).is_some());
    }
}
