//! Limits the calls that can be under way at the same time.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many calls of each kind can be under way at the same time. Further calls wait without a
/// thread. A call that uses a device can hang with it. The runtime has 512 threads that may block,
/// and some must be left for the calls that only use the database: Remove, Update and List.
#[derive(Debug, Clone)]
pub struct Lanes {
    devices: Arc<Semaphore>,
    usage: Arc<Semaphore>,
    cleanup: Arc<Semaphore>,
}

impl Default for Lanes {
    fn default() -> Lanes {
        let lane = |calls| Arc::new(Semaphore::new(calls));
        Lanes { devices: lane(256), usage: lane(32), cleanup: lane(8) }
    }
}

impl Lanes {
    /// Waits until this call can run. It must keep what is returned until it ends. `None` for a
    /// call without a limit.
    pub async fn place(&self, verb: &str) -> Option<OwnedSemaphorePermit> {
        let lane = match verb {
            "Prepare" | "View" | "Commit" | "Mounts" => &self.devices,
            "Usage" => &self.usage,
            "Cleanup" => &self.cleanup,
            _ => return None,
        };
        Arc::clone(lane).acquire_owned().await.ok()
    }
}
