//! A time limit for a call that may never return.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Runs `ask` on its own thread and waits at most `limit` for the result; `None` when there is none
/// by then. The thread stays until `ask` returns, so use this only for a limited number of calls.
pub(super) fn within<T: Send + 'static>(
    limit: Duration,
    ask: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, answer) = mpsc::channel();
    let asking = thread::Builder::new().name("asking".into()).spawn(move || {
        // The receiver may be gone.
        let _ = sender.send(ask());
    });
    asking.ok().and_then(|_| answer.recv_timeout(limit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_does_not_return_is_not_waited_for_beyond_the_limit() {
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
        let (release, held) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(10), move || held.recv()), None);
        drop(release);
    }
}
