//! Tests of the store, one topic for each file.

mod crash;
mod damage;
pub(crate) mod disk;
mod fixture;
mod group;
mod invariants;
mod model;
mod opening;
mod records;
