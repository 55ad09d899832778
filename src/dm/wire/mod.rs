//! What a request and a reply are, how they lie in memory, and what an errno means as an answer.
//! Nothing here touches the kernel. Source: linux/dm-ioctl.h.

pub mod codec;
mod cookie;
mod errno;
mod reply;
mod request;
mod selector;

pub use cookie::{EventCookie, UdevFlags};
pub use reply::{Header, ListEntry, Reply, ReplyData, TargetVersion};
pub use request::{Payload, Request, MAX_MINOR};
pub use selector::Selector;
