//! File systems on real thins.

mod hostile;
mod thins;
