//! Power cuts. On the host: guests are killed at random moments and booted again on the same
//! disks. In a guest: one boot.
//!
//! A guest's disk is a file. What the guest's kernel has written to the disk is in the file at
//! once and stays there; what it still held in memory is lost. That is a power cut with a disk
//! that has no cache, or keeps it. `replays` has disks that lose their cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::check::Below;
use super::daemon::Place;
use super::machine::Mounted;
use super::run::{join, Run, Sum};
use kit::{try_run, Random};

/// What the pool is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// On loop devices over files on the ext4 that holds the state.
    Embedded,
    /// The same, and removed layers are not discarded.
    Undiscarded,
    /// On a raw disk of its own. Removed layers are not discarded either.
    Disk,
}

impl Pool {
    pub const ALL: [Pool; 3] = [Pool::Embedded, Pool::Disk, Pool::Undiscarded];

    pub fn name(self) -> &'static str {
        match self {
            Pool::Embedded => "embedded",
            Pool::Undiscarded => "undiscarded",
            Pool::Disk => "disk",
        }
    }
}

const TROUBLE: [&str; 6] =
    ["Kernel panic", "kernel BUG at", "BUG: ", "Oops", "at drivers/md/", "blocked for more than"];
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// One boot, in the guest: checks the state that the last boot left, then works until the power
/// cut.
pub fn boot(pool: Pool, seed: u64, last: bool, early: bool) -> Result<(), String> {
    let out = PathBuf::from(std::env::var("OUT").map_err(|e| e.to_string())?);
    let disk = std::env::var("DISK0").map_err(|e| e.to_string())?;
    let first = !out.join("formatted").exists();
    if first {
        try_run("mkfs.ext4", &["-q", "-F", "-E", "nodiscard", &disk])?;
        fs::write(out.join("formatted"), "").map_err(|e| e.to_string())?;
    }
    let mounted = Mounted::device("state", &disk, "ext4", &[])?;
    let config = match pool {
        Pool::Embedded => "data_size = \"1GiB\"".to_owned(),
        Pool::Undiscarded => "data_size = \"1GiB\"\ndiscard = false".to_owned(),
        Pool::Disk => {
            format!("data_device = {:?}", std::env::var("DISK1").map_err(|e| e.to_string())?)
        }
    };
    let place = Place {
        program: std::env::var("DAEMON").map_err(|e| e.to_string())?.into(),
        state: mounted.folder.join("lib"),
        config,
        log: out.join("daemon.log"),
        environment: Vec::new(),
    };
    let mut guest = Run::new(&out, place, 4);
    guest.below = Below::PowerWent;
    guest.phase("checking");
    let result = life(&mut guest, seed, first, last, early);
    let sum = serde_json::to_string(&guest.sum).map_err(|e| e.to_string())?;
    fs::write(out.join("last-sum.json"), sum).map_err(|e| e.to_string())?;
    result
}

fn life(guest: &mut Run, seed: u64, first: bool, last: bool, early: bool) -> Result<(), String> {
    let mut daemon = guest.start()?;
    guest.check(&mut daemon.client, true)?;
    if !first {
        guest.sum.cycles += 1;
    }
    if last || (!early && !first && Random::new(seed).one_in(8)) {
        guest.empty(&mut daemon.client)?;
    }
    let sum = serde_json::to_string(&guest.sum).map_err(|e| e.to_string())?;
    fs::write(guest.out.join(format!("sum-{seed}.json")), sum).map_err(|e| e.to_string())?;
    if last {
        return Ok(());
    }
    guest.phase("working");
    let (common, threads) = guest.load(&daemon.client, seed, usize::MAX, |_| false);
    // The host cuts the power. The limit is for the case that it does not.
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end && daemon.is_alive() && common.problems.lock().unwrap().is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let alive = daemon.is_alive();
    join(&common, threads);
    guest.problems_of(&common)?;
    Err(if alive { "the power was not cut".into() } else { "the daemon ended by itself".into() })
}

/// One guest over many boots.
pub struct Lane {
    pub number: usize,
    pub pool: Pool,
    pub cuts: usize,
    pub seed: u64,
}

impl Lane {
    /// Cuts the power `cuts` times. An error names the folder that has the disks and logs.
    pub fn campaign(&self, failed: &Path) -> (Sum, Result<(), String>) {
        let work = scratch();
        let (out, state, pool) =
            (work.path().join("out"), work.path().join("state"), work.path().join("pool"));
        fs::create_dir(&out).unwrap();
        for (disk, size) in [(&state, 2u64 << 30), (&pool, 1 << 30)] {
            fs::File::create(disk).unwrap().set_len(size).unwrap();
        }
        let mut random = Random::new(self.seed);
        let mut sum = Sum::default();
        let mut result = Ok(());
        for cut in 0..=self.cuts {
            let (seed, last) = (random.next() >> 1, cut == self.cuts);
            let early = cut > 0 && !last && random.one_in(5);
            let disks = [state.as_path(), pool.as_path()];
            let boot = Boot { out: &out, disks: &disks, seed, last, early, pool: self.pool };
            result = boot.run(&mut random, &mut sum);
            sum_up(&out, seed, &mut sum);
            if result.is_err() {
                break;
            }
        }
        if let Err(error) = &mut result {
            let kept = failed.join(format!("lane-{}", self.number));
            let _ = fs::remove_dir_all(&kept);
            let _ = fs::create_dir_all(&kept);
            let _ = Command::new("cp")
                .args(["-r", "--sparse=always"])
                .arg(work.path())
                .arg(&kept)
                .status();
            let problems = fs::read_to_string(out.join("problems")).unwrap_or_default();
            *error = format!(
                "lane {} ({:?}, seed {}): {error}; kept in {}\n{problems}",
                self.number,
                self.pool,
                self.seed,
                kept.display()
            );
            if sum.faults() == 0 {
                sum.refused += 1;
            }
        }
        (sum, result)
    }
}

/// Disks are in memory if they fit there: only the guest's kernel dies, not the host's.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("dm-power.").tempdir_in(folder).unwrap()
}

fn sum_up(out: &Path, seed: u64, sum: &mut Sum) {
    for name in [format!("sum-{seed}.json"), "last-sum.json".into()] {
        let path = out.join(name);
        if let Ok(text) = fs::read_to_string(&path) {
            sum.add(&serde_json::from_str(&text).unwrap());
            let _ = fs::remove_file(out.join("last-sum.json"));
            let _ = fs::remove_file(path);
            return;
        }
    }
}

struct Boot<'a> {
    out: &'a Path,
    disks: &'a [&'a Path],
    seed: u64,
    last: bool,
    early: bool,
    pool: Pool,
}

impl Boot<'_> {
    fn run(&self, random: &mut Random, sum: &mut Sum) -> Result<(), String> {
        for name in ["phase", "last-sum.json"] {
            let _ = fs::remove_file(self.out.join(name));
        }
        let mut guest = self.start();
        let wanted = if self.early { "checking" } else { "working" };
        let begun = Instant::now();
        let ended = loop {
            if let Ok(Some(status)) = guest.try_wait() {
                break Some(status);
            }
            if !self.last
                && fs::read_to_string(self.out.join("phase")).is_ok_and(|phase| phase == wanted)
            {
                break None;
            }
            if begun.elapsed() > BOOT_LIMIT {
                cut(&mut guest);
                return Err(format!(
                    "the guest was not {wanted} within {} s",
                    BOOT_LIMIT.as_secs()
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        if let Some(status) = ended {
            return match (status.success(), self.last) {
                (true, true) => self.kernel_is_well(),
                _ => Err(format!("the guest ended with {status}")),
            };
        }
        let most = if self.early || random.one_in(3) { 800 } else { 4000 };
        std::thread::sleep(Duration::from_millis(random.below(most) as u64));
        if let Ok(Some(status)) = guest.try_wait() {
            return Err(format!("the guest ended by itself with {status}"));
        }
        cut(&mut guest);
        sum.crash(if self.early {
            "power cut during recovery and check"
        } else {
            "power cut under load"
        });
        self.kernel_is_well()
    }

    fn start(&self) -> Child {
        let top = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(top.join("tests/rig/guest"));
        command
            .current_dir(top)
            .args(["--mem", "768M", "--time-limit", "400", "--out"])
            .arg(self.out);
        for disk in self.disks {
            command.arg("--disk").arg(disk);
        }
        let daemon = std::env::var("DAEMON").expect("DAEMON is the path of the daemon to test");
        command.args(["--env", &format!("DAEMON={daemon}"), "--env", "RUST_BACKTRACE=1", "--"]);
        command.arg(std::env::current_exe().unwrap()).arg("boot");
        command.arg(self.pool.name());
        command.args([self.seed.to_string(), self.last.to_string(), self.early.to_string()]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("tests/rig/guest runs")
    }

    fn kernel_is_well(&self) -> Result<(), String> {
        let log = fs::read(self.out.join("dmesg.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        match log.lines().find(|line| TROUBLE.iter().any(|word| line.contains(word))) {
            Some(line) => Err(format!("the guest's kernel: {line}")),
            None => Ok(()),
        }
    }
}

/// On SIGTERM the rig kills the processes of the virtual machine.
fn cut(guest: &mut Child) {
    let _ = Command::new("kill").args(["-TERM", &guest.id().to_string()]).status();
    let _ = guest.wait();
}
