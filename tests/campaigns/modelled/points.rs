//! The daemon, or the machine, ends at each step of many programs. The next start must repair
//! everything.
//!
//! A step is a commit of the pool, a flush of a disk, a write or a sync of the database; where
//! only the daemon ends, each request to the kernel as well. What is left, in each way that a
//! disk's cache allows, is started again, judged (I1 to I7 of ARCHITECTURE.md), and emptied.
//! `CRASH_SEEDS=N` explores N new generated programs of each kind.

use super::explore::{
    explore, explore_first_start, explore_recovery, explore_starts, print_explored, Base, End,
};
use super::model::Op;
use super::programs::{classics, program, seeds};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

/// The number of generated programs to explore. Without CRASH_SEEDS they are always the same; with
/// it they are new ones.
pub fn for_generated(few: u32, most: usize, explore: impl Fn(&[Op]) -> Result<(), String>) {
    let asked =
        std::env::var("CRASH_SEEDS").ok().map(|n| n.parse().expect("CRASH_SEEDS is a number"));
    let config = Config {
        cases: asked.unwrap_or(few),
        max_shrink_iters: 300,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = match asked {
        Some(_) => TestRunner::new(config),
        None => TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
    };
    let outcome = runner.run(&seeds(most), |seeds| {
        let program = program(&seeds, "");
        explore(&program).map_err(|what| TestCaseError::fail(format!("{what}\nin {program:#?}")))
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn a_power_cut_at_any_step_of_the_classics_is_mended_by_the_next_start() {
    for discard in [true, false] {
        let base = Base::new(discard);
        for (story, program) in classics() {
            explore(&base, &program, End::PowerCut)
                .unwrap_or_else(|what| panic!("{story}: {what}"));
        }
    }
    print_explored("classics, power cut", &[]);
}

#[test]
fn a_daemon_killed_at_any_step_of_the_classics_is_mended_by_the_next_start() {
    for discard in [true, false] {
        let base = Base::new(discard);
        for (story, program) in classics() {
            explore(&base, &program, End::Killed).unwrap_or_else(|what| panic!("{story}: {what}"));
        }
    }
    print_explored("classics, killed", &[]);
}

#[test]
fn a_power_cut_at_any_step_of_generated_programs_is_mended_by_the_next_start() {
    let base = Base::new(true);
    for_generated(14, 14, |program| explore(&base, program, End::PowerCut).map(drop));
    print_explored("generated, power cut", &[]);
}

#[test]
fn a_daemon_killed_at_any_step_of_generated_programs_is_mended_by_the_next_start() {
    let base = Base::new(true);
    for_generated(14, 14, |program| explore(&base, program, End::Killed).map(drop));
    print_explored("generated, killed", &[]);
}

#[test]
fn an_end_at_any_step_of_a_recovery_is_mended_by_the_next_one() {
    let base = Base::new(true);
    for first in [End::Killed, End::PowerCut] {
        for (story, program) in classics() {
            explore_recovery(&base, &program, first, 97)
                .unwrap_or_else(|what| panic!("{story}: {what}"));
        }
    }
    print_explored("recovery", &[]);
}

#[test]
fn two_starts_in_a_row_that_end_at_any_steps_are_mended_by_the_third() {
    let base = Base::new(true);
    for first in [End::Killed, End::PowerCut] {
        explore_starts(&base, first).unwrap();
    }
    print_explored("starts", &[]);
}

#[test]
fn an_end_at_any_step_of_the_first_start_is_mended_by_the_next_one() {
    let base = Base::new(true);
    for end in [End::Killed, End::PowerCut] {
        explore_first_start(&base, end).unwrap();
    }
    print_explored("first start", &[]);
}
