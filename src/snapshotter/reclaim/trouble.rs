//! The devices that could not be removed: why, since when, and when it is tried again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::report::Stuck;
use crate::block::{Lookout, Watched};
use crate::pool::{Pool, PoolError, Role};

/// The first pause before a removal is tried again.
pub const RETRY: Duration = Duration::from_secs(5);
/// The longest pause.
pub const LATEST_RETRY: Duration = Duration::from_secs(60);
/// How long a report waits for the names of the processes that hold a device.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// Why a device is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is open.
    Busy,
    /// It failed, or the pool takes no changes.
    Failed,
    /// The kernel has not answered yet.
    Hangs,
}

/// A device that could not be removed.
#[derive(Debug)]
pub struct Trouble {
    pub why: Why,
    /// When its removal was first tried.
    pub since: Instant,
    /// When it is tried again.
    pub again: Instant,
    /// What to look for in /proc.
    pub watched: Option<Watched>,
}

/// The pause before the next try, for a removal that was first tried this long ago.
pub fn pause(since: Duration) -> Duration {
    (since / 4).clamp(RETRY, LATEST_RETRY)
}

/// All devices that could not be removed when it was last tried.
#[derive(Debug, Default)]
pub struct Troubles {
    known: Mutex<BTreeMap<Role, Trouble>>,
    /// Since when the pool takes no deletions, and when it is asked again.
    pool: Mutex<Option<(Instant, Instant)>>,
    lookout: Lookout,
}

impl Troubles {
    pub fn known(&self) -> MutexGuard<'_, BTreeMap<Role, Trouble>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the pool took no deletions, and it is too early to ask it again.
    pub fn pool_rests(&self) -> bool {
        self.refusal().is_some_and(|(_, again)| Instant::now() < again)
    }

    fn refusal(&self) -> MutexGuard<'_, Option<(Instant, Instant)>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the pool takes no deletions. Logged when that is new.
    pub fn pool_refuses(&self, error: &PoolError) {
        let mut refusal = self.refusal();
        let since = refusal.map(|(since, _)| since);
        if since.is_none() {
            tracing::error!(
                %error,
                "nothing can be deleted from the pool; removals wait until it takes changes again"
            );
        }
        let since = since.unwrap_or_else(Instant::now);
        *refusal = Some((since, Instant::now() + pause(since.elapsed())));
    }

    /// Notes that the pool takes deletions.
    pub fn pool_is_well(&self) {
        if self.refusal().take().is_some() {
            tracing::info!("the pool takes changes again");
        }
    }

    /// How long until the next removal is tried again; `None` if there is none to try.
    pub fn next(&self) -> Option<Duration> {
        let known = self.known();
        let again =
            known.values().filter(|trouble| trouble.why != Why::Hangs).map(|trouble| trouble.again);
        let again = again.chain(self.refusal().map(|(_, again)| again)).min()?;
        Some(again.saturating_duration_since(Instant::now()))
    }

    /// The devices that are stuck, with the processes that hold them if those are found in time.
    pub fn stuck(&self, pool: &Pool) -> Vec<Stuck> {
        let mut stuck: Vec<(Stuck, Option<Watched>)> = Vec::new();
        for (role, trouble) in &*self.known() {
            let why = match trouble.why {
                Why::Busy => "busy",
                Why::Failed => "failed",
                Why::Hangs => "hangs",
            };
            let device = pool.names().name(*role).to_string();
            let one = Stuck { device, why, holders: String::new(), since: trouble.since.elapsed() };
            stuck.push((one, trouble.watched.clone()));
        }
        if let Some((since, _)) = *self.refusal() {
            let device = pool.device_name().to_string();
            let one =
                Stuck { device, why: "failed", holders: String::new(), since: since.elapsed() };
            stuck.push((one, None));
        }
        let watched: Vec<Watched> =
            stuck.iter().filter_map(|(_, watched)| watched.clone()).collect();
        let told = self.holders(&watched);
        let named = |(one, watched): (Stuck, Option<Watched>)| Stuck {
            holders: watched.map(|watched| told(&watched)).unwrap_or_default(),
            ..one
        };
        stuck.into_iter().map(named).collect()
    }

    /// Which processes hold each of these, as text.
    pub fn holders(&self, watched: &[Watched]) -> impl Fn(&Watched) -> String {
        let found = self.lookout.ask(watched, LOOK_LIMIT);
        let busy = self.lookout.busy();
        move |watched| match (found.get(&watched.device), busy) {
            (Some(holders), _) => {
                holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            }
            (None, Some(busy)) => {
                format!("not known: reading /proc has taken {} s so far", busy.as_secs())
            }
            (None, None) => "not known yet".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_stuck_for_long_is_tried_less_often() {
        let seconds = |n| pause(Duration::from_secs(n)).as_secs();
        assert_eq!([0, 19, 40, 240, 86_400].map(seconds), [5, 5, 10, 60, 60]);
        // Over a day it is less than two tries a minute.
        let (mut now, mut tries) = (0.0, 0);
        while now < 86_400.0 {
            now += pause(Duration::from_secs_f64(now)).as_secs_f64();
            tries += 1;
        }
        assert!(tries < 1500, "{tries}");
    }
}
