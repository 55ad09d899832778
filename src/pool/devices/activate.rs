//! Activating thins.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::dm::{self, ActivateOptions, Target};
use crate::pool::error::PoolError;
use crate::pool::handle::Pool;
use crate::pool::naming::Role;
use crate::units::{Sectors, ThinId};

/// How long an activation waits for a shared pool that its owner has suspended.
const OWNER_LIMIT: Duration = Duration::from_secs(10);
const OWNER_TICK: Duration = Duration::from_millis(10);
/// How often a table is loaded again that the kernel refused and did not say why.
const UNEXPLAINED_TRIES: u32 = 3;

impl Pool {
    /// Makes the device `role` show the thin `id`, `size` long. A device of that role that is
    /// active already stays as it is. One without a table is made anew, and a suspended one is
    /// resumed.
    pub fn activate(
        &self,
        role: Role,
        id: ThinId,
        size: Sectors,
        read_only: bool,
    ) -> Result<PathBuf, PoolError> {
        let name = self.names.name(role);
        let table = [Target::thin(self.device, id, size)];
        let uuid = self.names.uuid(role);
        let make = || {
            let make = |minor| {
                self.dm
                    .activate(&name, Some(&uuid), &table, ActivateOptions { read_only, minor })
                    .map(drop)
            };
            // Another device may have the number. Then the next one is tried, and in the end the
            // kernel chooses.
            let settled =
                |tried: &dm::Result<()>| !matches!(tried, Err(dm::Error::MinorInUse { .. }));
            let mut tries = self.names.minors(role).map(|minor| make(Some(minor)));
            tries.find(settled).unwrap_or_else(|| make(None))
        };
        let activate = || self.load_thin(&make);
        let activated = match activate() {
            Err(source @ dm::Error::NameOrUuidInUse { .. }) => match self.info(role)? {
                Some(found) if !found.is_ours => {
                    return Err(PoolError::DeviceNotOurs { device: name, source })
                }
                Some(found) if !found.live_table => {
                    self.deactivate(role)?;
                    activate()
                }
                Some(found) if found.suspended => {
                    return self.resume(role).map(|()| self.dm.node(&name))
                }
                Some(_) => Ok(()),
                None => Err(source),
            },
            other => other,
        };
        match activated {
            Ok(()) => Ok(self.dm.node(&name)),
            Err(source) => Err(PoolError::Activate { device: name, id, source }),
        }
    }

    /// As [`Pool::activate`], for a device that is probably active already: looks first, which is
    /// cheaper than an activation that is refused.
    pub fn ensure_active(
        &self,
        role: Role,
        id: ThinId,
        size: Sectors,
        read_only: bool,
    ) -> Result<PathBuf, PoolError> {
        match self.active(role)? {
            Some(node) => Ok(node),
            None => self.activate(role, id, size, read_only),
        }
    }

    /// Loads a thin. dm-thin refuses a thin of a suspended pool, and every pool is suspended for a
    /// moment when it gets another table. A pool of our own gets no other table meanwhile. A shared
    /// pool can be suspended by its owner at any time, and is waited for.
    fn load_thin(&self, load: &dyn Fn() -> dm::Result<()>) -> dm::Result<()> {
        let _table_stays = self.table_turn.read().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        let mut unexplained = 0;
        loop {
            let result = load();
            let again = match &result {
                Err(dm::Error::PoolSuspended { .. }) => begun.elapsed() < OWNER_LIMIT,
                // `dm` looks for the reason after the refusal. The pool may have been resumed
                // before that.
                Err(dm::Error::TableRefused { .. }) => {
                    unexplained += 1;
                    unexplained <= UNEXPLAINED_TRIES
                }
                _ => false,
            };
            if !again || !self.is_shared() {
                return result;
            }
            std::thread::sleep(OWNER_TICK);
        }
    }
}
