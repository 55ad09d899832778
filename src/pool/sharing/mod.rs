//! A shared pool: one that another program assembles, and that other daemons may use too.

mod claim;
mod external;
mod features;
mod join;
mod markers;
mod other_users;
mod unrecorded;

pub use claim::Claim;
pub use external::open_shared;
pub use other_users::OtherUsers;
