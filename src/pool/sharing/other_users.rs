//! The other users of a shared pool.

use std::collections::BTreeMap;

use super::claim::Claim;
use super::markers::Markers;
use crate::pool::error::PoolError;
use crate::pool::handle::Pool;
use crate::units::ThinId;

/// The other users of a shared pool, and thins in our range that are not ours.
#[derive(Debug, Default)]
pub struct OtherUsers {
    /// The claims of other databases, by their markers.
    pub claims: Vec<(ThinId, Claim)>,
    /// The UUIDs of other databases with devices on the pool, each with one such device.
    pub devices: BTreeMap<String, String>,
    /// Thins in our range that are on record as not ours. Another program made them, or a call that
    /// a crash cut short.
    pub set_aside: Vec<ThinId>,
}

impl Pool {
    /// The other users of a shared pool. A pool of our own has none.
    pub fn other_users(&self) -> Result<OtherUsers, PoolError> {
        let Some(shared) = self.shared() else { return Ok(OtherUsers::default()) };
        let claims = Markers::read(self)?.claims.into_iter();
        let claims = claims.filter_map(|(marker, claim)| Some((marker, claim?)));
        Ok(OtherUsers {
            claims: claims.filter(|(_, claim)| claim.uuid != shared.record.uuid).collect(),
            devices: self.neighbours()?,
            set_aside: self.store.read(|r| r.foreign_thins())?,
        })
    }

    /// The UUIDs of other databases of this program with devices on a shared pool, each with one of
    /// these devices.
    pub fn neighbours(&self) -> Result<BTreeMap<String, String>, PoolError> {
        let mut found = BTreeMap::new();
        if !self.is_shared() {
            return Ok(found);
        }
        for device in self.dm.list().map_err(|source| PoolError::List { source })? {
            let owner = device.uuid.as_ref().and_then(|uuid| self.names.other_owner(uuid.as_str()));
            let Some(owner) = owner.filter(|owner| !found.contains_key(*owner)) else { continue };
            // A device that has gone since the list was read stands on nothing.
            let on_it = self.dm.deps(&device.name).is_ok_and(|deps| deps.contains(&self.device));
            if on_it {
                found.insert(owner.to_owned(), device.name.to_string());
            }
        }
        Ok(found)
    }
}

impl OtherUsers {
    /// A line of text for each user of the pool, and one for the thins that were set aside.
    pub fn lines(&self, pool: &impl std::fmt::Display) -> Vec<String> {
        let claims = self.claims.iter().map(|(marker, claim)| {
            format!(
                "pool {pool} is used by another daemon, or was: {claim} (in thin {marker}). If \
                 that database is lost, no daemon deletes its thins. Its claim is deleted by \
                 'dmsetup message {pool} 0 \"delete {marker}\"'"
            )
        });
        let known = |uuid: &String| self.claims.iter().any(|(_, claim)| claim.uuid == *uuid);
        let devices = self.devices.iter().filter(|(uuid, _)| !known(uuid)).map(|(uuid, device)| {
            format!(
                "pool {pool} is used by another daemon, which claims no thin ids: device {device} \
                 of database {uuid} stands on it. It may delete what this one makes: update it"
            )
        });
        let aside = (!self.set_aside.is_empty()).then(|| {
            let ids: Vec<String> =
                self.set_aside.iter().take(16).map(ToString::to_string).collect();
            let more = if self.set_aside.len() > ids.len() { ", …" } else { "" };
            format!(
                "pool {pool} has {} thins in this daemon's range that are on no record of it \
                 ({}{more}): another program made them, or a call that a crash cut short. They are \
                 left alone. One that is not needed is deleted by \
                 'dmsetup message {pool} 0 \"delete ID\"'",
                self.set_aside.len(),
                ids.join(", ")
            )
        });
        claims.chain(devices).chain(aside).collect()
    }
}
