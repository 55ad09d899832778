//! What tests, campaigns and benchmarks share. It knows the snapshots API and the system's
//! programs, and nothing of the product.
//!
//! | file | what it is |
//! |---|---|
//! | `client` | a client of the snapshots API |
//! | `loops` | loop devices on files of their own |
//! | `mount` | a snapshot, mounted |
//! | `programs` | running programs, `dmsetup` among them |
//! | `random` | numbers from a seed |
//! | `wait` | waiting for a condition |

mod client;
mod loops;
mod mount;
mod programs;
mod random;
mod wait;

pub use client::{labels, Client, Target};
pub use loops::LoopDevice;
pub use mount::{with_mounted, Mounted};
pub use programs::{dmsetup, run, try_dmsetup, try_run, try_used_blocks, used_blocks};
pub use random::Random;
pub use wait::{soon, wait_until};
