//! The proof that pool, disks and database belong together, and the assembly of a pool of our own.

mod areas;
mod epoch;
mod name_taken;
mod opening;
mod owned;
mod table;

pub use name_taken::name_must_be_free;
pub use opening::{called, Opening, PoolFound};
pub use owned::{make, open_own};
pub use table::low_water;
