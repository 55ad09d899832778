//! How each call is run, counted, logged and answered.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;
use tonic::{Code, Status};

use super::lanes::Lanes;
use super::status::status;
use crate::metrics::Metrics;
use crate::snapshotter::{Error, Snapshotter};

/// The service that containerd calls.
#[derive(Debug, Clone)]
pub struct Service {
    pub(super) snapshotter: Arc<Snapshotter>,
    pub(super) metrics: Arc<Metrics>,
    /// Notified when the daemon has to end; see [`Service::broken`].
    broken: Arc<Notify>,
    lanes: Lanes,
}

impl Service {
    pub fn new(snapshotter: Arc<Snapshotter>, metrics: Arc<Metrics>) -> Self {
        Service { snapshotter, metrics, broken: Arc::default(), lanes: Lanes::default() }
    }

    /// Ends when a sync of the database has failed. Then only a new start can tell what is on disk.
    pub async fn broken(&self) {
        self.broken.notified().await;
    }

    /// Runs a call on a thread that may block.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        verb: &'static str,
        key: &str,
        call: impl FnOnce(&Snapshotter) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Status> {
        let snapshotter = Arc::clone(&self.snapshotter);
        let started = Instant::now();
        let place = self.lanes.place(verb).await;
        let result = tokio::task::spawn_blocking(move || {
            let _place = place;
            call(&snapshotter)
        })
        .await;
        let result = result.map_err(|panic| {
            tracing::error!(verb, key, %panic, "the call panicked");
            let what = format!("{verb} {key:?}: the call panicked; the daemon's log says where");
            self.refused(verb, started, Status::internal(what))
        })?;
        self.answer(verb, key, started, result)
    }

    /// Turns a result into the answer, counts the call, and logs an error.
    pub(super) fn answer<T>(
        &self,
        verb: &'static str,
        key: &str,
        started: Instant,
        result: Result<T, Error>,
    ) -> Result<T, Status> {
        let took = started.elapsed();
        let error = match result {
            Ok(value) => {
                self.metrics.called(verb, "Ok".into(), took);
                tracing::debug!(verb, key, ?took, "done");
                return Ok(value);
            }
            Err(error) => error,
        };
        if error.needs_restart() {
            self.broken.notify_one();
        }
        let status = self.refused(verb, started, status(&error));
        match status.code() {
            Code::Internal | Code::ResourceExhausted | Code::Unavailable | Code::DataLoss => {
                tracing::error!(verb, key, ?took, %error, "failed");
            }
            code => tracing::debug!(verb, key, ?took, ?code, %error, "refused"),
        }
        Err(status)
    }

    /// Counts a call that is answered with this status.
    pub(super) fn refused(&self, verb: &'static str, started: Instant, status: Status) -> Status {
        self.metrics.called(verb, format!("{:?}", status.code()), started.elapsed());
        status
    }
}
