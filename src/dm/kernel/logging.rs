//! A kernel that tells a sink of every request and how it ended.
//!
//! libdevmapper has one log for the whole process and a callback to redirect it. Here a log is a
//! kernel around another kernel, and its owner says where the messages go.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;

use super::api::{EventSource, Kernel, PoolLog};
use crate::dm::error::{Error, Result};
use crate::dm::wire::{Reply, Request};
use crate::units::{DeviceNumber, Sectors};

/// How important a message is, with libdevmapper's numbers (lib/log/log.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum LogLevel {
    /// `_LOG_FATAL`: nothing works any more. This library does not use it.
    Fatal = 2,
    /// `_LOG_ERR`: a request failed.
    Error = 3,
    /// `_LOG_WARN`: a request failed because there is no such device, or because it is in use.
    Warn = 4,
    /// `_LOG_NOTICE`: something unusual that worked. This library does not use it.
    Notice = 5,
    /// `_LOG_INFO`: a request that changes something.
    Info = 6,
    /// `_LOG_DEBUG`: a request that asks for something.
    Debug = 7,
}

/// Where messages go.
pub trait LogSink: Send + Sync + Debug {
    /// Takes one message; `errno` is the kernel's where it refused the request.
    fn log(&self, level: LogLevel, errno: Option<Errno>, message: &str);
}

/// Passes messages on to `tracing`, under the target `dm`, when they are at least as important as
/// this.
#[derive(Debug, Clone, Copy)]
pub struct TracingSink {
    /// The least important level that is passed on.
    pub level: LogLevel,
}

impl LogSink for TracingSink {
    fn log(&self, level: LogLevel, errno: Option<Errno>, message: &str) {
        if level > self.level {
            return;
        }
        let errno = errno.map(|errno| errno as i32);
        match level {
            LogLevel::Fatal | LogLevel::Error => tracing::error!(target: "dm", errno, "{message}"),
            LogLevel::Warn => tracing::warn!(target: "dm", errno, "{message}"),
            LogLevel::Notice | LogLevel::Info => tracing::info!(target: "dm", errno, "{message}"),
            LogLevel::Debug => tracing::debug!(target: "dm", errno, "{message}"),
        }
    }
}

/// Passes requests on to another kernel and tells a sink of each, with its outcome and the time it
/// took.
#[derive(Debug)]
pub struct LoggingKernel {
    inner: Arc<dyn Kernel>,
    sink: Arc<dyn LogSink>,
}

impl LoggingKernel {
    /// Tells `sink` of what is asked of `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Kernel>, sink: Arc<dyn LogSink>) -> LoggingKernel {
        LoggingKernel { inner, sink }
    }
}

impl Kernel for LoggingKernel {
    fn submit(&self, request: &Request) -> Result<Reply> {
        let started = Instant::now();
        let result = self.inner.submit(request);
        let took = started.elapsed();
        match &result {
            Ok(_) if request.verb().changes_something() => {
                self.sink.log(LogLevel::Info, None, &format!("{request}: done in {took:?}"));
            }
            Ok(_) => {
                self.sink.log(LogLevel::Debug, None, &format!("{request}: answered in {took:?}"))
            }
            Err(error) => {
                let expected = error.is_no_such_device() || error.is_busy();
                let level = if expected { LogLevel::Warn } else { LogLevel::Error };
                self.sink.log(level, Error::errno(error), &error.to_string());
            }
        }
        result
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::dm::fake::FakeKernel;
    use crate::dm::{Dm, Settings};
    use crate::names::DmName;

    #[derive(Debug, Default)]
    struct Collected(Mutex<Vec<(LogLevel, Option<Errno>, String)>>);

    impl LogSink for Collected {
        fn log(&self, level: LogLevel, errno: Option<Errno>, message: &str) {
            self.0.lock().unwrap().push((level, errno, message.to_owned()));
        }
    }

    #[test]
    fn the_sink_hears_of_every_request_and_how_it_ended() {
        let sink = Arc::new(Collected::default());
        let kernel = LoggingKernel::new(Arc::new(FakeKernel::new()), sink.clone());
        let dm = Dm::new(Arc::new(kernel), Settings::without_nodes());
        let name = DmName::new("some-device").unwrap();
        dm.create(&name, None).unwrap();
        dm.info(&name).unwrap();
        dm.create(&name, None).unwrap_err();
        dm.remove(&name).unwrap();
        dm.remove(&name).unwrap_err();
        let heard = sink.0.lock().unwrap();
        let levels: Vec<_> = heard.iter().map(|(level, errno, _)| (*level, *errno)).collect();
        assert_eq!(
            levels,
            [
                (LogLevel::Info, None),
                (LogLevel::Debug, None),
                (LogLevel::Error, Some(Errno::EBUSY)),
                (LogLevel::Info, None),
                (LogLevel::Warn, Some(Errno::ENXIO)),
            ]
        );
        assert!(heard.iter().all(|(_, _, message)| message.contains("some-device")), "{heard:?}");
        assert!(LogLevel::Fatal as u8 == 2 && LogLevel::Debug as u8 == 7);
    }
}
