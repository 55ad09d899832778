//! Lets one thread at a time make the template, and remembers why the last attempt failed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::Error;

/// The lock for making the template, with the last failure for the threads that waited for it.
#[derive(Debug, Default)]
pub struct Maker(Mutex<Option<Failure>>);

/// Why the template could not be made.
#[derive(Debug)]
pub struct Failure {
    pub at: Instant,
    pub source: Arc<Error>,
}

impl Maker {
    pub fn lock(&self) -> MutexGuard<'_, Option<Failure>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
