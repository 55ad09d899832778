//! What clients did, recorded before and after each call, and what must therefore be there.
//!
//! Each client writes its own journal into a folder that outlives the guest, and goes on only
//! when the line is on disk. Each key belongs to one client, so the journals can be read one by
//! one.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The content of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    pub length: usize,
    pub hash: u64,
}

/// Files by their names.
pub type Files = BTreeMap<String, Content>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Active,
    View,
    Committed,
}

/// One call that changes something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    Prepare {
        key: String,
        parent: String,
    },
    View {
        key: String,
        parent: String,
    },
    /// The layer contains `files`, and nothing else if `exact`.
    Commit {
        name: String,
        key: String,
        files: Files,
        exact: bool,
    },
    Label {
        key: String,
        value: String,
    },
    Remove {
        key: String,
    },
}

/// A line of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Line {
    /// The client is about to make this call.
    Begun(Op),
    /// The call was acknowledged.
    Done,
    /// The call was answered with an error, and has changed nothing.
    Refused(String),
    /// The content of this file of an active snapshot is unknown from now on.
    Touched { key: String, file: String },
    /// An fsync of this file has succeeded.
    Kept { key: String, file: String, content: Content },
}

/// The snapshot that a check must find.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub kind: Kind,
    pub parent: String,
    pub label: String,
    pub files: Files,
    /// The snapshot contains only `files`.
    pub exact: bool,
}

/// All snapshots by key, and figures of the pool for later checks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The number of the journals that continue this state.
    pub generation: u64,
    pub snapshots: BTreeMap<String, Snapshot>,
    /// The template's thin.
    pub template: Option<u32>,
    /// The blocks that the template maps.
    pub template_blocks: Option<u64>,
    /// The pool's blocks in use that no thin maps.
    pub unmapped: u64,
}

impl State {
    pub fn load(folder: &Path) -> State {
        match fs::read_to_string(folder.join("state.json")) {
            Ok(text) => serde_json::from_str(&text).expect("a state is written in one piece"),
            Err(_) => State::default(),
        }
    }

    pub fn save(&self, folder: &Path) -> io::Result<()> {
        let new = folder.join("state.new");
        let mut file = fs::File::create(&new)?;
        file.write_all(serde_json::to_string(self)?.as_bytes())?;
        file.sync_all()?;
        fs::rename(new, folder.join("state.json"))
    }

    /// Applies an acknowledged call.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Prepare { key, parent } => self.insert(key, Kind::Active, parent),
            Op::View { key, parent } => self.insert(key, Kind::View, parent),
            Op::Commit { name, key, files, exact } => {
                if let Some(active) = self.snapshots.remove(key) {
                    // Without a check since the power cut, only the synced content of the snapshot
                    // is known.
                    let files = if *exact { files.clone() } else { active.files };
                    let committed = Snapshot {
                        kind: Kind::Committed,
                        label: String::new(),
                        files,
                        exact: *exact,
                        ..active
                    };
                    self.snapshots.insert(name.clone(), committed);
                }
            }
            Op::Label { key, value } => {
                if let Some(snapshot) = self.snapshots.get_mut(key) {
                    snapshot.label.clone_from(value);
                }
            }
            Op::Remove { key } => drop(self.snapshots.remove(key)),
        }
    }

    fn insert(&mut self, key: &str, kind: Kind, parent: &str) {
        let below = self.snapshots.get(parent);
        let files = below.map(|parent| parent.files.clone()).unwrap_or_default();
        let snapshot =
            Snapshot { kind, parent: parent.into(), label: String::new(), files, exact: false };
        self.snapshots.insert(key.into(), snapshot);
    }

    /// Applies the lines of one client. The result has the call that was not answered.
    pub fn replay(&mut self, lines: &[Line]) -> Replayed {
        let mut replayed = Replayed::default();
        for line in lines {
            match line {
                Line::Begun(op) => replayed.pending = Some(op.clone()),
                Line::Done => {
                    replayed.acknowledged += 1;
                    self.apply(&replayed.pending.take().expect("an answer has a call"));
                }
                Line::Refused(_) => replayed.pending = None,
                Line::Touched { key, file } => {
                    if let Some(snapshot) = self.snapshots.get_mut(key) {
                        snapshot.files.remove(file);
                    }
                }
                Line::Kept { key, file, content } => {
                    replayed.kept += 1;
                    if let Some(snapshot) = self.snapshots.get_mut(key) {
                        snapshot.files.insert(file.clone(), *content);
                    }
                }
            }
        }
        replayed
    }
}

#[derive(Debug, Default)]
pub struct Replayed {
    pub pending: Option<Op>,
    pub acknowledged: u64,
    pub kept: u64,
}

/// A function that is called after a line is on disk, with the client and the number of the line.
pub type Mark = Arc<dyn Fn(&str, u64) + Send + Sync>;

/// One client's journal.
pub struct Journal {
    file: fs::File,
    client: String,
    lines: u64,
    mark: Option<Mark>,
    answered: Arc<AtomicU64>,
}

impl Journal {
    pub fn create(
        folder: &Path,
        generation: u64,
        client: &str,
        mark: Option<Mark>,
        answered: Arc<AtomicU64>,
    ) -> io::Result<Journal> {
        fs::create_dir_all(folder)?;
        let path = journal_path(folder, generation, client);
        // Lines are appended, because a recovery that is cut short runs again in the same
        // generation.
        let lines = read_journal(&path)?.len() as u64;
        let file = fs::File::options().create(true).append(true).open(path)?;
        Ok(Journal { file, client: client.into(), lines, mark, answered })
    }

    /// Writes a line. Returns when it is on disk.
    pub fn write(&mut self, line: &Line) {
        let mut text = serde_json::to_string(line).expect("a line is plain");
        text.push('\n');
        self.file.write_all(text.as_bytes()).expect("the journal can be written");
        self.file.sync_data().expect("the journal can be written");
        self.lines += 1;
        if let (Some(mark), Line::Done | Line::Kept { .. }) = (&self.mark, line) {
            mark(&self.client, self.lines);
        }
        if matches!(line, Line::Done) {
            self.answered.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn journal_path(folder: &Path, generation: u64, client: &str) -> PathBuf {
    folder.join(format!("journal-{generation}-{client}"))
}

/// The journals of one generation, by client.
pub fn journals(folder: &Path, generation: u64) -> io::Result<BTreeMap<String, Vec<Line>>> {
    let prefix = format!("journal-{generation}-");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(client) = name.strip_prefix(&prefix) {
            found.insert(client.to_owned(), read_journal(&folder.join(&name))?);
        }
    }
    Ok(found)
}

/// An incomplete last line was being written at the power cut, and is dropped.
fn read_journal(path: &Path) -> io::Result<Vec<Line>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other?,
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    Ok(whole
        .lines()
        .map(|line| serde_json::from_str(line).expect("a whole line is well formed"))
        .collect())
}

/// FNV-1a, 64 bits.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The files in a folder, without `lost+found`.
pub fn scan(folder: &Path) -> io::Result<Files> {
    let mut files = Files::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let bytes = fs::read(entry.path())?;
            let content = Content { length: bytes.len(), hash: hash(&bytes) };
            files.insert(entry.file_name().to_string_lossy().into_owned(), content);
        }
    }
    Ok(files)
}
