//! What the crash tests stand on.
//!
//! | file | what it is |
//! |---|---|
//! | `storage` | the disk under the database |
//! | `machine` | the modelled kernel, and disks over it |
//! | `files` | a modelled file system |
//! | `world` | a daemon on all that, and what its end leaves |
//! | `model` | what callers may rely on |
//! | `programs` | what is done to the daemon |
//! | `judge` | whether a world is as its callers may expect it |
//! | `explore` | all the points where it can end |
//!
//! and tests of its own: `checker` (the judge can tell), `damage` (bits flip and sectors are lost),
//! `exchanged` (a parent is removed and made anew meanwhile), `faults` (a step fails), `hangs` (the
//! kernel does not answer), `lapses` (the pool is full), `sick` (the pool cannot commit),
//! `side_by_side` (many callers), `regressions` (what was found).
#![allow(dead_code)]

mod checker;
mod damage;
mod exchanged;
pub mod explore;
mod faults;
pub mod files;
mod hangs;
pub mod judge;
mod lapses;
pub mod machine;
pub mod model;
pub mod programs;
mod regressions;
mod sick;
mod side_by_side;
pub mod storage;
pub mod world;
