//! The configuration: the file, the environment and the flags, read into one checked [`Config`].
//!
//! Every key is optional. Flags override the environment, and the environment overrides the file. A
//! configuration with problems is refused as a whole, with all problems in one message, each with
//! its key. This module does not know pools or gRPC.

mod error;
mod log_level;
mod options;
mod paths;
mod read;
mod values;

pub use error::{ConfigError, Problem};
pub use options::{Backing, Config, Overrides, PoolFeature};
pub use read::DEFAULT_PATH;
