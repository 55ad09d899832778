//! Why something could not be done: plain values that know no other layer but the interface's
//! verbs.

mod failure;
mod format;
mod misfit;

pub use failure::{Error, Result};
pub use format::{CodecError, MessageError, TableError};
pub use misfit::Misfit;
