//! Searches for holders with a time limit: one search at a time, on its own thread, and its result
//! is kept.
//!
//! A search ([`holders`](super::holders())) reads only /proc. Even that may take long on a large
//! machine or block on a lock in the kernel. A caller whose time limit ends gets the result of the
//! last search.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::holders::{holders, HoldersByDevice, Watched};

type Search = dyn Fn(&[Watched]) -> HoldersByDevice + Send + Sync;

/// Searches for the holders of devices. Clones share one search and its result.
#[derive(Clone)]
pub struct Lookout {
    shared: Arc<Shared>,
}

struct Shared {
    search: Box<Search>,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// The start of the running search.
    running_since: Option<Instant>,
    /// The result of the last finished search.
    found: HoldersByDevice,
    /// The start of the last finished search.
    last: Option<Instant>,
}

impl fmt::Debug for Lookout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookout").finish_non_exhaustive()
    }
}

impl Default for Lookout {
    fn default() -> Self {
        Lookout::with(holders)
    }
}

impl Lookout {
    fn with(search: impl Fn(&[Watched]) -> HoldersByDevice + Send + Sync + 'static) -> Lookout {
        Lookout {
            shared: Arc::new(Shared {
                search: Box::new(search),
                state: Mutex::default(),
                ended: Condvar::new(),
            }),
        }
    }

    /// The holders of these devices. The result is of a search that began after this call, if it
    /// ends within `limit`; otherwise it is the result of the last search. A device without an
    /// entry was not part of that search.
    pub fn ask(&self, watched: &[Watched], limit: Duration) -> HoldersByDevice {
        let asked = Instant::now();
        let mut state = self.shared.state();
        while !watched.is_empty() && state.last.is_none_or(|last| last < asked) {
            match state.running_since {
                // It has run for so long that it is not expected to end.
                Some(began) if began.elapsed() >= limit && began < asked => break,
                Some(_) => {}
                None => {
                    if !self.begin(&mut state, watched) {
                        break;
                    }
                }
            }
            let Some(left) = limit.checked_sub(asked.elapsed()).filter(|left| !left.is_zero())
            else {
                break;
            };
            state =
                self.shared.ended.wait_timeout(state, left).unwrap_or_else(|e| e.into_inner()).0;
        }
        let entry =
            |watched: &Watched| Some((watched.device, state.found.get(&watched.device)?.clone()));
        watched.iter().filter_map(entry).collect()
    }

    /// How long the running search has taken so far; `None` when no search runs.
    pub fn busy(&self) -> Option<Duration> {
        self.shared.state().running_since.map(|began| began.elapsed())
    }

    fn begin(&self, state: &mut State, watched: &[Watched]) -> bool {
        let (shared, watched) = (Arc::clone(&self.shared), watched.to_vec());
        let began = Instant::now();
        let search = move || {
            let found = (shared.search)(&watched);
            let mut state = shared.state();
            *state = State { running_since: None, found, last: Some(began) };
            shared.ended.notify_all();
        };
        let started = std::thread::Builder::new().name("holders".into()).spawn(search).is_ok();
        state.running_since = started.then_some(began);
        started
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;
    use crate::block::{Hold, Holder};
    use crate::units::DeviceNumber;

    #[test]
    fn a_search_that_hangs_is_waited_for_once_and_not_started_again() {
        const LIMIT: Duration = Duration::from_millis(50);
        let (release, held) = mpsc::channel::<()>();
        let (held, searches) = (Mutex::new(held), Arc::new(AtomicUsize::new(0)));
        let lookout = Lookout::with({
            let searches = Arc::clone(&searches);
            move |watched| {
                if searches.fetch_add(1, Ordering::SeqCst) == 1 {
                    let _ = held.lock().unwrap().recv();
                }
                let holder = |pid| Holder { pid, command: "x".into(), how: Hold::Open };
                watched
                    .iter()
                    .map(|w| (w.device, vec![holder(searches.load(Ordering::SeqCst) as u32)]))
                    .collect()
            }
        });
        let device = DeviceNumber { major: 253, minor: 1 };
        let watched = [Watched { device, name: "x".into() }];
        let pid = |found: &HoldersByDevice| found.get(&device).map(|holders| holders[0].pid);
        assert_eq!(pid(&lookout.ask(&watched, Duration::from_secs(60))), Some(1));

        // The second search hangs, so the result is that of the first one.
        assert_eq!(pid(&lookout.ask(&watched, LIMIT)), Some(1));
        assert!(lookout.busy().is_some());
        let other = [Watched { device: DeviceNumber { major: 253, minor: 2 }, name: "y".into() }];
        let began = Instant::now();
        for _ in 0..1000 {
            assert_eq!(pid(&lookout.ask(&watched, LIMIT)), Some(1));
            assert!(lookout.ask(&other, LIMIT).is_empty(), "not searched for yet");
        }
        assert!(began.elapsed() < 200 * LIMIT, "each of them waited: {:?}", began.elapsed());
        assert_eq!(searches.load(Ordering::SeqCst), 2);

        release.send(()).unwrap();
        assert_eq!(pid(&lookout.ask(&watched, Duration::from_secs(60))), Some(3));
        assert_eq!(lookout.busy(), None);
        assert!(lookout.ask(&[], LIMIT).is_empty());
        assert_eq!(searches.load(Ordering::SeqCst), 3, "no search for no devices");
    }
}
