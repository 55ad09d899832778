//! The balloon on a modelled pool and file, ended at each of its steps.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::block::BlockError;

/// A pool of some blocks on a file. Each step is counted, and every step from `end` on fails, as
/// for a daemon that was killed.
#[derive(Debug)]
struct Model {
    balloon: RefCell<BTreeMap<u64, u64>>,
    free: RefCell<BTreeSet<u64>>,
    /// The blocks of the pool that are allocated in the file.
    backed: RefCell<BTreeSet<u64>>,
    /// How many more blocks the file system below can allocate.
    free_below: Cell<u64>,
    steps: Cell<u64>,
    end: u64,
}

impl Model {
    fn new(free: Range<u64>, end: u64) -> Model {
        Model {
            balloon: RefCell::default(),
            backed: RefCell::new(free.clone().collect()),
            free: RefCell::new(free.collect()),
            free_below: Cell::new(0),
            steps: Cell::new(0),
            end,
        }
    }

    fn step(&self) -> Result<(), PoolError> {
        self.steps.set(self.steps.get() + 1);
        self.check();
        if self.steps.get() > self.end {
            return Err(PoolError::Area {
                area: "data",
                path: "data.img".into(),
                source: failed(5),
            });
        }
        Ok(())
    }

    /// The invariant: a block that the balloon does not hold is allocated.
    fn check(&self) {
        let held: BTreeSet<u64> = self.balloon.borrow().values().copied().collect();
        for block in self.free.borrow().iter() {
            assert!(!held.contains(block), "{block} is free and held");
            assert!(
                self.backed.borrow().contains(block),
                "{block} can be handed out, and has no space"
            );
        }
    }

    fn spaceless(&self) -> u64 {
        self.balloon.borrow().values().filter(|block| !self.backed.borrow().contains(block)).count()
            as u64
    }

    /// The same pool and file, for another daemon.
    fn again(self) -> Model {
        Model { steps: Cell::new(0), end: u64::MAX, ..self }
    }
}

fn failed(errno: i32) -> BlockError {
    BlockError::Allocate {
        path: "data.img".into(),
        bytes: 0,
        source: std::io::Error::from_raw_os_error(errno),
    }
}

impl Ground for Model {
    fn end(&self) -> Result<u64, PoolError> {
        Ok(self.balloon.borrow().last_key_value().map_or(0, |(last, _)| last + 1))
    }

    fn fill(&self, blocks: Range<u64>) -> Result<(), PoolError> {
        for block in blocks {
            self.step()?;
            let Some(place) = self.free.borrow_mut().pop_first() else { return Err(no_space()) };
            self.balloon.borrow_mut().insert(block, place);
        }
        Ok(())
    }

    fn held(&self, from: u64) -> Result<Vec<(u64, u64)>, PoolError> {
        self.step()?;
        Ok(self.balloon.borrow().range(from..).map(|(block, place)| (*block, *place)).collect())
    }

    fn release(&self, blocks: Range<u64>) -> Result<(), PoolError> {
        for block in blocks {
            self.step()?;
            let place = self.balloon.borrow_mut().remove(&block);
            self.free.borrow_mut().extend(place);
        }
        Ok(())
    }

    fn punch(&self, blocks: &[Range<u64>]) -> Result<(), PoolError> {
        for block in blocks.iter().cloned().flatten() {
            self.step()?;
            if self.backed.borrow_mut().remove(&block) {
                self.free_below.set(self.free_below.get() + 1);
            }
        }
        Ok(())
    }

    fn allocate(&self, blocks: &[Range<u64>]) -> Result<(), PoolError> {
        for block in blocks.iter().cloned().flatten() {
            self.step()?;
            if self.backed.borrow().contains(&block) {
                continue;
            }
            if self.free_below.get() == 0 {
                return Err(no_space());
            }
            self.free_below.set(self.free_below.get() - 1);
            self.backed.borrow_mut().insert(block);
        }
        Ok(())
    }
}

fn no_space() -> PoolError {
    PoolError::Area { area: "data", path: "data.img".into(), source: failed(28) }
}

#[test]
fn what_is_given_back_comes_back() {
    let model = Model::new(0..4000, u64::MAX);
    let balloon = Balloon::new(16);
    assert_eq!(balloon.give_back(&model, 3000, || true).unwrap(), 3000);
    assert_eq!((model.spaceless(), model.free_below.get()), (3000, 3000));
    assert_eq!(balloon.take_back(&model, 500).unwrap(), 500);
    assert_eq!((model.spaceless(), model.free_below.get(), balloon.held()), (2500, 2500, 2500));
    assert_eq!(balloon.take_back(&model, 9999).unwrap(), 2500);
    assert_eq!(
        (model.spaceless(), model.free_below.get(), model.free.borrow().len()),
        (0, 0, 4000)
    );
    assert_eq!(balloon.take_back(&model, 1).unwrap(), 0);
}

#[test]
fn no_more_is_taken_back_than_the_file_system_has_space_for() {
    let model = Model::new(0..4000, u64::MAX);
    let balloon = Balloon::new(16);
    balloon.give_back(&model, 3000, || true).unwrap();
    for space in [0, 1, 700, 1500] {
        model.free_below.set(space);
        let taken = balloon.take_back(&model, 3000).unwrap();
        assert_eq!((taken, model.free_below.get()), (space, 0));
        model.check();
        assert_eq!(
            model.spaceless(),
            model.balloon.borrow().len() as u64,
            "what is still held keeps no space"
        );
    }
}

#[test]
fn a_pool_with_less_to_give_gives_that() {
    let model = Model::new(0..100, u64::MAX);
    let balloon = Balloon::new(16);
    assert!(balloon.give_back(&model, 3000, || true).unwrap_err().is_no_space());
    assert_eq!(model.spaceless(), 100);
    let mut asked = 0;
    let stopped = balloon.give_back(&model, 3000, || {
        asked += 1;
        false
    });
    assert_eq!((stopped.unwrap(), asked), (0, 1));
}

#[test]
fn give_and_take_leave_distance() {
    assert_eq!([0, 99, 100, 150].map(|free| surplus(free, 100)), [0; 4]);
    assert_eq!(surplus(151, 100), 51);
    assert_eq!(surplus(7, 0), 7);
}

proptest! {
    #[test]
    fn a_daemon_that_ends_at_any_step_leaves_no_block_without_space_to_hand_out(
        give in 1..40u64, take in 1..40u64, space in 0..40u64, end in 0..200u64, order: bool,
    ) {
        let model = Model::new(0..50, u64::MAX);
        let balloon = Balloon::new(16);
        balloon.give_back(&model, 20, || true).unwrap();
        model.free_below.set(space.min(20));
        let mut model = model.again();
        model.end = end;
        let balloon = Balloon::new(16);
        let _ = if order { balloon.give_back(&model, give, || true) } else { balloon.take_back(&model, take) };
        let _ = if order { balloon.take_back(&model, take) } else { balloon.give_back(&model, give, || true) };
        model.check();

        // The next daemon gives back what the last one held without doing so.
        let model = model.again();
        let balloon = Balloon::new(16);
        balloon.give_back(&model, 0, || true).unwrap();
        model.check();
        prop_assert_eq!(model.spaceless(), model.balloon.borrow().len() as u64);
        model.free_below.set(u64::MAX / 2);
        balloon.take_back(&model, u64::MAX).unwrap();
        model.check();
        prop_assert_eq!(model.free.borrow().len(), 50);
    }

    #[test]
    fn runs_are_the_numbers_they_were_made_of(
        numbers in proptest::collection::btree_set(0..200u64, 0..100),
    ) {
        let made = runs(numbers.iter().rev().copied());
        prop_assert!(made.windows(2).all(|pair| pair[0].end < pair[1].start));
        let again: BTreeSet<u64> = made.into_iter().flatten().collect();
        prop_assert_eq!(again, numbers);
    }
}
