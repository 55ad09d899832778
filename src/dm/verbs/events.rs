//! What has happened to devices: a list, remembered, and compared with the next one.
//!
//! For low water in a pool, a change of its mode, a device that came or went, the kernel wakes all
//! listeners and says nothing more. Source: `DM_DEV_ARM_POLL` in drivers/md/dm-ioctl.c, kernel 4.14
//! and later.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::client::Dm;
use super::info::ListedDevice;
#[cfg(doc)]
use crate::dm::error::Error;
use crate::dm::error::Result;
use crate::dm::kernel::EventSource;
use crate::names::DmName;

/// What has happened to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is there now. A device that was removed and made again in between has a change of each
    /// kind.
    Appeared(ListedDevice),
    /// There is no device of this name any more, or another one.
    Disappeared(ListedDevice),
    /// It has had events: its event number moved.
    Event(ListedDevice),
}

/// Tells what has changed since the last call. The caller's own activations and removals are
/// changes too.
#[derive(Debug)]
pub struct EventWatch {
    dm: Dm,
    prefix: String,
    source: Box<dyn EventSource>,
    known: BTreeMap<DmName, ListedDevice>,
}

impl Dm {
    /// Watches the devices whose names start with `prefix`. Those that exist already are no change.
    ///
    /// # Errors
    /// Those of opening the kernel's device-mapper once more, and of [`Dm::list`].
    pub fn watch(&self, prefix: &str) -> Result<EventWatch> {
        let mut source = self.kernel().event_source()?;
        source.arm()?;
        let mut watch = EventWatch {
            dm: self.clone(),
            prefix: prefix.to_owned(),
            source,
            known: BTreeMap::new(),
        };
        watch.known = watch.list()?;
        Ok(watch)
    }
}

impl EventWatch {
    /// Waits until something has changed, and returns the changes, removals first. Returns none
    /// when the time is up.
    ///
    /// # Errors
    /// Those of [`Dm::list`]; [`Error::Node`] when the control node cannot be polled.
    pub fn next(&mut self, limit: Duration) -> Result<Vec<Change>> {
        let deadline = Instant::now() + limit;
        loop {
            // Armed before the list: what happens after the list ends the wait.
            self.source.arm()?;
            let now = self.list()?;
            let changes = compare(&self.known, &now);
            self.known = now;
            if !changes.is_empty() {
                return Ok(changes);
            }
            if !self.source.wait(deadline.saturating_duration_since(Instant::now()))? {
                return Ok(Vec::new());
            }
        }
    }

    /// A descriptor for the caller's event loop, to poll for input; `None` on a modelled kernel.
    /// When it is readable, `next(Duration::ZERO)` returns the changes and arms it again.
    #[must_use]
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.source.poll_fd()
    }

    fn list(&self) -> Result<BTreeMap<DmName, ListedDevice>> {
        let devices = self.dm.list()?.into_iter();
        let ours = devices.filter(|device| device.name.as_str().starts_with(&self.prefix));
        Ok(ours.map(|device| (device.name.clone(), device)).collect())
    }
}

fn compare(
    before: &BTreeMap<DmName, ListedDevice>,
    now: &BTreeMap<DmName, ListedDevice>,
) -> Vec<Change> {
    // The same name on another number or with a smaller count is another device.
    let same = |old: &ListedDevice, new: &ListedDevice| {
        old.device == new.device && old.event_nr <= new.event_nr
    };
    let mut changes = Vec::new();
    for (name, old) in before {
        if !now.get(name).is_some_and(|new| same(old, new)) {
            changes.push(Change::Disappeared(old.clone()));
        }
    }
    for (name, new) in now {
        match before.get(name).filter(|old| same(old, new)) {
            None => changes.push(Change::Appeared(new.clone())),
            Some(old) if old.event_nr != new.event_nr => changes.push(Change::Event(new.clone())),
            Some(_) => {}
        }
    }
    changes
}
