//! A kernel that counts what is asked of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::api::{EventSource, Kernel, PoolLog};
use crate::dm::error::Result;
use crate::dm::interface::Verb;
use crate::dm::wire::{Reply, Request};
use crate::units::{DeviceNumber, Sectors};

/// Passes everything on to another kernel and counts the requests by verb. Failed ones count too.
#[derive(Debug)]
pub struct CountingKernel {
    inner: Arc<dyn Kernel>,
    counts: Mutex<BTreeMap<Verb, u64>>,
}

impl CountingKernel {
    /// Counts what is asked of `inner` from now on.
    #[must_use]
    pub fn new(inner: Arc<dyn Kernel>) -> CountingKernel {
        CountingKernel { inner, counts: Mutex::new(BTreeMap::new()) }
    }

    /// How many requests of this verb there were since the last [`reset`](CountingKernel::reset).
    #[must_use]
    pub fn count(&self, verb: Verb) -> u64 {
        self.counts().get(&verb).copied().unwrap_or(0)
    }

    /// How many requests there were of any verb.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts().values().sum()
    }

    /// All counts that are not zero.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Verb, u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts again at zero; returns what had been counted.
    pub fn reset(&self) -> BTreeMap<Verb, u64> {
        std::mem::take(&mut *self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Kernel for CountingKernel {
    fn submit(&self, request: &Request) -> Result<Reply> {
        *self
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(request.verb())
            .or_default() += 1;
        self.inner.submit(request)
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
