//! Copying what a mounted device shows.

use crate::dm::{self, Verb};
use crate::pool::error::PoolError;
use crate::pool::handle::Pool;
use crate::pool::naming::Role;
use crate::pool::thins::IdGuard;
use crate::units::ThinId;

/// How often a suspended device is resumed before an error is returned. Every user of the device
/// waits until one of these succeeds.
const RESUME_TRIES: usize = 3;

/// What of a copy was done when an error came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    /// The pool has a thin of this id that is not ours.
    IdIsTaken,
    /// The thin was not made.
    Nothing,
    /// The thin was made, and the device could not be resumed.
    Made,
    /// The error does not tell whether the thin was made.
    Unknown,
}

impl Done {
    fn before(error: &dm::Error) -> Done {
        match error {
            dm::Error::ThinExists { .. } => Done::IdIsTaken,
            dm::Error::Rollback { cause, .. } => Done::before(cause),
            dm::Error::NoSuchDevice { verb: Verb::Resume, .. }
            | dm::Error::Interrupted { verb: Verb::Resume, .. }
            | dm::Error::Kernel { verb: Verb::Resume, .. } => Done::Made,
            dm::Error::NoSuchThin { .. }
            | dm::Error::PoolFailed { .. }
            | dm::Error::PoolFull { .. }
            | dm::Error::NoSuchDevice { .. }
            | dm::Error::Interrupted { .. }
            | dm::Error::Kernel { .. } => Done::Nothing,
            _ => Done::Unknown,
        }
    }
}

impl Pool {
    /// Makes a thin that holds what the device `role` shows at this moment. The device is suspended
    /// meanwhile: its file system is synced and takes no writes. It is resumed whatever happens.
    pub fn copy_frozen(&self, role: Role, origin: ThinId) -> Result<IdGuard<'_>, PoolError> {
        let device = self.names.name(role);
        // `dm` leaves a device suspended that was suspended before.
        if self.info(role)?.is_some_and(|found| found.suspended) {
            self.resume(role)?;
        }
        loop {
            let id = self.take_id()?;
            let pool = &self.device_name;
            let copied = self.dm.create_snap_of_device(pool, id.get(), &device, origin);
            let Err(source) = copied else { return Ok(id) };
            let done = Done::before(&source);
            // The first try was the one that `dm` made.
            let mut resumed = Ok(());
            for _ in 1..RESUME_TRIES {
                resumed = self.resume(role);
                if resumed.is_ok() {
                    break;
                }
            }
            match (done, resumed) {
                (Done::Made, Ok(())) => return Ok(id),
                (Done::Made, Err(error)) => {
                    if let Err(left) = self.take_back(id) {
                        tracing::warn!(error = %left, "the copy is left to the next start");
                    }
                    return Err(error);
                }
                (Done::IdIsTaken, Ok(())) => self.ids.set_aside(id)?,
                (Done::IdIsTaken, Err(error)) => {
                    self.ids.set_aside(id)?;
                    return Err(error);
                }
                (Done::Nothing | Done::Unknown, resumed) => {
                    if let Err(error) = resumed {
                        tracing::error!(%error, "after a copy failed");
                    }
                    let thin = id.get();
                    if done == Done::Unknown {
                        id.stay_leased();
                    }
                    let error = PoolError::Copy { device, id: thin, source };
                    return Err(self.why_refused(error));
                }
            }
        }
    }
}
