//! What could not be taken away: why, since when, and when it is tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::overview::Stuck;
use super::reclaim::Swept;
use crate::block::{Lookout, Watched};
use crate::pool::{Pool, PoolError, Role};

/// When what could not be taken away is tried again, at first and after long.
pub const RETRY: Duration = Duration::from_secs(5);
const LATEST_RETRY: Duration = Duration::from_secs(60);
/// How long it may take to find out who holds what, before it is reported without that.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// Why something is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Somebody has it open.
    Busy,
    /// It failed, or the pool takes no changes.
    Failed,
    /// The kernel has not answered yet.
    Hangs,
}

#[derive(Debug)]
struct Trouble {
    why: Why,
    since: Instant,
    again: Instant,
    /// What to look for in /proc.
    watched: Option<Watched>,
}

/// After what pause something is tried again that is left for so long: the longer, the less often.
fn pause(since: Duration) -> Duration {
    (since / 4).clamp(RETRY, LATEST_RETRY)
}

/// Everything that could not be taken away when it was last tried.
#[derive(Debug, Default)]
pub struct Troubles {
    known: Mutex<BTreeMap<Role, Trouble>>,
    /// The same for all deletions: the pool takes none.
    pool: Mutex<Option<(Instant, Instant)>>,
    lookout: Lookout,
}

impl Troubles {
    fn known(&self) -> MutexGuard<'_, BTreeMap<Role, Trouble>> {
        self.known.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether the pool was seen to take no deletions, and is not to be tried again yet.
    pub fn pool_rests(&self) -> bool {
        self.refusal().is_some_and(|(_, again)| Instant::now() < again)
    }

    fn refusal(&self) -> MutexGuard<'_, Option<(Instant, Instant)>> {
        self.pool.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The pool takes no deletions; logged when that is new.
    pub fn pool_refuses(&self, error: &PoolError) {
        let mut refusal = self.refusal();
        let since = refusal.map(|(since, _)| since);
        if since.is_none() {
            tracing::error!(%error, "nothing can be deleted from the pool; removals wait until it takes changes again");
        }
        let since = since.unwrap_or_else(Instant::now);
        *refusal = Some((since, Instant::now() + pause(since.elapsed())));
    }

    /// The pool takes deletions.
    pub fn pool_is_well(&self) {
        if self.refusal().take().is_some() {
            tracing::info!("the pool takes changes again");
        }
    }

    /// When something is to be tried again, if anything is.
    pub fn next(&self) -> Option<Duration> {
        let known = self.known();
        let again =
            known.values().filter(|trouble| trouble.why != Why::Hangs).map(|trouble| trouble.again);
        let again = again.chain(self.refusal().map(|(_, again)| again)).min()?;
        Some(again.saturating_duration_since(Instant::now()))
    }

    /// What is stuck, and who holds it, as far as that can be found out in a moment.
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

    /// Who holds each of these, for people to read.
    fn holders(&self, watched: &[Watched]) -> impl Fn(&Watched) -> String {
        let found = self.lookout.ask(watched, LOOK_LIMIT);
        let busy = self.lookout.busy();
        move |watched| match (found.get(&watched.device), busy) {
            (Some(holders), _) => {
                holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            }
            (None, Some(busy)) => {
                format!("not known: /proc has not been read through in {} s", busy.as_secs())
            }
            (None, None) => "not known yet".into(),
        }
    }
}

/// What one sweep finds, entry by entry.
pub struct Tally<'a> {
    pool: &'a Pool,
    troubles: &'a Troubles,
    /// Everything is tried, whether it is its time or not.
    all: bool,
    pub swept: Swept,
    news: Vec<(Role, Why, String)>,
}

impl Tally<'_> {
    pub fn new<'a>(pool: &'a Pool, troubles: &'a Troubles, all: bool) -> Tally<'a> {
        Tally { pool, troubles, all, swept: Swept::default(), news: Vec::new() }
    }

    /// Whether it is to be tried now; what is not is counted as it was left.
    pub fn is_due(&mut self, role: Role, under_way: &BTreeSet<Role>) -> bool {
        let known = self.troubles.known();
        let trouble = known.get(&role);
        let early = |trouble: &Trouble| trouble.why != Why::Hangs && Instant::now() < trouble.again;
        let rests = !self.all && trouble.is_some_and(early);
        if !rests && !under_way.contains(&role) {
            return true;
        }
        match trouble.map(|trouble| trouble.why) {
            Some(Why::Busy) => self.swept.busy += 1,
            _ => self.swept.failed += 1,
        }
        false
    }

    /// Says whether it is done. `None` stands for a removal that the kernel has not answered.
    pub fn take(&mut self, role: Role, result: Option<Result<(), PoolError>>) -> bool {
        let (why, error) = match result {
            Some(Ok(())) => {
                self.troubles.known().remove(&role);
                self.swept.reclaimed += 1;
                return true;
            }
            Some(Err(error)) => {
                (if error.is_busy() { Why::Busy } else { Why::Failed }, error.to_string())
            }
            None => (
                Why::Hangs,
                format!("device {}: the kernel has not answered", self.pool.names().name(role)),
            ),
        };
        *(if why == Why::Busy { &mut self.swept.busy } else { &mut self.swept.failed }) += 1;
        let before = self.troubles.known().remove(&role);
        let is_news = before.as_ref().is_none_or(|trouble| trouble.why != why);
        let (since, known) =
            before.map_or((Instant::now(), None), |trouble| (trouble.since, trouble.watched));
        // The kernel is asked for the number once, and not at every scrape.
        let watched = match (known, why) {
            (None, Why::Busy) => self
                .pool
                .info(role)
                .ok()
                .flatten()
                .map(|info| Watched { device: info.device, name: info.name.to_string() }),
            (known, _) => known,
        };
        let again = Instant::now() + pause(since.elapsed());
        self.troubles.known().insert(role, Trouble { why, since, again, watched });
        if is_news {
            self.news.push((role, why, error));
        }
        false
    }

    /// Logs what is new, and says what the sweep did.
    pub fn report(self) -> Swept {
        let watched: Vec<Watched> = {
            let known = self.troubles.known();
            let of = |(role, ..): &(Role, Why, String)| known.get(role)?.watched.clone();
            self.news.iter().filter(|(_, why, _)| *why == Why::Busy).filter_map(of).collect()
        };
        let told = self.troubles.holders(&watched);
        let (first, last) = (RETRY.as_secs(), LATEST_RETRY.as_secs());
        for (role, why, error) in self.news {
            let name = self.pool.names().name(role);
            match why {
                Why::Busy => {
                    let by = watched
                        .iter()
                        .find(|watched| watched.name == name.as_str())
                        .map(&told)
                        .unwrap_or_default();
                    tracing::info!(
                        error,
                        by,
                        "still in use; it is tried again after {first} s, later every {last} s"
                    );
                }
                Why::Failed => {
                    tracing::error!(
                        error,
                        "cannot be reclaimed; it is tried again after {first} s, later every {last} s"
                    );
                }
                Why::Hangs => {
                    tracing::error!(error, "cannot be reclaimed yet; the others go on without it")
                }
            }
        }
        self.swept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_for_long_is_tried_less_often() {
        let seconds = |n| pause(Duration::from_secs(n)).as_secs();
        assert_eq!([0, 19, 40, 240, 86_400].map(seconds), [5, 5, 10, 60, 60]);
        // A day of it costs less than two tries a minute.
        let (mut now, mut tries) = (0.0, 0);
        while now < 86_400.0 {
            now += pause(Duration::from_secs_f64(now)).as_secs_f64();
            tries += 1;
        }
        assert!(tries < 1500, "{tries}");
    }
}
