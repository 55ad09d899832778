//! Joining a shared pool: a start claims thin ids, or confirms its claim.
//!
//! Other daemons of this program may use the same pool. Each takes ids from a range of its own. It
//! chooses the range at its first start, where there is no claim and no thin. The claim is written
//! into a small thin of the pool, the marker, whose id lies in a range for markers. So every daemon
//! can read it, and a copy of the pool has a copy of it. The claim has an epoch that moves by one
//! at each start, and is on record before the marker has it. By that a start detects
//! - another pool under the same name, or an older copy of the pool: the marker is missing, or its
//!   epoch is too low;
//! - an older copy of the database: the marker's epoch is too high;
//! - a database that was lost: its claim is never moved again.
//!
//! Architecture Invariant: a thin in a shared pool is deleted only if a record says that it is
//! ours, or while a device with this database's UUID stands on it. A lease proves nothing there,
//! because another program can make a thin of any id.

use uuid::Uuid;

use super::claim::Claim;
use super::markers::Markers;
use crate::block::Access;
use crate::dm;
use crate::pool::error::PoolError;
use crate::pool::handle::Pool;
use crate::pool::kind::Shared;
use crate::pool::naming::Role;
use crate::pool::thins::MARKERS;
use crate::store::{ClaimRecord, IdRange};
use crate::units::ThinId;

/// Two daemons that choose the same range at the same time see each other's markers and choose
/// again, up to this often.
const TRIES: usize = 8;

impl Pool {
    /// Whether another program assembles the pool, so that other daemons may use it too.
    pub fn is_shared(&self) -> bool {
        self.shared().is_some()
    }

    /// The range of ids that this database claims of a shared pool. `None` for a pool of our own.
    pub fn claimed(&self) -> Result<Option<IdRange>, PoolError> {
        Ok(self.store.read(|r| r.id_claim())?.map(|claim| claim.range))
    }

    /// Makes sure by the claim that database and shared pool belong together, moves the claim's
    /// epoch on, and sets aside what others have made in its range. Does nothing on a pool of our
    /// own. A start must do this before it changes anything else.
    pub fn join(&self) -> Result<(), PoolError> {
        let Some(shared) = self.shared() else { return Ok(()) };
        // A crash may have left this device, on another marker.
        self.deactivate(Role::Claim)?;
        let joining = Joining { pool: self, shared };
        let markers = Markers::read(self)?;
        let claim = match self.store.read(|r| r.id_claim())? {
            Some(claim) if claim.epoch > 0 || joining.has_our_claim(&markers, claim.marker) => {
                joining.confirm(claim, &markers)?
            }
            _ => joining.choose(markers)?,
        };
        let claim = self.zeroing_kept(claim)?;
        joining.advance(claim)?;
        self.sort_unrecorded(&Markers::read(self)?.thins)?;
        for news in self.other_users()?.lines(&self.device_name) {
            tracing::warn!("{news}");
        }
        Ok(())
    }

    /// How the claim on record and the one in the pool differ, in words. Changes nothing.
    pub fn check_claim(&self) -> Result<Option<String>, PoolError> {
        let Some(shared) = self.shared() else { return Ok(None) };
        let claim = self.store.read(|r| r.id_claim())?.filter(|claim| claim.epoch > 0);
        let Some(claim) = claim else { return Ok(None) };
        let joining = Joining { pool: self, shared };
        match joining.confirm(claim, &Markers::read(self)?) {
            Err(error @ PoolError::Foreign { .. }) => Ok(Some(error.to_string())),
            other => other.map(|_| None),
        }
    }
}

struct Joining<'a> {
    pool: &'a Pool,
    shared: &'a Shared,
}

impl Joining<'_> {
    fn is_ours(&self, claim: &Claim) -> bool {
        claim.uuid == self.shared.record.uuid
    }

    fn has_our_claim(&self, markers: &Markers, marker: ThinId) -> bool {
        matches!(markers.claims.get(&marker), Some(Some(claim)) if self.is_ours(claim))
    }

    /// The claim on record, if the pool has it in the same state.
    fn confirm(&self, claim: ClaimRecord, markers: &Markers) -> Result<ClaimRecord, PoolError> {
        let marker = claim.marker;
        let found = match markers.claims.get(&marker) {
            Some(Some(found)) if self.is_ours(found) => found,
            Some(Some(other)) => {
                return Err(self.foreign(&format!(
                    "thin {marker}, which holds this database's claim, says that {other}"
                )))
            }
            Some(None) => {
                return Err(self.foreign(&format!(
                    "thin {marker} does not hold this database's claim any more"
                )))
            }
            None => {
                return Err(self.foreign(&format!(
                    "thin {marker}, which holds this database's claim, is not in it"
                )))
            }
        };
        if found.epoch != claim.epoch && Some(found.epoch) != claim.next {
            return Err(self.foreign(&format!(
                "the epoch of its claim is {}, the database's is {}; {} is a copy from another \
                 time",
                found.epoch,
                claim.epoch,
                if found.epoch > claim.epoch { "the database" } else { "the pool" }
            )));
        }
        Ok(ClaimRecord { epoch: found.epoch, next: None, ..claim })
    }

    fn foreign(&self, what: &str) -> PoolError {
        let what =
            format!("{what}. Put back the one that belongs to the other; nothing was changed");
        let (pool, store) = (self.pool.device_name.clone(), self.pool.store.path().into());
        PoolError::Foreign { pool, store, what }
    }

    /// Claims a range, at the first start.
    fn choose(&self, mut markers: Markers) -> Result<ClaimRecord, PoolError> {
        if let Some(claim) = markers.claims.values().flatten().find(|claim| self.is_ours(claim)) {
            return Err(self.foreign(&format!(
                "the database knows of no claim in it, and {claim}: the database is a copy from \
                 another time"
            )));
        }
        let (pool, name) = (self.pool, &self.pool.device_name);
        for _ in 0..TRIES {
            let range = markers.free_range(random()).ok_or_else(|| self.no_range_left(&markers))?;
            let offset = random() as u32 % (MARKERS.end - MARKERS.start);
            let Ok(marker) = ThinId::new(MARKERS.start + offset) else { continue };
            // On record before the marker is made, so that a crash leaves no unknown marker.
            let zeroed = pool.store.read(|r| Ok(!r.templates()?.is_empty()))?;
            let claim = ClaimRecord { marker, range, epoch: 0, next: Some(1), zeroed };
            pool.store.commit(|c| {
                c.put_pool(&self.shared.record).and_then(|()| c.put_id_claim(&claim))
            })?;
            match pool.dm.create_thin(name, marker) {
                Ok(()) => {}
                Err(dm::Error::ThinExists { .. }) => {
                    markers = Markers::read(pool)?;
                    continue;
                }
                Err(source) => {
                    let (pool, id) = (name.clone(), marker);
                    return Err(PoolError::Create { pool, id, origin: None, source });
                }
            }
            self.write(&claim, 1)?;
            if !Markers::read(pool)?.others_claim(marker, range) {
                tracing::info!(
                    pool = %name,
                    %marker,
                    start = range.start,
                    end = range.end,
                    "claimed thin ids"
                );
                return Ok(ClaimRecord { epoch: 1, next: None, ..claim });
            }
            pool.delete(marker)?;
            markers = Markers::read(pool)?;
        }
        let what =
            "has claims of thin ids that change all the time; start this daemon again".into();
        Err(PoolError::External { pool: name.clone(), what })
    }

    fn no_range_left(&self, markers: &Markers) -> PoolError {
        let pool = &self.pool.device_name;
        let what = format!(
            "has no range of thin ids left for this daemon: {} others have claimed them. Delete \
             the claims of databases that are lost ('dmsetup message {pool} 0 \"delete ID\"', with \
             ID one of {})",
            markers.claims.len(),
            markers.claims.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        );
        PoolError::External { pool: pool.clone(), what }
    }

    /// Moves the claim's epoch by one, on record first.
    fn advance(&self, claim: ClaimRecord) -> Result<(), PoolError> {
        let next = claim.epoch + 1;
        let moving = ClaimRecord { next: Some(next), ..claim };
        self.pool.store.commit(|c| c.put_id_claim(&moving))?;
        self.write(&moving, next)?;
        self.pool.store.commit(|c| {
            c.put_id_claim(&ClaimRecord { epoch: next, next: None, ..moving.clone() })
        })?;
        Ok(())
    }

    /// Writes the claim into its marker.
    fn write(&self, claim: &ClaimRecord, epoch: u64) -> Result<(), PoolError> {
        let (pool, record) = (self.pool, &self.shared.record);
        let (uuid, name) = (record.uuid.clone(), record.name.clone());
        let text = Claim { uuid, name, range: claim.range, epoch }.encode();
        let node = pool.activate(Role::Claim, claim.marker, pool.block_size, false)?;
        let written = pool.disks.open(&node, Access::Write).and_then(|disk| {
            disk.write_at(&text, 0)?;
            disk.flush()
        });
        let gone = pool.deactivate(Role::Claim);
        written.map_err(|source| {
            let (pool, marker) = (pool.device_name.clone(), claim.marker);
            PoolError::Marker { pool, marker, source }
        })?;
        match gone {
            // udev may have it open. The start removes it later, like any device without a record.
            Err(error) if error.is_busy() => Ok(()),
            other => other,
        }
    }
}

fn random() -> u64 {
    Uuid::new_v4().as_u64_pair().0 ^ Uuid::new_v4().as_u64_pair().1 >> 16
}
