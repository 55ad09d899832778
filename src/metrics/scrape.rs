//! One look at everything for all scrapes that come meanwhile, on a thread of its own.
//!
//! The figures come from the database, the kernel and the file system under the pool, any of which
//! may not answer. Scrapes then get what was looked up before, with its age, and leave neither
//! threads nor descriptors behind; calls have nothing to do with it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How long a scrape waits for a look, of the 10 s that Prometheus gives it unless told otherwise.
pub(super) const LIMIT: Duration = Duration::from_secs(4);

type Look = dyn Fn() -> Result<String, fmt::Error> + Send + Sync;

/// Looks, and remembers.
pub(super) struct Scraper {
    look: Box<Look>,
    limit: Duration,
    state: Mutex<State>,
    ended: Notify,
}

#[derive(Default)]
struct State {
    /// When the look that is under way began.
    began: Option<Instant>,
    /// The last text, and when its look began.
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

    /// What the look finds that is under way, or is begun for this, if that ends within the limit;
    /// else what the one before found, and how long ago.
    pub(super) async fn text(self: &Arc<Self>) -> Option<(Arc<str>, Duration)> {
        let ended = self.ended.notified();
        tokio::pin!(ended);
        // From here on it hears of an end.
        ended.as_mut().enable();
        let began = self.begin();
        let left = self.limit.saturating_sub(began.elapsed());
        let _ = tokio::time::timeout(left, ended).await;
        self.state().last.as_ref().map(|(at, text)| (Arc::clone(text), at.elapsed()))
    }

    /// When the look began that is under way now.
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
                    tracing::error!(%error, "the figures for monitoring cannot be put into text")
                }
            }
            scraper.ended.notify_waiters();
        };
        match std::thread::Builder::new().name("metrics".into()).spawn(look) {
            Ok(_) => state.began = Some(now),
            Err(error) => tracing::warn!(%error, "no thread to look up the figures for monitoring"),
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
