//! The disks below a pool: two files on loop devices (the embedded pool), or disks that the
//! operator gives.
//!
//! A disk is never formatted or shortened here. What is on a disk is looked at before anything is
//! written to it or it is made longer.

mod backer;
mod blocks;
mod embedded;
mod first_use;
mod given;
mod growth;
mod label;
mod own;
mod place;
mod sizes;

pub use backer::{Backer, Base, SharedPool};
pub use embedded::EmbeddedFiles;
pub use label::{Found, Holds, Label, LABEL_SPACE};
pub use own::OwnDisks;
pub use place::{Place, Places, Stage};
