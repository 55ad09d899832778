//! The device-mapper library on a real kernel.

mod agreement;
mod contract;
mod errors;
mod leak;
mod life;
mod missing;
mod tour;
mod udev;
