//! What containerd and its users may get wrong, and what they may rightly ask, through the daemon's own socket on a real
//! kernel. Each test has a daemon of its own, started with nothing but a state directory, a socket and a name.
// guest: --mem 2G

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use containerd_snapshots::api::snapshots::v1::snapshots_client::SnapshotsClient;
use containerd_snapshots::api::snapshots::v1::*;
use containerd_snapshots::api::types::Mount;
use containerd_snapshots::tonic::transport::{Channel, Endpoint, Uri};
use containerd_snapshots::tonic::{Code, Status};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// A daemon and a client of it. Dropped, it is stopped and its devices are taken away.
struct Daemon {
    process: Child,
    runtime: Runtime,
    client: SnapshotsClient<Channel>,
    name: String,
    directory: tempfile::TempDir,
}

impl Daemon {
    fn start(name: &str) -> Daemon {
        Daemon::start_with(name, "")
    }

    fn start_with(name: &str, config: &str) -> Daemon {
        let directory = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let process = spawn(name, &directory, config);
        let client = runtime.block_on(connect(directory.path().join("d.sock")));
        Daemon { process, runtime, client, name: name.into(), directory }
    }

    fn prepare(&mut self, key: &str, parent: &str) -> Result<Vec<Mount>, Status> {
        self.prepare_labelled(key, parent, &[])
    }

    fn prepare_labelled(&mut self, key: &str, parent: &str, labels: &[(&str, &str)]) -> Result<Vec<Mount>, Status> {
        let request = PrepareSnapshotRequest { key: key.into(), parent: parent.into(), labels: map(labels), ..Default::default() };
        self.runtime.block_on(self.client.prepare(request)).map(|r| r.into_inner().mounts)
    }

    fn view(&mut self, key: &str, parent: &str) -> Result<Vec<Mount>, Status> {
        let request = ViewSnapshotRequest { key: key.into(), parent: parent.into(), ..Default::default() };
        self.runtime.block_on(self.client.view(request)).map(|r| r.into_inner().mounts)
    }

    fn commit(&mut self, name: &str, key: &str) -> Result<(), Status> {
        self.commit_labelled(name, key, &[])
    }

    fn commit_labelled(&mut self, name: &str, key: &str, labels: &[(&str, &str)]) -> Result<(), Status> {
        let request = CommitSnapshotRequest { name: name.into(), key: key.into(), labels: map(labels), ..Default::default() };
        self.runtime.block_on(self.client.commit(request)).map(drop)
    }

    fn remove(&mut self, key: &str) -> Result<(), Status> {
        let request = RemoveSnapshotRequest { key: key.into(), ..Default::default() };
        self.runtime.block_on(self.client.remove(request)).map(drop)
    }

    fn mounts(&mut self, key: &str) -> Result<Vec<Mount>, Status> {
        let request = MountsRequest { key: key.into(), ..Default::default() };
        self.runtime.block_on(self.client.mounts(request)).map(|r| r.into_inner().mounts)
    }

    fn stat(&mut self, key: &str) -> Result<Info, Status> {
        let request = StatSnapshotRequest { key: key.into(), ..Default::default() };
        self.runtime.block_on(self.client.stat(request)).map(|r| r.into_inner().info.unwrap())
    }

    fn usage(&mut self, key: &str) -> Result<UsageResponse, Status> {
        let request = UsageRequest { key: key.into(), ..Default::default() };
        self.runtime.block_on(self.client.usage(request)).map(|r| r.into_inner())
    }

    fn cleanup(&mut self) {
        self.runtime.block_on(self.client.cleanup(CleanupRequest::default())).unwrap();
    }

    fn update(&mut self, info: Info, paths: &[&str]) -> Result<Info, Status> {
        let mask = (!paths.is_empty()).then(|| prost_types::FieldMask { paths: paths.iter().map(ToString::to_string).collect() });
        let request = UpdateSnapshotRequest { info: Some(info), update_mask: mask, ..Default::default() };
        self.runtime.block_on(self.client.update(request)).map(|r| r.into_inner().info.unwrap())
    }

    fn list(&mut self, filters: &[&str]) -> Result<Vec<String>, Status> {
        let request = ListSnapshotsRequest { filters: filters.iter().map(ToString::to_string).collect(), ..Default::default() };
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
    fn committed(&mut self, name: &str, parent: &str) {
        self.prepare(&format!("{name}-active"), parent).unwrap();
        self.commit(name, &format!("{name}-active")).unwrap();
    }

    /// Waits for the daemon to end by itself or by a signal sent before.
    fn restart(&mut self, signal: &str) {
        kill(&self.process, signal);
        self.process.wait().unwrap();
        self.process = spawn(&self.name, &self.directory, "");
        self.client = self.runtime.block_on(connect(self.directory.path().join("d.sock")));
    }

    fn devices(&self, kind: &str) -> usize {
        let prefix = format!("{}-{kind}", self.name);
        let nodes = std::fs::read_dir("/dev/mapper").unwrap();
        nodes.filter(|node| node.as_ref().unwrap().file_name().to_string_lossy().starts_with(&prefix)).count()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        kill(&self.process, "TERM");
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            println!("the daemon's log:\n{log}");
        }
        let names = Command::new("dmsetup").args(["ls"]).output().unwrap();
        let names = String::from_utf8_lossy(&names.stdout).into_owned();
        let ours = |suffix: bool| {
            let pool = format!("{}-pool", self.name);
            names.lines().filter_map(|line| line.split_whitespace().next()).filter(move |name| (*name == pool) == suffix)
        };
        for device in ours(false).filter(|name| name.starts_with(&format!("{}-", self.name))).chain(ours(true)) {
            let _ = Command::new("dmsetup").args(["remove", "--noudevsync", device]).stderr(Stdio::null()).status();
        }
    }
}

fn spawn(name: &str, directory: &tempfile::TempDir, config: &str) -> Child {
    let root = directory.path().join("state");
    let file = directory.path().join("config.toml");
    let has_size = config.contains("_device") || config.contains("data_size");
    let size = if has_size { "" } else { "data_size = \"2GiB\"\n" };
    std::fs::write(&file, format!("name = \"{name}\"\nmin_free_percent = 0\n{size}{config}\n")).unwrap();
    Command::new(std::env::var("DAEMON").expect("DAEMON is the path of the daemon to test"))
        .arg("--config")
        .arg(file)
        .arg("--root")
        .arg(root)
        .arg("--address")
        .arg(directory.path().join("d.sock"))
        .stderr(std::fs::File::options().create(true).append(true).open(directory.path().join("log")).unwrap())
        .spawn()
        .unwrap()
}

fn kill(process: &Child, signal: &str) {
    let _ = Command::new("kill").args([format!("-{signal}"), process.id().to_string()]).status();
}

async fn connect(socket: PathBuf) -> SnapshotsClient<Channel> {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let path = socket.clone();
        let connector = tower::service_fn(move |_: Uri| UnixStream::connect(path.clone()));
        match Endpoint::from_static("http://unix").connect_with_connector(connector).await {
            Ok(channel) => return SnapshotsClient::new(channel),
            Err(error) => assert!(Instant::now() < end, "no daemon: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, says: &[&str]) {
    let status = result.expect_err("it should have been refused");
    assert_eq!(status.code(), code, "{status}");
    for part in says {
        assert!(status.message().contains(part), "{part:?} is not in {:?}", status.message());
    }
}

#[test]
fn parents_must_exist_and_be_committed() {
    let mut d = Daemon::start("parents");
    refused(d.prepare("a", "nobody"), Code::NotFound, &["\"nobody\"", "does not exist"]);
    refused(d.view("a", "nobody"), Code::NotFound, &["\"nobody\""]);
    d.prepare("active", "").unwrap();
    refused(d.prepare("a", "active"), Code::InvalidArgument, &["\"active\"", "not committed"]);
    refused(d.view("a", "active"), Code::InvalidArgument, &["\"active\"", "not committed"]);
    d.view("view", "").unwrap();
    refused(d.prepare("a", "view"), Code::InvalidArgument, &["\"view\"", "not committed"]);
}

#[test]
fn a_key_in_use_is_in_use_for_everything_and_free_again_after_removal() {
    let mut d = Daemon::start("inuse");
    d.committed("base", "");
    d.prepare("k", "base").unwrap();
    refused(d.prepare("k", "base"), Code::AlreadyExists, &["\"k\""]);
    refused(d.view("k", "base"), Code::AlreadyExists, &["\"k\""]);
    refused(d.prepare("base", ""), Code::AlreadyExists, &["\"base\""]);
    refused(d.commit("base", "k"), Code::AlreadyExists, &["\"base\""]);
    d.mounts("k").unwrap();
    for _ in 0..5 {
        d.remove("k").unwrap();
        refused(d.stat("k"), Code::NotFound, &["\"k\""]);
        d.prepare("k", "base").unwrap();
    }
}

#[test]
fn commit_wants_an_active_snapshot() {
    let mut d = Daemon::start("commit");
    d.committed("base", "");
    d.view("v", "base").unwrap();
    refused(d.commit("c", "v"), Code::FailedPrecondition, &["\"v\"", "a view"]);
    refused(d.commit("c", "unknown"), Code::NotFound, &["\"unknown\""]);
    refused(d.commit("c", "base"), Code::FailedPrecondition, &["\"base\"", "committed"]);
    refused(d.commit("", "v"), Code::InvalidArgument, &["empty name"]);
    refused(d.mounts("base"), Code::FailedPrecondition, &["\"base\""]);
}

#[test]
fn remove_wants_no_children() {
    let mut d = Daemon::start("children");
    d.committed("base", "");
    d.committed("child", "base");
    d.view("v", "child").unwrap();
    refused(d.remove("base"), Code::FailedPrecondition, &["\"base\"", "\"child\""]);
    refused(d.remove("child"), Code::FailedPrecondition, &["\"child\"", "\"v\""]);
    refused(d.remove("unknown"), Code::NotFound, &["\"unknown\""]);
    for key in ["v", "child", "base"] {
        d.remove(key).unwrap();
    }
    d.cleanup();
    assert_eq!(d.devices("snap") + d.devices("view") + d.devices("reclaim"), 0);
}

#[test]
fn keys_may_be_anything_but_empty() {
    let mut d = Daemon::start("keys");
    refused(d.prepare("", ""), Code::InvalidArgument, &["empty key"]);
    refused(d.stat(""), Code::InvalidArgument, &["empty key"]);
    refused(d.remove(""), Code::InvalidArgument, &["empty key"]);
    let long = "k".repeat(4096);
    let keys = ["default/12/sha256:0a1b", "with spaces and \t tab", "schlüssel/鍵/🔑", "../../etc/passwd", "%s\u{1}\"'\\", &long];
    for key in keys {
        d.prepare(key, "").unwrap();
        assert_eq!(d.stat(key).unwrap().name, key);
        assert_eq!(d.mounts(key).unwrap().len(), 1);
    }
    assert_eq!(d.list(&[]).unwrap().len(), keys.len());
    for key in keys {
        d.remove(key).unwrap();
    }
    refused(d.prepare(&"k".repeat(20_000), ""), Code::InvalidArgument, &["20000 bytes"]);
}

#[test]
fn labels_have_limits() {
    let mut d = Daemon::start("labels");
    refused(d.prepare_labelled("a", "", &[("k", &"v".repeat(4096))]), Code::InvalidArgument, &["\"k\"", "4096"]);
    refused(d.prepare_labelled("a", "", &[("", "v")]), Code::InvalidArgument, &["without a name"]);
    refused(d.prepare_labelled("a", "", &[("containerd.io/snapshot/max-size", "huge")]), Code::InvalidArgument, &["max-size", "huge"]);
    refused(d.stat("a"), Code::NotFound, &[]);
    d.prepare_labelled("a", "", &[("k", &"v".repeat(4095)), ("a.b/c", "1")]).unwrap();
    assert_eq!(d.stat("a").unwrap().labels["a.b/c"], "1");
    refused(d.commit_labelled("c", "a", &[("k", &"v".repeat(4096))]), Code::InvalidArgument, &["\"k\""]);
    d.commit_labelled("c", "a", &[("of", "commit")]).unwrap();
    assert_eq!(d.stat("c").unwrap().labels, map(&[("of", "commit")]), "a commit's labels replace those of the active snapshot");
}

#[test]
fn updates_change_labels_and_nothing_else() {
    let mut d = Daemon::start("update");
    d.prepare_labelled("a", "", &[("x", "1"), ("y", "2")]).unwrap();
    let before = d.stat("a").unwrap();
    let info = |labels: &[(&str, &str)]| Info { name: "a".into(), labels: map(labels), ..Default::default() };
    for field in ["name", "parent", "kind", "created_at", "nonsense"] {
        refused(d.update(info(&[]), &[field]), Code::InvalidArgument, &[field]);
    }
    assert_eq!(d.update(info(&[("x", "3"), ("z", "9")]), &["labels.x"]).unwrap().labels, map(&[("x", "3"), ("y", "2")]));
    assert_eq!(d.update(info(&[]), &["labels.y"]).unwrap().labels, map(&[("x", "3")]));
    let all = d.update(Info { kind: 3, parent: "other".into(), ..info(&[("n", "1")]) }, &[]).unwrap();
    assert_eq!((all.labels, all.kind, all.parent), (map(&[("n", "1")]), before.kind, before.parent));
    assert_eq!(all.created_at, before.created_at);
    let updated = all.updated_at.unwrap();
    let earlier = before.updated_at.unwrap();
    assert!((updated.seconds, updated.nanos) > (earlier.seconds, earlier.nanos));
    refused(d.update(Info { name: "b".into(), ..Default::default() }, &[]), Code::NotFound, &["\"b\""]);
}

#[test]
fn lists_are_filtered_as_containerd_filters() {
    let mut d = Daemon::start("filters");
    d.committed("base", "");
    d.prepare_labelled("one", "base", &[("a.b/c", "x y")]).unwrap();
    d.prepare_labelled("two", "base", &[("tier", "gold")]).unwrap();
    d.view("eye", "base").unwrap();
    let cases: &[(&[&str], &[&str])] = &[
        (&[], &["base", "eye", "one", "two"]),
        (&["kind==committed"], &["base"]),
        (&["kind!=committed"], &["eye", "one", "two"]),
        (&["parent==base,kind==active"], &["one", "two"]),
        (&["name~=^(one|eye)$"], &["eye", "one"]),
        (&["labels.\"a.b/c\"==\"x y\""], &["one"]),
        (&["labels.tier"], &["two"]),
        (&["labels.tier==gold", "name==base"], &["base", "two"]),
        (&["name==nobody"], &[]),
    ];
    for (filters, expected) in cases {
        assert_eq!(d.list(filters).unwrap(), *expected, "{filters:?}");
    }
    for bad in ["name==", "name=x", "==x", "name~=[", "labels.\"a", "a b"] {
        refused(d.list(&[bad]), Code::InvalidArgument, &[]);
    }
}

#[test]
fn a_long_list_comes_whole() {
    let mut d = Daemon::start("long");
    d.committed("base", "");
    for n in 0..600 {
        d.view(&format!("v{n:04}"), "base").unwrap();
    }
    let names = d.list(&["kind==view"]).unwrap();
    assert_eq!(names.len(), 600);
    assert!(names.is_sorted());
    for name in names {
        d.remove(&name).unwrap();
    }
    d.cleanup();
    assert_eq!(d.devices("view"), 0);
}

#[test]
fn mounts_are_one_block_device_each() {
    let mut d = Daemon::start("mounts");
    let active = d.prepare("a", "").unwrap();
    assert_eq!(active.len(), 1);
    assert_eq!((active[0].r#type.as_str(), active[0].options.len()), ("ext4", 0));
    assert!(active[0].source.starts_with("/dev/mapper/mounts-snap-"), "{}", active[0].source);
    assert_eq!(d.mounts("a").unwrap(), active);
    d.commit("c", "a").unwrap();
    let view = d.view("v", "c").unwrap();
    assert_eq!(view[0].options, ["ro"]);
    assert!(view[0].source.starts_with("/dev/mapper/mounts-view-"), "{}", view[0].source);
}

#[test]
fn usage_counts_what_a_snapshot_adds() {
    let mut d = Daemon::start("usage");
    d.committed("base", "");
    let base = d.usage("base").unwrap();
    assert!(base.size > 0 && base.size < 4 << 20, "an empty layer takes {} bytes", base.size);
    let mounts = d.prepare("a", "base").unwrap();
    assert_eq!((d.usage("a").unwrap().size, d.usage("a").unwrap().inodes), (0, 0));
    with_mounted(&mounts[0], |root| {
        std::fs::write(root.join("file"), vec![7; 1 << 20]).unwrap();
    });
    let size = d.usage("a").unwrap().size;
    assert!((1 << 20..2 << 20).contains(&size), "1 MiB written takes {size} bytes");
    d.commit("c", "a").unwrap();
    let committed = d.usage("c").unwrap();
    assert_eq!((committed.size, committed.inodes), (size, 1));
    d.view("v", "c").unwrap();
    assert_eq!(d.usage("v").unwrap(), UsageResponse::default());
    refused(d.usage("unknown"), Code::NotFound, &["\"unknown\""]);
}

#[test]
fn a_snapshot_is_as_large_as_its_label_says_and_never_smaller_than_its_parent() {
    let mut d = Daemon::start_with("sizes", "base_image_size = \"256MiB\"");
    d.committed("base", "");
    let size = |mounts: &[Mount]| {
        let mut bytes = 0;
        with_mounted(&mounts[0], |root| {
            let df = Command::new("df").args(["-B1", "--output=size"]).arg(root).output().unwrap();
            bytes = String::from_utf8_lossy(&df.stdout).lines().last().unwrap().trim().parse::<u64>().unwrap();
        });
        bytes
    };
    let label = "containerd.io/snapshot/max-size";
    let base = size(&d.prepare("a", "base").unwrap());
    let large = size(&d.prepare_labelled("b", "base", &[(label, "1GiB")]).unwrap());
    let small = size(&d.prepare_labelled("c", "base", &[(label, "1MiB")]).unwrap());
    assert!(large > 900 << 20, "{large}");
    assert_eq!(small, base);
    d.commit("b2", "b").unwrap();
    let child = size(&d.prepare("e", "b2").unwrap());
    assert_eq!(child, large);
    let alone = size(&d.prepare_labelled("f", "", &[(label, "2147483648")]).unwrap());
    assert!(alone > 1900 << 20, "{alone}");
}

#[test]
fn a_commit_of_a_mounted_snapshot_is_an_image_of_that_moment() {
    let mut d = Daemon::start("mounted");
    let mounts = d.prepare("a", "").unwrap();
    with_mounted(&mounts[0], |root| {
        std::fs::write(root.join("before"), b"before").unwrap();
        d.commit("c", "a").unwrap();
        std::fs::write(root.join("after"), b"after").unwrap();
    });
    let view = d.view("v", "c").unwrap();
    with_mounted(&view[0], |root| {
        assert_eq!(std::fs::read(root.join("before")).unwrap(), b"before");
        assert!(!root.join("after").exists());
    });
    let check = Command::new("e2fsck").arg("-fn").arg(&view[0].source).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    d.cleanup();
    assert_eq!(d.devices("snap"), 0, "the frozen original is gone once it is unmounted");
}

#[test]
fn a_mounted_snapshot_is_removed_at_once_and_reclaimed_later() {
    let mut d = Daemon::start("busy");
    d.committed("base", "");
    let mounts = d.prepare("a", "base").unwrap();
    with_mounted(&mounts[0], |root| {
        std::fs::write(root.join("file"), b"still here").unwrap();
        d.remove("a").unwrap();
        d.cleanup();
        refused(d.stat("a"), Code::NotFound, &[]);
        d.prepare("a", "base").unwrap();
        d.remove("a").unwrap();
        std::fs::write(root.join("more"), b"written after the removal").unwrap();
        assert_eq!(std::fs::read(root.join("file")).unwrap(), b"still here");
    });
    d.cleanup();
    assert_eq!(d.devices("snap"), 0);
}

#[test]
fn restarts_keep_everything_and_let_mounted_snapshots_be() {
    let mut d = Daemon::start("restart");
    d.committed("base", "");
    let mounts = d.prepare("a", "base").unwrap();
    with_mounted(&mounts[0], |root| {
        for signal in ["TERM", "KILL", "TERM"] {
            std::fs::write(root.join(signal), signal).unwrap();
            d.restart(signal);
            assert_eq!(d.mounts("a").unwrap(), mounts);
            assert_eq!(std::fs::read_to_string(root.join(signal)).unwrap(), signal);
            std::fs::write(root.join("again"), signal).unwrap();
        }
    });
    assert_eq!(d.list(&[]).unwrap(), ["a", "base"]);
    d.commit("c", "a").unwrap();
    d.committed("d", "c");
}

#[test]
fn a_pool_on_one_device_is_carved_and_found_again_and_a_foreign_one_is_refused() {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 30).unwrap();
    let losetup = |arguments: &[&str]| {
        let output = Command::new("losetup").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let device = losetup(&["--find", "--show", image.path().to_str().unwrap()]);
    let config = format!("data_device = \"{device}\"\nbase_image_size = \"512MiB\"");
    let mut d = Daemon::start_with("carved", &config);
    d.committed("base", "");
    kill(&d.process, "TERM");
    d.process.wait().unwrap();
    d.process = spawn("carved", &d.directory, &config);
    d.client = d.runtime.block_on(connect(d.directory.path().join("d.sock")));
    assert_eq!(d.list(&[]).unwrap(), ["base"]);

    let other = tempfile::tempdir().unwrap();
    let mut stranger = spawn_with_stderr("stranger", &other, &config);
    assert!(!stranger.wait().unwrap().success());
    let mut said = String::new();
    std::io::Read::read_to_string(&mut stranger.stderr.take().unwrap(), &mut said).unwrap();
    assert!(said.contains(&device) && said.contains("not empty"), "{said}");
    drop(d);
    losetup(&["--detach", &device]);
}

fn spawn_with_stderr(name: &str, directory: &tempfile::TempDir, config: &str) -> Child {
    let file = directory.path().join("config.toml");
    std::fs::write(&file, format!("name = \"{name}\"\n{config}\n")).unwrap();
    let daemon = std::env::var("DAEMON").unwrap();
    let mut command = Command::new(daemon);
    command.arg("--config").arg(file).arg("--root").arg(directory.path().join("state"));
    command.arg("--address").arg(directory.path().join("d.sock")).stderr(Stdio::piped()).spawn().unwrap()
}

/// Mounts, runs, unmounts.
fn with_mounted(mount: &Mount, action: impl FnOnce(&std::path::Path)) {
    let target = tempfile::tempdir().unwrap();
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
