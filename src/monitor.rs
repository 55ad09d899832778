//! Watches the pool: how full it is, so that a Prepare need not ask the kernel, and whether it
//! refuses writes. Makes the pool grow, and gives space back.
//!
//! Each watch has a thread of its own. A pool, or a file system below it, that does not answer then
//! holds up no other thread.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::pool::Pool;

/// How often the pool is looked at. A status without a flush takes about 0.03 ms.
const EVERY: Duration = Duration::from_secs(2);
/// The other users of a shared pool are looked at once in this many looks.
const LOOKS_BETWEEN_NEIGHBOURS: u32 = 8;

/// The watch. It ends when this is dropped, which does not wait for it.
#[derive(Debug)]
pub struct Monitor {
    _until_dropped: mpsc::Sender<()>,
}

/// Looks at the pool until the watch is dropped. Logs when the pool runs short of free space, when
/// it has enough again, and when it has refused writes.
pub fn watch(pool: &Arc<Pool>) -> std::io::Result<Monitor> {
    let (until_dropped, dropped) = mpsc::channel();
    let pool = Arc::downgrade(pool);
    std::thread::Builder::new().name("monitor".into()).spawn(move || {
        let mut seen = Seen::default();
        while let Some(pool) = Weak::upgrade(&pool) {
            seen.look(&pool);
            drop(pool);
            if dropped.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
                break;
            }
        }
    })?;
    Ok(Monitor { _until_dropped: until_dropped })
}

/// What the last look has shown.
#[derive(Debug, Default)]
struct Seen {
    short: bool,
    lapses: u64,
    looks: u32,
    /// The other databases with devices on a shared pool, each with one of these devices. Those of
    /// the first look were logged by the start.
    neighbours: Option<BTreeMap<String, String>>,
}

impl Seen {
    fn look(&mut self, pool: &Pool) {
        self.look_for_neighbours(pool);
        let name = pool.device_name();
        let free = pool.maintain().and_then(|()| pool.look()).and_then(|_| pool.check_free_space());
        let lapses = pool.lapses();
        if lapses > self.lapses {
            tracing::error!(
                pool = %name,
                "the pool has refused writes; snapshots that were writable then are not committed"
            );
        }
        self.lapses = lapses;
        match free {
            Ok(()) if self.short => {
                tracing::info!(pool = %name, "the pool has enough free space again");
                self.short = false;
            }
            Err(error) if !self.short => {
                tracing::error!(%error, "new writable snapshots are refused");
                self.short = true;
            }
            _ => {}
        }
    }

    fn look_for_neighbours(&mut self, pool: &Pool) {
        let is_due = self.looks.is_multiple_of(LOOKS_BETWEEN_NEIGHBOURS);
        self.looks = self.looks.wrapping_add(1);
        if !is_due || !pool.is_shared() {
            return;
        }
        // If the devices cannot be listed now, a later look finds them.
        let Ok(found) = pool.neighbours() else { return };
        let Some(known) = &mut self.neighbours else {
            self.neighbours = Some(found);
            return;
        };
        for (uuid, device) in found {
            if known.insert(uuid.clone(), device.clone()).is_none() {
                tracing::warn!(
                    uuid,
                    device,
                    "another daemon of this kind has begun to use the pool"
                );
            }
        }
    }
}

/// Gives space that the pool does not need back to the file system below it, until the pool's last
/// user is gone.
pub fn give_back(pool: &Arc<Pool>) -> std::io::Result<()> {
    let pool: Weak<Pool> = Arc::downgrade(pool);
    let give = move || {
        let mut failed = false;
        loop {
            std::thread::sleep(EVERY);
            let Some(pool) = pool.upgrade() else { return };
            let go_on = || Arc::strong_count(&pool) > 1;
            match pool.give_back(go_on) {
                Ok(_) => failed = false,
                Err(error) if failed => tracing::debug!(%error, "space is not given back"),
                Err(error) => {
                    tracing::warn!(
                        %error,
                        "space that the pool does not need is not given back to the file system \
                         below it; tried again"
                    );
                    failed = true;
                }
            }
        }
    };
    std::thread::Builder::new().name("give-back".into()).spawn(give).map(drop)
}

/// Looks at the pool right after each of its events, until the pool's last user is gone. A write
/// that waits for a block of a pool that can grow waits no longer than that takes. It must run
/// before the start writes anything: a template may need more than the pool has.
pub fn watch_events(pool: &Arc<Pool>) -> std::io::Result<()> {
    let events = pool.events();
    let pool: Weak<Pool> = Arc::downgrade(pool);
    let follow = move || {
        let mut seen = 0;
        loop {
            match events.next(seen) {
                Ok(now) => seen = now,
                Err(error) => {
                    tracing::debug!(%error, "waiting for the pool's events");
                    std::thread::sleep(EVERY);
                }
            }
            let Some(pool) = pool.upgrade() else { return };
            if let Err(error) = pool.look().and_then(|_| pool.maintain()) {
                tracing::debug!(%error, "looking at the pool after an event");
            }
        }
    };
    std::thread::Builder::new().name("pool-events".into()).spawn(follow).map(drop)
}
