//! A daemon under test and a client of it.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use containerd_snapshots::api::types::Mount;
use containerd_snapshots::tonic::{Code, Status};
use kit::{run, try_dmsetup, with_mounted, Client, Target};
use tokio::runtime::Runtime;

/// A daemon; the calls of its client are its own. Dropped, it is stopped and its devices are taken
/// away.
pub struct Daemon {
    process: Child,
    runtime: Arc<Runtime>,
    client: Client,
    name: String,
    config: String,
    directory: tempfile::TempDir,
}

impl Daemon {
    pub fn start(name: &str) -> Daemon {
        Daemon::start_with(name, "")
    }

    pub fn start_with(name: &str, config: &str) -> Daemon {
        let mut daemon = Daemon::prepared(name, config);
        daemon.begin();
        daemon
    }

    /// A daemon that has not been started yet.
    pub fn prepared(name: &str, config: &str) -> Daemon {
        let runtime = Arc::new(Runtime::new().unwrap());
        let client = Client::unconnected(&runtime);
        Daemon {
            // One that has ended.
            process: Command::new("true").spawn().unwrap(),
            runtime,
            client,
            name: name.into(),
            config: config.into(),
            directory: tempfile::tempdir().unwrap(),
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

    /// Starts the daemon, for the first time or after [`Daemon::stop`]; returns when it serves.
    pub fn begin(&mut self) {
        self.process = self.spawn();
        self.connect();
    }

    /// The socket is there before the pool is; the first answer comes after both.
    fn connect(&mut self) {
        let socket = socket(&self.directory);
        let end = Instant::now() + Duration::from_secs(60);
        self.client = loop {
            match Client::connect(&socket, &self.runtime, Target::default()) {
                Ok(client) => break client,
                Err(error) => {
                    assert!(Instant::now() < end, "no daemon: {error}; its log:\n{}", self.log())
                }
            }
            sleep(Duration::from_millis(50));
        };
        self.list(&[]).unwrap();
    }

    pub fn restart(&mut self, signal: &str) {
        self.stop(signal);
        self.begin();
    }

    /// Starts the daemon; whether it serves or has ended with an error.
    pub fn starts(&mut self) -> bool {
        self.process = self.spawn();
        loop {
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            if self.log().lines().last().is_some_and(|line| line.contains("serving")) {
                self.connect();
                return true;
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Starts the daemon, which must refuse to; returns what it said.
    pub fn start_is_refused(&mut self) -> String {
        let before = self.log().len();
        self.process = self.spawn();
        let end = Instant::now() + Duration::from_secs(60);
        let status = loop {
            match self.process.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(Instant::now() < end, "the daemon started"),
            }
            sleep(Duration::from_millis(20));
        };
        assert!(!status.success());
        self.log()[before..].to_owned()
    }

    /// Runs the daemon's program with a command such as `check`; says whether it succeeded, and
    /// what it printed.
    pub fn command(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new(daemon_program())
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

    fn spawn(&self) -> Child {
        let file = self.directory.path().join("config.toml");
        let has = |keys: &[&str]| keys.iter().any(|key| self.config.contains(key));
        let size = match has(&["_device", "data_size", "pool_name"]) {
            true => "",
            false => "data_size = \"2GiB\"\n",
        };
        let free = if has(&["min_free_percent"]) { "" } else { "min_free_percent = 0\n" };
        let text = format!("name = \"{}\"\n{free}{size}{}\n", self.name, self.config);
        // The file system below may be full at a later start.
        if std::fs::read_to_string(&file).ok().as_ref() != Some(&text) {
            std::fs::write(&file, text).unwrap();
        }
        let log = self.directory.path().join("log");
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        Command::new(daemon_program())
            .arg("--config")
            .arg(file)
            .arg("--root")
            .arg(self.state())
            .arg("--address")
            .arg(socket(&self.directory))
            .stderr(log)
            .spawn()
            .unwrap()
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
        let listed = try_dmsetup(&["ls"]).unwrap_or_default();
        let names = listed.lines().filter_map(|line| line.split_whitespace().next());
        let mut ours: Vec<&str> =
            names.filter(|name| name.starts_with(&format!("{}-", self.name))).collect();
        // What stands on others goes before them.
        ours.sort_by_key(|name| {
            ["-pool", "-data", "-metadata"]
                .iter()
                .position(|end| name.ends_with(end))
                .map_or(0, |n| n + 1)
        });
        for device in ours {
            let _ = try_dmsetup(&["remove", "--noudevsync", "--retry", device]);
            let _ = std::fs::remove_file(format!("/dev/mapper/{device}"));
        }
    }

    /// What removals have left is taken away.
    pub fn cleanup(&mut self) {
        self.client.cleanup().unwrap();
    }

    /// The names of the snapshots.
    pub fn list(&mut self, filters: &[&str]) -> Result<Vec<String>, Status> {
        Ok(self.client.list(filters)?.into_iter().map(|info| info.name).collect())
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

impl Deref for Daemon {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Daemon {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
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

/// The daemon's program.
pub fn daemon_program() -> String {
    std::env::var("DAEMON").expect("DAEMON is the path of the daemon to test")
}

/// Not below what is tested, which may be full.
fn socket(directory: &tempfile::TempDir) -> PathBuf {
    Path::new("/run").join(directory.path().file_name().unwrap()).with_extension("sock")
}

fn kill(process: &Child, signal: &str) {
    let _ = Command::new("kill").args([format!("-{signal}"), process.id().to_string()]).status();
}

#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, says: &[&str]) {
    let status = result.expect_err("it should have been refused");
    assert_eq!(status.code(), code, "{status}");
    for part in says {
        assert!(status.message().contains(part), "{part:?} is not in {:?}", status.message());
    }
}

/// All the parts are in what was said.
#[track_caller]
pub fn says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
}

/// The size in bytes of the file system on a snapshot, as df tells it.
pub fn fs_size(mounts: &[Mount]) -> u64 {
    let mut text = String::new();
    with_mounted(&mounts[0], |root| {
        text = run("df", &["-B1", "--output=size", &root.to_string_lossy()]);
    });
    text.lines().last().unwrap().trim().parse().unwrap()
}
