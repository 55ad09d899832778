//! Clients that prepare, write, commit, view, label and remove at random, and record each
//! answer.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use containerd_snapshots::api::types::Mount;
use containerd_snapshots::tonic::{Code, Status};

use super::daemon::{is_gone, label};
use super::machine::Mounted;
use super::model::{hash, scan, Content, Files, Journal, Kind, Line, Mark, Op, State};
use kit::{Client, Random};

const FILES: usize = 8;
/// The name of the client that tries keys again after a crash. All keys are its own.
pub const CHECKER: &str = "checker";

/// State that all clients of a run share.
pub struct Common {
    /// Layers that can be parents.
    layers: Mutex<BTreeMap<String, (Files, bool)>>,
    /// The number of keys of each kind, and of layers, that each client has.
    slots: usize,
    pub stop: AtomicBool,
    pub problems: Mutex<Vec<String>>,
    /// Calls that were acknowledged in this run.
    pub answered: Arc<AtomicU64>,
    /// Answers that are expected, beyond the usual refusals.
    pub tolerated: fn(Code) -> bool,
}

impl Common {
    pub fn new(state: &State, slots: usize, tolerated: fn(Code) -> bool) -> Arc<Common> {
        let layers = state.snapshots.iter().filter(|(_, s)| s.kind == Kind::Committed);
        let layers = layers.map(|(name, s)| (name.clone(), (s.files.clone(), s.exact))).collect();
        Arc::new(Common {
            layers: Mutex::new(layers),
            slots,
            stop: AtomicBool::new(false),
            problems: Mutex::default(),
            answered: Arc::default(),
            tolerated,
        })
    }

    fn problem(&self, text: String) {
        self.problems.lock().unwrap().push(text);
    }
}

/// The daemon has ended, or the run is over.
pub struct Stopped;

type Step<T = ()> = Result<T, Stopped>;

/// One client, with a journal of its own.
pub struct Worker {
    name: String,
    client: Client,
    journal: Journal,
    common: Arc<Common>,
    random: Random,
    /// Its own snapshots by key.
    own: BTreeMap<String, Own>,
    generation: u64,
    layers_made: u64,
}

#[derive(Clone)]
struct Own {
    kind: Kind,
}

impl Worker {
    pub fn new(
        folder: &Path,
        state: &State,
        name: &str,
        client: Client,
        common: &Arc<Common>,
        mark: Option<Mark>,
        seed: u64,
    ) -> Worker {
        let answered = Arc::clone(&common.answered);
        let journal = Journal::create(folder, state.generation, name, mark, answered)
            .expect("a journal can be made");
        let prefix = if name == CHECKER { String::new() } else { format!("{name}-") };
        let own = state.snapshots.iter().filter(|(key, _)| key.starts_with(&prefix));
        let own = own.map(|(key, snapshot)| (key.clone(), Own { kind: snapshot.kind })).collect();
        Worker {
            name: name.into(),
            client,
            journal,
            common: Arc::clone(common),
            random: Random::new(seed),
            own,
            generation: state.generation,
            layers_made: 0,
        }
    }

    /// Works until the run is stopped, `steps` are done or the daemon has ended.
    pub fn work(mut self, steps: usize) {
        for _ in 0..steps {
            if self.common.stop.load(Ordering::SeqCst) || self.step().is_err() {
                return;
            }
        }
    }

    fn step(&mut self) -> Step {
        match self.random.below(12) {
            0..=4 => self.build(),
            5 => self.look(),
            6 => self.relabel(),
            7..=9 => self.remove_one(),
            _ => self.commit_old(),
        }
    }

    /// An unused key. Each client has a fixed number of keys of each kind.
    fn free(&mut self, kind: &str) -> Option<String> {
        let slots = self.common.slots;
        let at = self.random.below(slots);
        let mut names = (0..slots).map(|n| format!("{}-{kind}{}", self.name, (n + at) % slots));
        names.find(|name| !self.own.contains_key(name))
    }

    /// A name for a layer that no other layer has had, since other clients build on it.
    /// Each client keeps as many layers as it has keys.
    fn free_layer(&mut self) -> Option<String> {
        let layers = self.own.values().filter(|own| own.kind == Kind::Committed).count();
        self.layers_made += 1;
        (layers < self.common.slots)
            .then(|| format!("{}-l{}-{}", self.name, self.generation, self.layers_made))
    }

    fn some_layer(&mut self) -> String {
        let layers = self.common.layers.lock().unwrap();
        if layers.is_empty() || self.random.one_in(4) {
            return String::new();
        }
        layers.keys().nth(self.random.below(layers.len())).cloned().unwrap_or_default()
    }

    fn some_own(&mut self, wanted: fn(Kind) -> bool) -> Option<String> {
        let keys: Vec<&String> =
            self.own.iter().filter(|(_, own)| wanted(own.kind)).map(|(key, _)| key).collect();
        (!keys.is_empty()).then(|| keys[self.random.below(keys.len())].clone())
    }

    /// Makes a call. The journal gets a line before it, and a line with its outcome.
    fn call<T>(
        &mut self,
        op: Op,
        act: impl FnOnce(&mut Client) -> Result<T, Status>,
    ) -> Step<Option<T>> {
        self.journal.write(&Line::Begun(op.clone()));
        match act(&mut self.client) {
            Ok(value) => {
                self.journal.write(&Line::Done);
                self.remember(&op);
                Ok(Some(value))
            }
            Err(status) if is_gone(&status) => Err(Stopped),
            Err(status) => {
                let usual = match op {
                    Op::Prepare { .. } | Op::View { .. } => Code::NotFound,
                    _ => Code::FailedPrecondition,
                };
                if status.code() != usual && !(self.common.tolerated)(status.code()) {
                    self.common.problem(format!(
                        "{op:?} was answered by {:?}: {}",
                        status.code(),
                        status.message()
                    ));
                }
                self.journal.write(&Line::Refused(status.to_string()));
                Ok(None)
            }
        }
    }

    fn own(&mut self, key: &str, kind: Kind) {
        self.own.insert(key.into(), Own { kind });
    }

    fn remember(&mut self, op: &Op) {
        match op {
            Op::Prepare { key, .. } => self.own(key, Kind::Active),
            Op::View { key, .. } => self.own(key, Kind::View),
            Op::Commit { name, key, files, exact } => {
                self.own.remove(key);
                self.own(name, Kind::Committed);
                self.common.layers.lock().unwrap().insert(name.clone(), (files.clone(), *exact));
            }
            Op::Remove { key } => {
                self.own.remove(key);
            }
            Op::Label { .. } => {}
        }
    }

    /// Makes a snapshot, writes to it, and commits it in some cases.
    fn build(&mut self) -> Step {
        let Some(key) = self.free("k") else { return self.commit_old() };
        let parent = self.some_layer();
        let below = self.common.layers.lock().unwrap().get(&parent).cloned();
        let op = Op::Prepare { key: key.clone(), parent: parent.clone() };
        let Some(mounts) = self.call(op, |c| c.prepare(&key, &parent))? else { return Ok(()) };
        let Some(mounted) = self.mount(&key, &mounts) else { return Ok(()) };
        let live = self.scan(&key, &mounted);
        if let Some((files, true)) = below {
            if live != files {
                self.common
                    .problem(format!("{key} does not have the content of its parent {parent}"));
            }
        }
        self.write_and_commit(&key, mounted, live)
    }

    fn write_and_commit(&mut self, key: &str, mounted: Mounted, mut live: Files) -> Step {
        for _ in 0..=self.random.below(4) {
            self.write_file(key, &mounted.folder, &mut live);
        }
        match self.random.below(8) {
            0 | 1 => Ok(()),
            2 => {
                self.commit(key, live.clone(), true)?;
                // This write must not be in the layer.
                let _ = fs::write(mounted.folder.join("after"), b"after the commit");
                Ok(())
            }
            _ => {
                drop(mounted);
                self.commit(key, live, true)
            }
        }
    }

    fn commit(&mut self, key: &str, files: Files, exact: bool) -> Step {
        let Some(name) = self.free_layer() else { return Ok(()) };
        let exact = exact && !self.disk_fails();
        let op = Op::Commit { name: name.clone(), key: key.into(), files, exact };
        self.call(op, |c| c.commit(&name, key)).map(drop)
    }

    /// An active snapshot of an earlier run. It may have been mounted at the power cut, and is not
    /// checked before it is used.
    fn commit_old(&mut self) -> Step {
        let Some(key) = self.some_own(|kind| kind == Kind::Active) else { return Ok(()) };
        if self.random.one_in(3) {
            return self.commit(&key, Files::new(), false);
        }
        match self.client.mounts(&key) {
            Ok(mounts) => {
                let Some(mounted) = self.mount(&key, &mounts) else { return Ok(()) };
                let live = self.scan(&key, &mounted);
                self.write_and_commit(&key, mounted, live)
            }
            Err(status) if is_gone(&status) => Err(Stopped),
            Err(status) => {
                if !(self.common.tolerated)(status.code()) {
                    self.common.problem(format!("Mounts of {key}: {status}"));
                }
                Ok(())
            }
        }
    }

    fn look(&mut self) -> Step {
        let parent = self.some_layer();
        let (false, Some(key)) = (parent.is_empty(), self.free("v")) else { return Ok(()) };
        let below = self.common.layers.lock().unwrap().get(&parent).cloned();
        let op = Op::View { key: key.clone(), parent: parent.clone() };
        let Some(mounts) = self.call(op, |c| c.view(&key, &parent))? else { return Ok(()) };
        let Some(mounted) = self.mount(&key, &mounts) else { return Ok(()) };
        if let Some((files, true)) = below {
            if self.scan(&key, &mounted) != files {
                self.common.problem(format!("view {key} does not have the content of {parent}"));
            }
        }
        Ok(())
    }

    fn relabel(&mut self) -> Step {
        let Some(key) = self.some_own(|_| true) else { return Ok(()) };
        let value = self.random.next().to_string();
        self.call(Op::Label { key: key.clone(), value: value.clone() }, |c| label(c, &key, &value))
            .map(drop)
    }

    fn remove_one(&mut self) -> Step {
        let Some(key) = self.some_own(|_| true) else { return Ok(()) };
        let layer = self.common.layers.lock().unwrap().remove(&key);
        let removed = self.call(Op::Remove { key: key.clone() }, |c| c.remove(&key))?;
        if let (None, Some(layer)) = (removed, layer) {
            self.common.layers.lock().unwrap().insert(key, layer);
        }
        Ok(())
    }

    fn mount(&mut self, key: &str, mounts: &[Mount]) -> Option<Mounted> {
        let mounted = match mounts {
            [one] => Mounted::new(&self.name, one),
            other => Err(format!("{} mounts", other.len())),
        };
        mounted.map_err(|error| self.io_problem(&format!("{key}: {error}"))).ok()
    }

    fn scan(&self, key: &str, mounted: &Mounted) -> Files {
        scan(&mounted.folder).unwrap_or_else(|error| {
            self.io_problem(&format!("{key} cannot be read: {error}"));
            Files::new()
        })
    }

    /// Reports a failure, unless the disk fails: then file systems on it fail as well.
    fn io_problem(&self, text: &str) {
        if !self.disk_fails() {
            self.common.problem(text.into());
        }
    }

    /// On a disk that fails, a client knows only what fsync returned. It tells the checker only
    /// that.
    fn disk_fails(&self) -> bool {
        (self.common.tolerated)(Code::DataLoss)
    }

    fn write_file(&mut self, key: &str, folder: &Path, live: &mut Files) {
        let file = format!("f{}", self.random.below(FILES));
        let (key, path) = (key.to_owned(), folder.join(&file));
        if live.contains_key(&file) {
            self.journal.write(&Line::Touched { key: key.clone(), file: file.clone() });
            if !self.disk_fails() && self.random.one_in(3) && fs::remove_file(&path).is_ok() {
                live.remove(&file);
                return;
            }
        }
        let length = if self.random.one_in(6) { 300_000 } else { 20_000 };
        let length = 1 + self.random.below(length);
        let bytes = self.random.bytes(length);
        let content = Content { length, hash: hash(&bytes) };
        let sync = self.disk_fails() || self.random.one_in(3);
        let written = fs::File::create(&path).and_then(|mut f| {
            f.write_all(&bytes)?;
            if sync {
                f.sync_all()?;
            }
            Ok(())
        });
        match written {
            Ok(()) => {
                live.insert(file.clone(), content);
                if sync {
                    self.journal.write(&Line::Kept { key, file, content });
                }
            }
            Err(error) => {
                live.remove(&file);
                self.io_problem(&format!("writing {}: {error}", path.display()));
            }
        }
    }

    /// Makes and removes a snapshot under `key`: a key that was in use when the power went can be
    /// used again.
    pub fn reuse(&mut self, key: &str) -> Step {
        if self.own.contains_key(key) {
            let removed = self.call(Op::Remove { key: key.into() }, |c| c.remove(key))?;
            if removed.is_none() {
                return Ok(());
            }
        }
        let op = Op::Prepare { key: key.into(), parent: String::new() };
        if self.call(op, |c| c.prepare(key, ""))?.is_none() {
            self.common.problem(format!("{key} cannot be used again"));
        }
        self.call(Op::Remove { key: key.into() }, |c| c.remove(key)).map(drop)
    }
}
