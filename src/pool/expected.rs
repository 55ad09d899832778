//! Which epochs a database expects of its pool and of the pool's disks.

use crate::store::PoolRecord;

/// Whether a pool of this record may have the transaction id `found`; if not, what is wrong.
pub fn expected(record: &PoolRecord, found: u64) -> Result<(), String> {
    if !record.formatted && found == 0 {
        return Ok(());
    }
    known(record, found, "the pool's transaction id is")
}

/// Whether the data disk of this record's pool may have been taken into use last at the epoch
/// `found`; if not, what is wrong.
pub fn expected_on_disk(record: &PoolRecord, found: Option<u64>) -> Result<(), String> {
    found.map_or(Ok(()), |found| known(record, found, "the epoch on the data area's disk is"))
}

fn known(record: &PoolRecord, found: u64, what: &str) -> Result<(), String> {
    if found == record.epoch || Some(found) == record.epoch_next {
        return Ok(());
    }
    Err(format!(
        "{what} {found}, the database's epoch is {}{}; one of the two is a copy from another time: put back the one that belongs to the other",
        record.epoch,
        record.epoch_next.map(|next| format!(" or {next}")).unwrap_or_default(),
    ))
}
