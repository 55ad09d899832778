//! Waiting for a condition.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Whether the condition comes true within ten seconds.
pub fn soon(condition: impl FnMut() -> bool) -> bool {
    within(Duration::from_secs(10), condition)
}

/// Returns when the condition is true; panics after a minute.
#[track_caller]
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    assert!(within(Duration::from_secs(60), condition), "never: {what}");
}

fn within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !condition() {
        if Instant::now() > end {
            return false;
        }
        sleep(Duration::from_millis(10));
    }
    true
}
