//! Watches how full the pool is, so that a Prepare need not ask the kernel, and whether it refuses writes.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::pool::Pool;
use crate::snapshotter::Snapshotter;

/// How often the pool is looked at. One status without a flush takes some 0.03 ms.
const EVERY: Duration = Duration::from_secs(2);
/// After so many looks at a pool that somebody else assembles, who else uses it is looked at as well.
const LOOKS_BETWEEN_NEIGHBOURS: u32 = 8;

/// Looks at the pool until dropped; logs when it runs short of room, when it no longer is, and when it
/// has refused writes.
pub async fn watch(snapshotter: Arc<Snapshotter>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut short, mut lapses) = (false, 0);
    // Those that are there at the start are said by the start.
    let mut neighbours = neighbours(&snapshotter).await;
    for nth in 1u32.. {
        ticks.tick().await;
        let name = snapshotter.pool().device_name().clone();
        if nth % LOOKS_BETWEEN_NEIGHBOURS == 0 && snapshotter.pool().is_shared() {
            for (uuid, device) in self::neighbours(&snapshotter).await {
                if neighbours.insert(uuid.clone(), device.clone()).is_none() {
                    tracing::warn!(uuid, device, "another daemon of this kind has begun to use the pool");
                }
            }
        }
        let snapshotter = Arc::clone(&snapshotter);
        let look = tokio::task::spawn_blocking(move || {
            let pool = snapshotter.pool();
            let grown = pool.maintain();
            let room = grown.and_then(|()| pool.look()).and_then(|_| pool.check_room());
            (room, pool.lapses())
        });
        let Ok((room, seen)) = look.await else { continue };
        if seen > lapses {
            tracing::error!(
                pool = %name,
                "the pool has refused writes; snapshots that were there to be written to are not committed"
            );
        }
        lapses = seen;
        match room {
            Ok(()) if short => {
                tracing::info!(pool = %name, "the pool has room again");
                short = false;
            }
            Err(error) if !short => {
                tracing::error!(%error, "new writable snapshots are refused");
                short = true;
            }
            _ => {}
        }
    }
}

/// Gives space that the pool does not need back to the file system below it, on a thread of its own, until the snapshotter is gone.
pub fn give_back(snapshotter: &Arc<Snapshotter>) -> std::io::Result<()> {
    let snapshotter: Weak<Snapshotter> = Arc::downgrade(snapshotter);
    let give = move || {
        let mut failed = false;
        loop {
            std::thread::sleep(EVERY);
            let Some(snapshotter) = snapshotter.upgrade() else { return };
            let go_on = || Arc::strong_count(&snapshotter) > 1;
            match snapshotter.pool().give_back(go_on) {
                Ok(_) => failed = false,
                Err(error) if failed => tracing::debug!(%error, "space is not given back"),
                Err(error) => {
                    tracing::warn!(%error, "space that the pool does not need is not given back to the file system below it; tried again");
                    failed = true;
                }
            }
        }
    };
    std::thread::Builder::new().name("give-back".into()).spawn(give).map(drop)
}

/// Looks at the pool right after each of its events, on a thread of its own, until the pool's last user is gone: who waits for a block
/// of a pool that can grow waits no longer than that takes. From before the start's own writes on: a template may need more than the
/// pool has.
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

/// Other daemons with devices on a shared pool, each with one of these; nobody where that cannot be told now.
async fn neighbours(snapshotter: &Arc<Snapshotter>) -> BTreeMap<String, String> {
    let snapshotter = Arc::clone(snapshotter);
    let look = tokio::task::spawn_blocking(move || snapshotter.pool().neighbours());
    look.await.ok().and_then(Result::ok).unwrap_or_default()
}
