//! Asking something that may never answer.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Runs `ask` on a thread of its own and waits `limit` for its answer; `None` when there is none by
/// then. The thread then stays until it gets its answer, so this is for what is asked a bounded
/// number of times.
pub(super) fn within<T: Send + 'static>(
    limit: Duration,
    ask: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, answer) = mpsc::channel();
    let asking = thread::Builder::new().name("asking".into()).spawn(move || {
        // Nobody may be listening any more.
        let _ = sender.send(ask());
    });
    asking.ok().and_then(|_| answer.recv_timeout(limit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_answer_is_not_waited_for_beyond_the_limit() {
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
        let (release, held) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(10), move || held.recv()), None);
        drop(release);
    }
}
