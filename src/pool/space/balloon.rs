//! The balloon: a thin that holds free blocks of the embedded pool, so that dm-thin cannot hand
//! them out while their space is given back to the host's file system.
//!
//! Architecture Invariant: a block that the balloon does not hold is allocated in the file. So a
//! block is held, durably, before its space is given back. And it is allocated again, durably,
//! before the balloon releases it. A crash in between leaves a block that is held and allocated,
//! which only costs its space. What the balloon holds is read from the pool's metadata each time.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::pool::error::PoolError;
use crate::units::Sectors;

/// The length of the balloon's device: 512 TiB, more than it will ever hold.
pub const BALLOON_LENGTH: Sectors = Sectors(1 << 40);
/// How much is given back or taken again at a time.
pub const GIVE_BACK_STEP: Sectors = Sectors((64 << 20) / 512);

/// What a balloon works on: its thin, the pool, and the file below. There are two numberings of
/// blocks: blocks of the balloon's thin, and data blocks of the pool.
pub trait Ground {
    /// The number after the last block of the balloon.
    fn end(&self) -> Result<u64, PoolError>;
    /// Makes the pool allocate these blocks of the balloon. They are held durably when this
    /// returns. On a full pool it may wait until there is free space.
    fn fill(&self, blocks: Range<u64>) -> Result<(), PoolError>;
    /// What the balloon holds durably from its block `from` on, in order: each of its blocks with
    /// the block of the pool.
    fn held(&self, from: u64) -> Result<Vec<(u64, u64)>, PoolError>;
    /// Releases these blocks of the balloon. The pool may hand out theirs again.
    fn release(&self, blocks: Range<u64>) -> Result<(), PoolError>;
    /// Gives the space of these blocks of the pool back to the host's file system.
    fn punch(&self, blocks: &[Range<u64>]) -> Result<(), PoolError>;
    /// Allocates these blocks of the pool in the file again, durably.
    fn allocate(&self, blocks: &[Range<u64>]) -> Result<(), PoolError>;
}

/// How many blocks to give back of a pool with `free` free blocks, of which `keep` stay.
///
/// Nothing is given back for less than half of what stays. Otherwise a pool that is written to soon
/// would give and take the same blocks in turn.
pub fn surplus(free: u64, keep: u64) -> u64 {
    match free.saturating_sub(keep) {
        little if little <= keep / 2 => 0,
        much => much,
    }
}

/// Gives blocks back and takes them again, in the order that the invariant needs.
#[derive(Debug)]
pub struct Balloon {
    /// How many blocks are given back or taken again at a time.
    step: u64,
    /// How many blocks it holds, by what was last seen.
    held: AtomicU64,
    /// Held while space is given back.
    giving: Mutex<()>,
    /// Held from reading what the balloon holds until that has been acted on. It is never held
    /// while waiting for the pool, because the thread that makes the pool grow needs it.
    turn: Mutex<()>,
    /// Whether the space of all that is held has been given back since the start. The last run may
    /// have ended before that.
    is_settled: AtomicBool,
}

impl Balloon {
    pub fn new(step: u64) -> Balloon {
        Balloon {
            step: step.max(1),
            held: AtomicU64::new(0),
            giving: Mutex::default(),
            turn: Mutex::default(),
            is_settled: AtomicBool::new(false),
        }
    }

    /// How many blocks it holds, by what was last seen. 0 before the first call of
    /// [`Balloon::blocks`].
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Holds `wanted` more blocks and gives their space back, in steps, as long as `go_on` says so.
    /// Returns how many.
    pub fn give_back(
        &self,
        ground: &dyn Ground,
        wanted: u64,
        mut go_on: impl FnMut() -> bool,
    ) -> Result<u64, PoolError> {
        let _one_at_a_time = lock(&self.giving);
        if !self.is_settled.load(Ordering::Relaxed) {
            let _turn = lock(&self.turn);
            ground.punch(&self.seen(ground)?)?;
            self.is_settled.store(true, Ordering::Relaxed);
        }
        let mut given = 0;
        while given < wanted && go_on() {
            let start = ground.end()?;
            let step = self.step.min(wanted - given);
            let filled = ground.fill(start..start + step);
            // Even if that failed, what is held now can be given back.
            let _turn = lock(&self.turn);
            let held = ground.held(start)?;
            self.held.fetch_add(held.len() as u64, Ordering::Relaxed);
            ground.punch(&runs(held.iter().map(|&(_, block)| block)))?;
            filled?;
            if held.is_empty() {
                break;
            }
            given += held.len() as u64;
        }
        Ok(given)
    }

    /// Allocates `wanted` of the blocks that it holds, or all of them, and releases them. Returns
    /// how many. It is less if the host's file system has no space for more.
    pub fn take_back(&self, ground: &dyn Ground, wanted: u64) -> Result<u64, PoolError> {
        let _turn = lock(&self.turn);
        let mut taken = 0;
        let mut step = self.step;
        while taken < wanted {
            let end = ground.end()?;
            if end == 0 {
                break;
            }
            let held = ground.held(end.saturating_sub(step.min(wanted - taken)))?;
            let blocks = runs(held.iter().map(|&(_, block)| block));
            match ground.allocate(&blocks) {
                Ok(()) => {}
                Err(error) if error.is_no_space() => {
                    // Some of it may have been allocated.
                    ground.punch(&blocks)?;
                    if step == 1 {
                        break;
                    }
                    step = (step / 2).min(wanted - taken).max(1);
                    continue;
                }
                Err(error) => return Err(error),
            }
            for run in runs(held.iter().map(|&(block, _)| block)) {
                ground.release(run)?;
            }
            taken += held.len() as u64;
            self.held.fetch_sub((held.len() as u64).min(self.held()), Ordering::Relaxed);
        }
        Ok(taken)
    }

    /// The pool's blocks that the balloon holds.
    pub fn blocks(&self, ground: &dyn Ground) -> Result<Vec<Range<u64>>, PoolError> {
        let _turn = lock(&self.turn);
        self.seen(ground)
    }

    fn seen(&self, ground: &dyn Ground) -> Result<Vec<Range<u64>>, PoolError> {
        let held = ground.held(0)?;
        self.held.store(held.len() as u64, Ordering::Relaxed);
        Ok(runs(held.into_iter().map(|(_, block)| block)))
    }
}

fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The ranges that these numbers form, in order.
fn runs(numbers: impl Iterator<Item = u64>) -> Vec<Range<u64>> {
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    let mut runs: Vec<Range<u64>> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(run) if run.end == number => run.end += 1,
            _ => runs.push(number..number + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests;
