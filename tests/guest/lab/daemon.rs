//! A daemon under test and a client of it, for tests in a guest.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use containerd_snapshots::api::snapshots::v1::snapshots_client::SnapshotsClient;
use containerd_snapshots::api::snapshots::v1::*;
use containerd_snapshots::api::types::Mount;
use containerd_snapshots::tonic::client::Grpc;
use containerd_snapshots::tonic::codec::ProstCodec;
use containerd_snapshots::tonic::codegen::http::uri::PathAndQuery;
use containerd_snapshots::tonic::transport::{Channel, Endpoint, Uri};
use containerd_snapshots::tonic::{Code, Request, Status};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// A daemon and a client of it. Dropped, it is stopped and its devices are taken away.
pub struct Daemon {
    process: Child,
    runtime: Runtime,
    client: SnapshotsClient<Channel>,
    channel: Channel,
    name: String,
    config: String,
    directory: tempfile::TempDir,
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

impl Daemon {
    pub fn start(name: &str) -> Daemon {
        Daemon::start_with(name, "")
    }

    pub fn start_with(name: &str, config: &str) -> Daemon {
        let directory = tempfile::tempdir().unwrap();
        let process = spawn(name, &directory, config);
        let runtime = Runtime::new().unwrap();
        let channel = runtime.block_on(connect(socket(&directory)));
        let client = SnapshotsClient::new(channel.clone());
        let mut daemon = Daemon {
            process,
            runtime,
            client,
            channel,
            name: name.into(),
            config: config.into(),
            directory,
        };
        daemon.wait_until_it_serves();
        daemon
    }

    /// A daemon that has not been started yet.
    pub fn prepared(name: &str, config: &str) -> Daemon {
        let directory = tempfile::tempdir().unwrap();
        let process = Command::new("true").spawn().unwrap();
        let runtime = Runtime::new().unwrap();
        let nobody = Endpoint::from_static("http://unix");
        let channel = runtime.block_on(async { nobody.connect_lazy() });
        let client = SnapshotsClient::new(channel.clone());
        Daemon {
            process,
            runtime,
            client,
            channel,
            name: name.into(),
            config: config.into(),
            directory,
        }
    }

    /// Ends the daemon; its devices stay.
    pub fn stop(&mut self, signal: &str) {
        kill(&self.process, signal);
        self.process.wait().unwrap();
    }

    /// The daemon's process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Starts the daemon again after [`Daemon::stop`].
    pub fn begin(&mut self) {
        self.process = spawn(&self.name, &self.directory, &self.config);
        self.channel = self.runtime.block_on(connect(socket(&self.directory)));
        self.client = SnapshotsClient::new(self.channel.clone());
        self.wait_until_it_serves();
    }

    /// The socket is there before the pool is; the first answer comes after both.
    fn wait_until_it_serves(&mut self) {
        self.list(&[]).unwrap();
    }

    pub fn restart(&mut self, signal: &str) {
        self.stop(signal);
        self.begin();
    }

    /// Starts the daemon; whether it serves or has ended with an error.
    pub fn starts(&mut self) -> bool {
        self.process = spawn(&self.name, &self.directory, &self.config);
        loop {
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            if self.log().lines().last().is_some_and(|line| line.contains("serving")) {
                self.channel = self.runtime.block_on(connect(socket(&self.directory)));
                self.client = SnapshotsClient::new(self.channel.clone());
                self.wait_until_it_serves();
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts the daemon, which must refuse to; returns what it said.
    pub fn start_is_refused(&mut self) -> String {
        let before = self.log().len();
        self.process = spawn(&self.name, &self.directory, &self.config);
        let end = Instant::now() + Duration::from_secs(60);
        let status = loop {
            match self.process.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(Instant::now() < end, "the daemon started"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(!status.success());
        self.log()[before..].to_owned()
    }

    /// Runs the daemon's program with a command such as `check`; says whether it succeeded, and
    /// what it printed.
    pub fn command(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new(std::env::var("DAEMON").unwrap())
            .arg("--config")
            .arg(self.directory.path().join("config.toml"))
            .arg("--root")
            .arg(self.state())
            .args(arguments)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// What the daemon gets from now on, when it is started.
    pub fn configure(&mut self, name: &str, config: &str) {
        self.name = name.into();
        self.config = config.into();
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Takes all devices away, as a reboot does. Nothing may be mounted.
    pub fn remove_devices(&self) {
        let names = Command::new("dmsetup").arg("ls").output().unwrap();
        let names = String::from_utf8_lossy(&names.stdout).into_owned();
        let ours = names.lines().filter_map(|line| line.split_whitespace().next());
        let mut ours: Vec<&str> =
            ours.filter(|name| name.starts_with(&format!("{}-", self.name))).collect();
        // What stands on others goes before them.
        ours.sort_by_key(|name| {
            ["-pool", "-data", "-metadata"]
                .iter()
                .position(|end| name.ends_with(end))
                .map_or(0, |n| n + 1)
        });
        for device in ours {
            let _ = Command::new("dmsetup")
                .args(["remove", "--noudevsync", "--retry", device])
                .stderr(Stdio::null())
                .status();
            let _ = std::fs::remove_file(format!("/dev/mapper/{device}"));
        }
    }

    pub fn prepare(&mut self, key: &str, parent: &str) -> Result<Vec<Mount>, Status> {
        self.prepare_labelled(key, parent, &[])
    }

    pub fn prepare_labelled(
        &mut self,
        key: &str,
        parent: &str,
        labels: &[(&str, &str)],
    ) -> Result<Vec<Mount>, Status> {
        let request = PrepareSnapshotRequest {
            key: key.into(),
            parent: parent.into(),
            labels: map(labels),
            ..Default::default()
        };
        self.runtime.block_on(self.client.prepare(request)).map(|r| r.into_inner().mounts)
    }

    pub fn view(&mut self, key: &str, parent: &str) -> Result<Vec<Mount>, Status> {
        self.view_labelled(key, parent, &[])
    }

    pub fn view_labelled(
        &mut self,
        key: &str,
        parent: &str,
        labels: &[(&str, &str)],
    ) -> Result<Vec<Mount>, Status> {
        let request = ViewSnapshotRequest {
            key: key.into(),
            parent: parent.into(),
            labels: map(labels),
            ..Default::default()
        };
        self.runtime.block_on(self.client.view(request)).map(|r| r.into_inner().mounts)
    }

    pub fn commit(&mut self, name: &str, key: &str) -> Result<(), Status> {
        self.commit_labelled(name, key, &[])
    }

    pub fn commit_labelled(
        &mut self,
        name: &str,
        key: &str,
        labels: &[(&str, &str)],
    ) -> Result<(), Status> {
        let request = CommitSnapshotRequest {
            name: name.into(),
            key: key.into(),
            labels: map(labels),
            ..Default::default()
        };
        self.runtime.block_on(self.client.commit(request)).map(drop)
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
        let request = RemoveSnapshotRequest { key: key.into(), ..Default::default() };
        self.runtime.block_on(self.client.remove(request)).map(drop)
    }

    pub fn mounts(&mut self, key: &str) -> Result<Vec<Mount>, Status> {
        let request = MountsRequest { key: key.into(), ..Default::default() };
        self.runtime.block_on(self.client.mounts(request)).map(|r| r.into_inner().mounts)
    }

    pub fn stat(&mut self, key: &str) -> Result<Info, Status> {
        let request = StatSnapshotRequest { key: key.into(), ..Default::default() };
        self.runtime.block_on(self.client.stat(request)).map(|r| r.into_inner().info.unwrap())
    }

    pub fn usage(&mut self, key: &str) -> Result<UsageResponse, Status> {
        let request = UsageRequest { key: key.into(), ..Default::default() };
        self.runtime.block_on(self.client.usage(request)).map(|r| r.into_inner())
    }

    pub fn cleanup(&mut self) {
        self.runtime.block_on(self.client.cleanup(CleanupRequest::default())).unwrap();
    }

    pub fn update(&mut self, info: Info, paths: &[&str]) -> Result<Info, Status> {
        let mask = (!paths.is_empty()).then(|| prost_types::FieldMask {
            paths: paths.iter().map(ToString::to_string).collect(),
        });
        let request =
            UpdateSnapshotRequest { info: Some(info), update_mask: mask, ..Default::default() };
        self.runtime.block_on(self.client.update(request)).map(|r| r.into_inner().info.unwrap())
    }

    pub fn list(&mut self, filters: &[&str]) -> Result<Vec<String>, Status> {
        let request = ListSnapshotsRequest {
            filters: filters.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        self.runtime.block_on(async {
            let mut stream = self.client.list(request).await?.into_inner();
            let mut names = Vec::new();
            while let Some(page) = stream.message().await? {
                names.extend(page.info.into_iter().map(|info| info.name));
            }
            Ok(names)
        })
    }

    /// A committed snapshot without content.
    pub fn committed(&mut self, name: &str, parent: &str) {
        self.prepare(&format!("{name}-active"), parent).unwrap();
        self.commit(name, &format!("{name}-active")).unwrap();
    }

    pub fn devices(&self, kind: &str) -> usize {
        let prefix = format!("{}-{kind}", self.name);
        let nodes = std::fs::read_dir("/dev/mapper").unwrap();
        nodes
            .filter(|node| {
                node.as_ref().unwrap().file_name().to_string_lossy().starts_with(&prefix)
            })
            .count()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            kill(&self.process, "TERM");
            let _ = self.process.wait();
        }
        if std::thread::panicking() {
            println!("the daemon's log:\n{}", self.log());
        }
        self.remove_devices();
    }
}

fn spawn(name: &str, directory: &tempfile::TempDir, config: &str) -> Child {
    let root = directory.path().join("state");
    let file = directory.path().join("config.toml");
    let has_size = ["_device", "data_size", "pool_name"].iter().any(|key| config.contains(key));
    let size = if has_size { "" } else { "data_size = \"2GiB\"\n" };
    let room = if config.contains("min_free_percent") { "" } else { "min_free_percent = 0\n" };
    let text = format!("name = \"{name}\"\n{room}{size}{config}\n");
    // The file system below may be full at a later start.
    if std::fs::read_to_string(&file).ok().as_ref() != Some(&text) {
        std::fs::write(&file, text).unwrap();
    }
    Command::new(std::env::var("DAEMON").expect("DAEMON is the path of the daemon to test"))
        .arg("--config")
        .arg(file)
        .arg("--root")
        .arg(root)
        .arg("--address")
        .arg(socket(directory))
        .stderr(
            std::fs::File::options()
                .create(true)
                .append(true)
                .open(directory.path().join("log"))
                .unwrap(),
        )
        .spawn()
        .unwrap()
}

/// Not below what is tested, which may be full.
fn socket(directory: &tempfile::TempDir) -> PathBuf {
    PathBuf::from("/run").join(directory.path().file_name().unwrap()).with_extension("sock")
}

pub fn kill(process: &Child, signal: &str) {
    let _ = Command::new("kill").args([format!("-{signal}"), process.id().to_string()]).status();
}

async fn connect(socket: PathBuf) -> Channel {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let path = socket.clone();
        let connector = tower::service_fn(move |_: Uri| UnixStream::connect(path.clone()));
        match Endpoint::from_static("http://unix").connect_with_connector(connector).await {
            Ok(channel) => return channel,
            Err(error) => {
                let log = std::env::temp_dir().join(socket.file_stem().unwrap()).join("log");
                let log = std::fs::read_to_string(log).unwrap_or_default();
                assert!(Instant::now() < end, "no daemon: {error}; its log:\n{log}");
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, says: &[&str]) {
    let status = result.expect_err("it should have been refused");
    assert_eq!(status.code(), code, "{status}");
    for part in says {
        assert!(status.message().contains(part), "{part:?} is not in {:?}", status.message());
    }
}

/// Mounts, runs, unmounts.
pub fn with_mounted(mount: &Mount, action: impl FnOnce(&std::path::Path)) {
    // Not below what is tested, which may be full.
    let target = tempfile::tempdir_in("/run").unwrap();
    let mut command = Command::new("mount");
    command.args(["-t", &mount.r#type, &mount.source]).arg(target.path());
    if !mount.options.is_empty() {
        command.args(["-o", &mount.options.join(",")]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    action(target.path());
    assert!(Command::new("umount").arg(target.path()).status().unwrap().success());
}
