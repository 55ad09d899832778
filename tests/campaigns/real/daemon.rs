//! The daemon under test, and a client that calls it as containerd does.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use containerd_snapshots::api::snapshots::v1::Info;
use containerd_snapshots::tonic::{Code, Status};
use kit::{labels, Client, Target};
use tokio::runtime::Runtime;

use super::model::Kind;

/// The prefix of the names of the daemon's devices.
pub const NAME: &str = "pw";
/// The label that an Update sets.
pub const LABEL: &str = "test/label";
const START_LIMIT: Duration = Duration::from_secs(60);

/// The program, the folders and the configuration of a daemon.
#[derive(Debug, Clone)]
pub struct Place {
    pub program: PathBuf,
    pub state: PathBuf,
    /// More lines of the configuration.
    pub config: String,
    /// The daemon's log is appended to this file.
    pub log: PathBuf,
    pub environment: Vec<(String, String)>,
}

impl Place {
    fn socket() -> PathBuf {
        "/run/pw.sock".into()
    }

    pub fn spawn(&self) -> Child {
        let file = "/run/pw.toml";
        let base = if self.config.contains("base_image_size") {
            ""
        } else {
            "base_image_size = \"128MiB\"\n"
        };
        fs::write(
            file,
            format!("name = \"{NAME}\"\nmin_free_percent = 0\n{base}{}\n", self.config),
        )
        .unwrap();
        let log = fs::File::options().create(true).append(true).open(&self.log).unwrap();
        Command::new(&self.program)
            .args(["--config", file, "--root"])
            .arg(&self.state)
            .arg("--address")
            .arg(Place::socket())
            .envs(self.environment.iter().cloned())
            .stderr(log)
            .spawn()
            .unwrap()
    }
}

/// A daemon that runs until it is killed or dropped.
pub struct Daemon {
    process: Child,
    pub client: Client,
}

impl Daemon {
    /// Returns when the daemon serves calls. It is an error if the daemon ends or takes too long.
    pub fn start(place: &Place, runtime: &Arc<Runtime>) -> Result<Daemon, String> {
        let mut process = place.spawn();
        let end = Instant::now() + START_LIMIT;
        loop {
            if let Ok(client) = Client::connect(&Place::socket(), runtime, Target::default()) {
                // The socket listens before recovery, so only an answer shows that recovery is
                // done.
                let mut asking = client.clone();
                let asked = std::thread::spawn(move || asking.stat("nobody"));
                while !asked.is_finished()
                    && process.try_wait().unwrap().is_none()
                    && Instant::now() < end
                {
                    std::thread::sleep(Duration::from_millis(10));
                }
                if asked.is_finished()
                    && matches!(asked.join(), Ok(Err(status)) if status.code() == Code::NotFound)
                {
                    return Ok(Daemon { process, client });
                }
            }
            if let Some(status) = process.try_wait().unwrap() {
                return Err(format!("the daemon ended at start: {status}"));
            }
            if Instant::now() > end {
                let _ = process.kill();
                let _ = process.wait();
                return Err(format!("the daemon did not serve within {} s", START_LIMIT.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A snapshot in the daemon's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub kind: Option<Kind>,
    pub parent: String,
    pub label: String,
}

pub fn label(client: &mut Client, key: &str, value: &str) -> Result<(), Status> {
    let info = Info { name: key.into(), labels: labels(&[(LABEL, value)]), ..Default::default() };
    client.update(info, &[]).map(drop)
}

/// A new snapshot with 64 KB of labels.
pub fn prepare_with_large_labels(client: &mut Client, key: &str) -> Result<(), Status> {
    let names: Vec<_> = (0..16).map(|n| format!("label-{n}")).collect();
    let value = "x".repeat(4000);
    let labels: Vec<_> = names.iter().map(|name| (name.as_str(), value.as_str())).collect();
    client.prepare_labelled(key, "", &labels).map(drop)
}

pub fn list(client: &mut Client) -> Result<Vec<(String, Listed)>, Status> {
    let listed = |info: Info| {
        let kind = match info.kind {
            1 => Some(Kind::View),
            2 => Some(Kind::Active),
            3 => Some(Kind::Committed),
            _ => None,
        };
        let label = info.labels.get(LABEL).cloned().unwrap_or_default();
        (info.name, Listed { kind, parent: info.parent, label })
    };
    Ok(client.list(&[])?.into_iter().map(listed).collect())
}

/// Whether the daemon ended before it answered.
pub fn is_gone(status: &Status) -> bool {
    let message = status.message();
    matches!(status.code(), Code::Unavailable | Code::Cancelled)
        || (status.code() == Code::Unknown
            && ["transport", "h2", "connection", "broken pipe"].iter().any(|s| message.contains(s)))
}
