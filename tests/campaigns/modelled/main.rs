//! Campaigns on a modelled machine: the daemon or the machine ends at each step of many programs,
//! and the next start must repair everything. They need no guest.
//!
//! | file | what it is |
//! |---|---|
//! | `storage` | the disk under the database |
//! | `machine` | the modelled kernel, and disks over it |
//! | `files` | a modelled file system |
//! | `world` | a daemon on that machine, and what is left when it ends |
//! | `model` | what callers may rely on |
//! | `programs` | what is done to the daemon |
//! | `judge` | checks the invariants |
//! | `explore` | runs programs to every point where they can end |
//!
//! | tests | what happens |
//! |---|---|
//! | `points` | the daemon or the machine ends |
//! | `faults` | a step fails |
//! | `damage` | bits flip and sectors are lost in the database |
//! | `lapses` | the pool refuses writes for a while |
//! | `sick` | the pool cannot commit |
//! | `hangs` | the kernel does not answer |
//! | `exchanged` | a parent is removed and made anew meanwhile |
//! | `side_by_side` | many callers at once |
//! | `checker` | broken states, which the judge must find |
//! | `regressions` | what was found |

mod checker;
mod damage;
mod exchanged;
mod explore;
mod faults;
mod files;
mod hangs;
mod judge;
mod lapses;
mod machine;
mod model;
mod points;
mod programs;
mod regressions;
mod sick;
mod side_by_side;
mod storage;
mod world;
