//! A kernel that fails by plan.

use std::sync::Arc;

use super::api::{EventSource, Kernel, PoolLog};
use super::fault_plan::{FaultPlan, Verdict};
use crate::dm::error::{Error, Result};
use crate::dm::wire::{Reply, Request};
use crate::units::{DeviceNumber, Sectors};

/// Passes requests on to another kernel and lets a plan spoil one of those that change something.
/// After a crash every request, reading ones too, fails with [`Error::Halted`]: whoever asks is
/// dead.
#[derive(Debug)]
pub struct FaultyKernel {
    inner: Arc<dyn Kernel>,
    plan: Arc<FaultPlan>,
}

impl FaultyKernel {
    /// Lets `plan` spoil a request to `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Kernel>, plan: Arc<FaultPlan>) -> FaultyKernel {
        FaultyKernel { inner, plan }
    }
}

impl Kernel for FaultyKernel {
    fn submit(&self, request: &Request) -> Result<Reply> {
        let halted = || Error::Halted { request: request.to_string() };
        if !request.verb().changes_something() {
            return if self.plan.halted() { Err(halted()) } else { self.inner.submit(request) };
        }
        match self.plan.step(&request.to_string()) {
            Verdict::Go => self.inner.submit(request),
            Verdict::Fail(errno) => Err(Error::from_errno(request, errno)),
            Verdict::Halt => Err(halted()),
            Verdict::GoThenHalt => {
                // Nobody is left to hear of it.
                let _ = self.inner.submit(request);
                Err(halted())
            }
        }
    }

    fn device_size(&self, device: DeviceNumber) -> Option<Sectors> {
        self.inner.device_size(device)
    }

    fn logical_block_size(&self, device: DeviceNumber) -> Option<u32> {
        self.inner.logical_block_size(device)
    }

    fn event_source(&self) -> Result<Box<dyn EventSource>> {
        self.inner.event_source()
    }

    fn pool_log(&self) -> Option<Box<dyn PoolLog>> {
        self.inner.pool_log()
    }

    fn incarnation(&self, device: DeviceNumber) -> String {
        self.inner.incarnation(device)
    }
}
