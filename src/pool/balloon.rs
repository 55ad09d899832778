//! The balloon: a thin that holds free blocks of the embedded pool, so that dm-thin cannot hand
//! them out while their space is back with the file system below.
//!
//! Architecture Invariant: a block that the balloon does not hold has its space. So a block is
//! held, durably, before its space is given back, and has its space again, durably, before the
//! balloon lets go of it; whatever ends in between leaves a block that is held and has its space,
//! which costs no more than that space. What the balloon holds is read from the pool's metadata
//! each time.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::PoolError;
use crate::units::Sectors;

/// How much is given back or taken at a time.
pub const STEP: Sectors = Sectors((64 << 20) / 512);

/// A balloon and the file below its pool. Blocks are numbered: those of the balloon's thin, and
/// those of the pool (of its data).
pub trait Ground {
    /// The number behind the last block that the balloon holds.
    fn end(&self) -> Result<u64, PoolError>;
    /// Makes the pool give these blocks of the balloon places of their own; they are held durably
    /// when this returns. On a pool that is full it may wait until there is room.
    fn fill(&self, blocks: Range<u64>) -> Result<(), PoolError>;
    /// What the balloon holds from its block `from` on, in order and durably: each of its blocks
    /// with the pool's.
    fn held(&self, from: u64) -> Result<Vec<(u64, u64)>, PoolError>;
    /// Lets go of these blocks of the balloon: the pool may hand out theirs.
    fn release(&self, blocks: Range<u64>) -> Result<(), PoolError>;
    /// Gives the space of these blocks of the pool back.
    fn punch(&self, blocks: &[Range<u64>]) -> Result<(), PoolError>;
    /// Gives these blocks of the pool their space again, durably.
    fn allocate(&self, blocks: &[Range<u64>]) -> Result<(), PoolError>;
}

/// How many blocks to give back, of a pool with `free` free ones of which `keep` are to stay.
///
/// What has been given back is taken again before the pool grows, so that a pool which is written
/// to at once does not give and take the same blocks in turn: nothing is done for less than half of
/// what stays.
pub fn surplus(free: u64, keep: u64) -> u64 {
    match free.saturating_sub(keep) {
        little if little <= keep / 2 => 0,
        much => much,
    }
}

/// The order in which things are done with a balloon.
#[derive(Debug)]
pub struct Balloon {
    /// How many blocks are given back or taken at a time.
    step: u64,
    /// How many blocks it holds, by what was last seen.
    held: AtomicU64,
    /// Held by the one who gives back.
    giving: Mutex<()>,
    /// Held from reading what the balloon holds until that has been acted on. Never while the pool
    /// is waited for: who makes room in it wants this.
    turn: Mutex<()>,
    /// All that is held has been given back since the start; the last run may have ended in
    /// between.
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

    /// How many blocks it holds, by what was last seen; none before [`Balloon::blocks`].
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
            // Whatever has come of it: what is held now can be given back.
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

    /// Lets go of `wanted` blocks, or of all that there are, after each has its space again.
    /// Returns how many; fewer where the file system below has no room for more.
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
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Numbers as the ranges they make up, in order.
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
