//! Looks up the figures on a thread of its own, once for all scrapes that arrive meanwhile.
//!
//! The figures come from the database, the kernel and the file system under the pool. Each of these
//! can hang. Scrapes then get the last figures with their age, and keep no thread and no file
//! descriptor. Calls of containerd are not affected.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How long a scrape waits for new figures. Prometheus waits 10 s for a scrape by default.
pub(super) const LIMIT: Duration = Duration::from_secs(4);

type Look = dyn Fn() -> Result<String, fmt::Error> + Send + Sync;

/// Looks up the figures, and keeps the last ones.
pub(super) struct Scraper {
    look: Box<Look>,
    limit: Duration,
    state: Mutex<State>,
    ended: Notify,
}

#[derive(Default)]
struct State {
    /// When the look-up began that is under way.
    began: Option<Instant>,
    /// The last figures as text, and when their look-up began.
    last: Option<(Instant, Arc<str>)>,
}

impl Scraper {
    pub(super) fn new(
        look: impl Fn() -> Result<String, fmt::Error> + Send + Sync + 'static,
        limit: Duration,
    ) -> Arc<Self> {
        Arc::new(Scraper {
            look: Box::new(look),
            limit,
            state: Mutex::default(),
            ended: Notify::new(),
        })
    }

    /// The figures with their age. Waits, within the limit, for the look-up that is under way or is
    /// begun now. If that takes longer, these are the figures of the look-up before.
    pub(super) async fn text(self: &Arc<Self>) -> Option<(Arc<str>, Duration)> {
        let ended = self.ended.notified();
        tokio::pin!(ended);
        // From here on no end of a look-up is missed.
        ended.as_mut().enable();
        let began = self.begin();
        let left = self.limit.saturating_sub(began.elapsed());
        let _ = tokio::time::timeout(left, ended).await;
        self.state().last.as_ref().map(|(at, text)| (Arc::clone(text), at.elapsed()))
    }

    /// Begins a look-up if none is under way. Returns when the current one began.
    fn begin(self: &Arc<Self>) -> Instant {
        let mut state = self.state();
        let now = Instant::now();
        if let Some(began) = state.began {
            return began;
        }
        let scraper = Arc::clone(self);
        let look = move || {
            let text = (scraper.look)();
            let mut state = scraper.state();
            state.began = None;
            match text {
                Ok(text) => state.last = Some((now, text.into())),
                Err(error) => {
                    tracing::error!(%error, "the figures for a scrape cannot be put into text")
                }
            }
            scraper.ended.notify_waiters();
        };
        match std::thread::Builder::new().name("metrics".into()).spawn(look) {
            Ok(_) => state.began = Some(now),
            Err(error) => tracing::warn!(%error, "no thread can be started to look up the figures"),
        }
        now
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn scrapes_during_a_look_that_hangs_get_the_last_figures_and_begin_no_other_look() {
        const LIMIT: Duration = Duration::from_millis(100);
        let (release, held) = mpsc::channel::<()>();
        let (held, looks) = (Mutex::new(held), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&looks);
        let look = move || {
            let look = counted.fetch_add(1, Ordering::SeqCst);
            if look == 1 {
                let _ = held.lock().unwrap().recv();
            }
            Ok(format!("look {look}"))
        };
        let scraper = Scraper::new(look, LIMIT);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let text = || runtime.block_on(scraper.text()).map(|(text, _)| text.to_string());
        assert_eq!(text().as_deref(), Some("look 0"));
        let began = Instant::now();
        for _ in 0..200 {
            assert_eq!(text().as_deref(), Some("look 0"));
        }
        assert!(began.elapsed() < 20 * LIMIT, "each of them waited: {:?}", began.elapsed());
        assert_eq!(looks.load(Ordering::SeqCst), 2);
        release.send(()).unwrap();
        while text().as_deref() != Some("look 2") {
            assert!(began.elapsed() < Duration::from_secs(60));
        }
    }
}
