//! The calls of the snapshots service.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use containerd_snapshots::api::types::Mount as ApiMount;
use containerd_snapshots::{Info as ApiInfo, Usage as ApiUsage};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::Stream;
use tonic::Status;

use super::convert::{api_info, api_mounts, updates};
use super::list::{send_list, PAGE};
use super::service::Service;
use crate::filter::FilterSet;
use crate::snapshotter::Labels;

#[tonic::async_trait]
impl containerd_snapshots::Snapshotter for Service {
    type Error = Status;

    async fn stat(&self, key: String) -> Result<ApiInfo, Status> {
        // One database read, which never waits. Passing it to another thread would take longer.
        self.answer("Stat", &key, Instant::now(), self.snapshotter.stat(&key)).map(api_info)
    }

    async fn update(
        &self,
        info: ApiInfo,
        fieldpaths: Option<Vec<String>>,
    ) -> Result<ApiInfo, Status> {
        let started = Instant::now();
        let updates = updates(info.labels, fieldpaths.unwrap_or_default())
            .map_err(|status| self.refused("Update", started, status))?;
        self.call("Update", &info.name.clone(), move |s| s.update(&info.name, updates))
            .await
            .map(api_info)
    }

    async fn usage(&self, key: String) -> Result<ApiUsage, Status> {
        let usage = self.call("Usage", &key.clone(), move |s| s.usage(&key)).await?;
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        Ok(ApiUsage { inodes: count(usage.inodes), size: count(usage.bytes) })
    }

    async fn mounts(&self, key: String) -> Result<Vec<ApiMount>, Status> {
        let started = Instant::now();
        if let Some(answer) = self.snapshotter.mounts_at_once(&key).transpose() {
            return self.answer("Mounts", &key, started, answer).map(api_mounts);
        }
        self.call("Mounts", &key.clone(), move |s| s.mounts(&key)).await.map(api_mounts)
    }

    async fn prepare(
        &self,
        key: String,
        parent: String,
        labels: HashMap<String, String>,
    ) -> Result<Vec<ApiMount>, Status> {
        let labels = Labels::from_iter(labels);
        self.call("Prepare", &key.clone(), move |s| s.prepare(&key, &parent, labels))
            .await
            .map(api_mounts)
    }

    async fn view(
        &self,
        key: String,
        parent: String,
        labels: HashMap<String, String>,
    ) -> Result<Vec<ApiMount>, Status> {
        let labels = Labels::from_iter(labels);
        self.call("View", &key.clone(), move |s| s.view(&key, &parent, labels))
            .await
            .map(api_mounts)
    }

    async fn commit(
        &self,
        name: String,
        key: String,
        labels: HashMap<String, String>,
    ) -> Result<(), Status> {
        let labels = Labels::from_iter(labels);
        self.call("Commit", &key.clone(), move |s| s.commit(&name, &key, labels)).await
    }

    async fn remove(&self, key: String) -> Result<(), Status> {
        self.call("Remove", &key.clone(), move |s| s.remove(&key)).await
    }

    async fn clear(&self) -> Result<(), Status> {
        self.call("Cleanup", "", |s| s.cleanup())
            .await
            .map(|swept| tracing::debug!(?swept, "cleaned up"))
    }

    type InfoStream = Pin<Box<dyn Stream<Item = Result<ApiInfo, Status>> + Send>>;

    async fn list(
        &self,
        _snapshotter: String,
        filters: Vec<String>,
    ) -> Result<Self::InfoStream, Status> {
        let started = Instant::now();
        let filters = FilterSet::parse(&filters).map_err(|error| {
            self.refused("List", started, Status::invalid_argument(error.to_string()))
        })?;
        let (sender, receiver) = mpsc::channel(PAGE);
        let (snapshotter, metrics) = (Arc::clone(&self.snapshotter), Arc::clone(&self.metrics));
        tokio::task::spawn_blocking(move || {
            let code = send_list(&snapshotter, &filters, &sender);
            metrics.called("List", format!("{code:?}"), started.elapsed());
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }
}
