//! A lock for each key: calls on the same key run one after the other, calls on different keys run
//! at the same time.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The keys of the calls under way.
#[derive(Debug, Default)]
pub struct KeyLocks {
    held: Mutex<HashSet<String>>,
    released: Condvar,
}

/// Holds its keys until dropped.
#[derive(Debug)]
pub struct KeyGuard<'a> {
    locks: &'a KeyLocks,
    keys: Vec<String>,
}

impl KeyLocks {
    /// Waits until none of `keys` is held, and takes them all at once. So two callers can never
    /// wait for each other.
    pub fn lock(&self, keys: &[&str]) -> KeyGuard<'_> {
        let taken = |held: &mut HashSet<String>| keys.iter().any(|key| held.contains(*key));
        let mut held =
            self.released.wait_while(self.held(), taken).unwrap_or_else(PoisonError::into_inner);
        let keys: Vec<String> = keys.iter().map(|key| key.to_string()).collect();
        held.extend(keys.iter().cloned());
        KeyGuard { locks: self, keys }
    }

    fn held(&self) -> MutexGuard<'_, HashSet<String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for KeyGuard<'_> {
    fn drop(&mut self) {
        let mut held = self.locks.held();
        for key in &self.keys {
            held.remove(key);
        }
        drop(held);
        self.locks.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    #[test]
    fn the_same_key_is_never_held_twice_and_crossed_pairs_do_not_block_each_other_for_ever() {
        let locks = KeyLocks::default();
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for n in 0..8 {
                let (locks, inside) = (&locks, &inside);
                scope.spawn(move || {
                    for _ in 0..200 {
                        let keys = if n % 2 == 0 { ["a", "b"] } else { ["b", "a"] };
                        let _guard = locks.lock(&keys);
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(locks.held().is_empty());
    }

    #[test]
    fn another_key_does_not_wait() {
        let locks = KeyLocks::default();
        let _a = locks.lock(&["a"]);
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _b = locks.lock(&["b"]);
                sender.send(()).unwrap();
            });
            receiver.recv_timeout(Duration::from_secs(10)).expect("key b was free");
        });
    }
}
