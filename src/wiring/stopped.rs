//! What a stopped daemon has left, for commands that only read.

use std::sync::Arc;

use super::open::{device_mapper, parts};
use super::state::{database, StateDirectory};
use super::WiringError;
use crate::config::Config;
use crate::dm::Dm;
use crate::pool::Pool;
use crate::store::Store;

/// What a stopped daemon has left. No daemon starts on it while this exists.
#[derive(Debug)]
pub struct Stopped {
    /// A copy of the database in memory.
    pub store: Arc<Store>,
    /// The pool, if it is assembled.
    pub pool: Option<Pool>,
    _state: Option<StateDirectory>,
}

impl Stopped {
    /// Opens everything for reading, and locks the state directory against daemons.
    pub fn look(config: &Config) -> Result<Stopped, WiringError> {
        let dm = device_mapper()?;
        let state = StateDirectory::look(&config.root)?;
        Ok(Stopped { _state: Some(state), ..Stopped::read(config, dm)? })
    }

    /// The same for a caller that owns the state directory.
    pub fn read(config: &Config, dm: Dm) -> Result<Stopped, WiringError> {
        let store = Arc::new(Store::open_copy(&database(&config.root))?);
        let (backer, settings) = parts(config);
        let pool = Pool::attach(&settings, dm, Arc::clone(&store), backer)?;
        Ok(Stopped { store, pool, _state: None })
    }
}
