//! What udev is told about a change of a device, and waiting until it has handled the change.
//!
//! The kernel puts 32 bits of the request (`event_nr`) into the uevent as `DM_COOKIE`: 16 bits of
//! flags for the rules of the dmsetup package (55-dm.rules) and 16 bits that name a SysV semaphore.
//! When the rules are done with the event, they run `dmsetup udevcomplete`, which decrements the
//! semaphore. Source: libdm/libdm-common.c of LVM2 and Documentation of `dm_udev_wait` in
//! libdevmapper.h.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::dm::error::{Error, Result};
use crate::dm::kernel::ioctl;
use crate::dm::wire::{EventCookie, UdevFlags};

/// High half of the key of every cookie's semaphore (`DM_COOKIE_MAGIC`).
const MAGIC: u32 = 0x0D4D;

/// How often a semaphore is looked at while waiting. udev takes 25 to 100 ms over an event.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// How many keys are tried to find an unused one.
const KEY_TRIES: u32 = 100;

/// Whether and how udev is involved when devices come, change and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UdevPolicy {
    /// udev is told what to leave out, and is not waited for.
    Tell(UdevFlags),
    /// udev is told what to leave out, and is waited for by cookie. Where no udevd runs, it is not.
    Wait {
        /// What it leaves out.
        flags: UdevFlags,
        /// How long it may take; [`Error::UdevTimeout`] after that.
        limit: Duration,
    },
}

impl UdevPolicy {
    /// udev does nothing at all: for devices that must not be scanned and need no symlinks.
    pub const KEEP_OUT: UdevPolicy = UdevPolicy::Tell(UdevFlags::KEEP_OUT);

    /// What udev leaves out.
    #[must_use]
    pub const fn flags(self) -> UdevFlags {
        match self {
            UdevPolicy::Tell(flags) | UdevPolicy::Wait { flags, .. } => flags,
        }
    }
}

/// Whether a udevd runs. libudev looks at the same file.
#[must_use]
pub fn is_running() -> bool {
    Path::new("/run/udev/control").exists()
}

/// A semaphore that udev's rules decrement once for each event that carries it. Removed when
/// dropped.
#[derive(Debug)]
pub struct Cookie {
    base: u16,
    semaphore: i32,
}

impl Cookie {
    /// A new cookie that expects no event yet.
    ///
    /// # Errors
    /// [`Error::Cookie`]: ENOSPC when the system has too many semaphores, ENOSYS without SysV IPC.
    pub fn new() -> Result<Cookie> {
        let cannot = |errno| Error::Cookie { action: "make", errno };
        let random = RandomState::new();
        for attempt in 0..KEY_TRIES {
            let base = random.hash_one(attempt) as u16;
            // 0 means that there is no cookie.
            if base == 0 {
                continue;
            }
            match ioctl::semaphore_create(key(base)) {
                Ok(semaphore) => return Ok(Cookie { base, semaphore }),
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(cannot(errno)),
            }
        }
        Err(cannot(Errno::EEXIST))
    }

    /// What a request that causes an event has to carry: these flags, and
    /// [`UdevFlags::PRIMARY_SOURCE`], without which the rules make no links.
    #[must_use]
    pub fn with(&self, flags: UdevFlags) -> EventCookie {
        EventCookie { flags: flags.union(UdevFlags::PRIMARY_SOURCE), base: self.base }
    }

    /// Announces a request that is going to cause an event.
    ///
    /// # Errors
    /// [`Error::Cookie`] when the semaphore has been removed.
    pub fn expect(&self) -> Result<()> {
        self.add(1)
    }

    fn add(&self, change: i16) -> Result<()> {
        ioctl::semaphore_add(self.semaphore, change)
            .map_err(|errno| Error::Cookie { action: "change", errno })
    }

    /// Waits until udev has handled all events that carry this cookie, then removes the semaphore.
    ///
    /// # Errors
    /// [`Error::UdevTimeout`] when it takes longer than `limit`. The semaphore is removed then too.
    pub fn wait(self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        // It starts at 1, so that it cannot reach 0 before all events are expected.
        self.add(-1)?;
        loop {
            match ioctl::semaphore_value(self.semaphore) {
                Ok(0) => return Ok(()),
                // `dmsetup udevcomplete_all` has removed it to end all waiting.
                Err(Errno::EIDRM | Errno::EINVAL) => return Ok(()),
                Err(errno) => return Err(Error::Cookie { action: "look at", errno }),
                Ok(_) => {}
            }
            if Instant::now() >= deadline {
                return Err(Error::UdevTimeout { limit });
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Cookie {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = ioctl::semaphore_remove(self.semaphore);
    }
}

/// The key of a cookie's semaphore.
fn key(base: u16) -> i32 {
    ((MAGIC << 16) | u32::from(base)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_flags_above_and_a_key_below() {
        let cookie = EventCookie { flags: UdevFlags::KEEP_OUT, base: 0x1234 };
        assert_eq!(cookie.to_event_nr(), 0x006f_1234);
        assert_eq!(key(0x1234), 0x0d4d_1234);
        let flags = UdevFlags::DISABLE_DM_RULES.union(UdevFlags::PRIMARY_SOURCE);
        assert!(flags.contains(UdevFlags::PRIMARY_SOURCE) && !flags.contains(UdevFlags::KEEP_OUT));
        assert_eq!(flags, UdevFlags(0x41));
    }

    #[test]
    fn waiting_ends_when_every_event_is_done_or_the_time_is_up() {
        let cookie = Cookie::new().unwrap();
        let semaphore = cookie.semaphore;
        cookie.expect().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                // What `dmsetup udevcomplete` does.
                ioctl::semaphore_add(semaphore, -1).unwrap();
            });
            cookie.wait(Duration::from_secs(30)).unwrap();
        });
        assert!(ioctl::semaphore_value(semaphore).is_err(), "it is removed");

        let cookie = Cookie::new().unwrap();
        let semaphore = cookie.semaphore;
        cookie.expect().unwrap();
        let limit = Duration::from_millis(10);
        assert_eq!(cookie.wait(limit), Err(Error::UdevTimeout { limit }));
        assert!(ioctl::semaphore_value(semaphore).is_err(), "even then");

        let dropped = Cookie::new().unwrap();
        let semaphore = dropped.semaphore;
        assert_eq!(ioctl::semaphore_value(semaphore), Ok(1));
        drop(dropped);
        assert!(ioctl::semaphore_value(semaphore).is_err());
    }

    #[test]
    fn a_cookie_that_somebody_else_removed_is_not_waited_for() {
        let cookie = Cookie::new().unwrap();
        cookie.expect().unwrap();
        let semaphore = cookie.semaphore;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                ioctl::semaphore_remove(semaphore).unwrap();
            });
            cookie.wait(Duration::from_secs(30)).unwrap();
        });
    }
}
