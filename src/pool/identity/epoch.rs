//! The epoch: a number that goes up by one at each start. Pool, data disk and database each have
//! it, and so show which of them is an older copy.

use crate::store::PoolRecord;

/// Whether a pool of this record may have the transaction id `found`. If not, says what is wrong.
pub fn expected(record: &PoolRecord, found: u64) -> Result<(), String> {
    if !record.formatted && found == 0 {
        return Ok(());
    }
    known(record, found, "the pool's transaction id is")
}

/// Whether the data disk of this record's pool may have been used last at the epoch `found`. If
/// not, says what is wrong.
pub fn expected_on_disk(record: &PoolRecord, found: Option<u64>) -> Result<(), String> {
    found.map_or(Ok(()), |found| known(record, found, "the epoch on the data area's disk is"))
}

fn known(record: &PoolRecord, found: u64, what: &str) -> Result<(), String> {
    if found == record.epoch || Some(found) == record.epoch_next {
        return Ok(());
    }
    Err(format!(
        "{what} {found}, the database's epoch is {}{}; one of the two is a copy from another time: \
         put back the one that belongs to the other",
        record.epoch,
        record.epoch_next.map(|next| format!(" or {next}")).unwrap_or_default(),
    ))
}
