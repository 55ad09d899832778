//! A client of the snapshots API, as containerd is one. It takes the daemon's socket and
//! containerd's.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use containerd_snapshots::api::snapshots::v1::snapshots_client::SnapshotsClient;
use containerd_snapshots::api::snapshots::v1::*;
use containerd_snapshots::api::types::Mount;
use containerd_snapshots::tonic::client::Grpc;
use containerd_snapshots::tonic::codec::ProstCodec;
use containerd_snapshots::tonic::codegen::http::uri::PathAndQuery;
use containerd_snapshots::tonic::codegen::InterceptedService;
use containerd_snapshots::tonic::metadata::MetadataValue;
use containerd_snapshots::tonic::service::Interceptor;
use containerd_snapshots::tonic::transport::{Channel, Endpoint, Uri};
use containerd_snapshots::tonic::{Request, Status};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// What containerd asks of every request: a namespace. The daemon does not look at it.
#[derive(Clone)]
struct Namespace;

impl Interceptor for Namespace {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static("tests"));
        Ok(request)
    }
}

/// Which snapshotter requests are for, and what they have in common.
#[derive(Debug, Clone, Default)]
pub struct Target {
    /// The snapshotter's name at containerd; empty at the daemon's own socket.
    pub snapshotter: String,
    /// Labels of every snapshot that is made.
    pub labels: HashMap<String, String>,
}

/// Each call returns when it is answered.
#[derive(Clone)]
pub struct Client {
    runtime: Arc<Runtime>,
    channel: Channel,
    calls: SnapshotsClient<InterceptedService<Channel, Namespace>>,
    target: Target,
}

/// containerd's request with the field that containerd-snapshots 0.3 does not know.
#[derive(Clone, PartialEq, prost::Message)]
struct CommitWithParent {
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    key: String,
    #[prost(string, tag = "5")]
    parent: String,
}

impl Client {
    /// The error says that nothing listens.
    pub fn connect(
        socket: &Path,
        runtime: &Arc<Runtime>,
        target: Target,
    ) -> Result<Client, String> {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| UnixStream::connect(path.clone()));
        let endpoint = endpoint();
        let connecting = endpoint.connect_with_connector(connector);
        let channel = runtime.block_on(connecting).map_err(|error| error.to_string())?;
        Ok(Client::over(channel, runtime, target))
    }

    /// A client of nothing, whose calls fail.
    pub fn unconnected(runtime: &Arc<Runtime>) -> Client {
        let channel = runtime.block_on(async { endpoint().connect_lazy() });
        Client::over(channel, runtime, Target::default())
    }

    fn over(channel: Channel, runtime: &Arc<Runtime>, target: Target) -> Client {
        let calls = SnapshotsClient::with_interceptor(channel.clone(), Namespace);
        Client { runtime: Arc::clone(runtime), channel, calls, target }
    }

    pub fn prepare(&mut self, key: &str, parent: &str) -> Result<Vec<Mount>, Status> {
        self.prepare_labelled(key, parent, &[])
    }

    pub fn prepare_labelled(
        &mut self,
        key: &str,
        parent: &str,
        with: &[(&str, &str)],
    ) -> Result<Vec<Mount>, Status> {
        let request = PrepareSnapshotRequest {
            snapshotter: self.target.snapshotter.clone(),
            key: key.into(),
            parent: parent.into(),
            labels: self.labels(with),
        };
        self.runtime.block_on(self.calls.prepare(request)).map(|r| r.into_inner().mounts)
    }

    pub fn view(&mut self, key: &str, parent: &str) -> Result<Vec<Mount>, Status> {
        self.view_labelled(key, parent, &[])
    }

    pub fn view_labelled(
        &mut self,
        key: &str,
        parent: &str,
        with: &[(&str, &str)],
    ) -> Result<Vec<Mount>, Status> {
        let request = ViewSnapshotRequest {
            snapshotter: self.target.snapshotter.clone(),
            key: key.into(),
            parent: parent.into(),
            labels: self.labels(with),
        };
        self.runtime.block_on(self.calls.view(request)).map(|r| r.into_inner().mounts)
    }

    pub fn commit(&mut self, name: &str, key: &str) -> Result<(), Status> {
        self.commit_labelled(name, key, &[])
    }

    pub fn commit_labelled(
        &mut self,
        name: &str,
        key: &str,
        with: &[(&str, &str)],
    ) -> Result<(), Status> {
        let request = CommitSnapshotRequest {
            snapshotter: self.target.snapshotter.clone(),
            name: name.into(),
            key: key.into(),
            labels: self.labels(with),
        };
        self.runtime.block_on(self.calls.commit(request)).map(drop)
    }

    /// A commit that names a parent, as containerd does since 2.2 where it was told of the
    /// capability "rebase".
    pub fn commit_on(&mut self, name: &str, key: &str, parent: &str) -> Result<(), Status> {
        let message =
            CommitWithParent { name: name.into(), key: key.into(), parent: parent.into() };
        let path = PathAndQuery::from_static("/containerd.services.snapshots.v1.Snapshots/Commit");
        let codec = ProstCodec::<CommitWithParent, ()>::default();
        let channel = self.channel.clone();
        self.runtime.block_on(async {
            let mut grpc = Grpc::new(channel);
            grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
            grpc.unary(Request::new(message), path, codec).await.map(drop)
        })
    }

    pub fn remove(&mut self, key: &str) -> Result<(), Status> {
        let snapshotter = self.target.snapshotter.clone();
        let request = RemoveSnapshotRequest { snapshotter, key: key.into() };
        self.runtime.block_on(self.calls.remove(request)).map(drop)
    }

    pub fn mounts(&mut self, key: &str) -> Result<Vec<Mount>, Status> {
        let snapshotter = self.target.snapshotter.clone();
        let request = MountsRequest { snapshotter, key: key.into() };
        self.runtime.block_on(self.calls.mounts(request)).map(|r| r.into_inner().mounts)
    }

    pub fn stat(&mut self, key: &str) -> Result<Info, Status> {
        let snapshotter = self.target.snapshotter.clone();
        let request = StatSnapshotRequest { snapshotter, key: key.into() };
        let answer = self.runtime.block_on(self.calls.stat(request))?;
        answer.into_inner().info.ok_or_else(|| Status::internal("the answer to Stat has no info"))
    }

    pub fn usage(&mut self, key: &str) -> Result<UsageResponse, Status> {
        let snapshotter = self.target.snapshotter.clone();
        let request = UsageRequest { snapshotter, key: key.into() };
        self.runtime.block_on(self.calls.usage(request)).map(|r| r.into_inner())
    }

    pub fn cleanup(&mut self) -> Result<(), Status> {
        let request = CleanupRequest { snapshotter: self.target.snapshotter.clone() };
        self.runtime.block_on(self.calls.cleanup(request)).map(drop)
    }

    pub fn update(&mut self, info: Info, paths: &[&str]) -> Result<Info, Status> {
        let mask = (!paths.is_empty()).then(|| prost_types::FieldMask {
            paths: paths.iter().map(ToString::to_string).collect(),
        });
        let request = UpdateSnapshotRequest {
            snapshotter: self.target.snapshotter.clone(),
            info: Some(info),
            update_mask: mask,
        };
        let answer = self.runtime.block_on(self.calls.update(request))?;
        answer.into_inner().info.ok_or_else(|| Status::internal("the answer to Update has no info"))
    }

    pub fn list(&mut self, filters: &[&str]) -> Result<Vec<Info>, Status> {
        let request = ListSnapshotsRequest {
            snapshotter: self.target.snapshotter.clone(),
            filters: filters.iter().map(ToString::to_string).collect(),
        };
        self.runtime.block_on(async {
            let mut stream = self.calls.list(request).await?.into_inner();
            let mut found = Vec::new();
            while let Some(page) = stream.message().await? {
                found.extend(page.info);
            }
            Ok(found)
        })
    }

    fn labels(&self, with: &[(&str, &str)]) -> HashMap<String, String> {
        self.target.labels.clone().into_iter().chain(labels(with)).collect()
    }
}

/// The host's name in it is of no importance, but there has to be one.
fn endpoint() -> Endpoint {
    Endpoint::from_static("http://localhost")
}

pub fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}
