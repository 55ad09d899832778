//! One life of the daemon: it recovers, is checked, and works for its clients until it ends.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread::JoinHandle;

use containerd_snapshots::tonic::Code;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use super::check::{check, remove_all, Below, Fault, Found};
use super::daemon::{Daemon, Place};
use super::load::{Common, Worker, CHECKER};
use super::machine::Mounted;
use super::model::{journals, Line, Mark, State};
use kit::{try_run, Client};

/// The results of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Sum {
    pub cycles: u64,
    pub acknowledged: u64,
    pub kept_files: u64,
    pub unanswered: u64,
    pub happened: u64,
    pub layers: u64,
    pub files: u64,
    pub emptied: u64,
    pub lost: u64,
    pub leaked: u64,
    pub stuck: u64,
    pub refused: u64,
    pub kernel_leak: u64,
    /// The number of crashes, by cause.
    pub crashes: BTreeMap<String, u64>,
}

impl Sum {
    pub fn add(&mut self, other: &Sum) {
        self.cycles += other.cycles;
        self.acknowledged += other.acknowledged;
        self.kept_files += other.kept_files;
        self.unanswered += other.unanswered;
        self.happened += other.happened;
        self.layers += other.layers;
        self.files += other.files;
        self.emptied += other.emptied;
        self.lost += other.lost;
        self.leaked += other.leaked;
        self.stuck += other.stuck;
        self.refused += other.refused;
        self.kernel_leak += other.kernel_leak;
        for (kind, count) in &other.crashes {
            *self.crashes.entry(kind.clone()).or_default() += count;
        }
    }

    pub fn crash(&mut self, kind: &str) {
        *self.crashes.entry(kind.into()).or_default() += 1;
    }

    pub fn found(&mut self, found: &Found) {
        self.acknowledged += found.acknowledged;
        self.kept_files += found.kept_files;
        self.unanswered += found.unanswered;
        self.happened += found.happened;
        self.layers += found.layers;
        self.files += found.files;
        self.kernel_leak += found.kernel_leak;
        self.lost += found.count(Fault::Lost) as u64;
        self.leaked += found.count(Fault::Leaked) as u64;
        self.stuck += found.count(Fault::Stuck) as u64;
        self.refused += found.count(Fault::Refused) as u64;
    }

    pub fn faults(&self) -> u64 {
        self.lost + self.leaked + self.stuck + self.refused
    }

    pub fn table(&self, what: &str, seconds: u64) -> String {
        let mut text = format!(
            "\n{what}\n\
             {:>8} crashes; a complete check followed {} of them\n\
             {:>8} operations acknowledged, {} lost\n\
             {:>8} thins or blocks leaked\n\
             {:>8} blocks that dm-thin itself leaks (tests/guest/dm/leak.rs)\n\
             {:>8} devices stuck, {} calls refused that should work\n\
             {:>8} operations unanswered, {} of them had taken effect\n\
             {:>8} committed layers checked (e2fsck, {} files)\n\
             {:>8} files of active snapshots synced\n\
             {:>8} times emptied, with all other blocks free again\n",
            self.crashes.values().sum::<u64>(),
            self.cycles,
            self.acknowledged,
            self.lost,
            self.leaked,
            self.kernel_leak,
            self.stuck,
            self.refused,
            self.unanswered,
            self.happened,
            self.layers,
            self.files,
            self.kept_files,
            self.emptied,
        );
        for (kind, count) in &self.crashes {
            text += &format!("{count:>8} × {kind}\n");
        }
        text + &format!("{seconds:>8} seconds\n")
    }
}

/// A daemon under test, its journals and the state that it must have.
pub struct Run {
    pub out: PathBuf,
    pub place: Place,
    pub runtime: Arc<Runtime>,
    pub state: State,
    pub sum: Sum,
    pub clients: usize,
    pub slots: usize,
    pub below: Below,
    pub mark: Option<Mark>,
}

impl Run {
    /// A run in a guest. The guest's first disk gets the file system for the state. $DAEMON is the
    /// program, and $OUT is the folder for all else.
    pub fn on_first_disk(config: &str, clients: usize) -> Result<(Mounted, Run), String> {
        let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
        let (out, disk) = (PathBuf::from(variable("OUT")?), variable("DISK0")?);
        try_run("mkfs.ext4", &["-q", "-F", "-E", "nodiscard", &disk])?;
        let mounted = Mounted::device("state", &disk, "ext4", &[])?;
        let place = Place {
            program: variable("DAEMON")?.into(),
            state: mounted.folder.join("lib"),
            config: config.into(),
            log: out.join("daemon.log"),
            environment: Vec::new(),
        };
        Ok((mounted, Run::new(&out, place, clients)))
    }

    pub fn new(out: &Path, place: Place, clients: usize) -> Run {
        fs::create_dir_all(out).unwrap();
        let state = State::load(out);
        Run {
            out: out.into(),
            place,
            runtime: Arc::new(Runtime::new().unwrap()),
            state,
            sum: Sum::default(),
            clients,
            slots: 5,
            below: Below::Sound,
            mark: None,
        }
    }

    /// Tells the host which phase it is in.
    pub fn phase(&self, name: &str) {
        let new = self.out.join("phase.new");
        fs::write(&new, name).and_then(|()| fs::rename(new, self.out.join("phase"))).unwrap();
    }

    pub fn start(&mut self) -> Result<Daemon, String> {
        Daemon::start(&self.place, &self.runtime).inspect_err(|error| {
            self.sum.refused += 1;
            self.fail(error);
        })
    }

    pub fn fail(&self, problem: &str) {
        println!("FAIL: {problem}");
        let mut file =
            fs::File::options().create(true).append(true).open(self.out.join("problems")).unwrap();
        writeln!(file, "generation {}: {problem}", self.state.generation).unwrap();
    }

    fn note(&mut self, found: &Found) -> Result<(), String> {
        self.sum.found(found);
        for (fault, problem) in &found.problems {
            self.fail(&format!("{fault:?}: {problem}"));
        }
        if found.problems.is_empty() {
            return Ok(());
        }
        Err(format!("{} faults", found.problems.len()))
    }

    /// Checks a daemon that has just started against the journals of the last run.
    pub fn check(&mut self, client: &mut Client, rebooted: bool) -> Result<(), String> {
        let lines = journals(&self.out, self.state.generation).map_err(|e| e.to_string())?;
        self.check_against(client, &lines, rebooted)
    }

    pub fn check_against(
        &mut self,
        client: &mut Client,
        lines: &BTreeMap<String, Vec<Line>>,
        rebooted: bool,
    ) -> Result<(), String> {
        let found = check(client, &mut self.state, lines, rebooted);
        self.note(&found)?;
        self.next_generation()?;
        self.reuse(client, &found.pending_keys)
    }

    fn next_generation(&mut self) -> Result<(), String> {
        self.state.generation += 1;
        self.state.save(&self.out).map_err(|e| e.to_string())
    }

    /// Uses the keys of unanswered calls again at once, which must succeed.
    fn reuse(&mut self, client: &mut Client, keys: &[String]) -> Result<(), String> {
        let common = Common::new(&self.state, self.slots, |_| false);
        let mut checker = Worker::new(
            &self.out,
            &self.state,
            CHECKER,
            client.clone(),
            &common,
            self.mark.clone(),
            1,
        );
        for key in keys {
            checker
                .reuse(key)
                .map_err(|_| "the daemon went away while keys were tried again".to_owned())?;
        }
        drop(checker);
        self.problems_of(&common)?;
        for lines in journals(&self.out, self.state.generation).map_err(|e| e.to_string())?.values()
        {
            self.state.replay(lines);
        }
        self.next_generation()
    }

    pub fn problems_of(&mut self, common: &Common) -> Result<(), String> {
        let problems = std::mem::take(&mut *common.problems.lock().unwrap());
        for problem in &problems {
            self.sum.refused += 1;
            self.fail(problem);
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(format!("{} problems under load", problems.len()))
    }

    /// Starts the clients.
    pub fn load(
        &self,
        client: &Client,
        seed: u64,
        steps: usize,
        tolerated: fn(Code) -> bool,
    ) -> (Arc<Common>, Vec<JoinHandle<()>>) {
        let common = Common::new(&self.state, self.slots, tolerated);
        let workers = (0..self.clients).map(|n| {
            let seed = seed.wrapping_mul(31).wrapping_add(n as u64);
            let name = format!("c{n}");
            Worker::new(
                &self.out,
                &self.state,
                &name,
                client.clone(),
                &common,
                self.mark.clone(),
                seed,
            )
        });
        let threads =
            workers.map(|worker| std::thread::spawn(move || worker.work(steps))).collect();
        (common, threads)
    }

    /// Removes everything and compares the pool with its first state.
    pub fn empty(&mut self, client: &mut Client) -> Result<(), String> {
        let found = remove_all(client, &mut self.state, self.below);
        self.sum.emptied += 1;
        self.note(&found)?;
        self.next_generation()
    }
}

/// Stops the clients and waits for them.
pub fn join(common: &Common, threads: Vec<JoinHandle<()>>) {
    common.stop.store(true, Ordering::SeqCst);
    for thread in threads {
        thread.join().expect("a client does not panic");
    }
}
