//! Watches how full the pool is, so that a Prepare need not ask the kernel, and whether it refuses writes.
//!
//! On a thread of its own: a pool, or the file system under it, that does not answer takes no thread from anybody else.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::snapshotter::Snapshotter;

/// How often the pool is looked at. One status without a flush takes some 0.03 ms.
const EVERY: Duration = Duration::from_secs(2);

/// The watch; it ends when this is dropped, without being waited for.
#[derive(Debug)]
pub struct Monitor {
    _until_dropped: mpsc::Sender<()>,
}

/// Looks at the pool until the watch is dropped; logs when it runs short of room, when it no longer is, and when it has refused
/// writes.
pub fn watch(snapshotter: &Arc<Snapshotter>) -> std::io::Result<Monitor> {
    let (until_dropped, dropped) = mpsc::channel();
    let snapshotter = Arc::downgrade(snapshotter);
    std::thread::Builder::new().name("monitor".into()).spawn(move || {
        let mut seen = Seen::default();
        while let Some(snapshotter) = Weak::upgrade(&snapshotter) {
            seen.look(&snapshotter);
            drop(snapshotter);
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
}

impl Seen {
    fn look(&mut self, snapshotter: &Snapshotter) {
        let pool = snapshotter.pool();
        let room = pool.look().and_then(|_| pool.check_room());
        let lapses = pool.lapses();
        if lapses > self.lapses {
            tracing::error!(
                "the pool has refused writes; snapshots that were there to be written to are not committed"
            );
        }
        self.lapses = lapses;
        match room {
            Ok(()) if self.short => {
                tracing::info!("the pool has room again");
                self.short = false;
            }
            Err(error) if !self.short => {
                tracing::error!(%error, "new writable snapshots are refused");
                self.short = true;
            }
            _ => {}
        }
    }
}
