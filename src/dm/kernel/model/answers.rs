//! How a modelled kernel answers as a [`Kernel`]: requests, events, its log.

use std::time::Duration;

use super::kernel::FakeKernel;
use super::machine::{Stop, MAJOR};
use crate::dm::error::{Error, Result};
use crate::dm::kernel::api::{EventSource, Kernel, Noticed, PoolLog};
use crate::dm::wire::{codec, Reply, Request};
use crate::units::{DeviceNumber, Sectors};

impl Kernel for FakeKernel {
    fn submit(&self, request: &Request) -> Result<Reply> {
        // What cannot be laid out in memory does not reach a real kernel either.
        codec::encode(request, 0).map_err(|source| Error::Codec {
            verb: request.verb(),
            device: request.subject(),
            source,
        })?;
        self.change(|machine| machine.submit(request)).map_err(|stop| match stop {
            Stop::Errno(errno) => Error::from_errno(request, errno),
            Stop::Halted => Error::Halted { request: request.to_string() },
        })
    }

    fn device_size(&self, device: DeviceNumber) -> Option<Sectors> {
        self.machine().size(device)
    }

    fn event_source(&self) -> Result<Box<dyn EventSource>> {
        Ok(Box::new(FakeEvents { seen: self.machine().events, kernel: self.clone() }))
    }

    fn pool_log(&self) -> Option<Box<dyn PoolLog>> {
        (!self.machine().log.forbidden)
            .then(|| Box::new(FakeLog { kernel: self.clone(), next: 0 }) as Box<dyn PoolLog>)
    }

    fn incarnation(&self, device: DeviceNumber) -> String {
        let machine = self.machine();
        let born = machine.with_leaving(device).map_or(0, |device| device.born);
        format!("boot {} {device} {born}", machine.boot)
    }
}

/// Listens to a modelled kernel.
#[derive(Debug)]
struct FakeEvents {
    kernel: FakeKernel,
    seen: u64,
}

impl EventSource for FakeEvents {
    fn arm(&mut self) -> Result<()> {
        self.seen = self.kernel.machine().events;
        Ok(())
    }

    fn wait(&mut self, limit: Duration) -> Result<bool> {
        Ok(self.kernel.wait_event(self.seen, limit))
    }
}

/// Reads the log of a modelled kernel.
#[derive(Debug)]
struct FakeLog {
    kernel: FakeKernel,
    next: u64,
}

impl PoolLog for FakeLog {
    fn read(&mut self, pool: DeviceNumber, since: u64) -> Noticed {
        let machine = self.kernel.machine();
        let log = &machine.log;
        let wanted = usize::try_from(self.next.max(since)).unwrap_or(usize::MAX);
        let records = log.records.iter().skip(wanted.max(log.lost));
        let notices = records
            .filter(|(minor, _)| pool.major == MAJOR && pool.minor == *minor)
            .map(|(_, n)| *n);
        let noticed = Noticed {
            notices: notices.collect(),
            next: log.records.len().max(wanted) as u64,
            complete: wanted >= log.lost,
        };
        self.next = noticed.next;
        noticed
    }
}
