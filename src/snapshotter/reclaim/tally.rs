//! The results of one sweep.

use std::collections::BTreeSet;
use std::time::Instant;

use super::report::Swept;
use super::trouble::{pause, Trouble, Troubles, Why, LATEST_RETRY, RETRY};
use crate::block::Watched;
use crate::pool::{Pool, PoolError, Role};

/// Counts what one sweep does, and notes why devices are left.
pub struct Tally<'a> {
    pool: &'a Pool,
    troubles: &'a Troubles,
    /// Everything is tried, due or not.
    all: bool,
    pub swept: Swept,
    /// Devices that are stuck for a new reason, with the error.
    news: Vec<(Role, Why, String)>,
}

impl Tally<'_> {
    pub fn new<'a>(pool: &'a Pool, troubles: &'a Troubles, all: bool) -> Tally<'a> {
        Tally { pool, troubles, all, swept: Swept::default(), news: Vec::new() }
    }

    /// Whether the removal of a device is tried now. If not, it is counted as it was left.
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

    /// Takes the result of a removal, and says whether it is done. `None` is a removal that the
    /// kernel has not answered.
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
        // The kernel is asked for the device number once, not at each scrape.
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

    /// Logs what is new, and returns what the sweep did.
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
                        "cannot be reclaimed; it is tried again after {first} s, \
                         later every {last} s"
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
