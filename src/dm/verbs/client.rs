//! [`Dm`]: the verbs' handle on a kernel.

use std::sync::Arc;

use crate::dm::error::Result;
use crate::dm::host::Settings;
use crate::dm::kernel::{Kernel, RealKernel, OLDEST_DRIVER};
use crate::dm::wire::{Reply, Request};

/// Device-mapper's verbs on one kernel. It is cheap to clone. All methods block and can be called
/// from any number of threads.
///
/// A verb takes its device as `impl Into<Selector>`: a name, a uuid or a number. Those of thin
/// pools take the pool in the same way. [`Dm::rename`] and [`Dm::set_uuid`] take a name, since the
/// kernel looks only at the name for them (`dm_hash_rename` in drivers/md/dm-ioctl.c).
#[derive(Debug, Clone)]
pub struct Dm {
    kernel: Arc<dyn Kernel>,
    settings: Arc<Settings>,
}

impl Dm {
    /// The verbs on the running kernel, with the default settings: nodes in `/dev/mapper`, which
    /// this library makes itself; udev is told to leave the devices alone.
    ///
    /// # Errors
    /// Those of [`RealKernel::open`].
    pub fn open() -> Result<Dm> {
        Dm::open_with(Settings::default())
    }

    /// The verbs on the running kernel, with these settings. The control node is the file `control`
    /// in [`Settings::node_dir`].
    ///
    /// # Errors
    /// Those of [`RealKernel::open`].
    pub fn open_with(settings: Settings) -> Result<Dm> {
        let kernel = RealKernel::open_in(&settings.node_dir, OLDEST_DRIVER)?;
        Ok(Dm::new(Arc::new(kernel), settings))
    }

    /// The verbs on any kernel.
    #[must_use]
    pub fn new(kernel: Arc<dyn Kernel>, settings: Settings) -> Dm {
        Dm { kernel, settings: Arc::new(settings) }
    }

    /// The kernel that all requests go to.
    #[must_use]
    pub fn kernel(&self) -> &Arc<dyn Kernel> {
        &self.kernel
    }

    /// How devices are presented.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn submit(&self, request: &Request) -> Result<Reply> {
        let result = self.kernel.submit(request);
        if let Err(error) = &result {
            tracing::debug!(%request, %error, "device-mapper request failed");
        }
        result
    }
}
