//! The snapshots service as containerd speaks it: requests in, calls on the snapshotter on threads
//! that may block, and errors out as gRPC statuses.
//!
//! Architecture Invariant: tonic and containerd-snapshots appear here and in `server`, nowhere
//! else.

mod commit_parent;
mod status;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use containerd_snapshots::api::types::Mount as ApiMount;
use containerd_snapshots::{Info as ApiInfo, Kind as ApiKind, Usage as ApiUsage};
use tokio::sync::{mpsc, Notify, OwnedSemaphorePermit, Semaphore};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::Stream;
use tonic::{Code, Status};

use crate::filter::{Fields, FilterSet};
use crate::metrics::Metrics;
use crate::snapshotter::{Error, FieldUpdate, Info, Labels, Mount, Snapshotter};
use crate::store::Kind;
pub use commit_parent::CommitParent;
use status::status;

/// Snapshots read from the database at a time for a list; the next page waits until this one has
/// been sent.
const PAGE: usize = 256;

/// Answers containerd.
#[derive(Debug, Clone)]
pub struct Service {
    snapshotter: Arc<Snapshotter>,
    metrics: Arc<Metrics>,
    /// Told when only a new start can tell what is on disk.
    broken: Arc<Notify>,
    lanes: Lanes,
}

/// How many calls of a kind may be under way at a time; others wait without a thread. Those that
/// ask devices may have to wait for one that does not answer; the runtime has 512 threads that may
/// block, and some must be left for the calls that go by the database alone: Remove, Update, List.
#[derive(Debug, Clone)]
struct Lanes {
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
    /// A place for this call, for as long as it runs.
    async fn place(&self, verb: &str) -> Option<OwnedSemaphorePermit> {
        let lane = match verb {
            "Prepare" | "View" | "Commit" | "Mounts" => &self.devices,
            "Usage" => &self.usage,
            "Cleanup" => &self.cleanup,
            _ => return None,
        };
        Arc::clone(lane).acquire_owned().await.ok()
    }
}

impl Service {
    pub fn new(snapshotter: Arc<Snapshotter>, metrics: Arc<Metrics>) -> Self {
        Service { snapshotter, metrics, broken: Arc::default(), lanes: Lanes::default() }
    }

    /// Ready when a write of the database has failed in a way that only a new start can put right.
    pub async fn broken(&self) {
        self.broken.notified().await;
    }

    /// Runs a call where it may block.
    async fn call<T: Send + 'static>(
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
            tracing::error!(verb, key, %panic, "panicked");
            let what =
                format!("{verb} {key:?}: the daemon met a bug of its own; its log says where");
            self.refused(verb, started, Status::internal(what))
        })?;
        self.answer(verb, key, started, result)
    }

    /// Turns a result into the answer, counts it, and logs what fails.
    fn answer<T>(
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
    fn refused(&self, verb: &'static str, started: Instant, status: Status) -> Status {
        self.metrics.called(verb, format!("{:?}", status.code()), started.elapsed());
        status
    }
}

#[tonic::async_trait]
impl containerd_snapshots::Snapshotter for Service {
    type Error = Status;

    async fn stat(&self, key: String) -> Result<ApiInfo, Status> {
        // One look into the database, which waits for nothing: handing it to another thread would
        // take longer.
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

/// Sends every snapshot that matches; stops when nobody listens any more. Says how it ended.
fn send_list(
    snapshotter: &Snapshotter,
    filters: &FilterSet,
    sender: &mpsc::Sender<Result<ApiInfo, Status>>,
) -> Code {
    let mut after: Option<String> = None;
    loop {
        let page = match snapshotter.page(after.as_deref(), PAGE) {
            Ok(page) => page,
            Err(error) => {
                let status = status(&error);
                let code = status.code();
                let _ = sender.blocking_send(Err(status));
                return code;
            }
        };
        let Some(last) = page.last() else { return Code::Ok };
        after = Some(last.key.clone());
        for info in page {
            if filters.matches(&Filtered(&info))
                && sender.blocking_send(Ok(api_info(info))).is_err()
            {
                return Code::Cancelled;
            }
        }
    }
}

/// A snapshot as containerd's filters see it.
struct Filtered<'a>(&'a Info);

impl Fields for Filtered<'_> {
    fn field(&self, path: &[&str]) -> Option<std::borrow::Cow<'_, str>> {
        let info = self.0;
        match path {
            // containerd looks at the first part of these and ignores what follows.
            ["kind", ..] => Some(info.kind.as_str().into()),
            ["name", ..] => Some(info.key.as_str().into()),
            ["parent", ..] => Some(info.parent.as_deref().unwrap_or_default().into()),
            ["labels", label @ ..] => {
                info.labels.get(&label.join(".")).map(|value| value.as_str().into())
            }
            _ => None,
        }
    }
}

/// containerd's field mask: nothing named means all that can change, which is the labels. A path
/// may be named more than once, and `labels` beside one of them; each says the same as if it stood
/// alone.
fn updates(
    labels: HashMap<String, String>,
    paths: Vec<String>,
) -> Result<Vec<FieldUpdate>, Status> {
    let labels = Labels::from_iter(labels);
    if paths.is_empty() {
        return Ok(vec![FieldUpdate::Labels(labels)]);
    }
    let update = |path: String| match path.strip_prefix("labels.") {
        Some("") => Err(Status::invalid_argument("the field path \"labels.\" names no label")),
        Some(label) => {
            Ok(FieldUpdate::Label(label.into(), labels.get(label).cloned().unwrap_or_default()))
        }
        None if path == "labels" => Ok(FieldUpdate::Labels(labels.clone())),
        None => Err(Status::invalid_argument(format!(
            "field {path:?} of a snapshot cannot be updated; labels and labels.NAME can"
        ))),
    };
    paths.into_iter().map(update).collect()
}

fn api_info(info: Info) -> ApiInfo {
    ApiInfo {
        kind: match info.kind {
            Kind::View => ApiKind::View,
            Kind::Active => ApiKind::Active,
            Kind::Committed => ApiKind::Committed,
        },
        name: info.key,
        parent: info.parent.unwrap_or_default(),
        labels: info.labels.into_iter().collect(),
        created_at: info.created_at,
        updated_at: info.updated_at,
    }
}

fn api_mounts(mounts: Vec<Mount>) -> Vec<ApiMount> {
    let api = |mount: Mount| ApiMount {
        r#type: mount.fs_type,
        source: mount.source,
        target: String::new(),
        options: mount.options,
    };
    mounts.into_iter().map(api).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(paths: &[&str]) -> Vec<String> {
        paths.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_path_that_is_named_twice_or_beside_labels_says_the_same_each_time() {
        let labels = HashMap::from([
            ("a".to_string(), "1".to_string()),
            ("a.b/c".to_string(), "2".to_string()),
        ]);
        let all = FieldUpdate::Labels(labels.clone().into_iter().collect());
        let a = FieldUpdate::Label("a".into(), "1".into());
        let dotted = FieldUpdate::Label("a.b/c".into(), "2".into());
        for (named, expected) in [
            (&["labels.a", "labels.a"][..], vec![a.clone(), a.clone()]),
            (&["labels.a", "labels"], vec![a.clone(), all.clone()]),
            (&["labels", "labels.a"], vec![all.clone(), a.clone()]),
            (&["labels", "labels"], vec![all.clone(), all]),
            (&["labels.a.b/c", "labels.a", "labels.a.b/c"], vec![dotted.clone(), a, dotted]),
        ] {
            assert_eq!(updates(labels.clone(), paths(named)).unwrap(), expected, "{named:?}");
        }
    }

    #[test]
    fn only_labels_can_be_updated_and_the_refusal_names_the_field() {
        let labels = HashMap::from([("a.b/c".to_string(), "1".to_string())]);
        assert_eq!(
            updates(labels.clone(), paths(&["labels.a.b/c"])).unwrap(),
            [FieldUpdate::Label("a.b/c".into(), "1".into())]
        );
        assert_eq!(
            updates(labels.clone(), paths(&["labels.gone"])).unwrap(),
            [FieldUpdate::Label("gone".into(), String::new())]
        );
        assert_eq!(
            updates(labels.clone(), vec![]).unwrap(),
            [FieldUpdate::Labels(labels.clone().into_iter().collect())]
        );
        for immutable in ["name", "parent", "kind", "created_at", "nonsense", "labels.", ""] {
            let status = updates(labels.clone(), paths(&[immutable])).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains(&format!("{immutable:?}")), "{}", status.message());
        }
    }
}
