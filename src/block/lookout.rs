//! Looking for holders without ever waiting for long: one look at a time, on a thread of its own,
//! and its result is kept.
//!
//! A look reads /proc and nothing else ([`holders`](super::holders())), but also that may take long
//! on a large machine, and a kernel may have locks that we do not know of. Whoever asks gets what
//! the last look found.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::holders::{holders, Found, Watched};

type Look = dyn Fn(&[Watched]) -> Found + Send + Sync;

/// Looks for the holders of devices. Clones look together.
#[derive(Clone)]
pub struct Lookout {
    shared: Arc<Shared>,
}

struct Shared {
    look: Box<Look>,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// When the look that is under way began.
    began: Option<Instant>,
    /// What the last one found, and when it began.
    found: Found,
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
    fn with(look: impl Fn(&[Watched]) -> Found + Send + Sync + 'static) -> Lookout {
        Lookout {
            shared: Arc::new(Shared {
                look: Box::new(look),
                state: Mutex::default(),
                ended: Condvar::new(),
            }),
        }
    }

    /// Who holds these devices, looked up since this was called if that takes no longer than
    /// `limit`; else what was found before. A device that has no entry has not been looked for yet.
    pub fn ask(&self, watched: &[Watched], limit: Duration) -> Found {
        let asked = Instant::now();
        let mut state = self.shared.state();
        while !watched.is_empty() && state.last.is_none_or(|last| last < asked) {
            match state.began {
                // It has been at it for long: nothing is to be expected of it.
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

    /// How long the look that is under way has been at it.
    pub fn busy(&self) -> Option<Duration> {
        self.shared.state().began.map(|began| began.elapsed())
    }

    fn begin(&self, state: &mut State, watched: &[Watched]) -> bool {
        let (shared, watched) = (Arc::clone(&self.shared), watched.to_vec());
        let began = Instant::now();
        let look = move || {
            let found = (shared.look)(&watched);
            let mut state = shared.state();
            *state = State { began: None, found, last: Some(began) };
            shared.ended.notify_all();
        };
        let started = std::thread::Builder::new().name("holders".into()).spawn(look).is_ok();
        state.began = started.then_some(began);
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
    fn a_look_that_hangs_is_waited_for_once_and_not_begun_again() {
        const LIMIT: Duration = Duration::from_millis(50);
        let (release, held) = mpsc::channel::<()>();
        let (held, looks) = (Mutex::new(held), Arc::new(AtomicUsize::new(0)));
        let lookout = Lookout::with({
            let looks = Arc::clone(&looks);
            move |watched| {
                if looks.fetch_add(1, Ordering::SeqCst) == 1 {
                    let _ = held.lock().unwrap().recv();
                }
                let holder = |pid| Holder { pid, command: "x".into(), how: Hold::Open };
                watched
                    .iter()
                    .map(|w| (w.device, vec![holder(looks.load(Ordering::SeqCst) as u32)]))
                    .collect()
            }
        });
        let device = DeviceNumber { major: 253, minor: 1 };
        let watched = [Watched { device, name: "x".into() }];
        let pid = |found: &Found| found.get(&device).map(|holders| holders[0].pid);
        assert_eq!(pid(&lookout.ask(&watched, Duration::from_secs(60))), Some(1));

        // The second look hangs: what the first one found is what is known.
        assert_eq!(pid(&lookout.ask(&watched, LIMIT)), Some(1));
        assert!(lookout.busy().is_some());
        let other = [Watched { device: DeviceNumber { major: 253, minor: 2 }, name: "y".into() }];
        let began = Instant::now();
        for _ in 0..1000 {
            assert_eq!(pid(&lookout.ask(&watched, LIMIT)), Some(1));
            assert!(lookout.ask(&other, LIMIT).is_empty(), "not looked for yet");
        }
        assert!(began.elapsed() < 200 * LIMIT, "each of them waited: {:?}", began.elapsed());
        assert_eq!(looks.load(Ordering::SeqCst), 2);

        release.send(()).unwrap();
        assert_eq!(pid(&lookout.ask(&watched, Duration::from_secs(60))), Some(3));
        assert_eq!(lookout.busy(), None);
        assert!(lookout.ask(&[], LIMIT).is_empty());
        assert_eq!(looks.load(Ordering::SeqCst), 3, "nothing is looked for when nothing is asked");
    }
}
