//! The kernel's texts as values: tables, status lines, the messages of a pool, lines of its log.
//! Each has a parser and a printer. It knows errors, and nothing of requests.

mod device_ref;
mod features;
mod line;
mod message;
mod notice;
mod status;
mod table;
mod words;

pub use device_ref::DeviceRef;
pub use features::{DiscardPolicy, NoSpacePolicy, PoolFeatures};
pub use line::TargetLine;
pub use message::PoolMessage;
pub use notice::{notice_of_record, PoolNotice};
pub use status::{
    BlockUsage, PoolMode, Status, TargetStatus, ThinPoolStatus, ThinStatus, WorkingPool,
};
pub use table::{LinearTable, Target, ThinPoolTable, ThinTable, MAX_BLOCK_SIZE, MIN_BLOCK_SIZE};
