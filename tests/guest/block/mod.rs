//! Disks, loop devices and mounts on a real kernel.

mod disks;
mod loops;
mod mounts;
mod space;
