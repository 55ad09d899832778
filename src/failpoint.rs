//! Steps at which tests kill the process, to check the recovery of the next start. Each step is
//! visible outside the process: a request to the kernel, a database commit, a program, a write to a
//! disk.
//!
//! This has an effect only in a build with the feature `failpoints`, which is for tests. With
//! `DMS_FAILPOINT` set to `STEP:N` the process aborts when that step is reached for the N-th time;
//! with `any:N` it aborts at the N-th step of any kind.

/// Marks a step. Does nothing without the feature `failpoints`.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach(_step: impl FnOnce() -> String) {}

/// Marks a step. Aborts the process if `DMS_FAILPOINT` names this one.
#[cfg(feature = "failpoints")]
pub fn reach(step: impl FnOnce() -> String) {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::OnceLock;

    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static REACHED: AtomicU64 = AtomicU64::new(0);
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("DMS_FAILPOINT").ok()?;
        let (name, count) = text.rsplit_once(':')?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    let Some((name, count)) = wanted else { return };
    let step = step();
    if (name == "any" || *name == step) && REACHED.fetch_add(1, Ordering::SeqCst) + 1 == *count {
        eprintln!("failpoint: ended at {step}");
        std::process::abort();
    }
}
