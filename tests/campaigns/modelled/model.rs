//! What callers may rely on: the snapshots that acknowledged calls have made, and their
//! content.

use std::collections::{BTreeMap, BTreeSet};

use devmapper_snapshotter::snapshotter::Error;
use devmapper_snapshotter::store::Kind;

/// A call on the snapshotter, or an action of a snapshot's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Prepare {
        key: String,
        parent: String,
        size: Option<u64>,
    },
    View {
        key: String,
        parent: String,
    },
    Commit {
        name: String,
        key: String,
    },
    Update {
        key: String,
        label: u64,
    },
    Remove {
        key: String,
    },
    Mounts {
        key: String,
    },
    Usage {
        key: String,
    },
    Cleanup,
    /// The daemon is stopped and started again.
    Restart,
    /// A container starts. It mounts the snapshot, or opens its device as a virtual machine does.
    Attach {
        key: String,
        mount: bool,
    },
    /// The containers of this snapshot, and of snapshots that no longer exist, end.
    Detach {
        key: String,
    },
    /// The container writes; without one, a program opens the device, writes and closes it.
    Write {
        key: String,
        block: u64,
        tag: u64,
        flush: bool,
    },
}

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    NotFound,
    ParentNotFound,
    ParentNotCommitted,
    Exists,
    NotActive,
    HasChildren,
}

impl Refusal {
    /// The kind of refusal that an error is. `None` for an error that is no refusal.
    pub fn of(error: &Error) -> Option<Refusal> {
        Some(match error {
            Error::NotFound { .. } => Refusal::NotFound,
            Error::ParentNotFound { .. } => Refusal::ParentNotFound,
            Error::ParentNotCommitted { .. } => Refusal::ParentNotCommitted,
            Error::AlreadyExists { .. } => Refusal::Exists,
            Error::NotActive { .. } => Refusal::NotActive,
            Error::HasChildren { .. } => Refusal::HasChildren,
            _ => return None,
        })
    }
}

/// The possible contents of a block: the last durable write, and the writes since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    durable: u64,
    newer: Vec<u64>,
    /// It is not known whether the last write took place.
    unsure: bool,
}

impl Block {
    /// Whether it may have this content when nothing is lost.
    pub fn holds(&self, tag: u64) -> bool {
        self.last() == tag || (self.unsure && self.may_hold(tag))
    }

    fn last(&self) -> u64 {
        self.newer.last().copied().unwrap_or(self.durable)
    }

    /// The content that was found. From now on it is known.
    pub fn found(&mut self, tag: u64) {
        *self = Block { durable: self.durable, newer: vec![tag], unsure: false };
    }

    /// Whether it may have this content after a power cut.
    pub fn may_hold(&self, tag: u64) -> bool {
        self.durable == tag || self.newer.contains(&tag)
    }
}

/// The blocks with tags. All other blocks are zeros.
pub type Content = BTreeMap<u64, Block>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub kind: Kind,
    pub parent: String,
    pub label: Option<u64>,
    /// In blocks.
    pub size: u64,
    pub content: Content,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub snapshots: BTreeMap<String, Snapshot>,
    /// Keys that a container uses.
    pub attached: BTreeSet<String>,
    /// The size of a snapshot without a parent, in blocks.
    pub base: u64,
}

impl Model {
    fn committed(&self, parent: &str) -> Result<(Content, u64), Refusal> {
        if parent.is_empty() {
            return Ok((Content::new(), self.base));
        }
        let parent = self.snapshots.get(parent).ok_or(Refusal::ParentNotFound)?;
        if parent.kind != Kind::Committed {
            return Err(Refusal::ParentNotCommitted);
        }
        Ok((parent.content.clone(), parent.size))
    }

    fn find(&mut self, key: &str) -> Result<&mut Snapshot, Refusal> {
        self.snapshots.get_mut(key).ok_or(Refusal::NotFound)
    }

    /// The state after the call succeeds, or why it is refused.
    pub fn apply(&mut self, op: &Op) -> Result<(), Refusal> {
        match op {
            Op::Prepare { key, parent, size } => {
                self.must_be_new(key)?;
                let (content, from) = self.committed(parent)?;
                let size = from.max(self.base).max(size.unwrap_or(0));
                self.add(key, Kind::Active, parent, size, content);
            }
            Op::View { key, parent } => {
                self.must_be_new(key)?;
                let (content, size) = self.committed(parent)?;
                self.add(key, Kind::View, parent, size, content);
            }
            Op::Commit { name, key } => {
                if self.find(key)?.kind != Kind::Active {
                    return Err(Refusal::NotActive);
                }
                self.must_be_new(name)?;
                let mut snapshot = self.snapshots.remove(key).unwrap();
                snapshot.kind = Kind::Committed;
                snapshot.label = None;
                settle(&mut snapshot.content);
                self.snapshots.insert(name.clone(), snapshot);
                self.attached.remove(key);
            }
            Op::Update { key, label } => self.find(key)?.label = Some(*label),
            Op::Remove { key } => {
                self.find(key)?;
                if self.snapshots.values().any(|s| s.parent == *key) {
                    return Err(Refusal::HasChildren);
                }
                self.snapshots.remove(key);
                self.attached.remove(key);
            }
            Op::Mounts { key } => {
                if self.find(key)?.kind == Kind::Committed {
                    return Err(Refusal::NotActive);
                }
            }
            Op::Usage { key } => drop(self.find(key)?),
            Op::Cleanup | Op::Restart => {}
            Op::Attach { key, .. } => {
                if self.find(key)?.kind == Kind::Committed {
                    return Err(Refusal::NotActive);
                }
                self.attached.insert(key.clone());
            }
            Op::Detach { key } => {
                // An unmount flushes. The close of a raw device may not.
                self.attached.remove(key);
            }
            Op::Write { key, block, tag, flush } => {
                let snapshot = self.find(key)?;
                if snapshot.kind != Kind::Active {
                    return Err(Refusal::NotActive);
                }
                let place = snapshot.content.entry(*block).or_insert(Block {
                    durable: 0,
                    newer: Vec::new(),
                    unsure: false,
                });
                place.newer.push(*tag);
                place.unsure = false;
                if *flush {
                    settle(&mut snapshot.content);
                }
            }
        }
        Ok(())
    }

    /// The possible states after a call without an answer: it did nothing, or all of it.
    pub fn after_unanswered(&self, op: &Op) -> Vec<Model> {
        let mut whole = self.clone();
        let op = match op {
            Op::Write { key, block, tag, .. } => {
                Op::Write { key: key.clone(), block: *block, tag: *tag, flush: false }
            }
            op => op.clone(),
        };
        match whole.apply(&op) {
            // The write happened or it did not. One model covers both.
            Ok(()) if matches!(op, Op::Write { .. }) => {
                whole
                    .snapshots
                    .values_mut()
                    .flat_map(|s| s.content.values_mut())
                    .for_each(|b| b.unsure |= !b.newer.is_empty());
                vec![whole]
            }
            Ok(()) if whole != *self => vec![self.clone(), whole],
            _ => vec![self.clone()],
        }
    }

    fn must_be_new(&self, key: &str) -> Result<(), Refusal> {
        if self.snapshots.contains_key(key) {
            return Err(Refusal::Exists);
        }
        Ok(())
    }

    fn add(&mut self, key: &str, kind: Kind, parent: &str, size: u64, content: Content) {
        let snapshot = Snapshot { kind, parent: parent.into(), label: None, size, content };
        self.snapshots.insert(key.into(), snapshot);
    }
}

/// Makes everything written so far durable.
fn settle(content: &mut Content) {
    for block in content.values_mut() {
        block.durable = block.last();
        block.newer.clear();
        block.unsure = false;
    }
}
