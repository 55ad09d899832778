//! Steps at which tests end the process, to see what the next start makes of it. Every step is one
//! that the outside world notices: a request to the kernel, a database commit, a program, a disk.
//!
//! Only a build with the feature `failpoints`, which is for tests alone, does anything here: with
//! `DMS_FAILPOINT` set to `STEP:N` it aborts when that step is reached for the N-th time, with
//! `any:N` at the N-th step of all.

/// The step is reached.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach(_step: impl FnOnce() -> String) {}

/// The step is reached.
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
