//! What a database claims of the ids of a pool that somebody else assembles, and how others see it.
//!
//! Other daemons of this kind may use the same pool. Each takes ids from a range of its own, chosen
//! at its first start where no claim is and no thin. The claim is written into a small thin of the
//! pool, the marker, whose id lies in a zone kept for markers; so it can be read by everybody, and
//! goes where the pool goes. It carries an epoch that moves by one at each start, and is on record
//! before the marker has it. From that a start tells
//! - another pool under the same name, or an older copy of the pool: the marker is missing, or its
//!   epoch is too low;
//! - an older copy of the database: the marker's epoch is too high;
//! - a database that was lost: a claim that nobody moves any more.
//!
//! Architecture Invariant: a thin in such a pool is deleted only if a record says that it is ours,
//! or while a device that carries this database's UUID stands on it. That an id is on lease proves
//! nothing there: somebody else can make a thin of any id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ids::SHARED_START;
use super::{Pool, PoolError, Role};
use crate::block::{Access, Disks};
use crate::dm;
use crate::store::{ClaimRecord, IdRange, Owner, ReclaimKind, ReclaimRecord};
use crate::units::{Sectors, ThinId};

/// The last ids are for markers.
const MARKERS: IdRange = IdRange { start: (1 << 24) - (1 << 12), end: 1 << 24 };
/// How many ids one claim covers. They come round again after so many snapshots.
const RANGE: u32 = 1 << 18;
/// Two that choose at the same time see each other's markers and choose again.
const TRIES: usize = 8;
/// What is read and written of a marker. The text fits into the first 512 bytes, which a disk
/// writes whole or not at all.
const MARKER_BYTES: usize = 4096;
const TITLE: &str = "devmapper-snapshotter claims thin ids of this pool";

/// A claim as it stands in a marker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The UUID of the database, as in the dm uuids of its devices.
    pub uuid: String,
    /// What the names of its devices start with.
    pub name: String,
    pub range: IdRange,
    pub epoch: u64,
}

impl Claim {
    fn encode(&self) -> Vec<u8> {
        let body = serde_json::to_string(self).expect("strings and numbers");
        let mut bytes = format!("{TITLE}\n{body}\n{:016x}\n", digest(body.as_bytes())).into_bytes();
        bytes.resize(MARKER_BYTES, 0);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Claim> {
        let text = std::str::from_utf8(bytes.split(|byte| *byte == 0).next()?).ok()?;
        let mut lines = text.strip_prefix(TITLE)?.strip_prefix('\n')?.lines();
        let (body, sum) = (lines.next()?, lines.next()?);
        (u64::from_str_radix(sum, 16).ok()? == digest(body.as_bytes()))
            .then(|| serde_json::from_str(body).ok())?
    }
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Claim { uuid, name, range: IdRange { start, end }, epoch } = self;
        write!(
            f,
            "database {uuid} (devices named {name}-…, at epoch {epoch}) claims the thin ids {start} to {}",
            end - 1
        )
    }
}

/// FNV-1a: against a torn or foreign block, not against intent.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A look at a shared pool.
struct Around {
    thins: BTreeSet<ThinId>,
    markers: BTreeMap<ThinId, Option<Claim>>,
}

/// Who else is in a shared pool, and what is in our range and not ours.
#[derive(Debug, Default)]
pub struct Company {
    /// Claims of other databases, each with its marker.
    pub claims: Vec<(ThinId, Claim)>,
    /// UUIDs of other databases whose devices stand on the pool, each with one such device.
    pub devices: BTreeMap<String, String>,
    /// Thins in our range that are on record as not ours: somebody else's, or made by a call that a
    /// crash cut short.
    pub set_aside: Vec<ThinId>,
}

impl Pool {
    /// Whether somebody else assembles the pool, so that others may use it, too.
    pub fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// What this database claims of a shared pool's ids; none on a pool of its own.
    pub fn claimed(&self) -> Result<Option<IdRange>, PoolError> {
        Ok(self.store.read(|r| r.id_claim())?.map(|claim| claim.range))
    }

    /// Makes sure that database and shared pool belong together by the claim in it, moves the
    /// claim's epoch on, and sets aside what others have made in its range. Nothing to do on a pool
    /// of our own. Comes before anything else is changed.
    pub fn join(&self, disks: &Arc<dyn Disks>) -> Result<(), PoolError> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let disks = shared.disks.get_or_init(|| Arc::clone(disks)).as_ref();
        // A crash may have left it, and on another marker.
        self.deactivate(Role::Claim)?;
        let around = self.around(disks)?;
        let claim = match self.store.read(|r| r.id_claim())? {
            Some(claim) if claim.epoch > 0 || self.is_mine(around.markers.get(&claim.marker)) => {
                self.confirm(claim, &around)?
            }
            _ => self.choose(disks, around)?,
        };
        let claim = self.zeroing_kept(claim)?;
        self.advance(disks, claim)?;
        self.sort_out(&self.around(disks)?)?;
        for news in self.company(disks)?.lines(&self.device_name) {
            tracing::warn!("{news}");
        }
        Ok(())
    }

    /// In what the claim on record and the one in the pool differ, in words; changes nothing.
    pub fn check_claim(&self, disks: &dyn Disks) -> Result<Option<String>, PoolError> {
        let claim =
            self.store.read(|r| r.id_claim())?.filter(|claim| self.is_shared() && claim.epoch > 0);
        let Some(claim) = claim else { return Ok(None) };
        match self.confirm(claim, &self.around(disks)?) {
            Err(error @ PoolError::Foreign { .. }) => Ok(Some(error.to_string())),
            other => other.map(|_| None),
        }
    }

    fn is_mine(&self, marker: Option<&Option<Claim>>) -> bool {
        matches!((marker, &self.shared), (Some(Some(claim)), Some(shared)) if claim.uuid == shared.record.uuid)
    }

    fn around(&self, disks: &dyn Disks) -> Result<Around, PoolError> {
        let thins = self.thins(disks)?;
        let mut markers = BTreeMap::new();
        for (&id, &blocks) in thins.iter().filter(|(id, _)| MARKERS.contains(**id)) {
            let mut bytes = vec![0; MARKER_BYTES];
            // A marker has one block; what is larger is something else.
            let read = if blocks == 1 { self.peek(disks, id, &mut bytes)? } else { None };
            markers.insert(id, read.and_then(|()| Claim::decode(&bytes)));
        }
        Ok(Around { thins: thins.into_keys().collect(), markers })
    }

    /// The claim on record, if the pool has it in the same state.
    fn confirm(&self, claim: ClaimRecord, around: &Around) -> Result<ClaimRecord, PoolError> {
        let marker = claim.marker;
        let found = match around.markers.get(&marker) {
            Some(Some(found)) if self.is_mine(around.markers.get(&marker)) => found,
            Some(Some(other)) => {
                return Err(self.not_the_one(&format!(
                    "thin {marker}, which holds this database's claim, says that {other}"
                )))
            }
            Some(None) => {
                return Err(self.not_the_one(&format!(
                    "thin {marker} does not hold this database's claim any more"
                )))
            }
            None => {
                return Err(self.not_the_one(&format!(
                    "thin {marker}, which holds this database's claim, is not in it"
                )))
            }
        };
        if found.epoch != claim.epoch && Some(found.epoch) != claim.next {
            return Err(self.not_the_one(&format!(
                "the epoch of its claim is {}, the database's is {}; {} is a copy from another time",
                found.epoch,
                claim.epoch,
                if found.epoch > claim.epoch { "the database" } else { "the pool" }
            )));
        }
        Ok(ClaimRecord { epoch: found.epoch, next: None, ..claim })
    }

    fn not_the_one(&self, what: &str) -> PoolError {
        let what =
            format!("{what}. Put back the one that belongs to the other; nothing was changed");
        PoolError::Foreign { pool: self.device_name.clone(), store: self.store.path().into(), what }
    }

    /// Claims a range at the first start.
    fn choose(&self, disks: &dyn Disks, mut around: Around) -> Result<ClaimRecord, PoolError> {
        let Some(shared) = &self.shared else { unreachable!("only shared pools are claimed in") };
        if let Some(claim) =
            around.markers.values().flatten().find(|claim| claim.uuid == shared.record.uuid)
        {
            return Err(self.not_the_one(&format!(
                "the database knows of no claim in it, and {claim}: the database is a copy from another time"
            )));
        }
        for _ in 0..TRIES {
            let range = around.free_range(random()).ok_or_else(|| PoolError::External {
                pool: self.device_name.clone(),
                what: format!(
                    "has no range of thin ids left for this daemon: {} others have claimed them. Delete the claims of databases that \
                     are lost ('dmsetup message {} 0 \"delete ID\"', with ID one of {})",
                    around.markers.len(),
                    self.device_name,
                    around.markers.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                ),
            })?;
            let offset = random() as u32 % (MARKERS.end - MARKERS.start);
            let Ok(marker) = ThinId::new(MARKERS.start + offset) else { continue };
            // On record before it is made, so that a crash leaves no marker that nobody knows of.
            let zeroed = self.store.read(|r| Ok(!r.templates()?.is_empty()))?;
            let claim = ClaimRecord { marker, range, epoch: 0, next: Some(1), zeroed };
            self.store
                .commit(|c| c.put_pool(&shared.record).and_then(|()| c.put_id_claim(&claim)))?;
            match self.dm.create_thin(&self.device_name, marker) {
                Ok(()) => {}
                Err(dm::Error::ThinExists { .. }) => {
                    around = self.around(disks)?;
                    continue;
                }
                Err(source) => {
                    return Err(PoolError::Create {
                        pool: self.device_name.clone(),
                        id: marker,
                        origin: None,
                        source,
                    })
                }
            }
            self.mark(disks, &claim, 1)?;
            around = self.around(disks)?;
            let overlaps = |(id, other): (&ThinId, &Option<Claim>)| {
                *id != marker && other.as_ref().is_some_and(|other| overlap(other.range, range))
            };
            if !around.markers.iter().any(overlaps) {
                tracing::info!(pool = %self.device_name, %marker, start = range.start, end = range.end, "claimed thin ids");
                return Ok(ClaimRecord { epoch: 1, next: None, ..claim });
            }
            self.delete(marker)?;
            around = self.around(disks)?;
        }
        let what = "changes its claims of thin ids all the time; start this daemon again".into();
        Err(PoolError::External { pool: self.device_name.clone(), what })
    }

    /// Moves the claim's epoch by one, on record first.
    fn advance(&self, disks: &dyn Disks, claim: ClaimRecord) -> Result<(), PoolError> {
        let next = claim.epoch + 1;
        let moving = ClaimRecord { next: Some(next), ..claim };
        self.store.commit(|c| c.put_id_claim(&moving))?;
        self.mark(disks, &moving, next)?;
        self.store.commit(|c| {
            c.put_id_claim(&ClaimRecord { epoch: next, next: None, ..moving.clone() })
        })?;
        Ok(())
    }

    /// Writes the claim into its marker.
    fn mark(&self, disks: &dyn Disks, claim: &ClaimRecord, epoch: u64) -> Result<(), PoolError> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let (uuid, name) = (shared.record.uuid.clone(), shared.record.name.clone());
        let text = Claim { uuid, name, range: claim.range, epoch }.encode();
        let node = self.activate(Role::Claim, claim.marker, self.block_size, false)?;
        let written = disks.open(&node, Access::Write).and_then(|disk| {
            disk.write_at(&text, 0)?;
            disk.flush()
        });
        let gone = self.deactivate(Role::Claim);
        written.map_err(|source| PoolError::Area { area: "claim", path: node, source })?;
        match gone {
            // udev may be looking at it; the start removes it like any device that nothing wants.
            Err(error) if error.is_busy() => Ok(()),
            other => other,
        }
    }

    /// What was made in our range and is on no record: ours, to be reclaimed, where a device of
    /// ours stands on it; set aside for good where not.
    fn sort_out(&self, around: &Around) -> Result<(), PoolError> {
        let (claim, leases, foreign) =
            self.store.read(|r| Ok((r.id_claim()?, r.leases()?, r.foreign_thins()?)))?;
        let ranges: Vec<IdRange> =
            claim.map(|claim| claim.range).into_iter().chain(leases).collect();
        let inside =
            around.thins.iter().filter(|id| ranges.iter().any(|range| range.contains(**id)));
        let unrecorded: BTreeSet<ThinId> = self
            .store
            .read(|r| inside.filter_map(|id| unowned(r.thin_owner(*id), *id)).collect())?;
        let shown = self.shown_by_own(&unrecorded)?;
        let gone: Vec<ThinId> =
            foreign.into_iter().filter(|id| !around.thins.contains(id)).collect();
        let strange: Vec<ThinId> =
            unrecorded.iter().copied().filter(|id| !shown.contains_key(id)).collect();
        if shown.is_empty() && gone.is_empty() && strange.is_empty() {
            return Ok(());
        }
        self.store.commit(|c| {
            for (&id, &size) in &shown {
                let kind = ReclaimKind::Thin(id);
                let (number, key) = (id.get().into(), String::new());
                c.put_reclaim(&ReclaimRecord {
                    number,
                    kind,
                    size,
                    key,
                    since: SystemTime::now(),
                })?;
            }
            gone.iter().try_for_each(|id| c.remove_foreign(*id).map(drop))?;
            strange.iter().try_for_each(|id| c.put_foreign(*id))
        })?;
        Ok(())
    }

    /// Which of these thins a device with our uuid stands on, made for that very thin; with the
    /// devices' sizes. Such a device is made only after the thin was, and while it is there nobody
    /// can delete the thin and make another of its id.
    fn shown_by_own(
        &self,
        thins: &BTreeSet<ThinId>,
    ) -> Result<BTreeMap<ThinId, Sectors>, PoolError> {
        let mut shown = BTreeMap::new();
        for role in self.devices()? {
            let made_for = match role {
                Role::Snapshot(number) => {
                    u32::try_from(number).ok().and_then(|id| ThinId::new(id).ok())
                }
                Role::Template(id) | Role::Reclaim(id) => Some(id),
                _ => None,
            };
            let Some(id) = made_for.filter(|id| thins.contains(id)) else { continue };
            let Some(info) = self.info(role)? else { continue };
            if info.live_table && self.must_be_ours(&info).is_ok() {
                shown.extend(self.shown(role)?.filter(|(thin, _)| *thin == id));
            }
        }
        Ok(shown)
    }

    /// Which of the ids in `range` the pool has thins of already. Where that cannot be told, none,
    /// and it is said: an id that is taken is met when a thin of it is to be made.
    pub(super) fn taken(&self, range: IdRange) -> Vec<ThinId> {
        let disks = self.shared.as_ref().and_then(|shared| shared.disks.get());
        let Some(disks) = disks else { return Vec::new() };
        match self.thins(disks.as_ref()) {
            Ok(thins) => thins.into_keys().filter(|id| range.contains(*id)).collect(),
            Err(error) => {
                tracing::warn!(%error, "what others have made in a new lease of thin ids cannot be looked at");
                Vec::new()
            }
        }
    }

    /// Who else is in a shared pool; nobody in one of our own.
    pub fn company(&self, disks: &dyn Disks) -> Result<Company, PoolError> {
        let Some(shared) = &self.shared else { return Ok(Company::default()) };
        let claims = self
            .around(disks)?
            .markers
            .into_iter()
            .filter_map(|(marker, claim)| Some((marker, claim?)));
        Ok(Company {
            claims: claims.filter(|(_, claim)| claim.uuid != shared.record.uuid).collect(),
            devices: self.neighbours()?,
            set_aside: self.store.read(|r| r.foreign_thins())?,
        })
    }

    /// The UUIDs of other daemons of this kind with devices on this pool, each with one of these
    /// devices.
    pub fn neighbours(&self) -> Result<BTreeMap<String, String>, PoolError> {
        let mut found = BTreeMap::new();
        if !self.is_shared() {
            return Ok(found);
        }
        for device in self.dm.list().map_err(PoolError::Kernel)? {
            let owner = device.uuid.as_ref().and_then(|uuid| self.names.other_owner(uuid.as_str()));
            let Some(owner) = owner.filter(|owner| !found.contains_key(*owner)) else { continue };
            // A device that is gone by now stands on nothing.
            let on_it = self.dm.deps(&device.name).is_ok_and(|deps| deps.contains(&self.device));
            if on_it {
                found.insert(owner.to_owned(), device.name.to_string());
            }
        }
        Ok(found)
    }
}

impl Company {
    /// What there is to say, a line for each.
    pub fn lines(&self, pool: &impl std::fmt::Display) -> Vec<String> {
        let claims = self.claims.iter().map(|(marker, claim)| {
            format!(
                "pool {pool} is used by another daemon, or was: {claim} (in thin {marker}). If that database is lost, nobody deletes \
                 its thins; its claim goes by 'dmsetup message {pool} 0 \"delete {marker}\"'"
            )
        });
        let known = |uuid: &String| self.claims.iter().any(|(_, claim)| claim.uuid == *uuid);
        let devices = self.devices.iter().filter(|(uuid, _)| !known(uuid)).map(|(uuid, device)| {
            format!("pool {pool} is used by another daemon, which claims no thin ids: device {device} of database {uuid} stands on it. It may delete what this one makes: update it")
        });
        let aside = (!self.set_aside.is_empty()).then(|| {
            let ids: Vec<String> = self.set_aside.iter().take(16).map(ToString::to_string).collect();
            let more = if self.set_aside.len() > ids.len() { ", …" } else { "" };
            format!(
                "pool {pool} has {} thins in this daemon's range that are on no record of it ({}{more}): somebody else made them, or a call \
                 that a crash cut short. They are left alone; one that nobody needs goes by 'dmsetup message {pool} 0 \"delete ID\"'",
                self.set_aside.len(),
                ids.join(", ")
            )
        });
        claims.chain(devices).chain(aside).collect()
    }
}

impl Around {
    /// A range that nobody has claimed, and in which there is no thin if there is such a one. The
    /// first is left to daemons that make no claims, and the last to markers.
    fn free_range(&self, random: u64) -> Option<IdRange> {
        let ranges = (SHARED_START + RANGE..MARKERS.start - RANGE).step_by(RANGE as usize);
        let unclaimed: Vec<IdRange> = ranges
            .map(|start| IdRange { start, end: start + RANGE })
            .filter(|range| {
                !self.markers.values().flatten().any(|claim| overlap(claim.range, *range))
            })
            .collect();
        let empty = |range: &&IdRange| !self.thins.iter().any(|id| range.contains(*id));
        let free: Vec<&IdRange> = unclaimed.iter().filter(empty).collect();
        let choice = if free.is_empty() { unclaimed.iter().collect() } else { free };
        choice.get((random % choice.len().max(1) as u64) as usize).map(|range| **range)
    }
}

fn unowned(
    owner: Result<Option<Owner>, crate::store::StoreError>,
    id: ThinId,
) -> Option<Result<ThinId, crate::store::StoreError>> {
    match owner {
        Ok(None) => Some(Ok(id)),
        Ok(Some(_)) => None,
        Err(error) => Some(Err(error)),
    }
}

fn overlap(a: IdRange, b: IdRange) -> bool {
    a.start < b.end && b.start < a.end
}

fn random() -> u64 {
    Uuid::new_v4().as_u64_pair().0 ^ Uuid::new_v4().as_u64_pair().1 >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> ThinId {
        ThinId::new(n).unwrap()
    }

    fn claim(start: u32) -> Claim {
        let uuid = "00112233445566778899aabbccddeeff".to_owned();
        Claim {
            uuid,
            name: "n\"ä".repeat(25),
            range: IdRange { start, end: start + RANGE },
            epoch: u64::MAX,
        }
    }

    #[test]
    fn a_claim_is_read_back_from_its_first_sector_alone_and_not_when_a_bit_is_wrong() {
        let bytes = claim(SHARED_START).encode();
        assert_eq!(bytes.len(), MARKER_BYTES);
        let mut sector = bytes[..512].to_vec();
        sector.resize(MARKER_BYTES, 0xee);
        assert_eq!(Claim::decode(&bytes), Some(claim(SHARED_START)));
        let length = bytes.iter().position(|byte| *byte == 0).unwrap();
        assert!(length < 512, "{length}");
        for at in 0..length - 1 {
            for bit in 0..8 {
                let mut wrong = bytes.clone();
                wrong[at] ^= 1 << bit;
                let read = Claim::decode(&wrong);
                // The digits of the checksum may be written in either case.
                assert!(read.is_none() || read == Some(claim(SHARED_START)), "byte {at}: {read:?}");
            }
        }
        assert_eq!(Claim::decode(&[0; MARKER_BYTES]), None);
        assert_eq!(Claim::decode(&[0xff; MARKER_BYTES]), None);
    }

    #[test]
    fn a_range_is_chosen_where_no_claim_is_and_no_thin() {
        let mut around = Around { thins: BTreeSet::new(), markers: BTreeMap::new() };
        let mut chosen = BTreeSet::new();
        let mut turn = 0;
        while let Some(range) = around.free_range(turn) {
            turn += 7;
            assert!(range.start >= SHARED_START + RANGE && range.end <= MARKERS.start, "{range:?}");
            assert!(chosen.insert(range.start), "{range:?} twice");
            around.markers.insert(id(MARKERS.start + turn as u32), Some(claim(range.start)));
        }
        assert_eq!(chosen.len(), 30);
        // Thins of somebody who makes no claims are kept clear of, as long as there is another
        // range.
        around.markers.clear();
        around.thins = (2..31).map(|n| id(SHARED_START + n * RANGE + 5)).collect();
        for turn in 0..40 {
            assert_eq!(around.free_range(turn).unwrap().start, SHARED_START + RANGE);
        }
        around.thins.insert(id(SHARED_START + RANGE));
        assert!(around.free_range(3).is_some());
    }
}
