//! A kernel that fails by plan.

use std::sync::Arc;

use super::api::{EventSource, Kernel, PoolLog};
use super::fault_plan::{FaultPlan, Verdict};
use crate::dm::error::{Error, Result};
use crate::dm::wire::{Reply, Request};
use crate::units::{DeviceNumber, Sectors};

/// Passes requests on to another kernel. A plan makes one of those that change something fail.
/// After a crash every request fails with [`Error::Halted`], also those that only ask.
#[derive(Debug)]
pub struct FaultyKernel {
    inner: Arc<dyn Kernel>,
    plan: Arc<FaultPlan>,
}

impl FaultyKernel {
    /// Makes a request to `inner` fail by `plan`.
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
                // After a crash there is no caller that could use the answer.
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
