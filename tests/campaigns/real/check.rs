//! The checker: a daemon that has just recovered serves everything that was acknowledged, and
//! nothing else is left.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::daemon::{list, Listed};
use super::machine::{self, Mounted};
use super::model::{scan, Files, Kind, Line, Op, Snapshot, State};
use kit::Client;

/// The start of the keys of the checker's own views.
const CHECK: &str = "check-";

/// What failed below the daemon. It decides how many blocks dm-thin itself may have leaked: see
/// [`Found::kernel_leak`].
#[derive(Debug, Clone, Copy)]
pub enum Below {
    Sound,
    /// A few times the number of blocks that can be in flight at such a moment.
    PowerWent,
    /// All blocks that were being filled while writes failed.
    WritesFailed,
}

impl Below {
    fn leak_most(self) -> u64 {
        match self {
            Below::Sound => 0,
            Below::PowerWent => 32,
            Below::WritesFailed => u64::MAX,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Something acknowledged is missing, or is different.
    Lost,
    /// Something exists that no call has made.
    Leaked,
    /// A device is suspended, or active without need.
    Stuck,
    /// A call fails that should succeed.
    Refused,
}

/// The result of a check.
#[derive(Debug, Default)]
pub struct Found {
    pub problems: Vec<(Fault, String)>,
    pub acknowledged: u64,
    pub kept_files: u64,
    pub unanswered: u64,
    /// Unanswered calls that had taken effect.
    pub happened: u64,
    pub layers: u64,
    pub files: u64,
    /// Blocks in use that no thin maps, after power cuts and failed writes. dm-thin takes a free
    /// block when a write needs one, and maps it after it is zeroed or copied. A discard counts its
    /// blocks once more while the disk below works on it (alloc_data_block,
    /// process_prepared_mapping, process_prepared_discard_passdown_pt1 in drivers/md/dm-thin.c). If
    /// the metadata is committed in between and then the power fails, or if the disk fails to zero
    /// or copy the block, the block stays in use until thin_repair frees it. See
    /// tests/guest/dm/leak.rs.
    pub kernel_leak: u64,
    /// The keys of unanswered calls.
    pub pending_keys: Vec<String>,
}

impl Found {
    fn add(&mut self, fault: Fault, text: impl fmt::Display) {
        self.problems.push((fault, text.to_string()));
    }

    pub fn count(&self, fault: Fault) -> usize {
        self.problems.iter().filter(|(kind, _)| *kind == fault).count()
    }
}

/// Checks everything. `state` becomes the state that was found. `rebooted` says that no device has
/// outlived the daemon.
pub fn check(
    client: &mut Client,
    state: &mut State,
    journals: &BTreeMap<String, Vec<Line>>,
    rebooted: bool,
) -> Found {
    let mut found = Found::default();
    let mut checker = Checker { client, found: &mut found };
    if let Err(error) = checker.all(state, journals, rebooted) {
        found.add(Fault::Refused, error);
    }
    found
}

struct Checker<'a> {
    client: &'a mut Client,
    found: &'a mut Found,
}

impl Checker<'_> {
    fn all(
        &mut self,
        state: &mut State,
        journals: &BTreeMap<String, Vec<Line>>,
        rebooted: bool,
    ) -> Result<(), String> {
        for name in machine::suspended()? {
            self.found.add(Fault::Stuck, format!("{name} is suspended"));
        }
        if rebooted {
            for name in machine::devices()?.into_keys().filter(|name| !is_pool(name)) {
                self.found.add(Fault::Stuck, format!("{name} is active right after a boot"));
            }
        }
        self.records(state, journals)?;
        self.client.cleanup().map_err(|e| format!("Cleanup: {e}"))?;
        self.devices_and_thins(state)?;
        self.contents(state)?;
        self.client.cleanup().map_err(|e| format!("Cleanup: {e}"))
    }

    /// The list has every acknowledged call, and each unanswered call whole or not at all.
    fn records(
        &mut self,
        state: &mut State,
        journals: &BTreeMap<String, Vec<Line>>,
    ) -> Result<(), String> {
        let mut pending = Vec::new();
        for lines in journals.values() {
            let replayed = state.replay(lines);
            self.found.acknowledged += replayed.acknowledged;
            self.found.kept_files += replayed.kept;
            pending.extend(replayed.pending);
        }
        let mut listed = BTreeMap::new();
        for (key, entry) in list(self.client).map_err(|e| format!("List: {e}"))? {
            if key.starts_with(CHECK) {
                self.client.remove(&key).map_err(|e| format!("removing {key}: {e}"))?;
            } else {
                listed.insert(key, entry);
            }
        }
        for op in pending {
            self.found.unanswered += 1;
            if happened(&op, &listed) {
                self.found.happened += 1;
                state.apply(&op);
            }
            self.found.pending_keys.extend(keys(&op));
        }
        self.compare(state, &listed);
        // The next check starts from the state that was found.
        state.snapshots.retain(|key, _| listed.contains_key(key));
        Ok(())
    }

    fn compare(&mut self, state: &State, listed: &BTreeMap<String, Listed>) {
        for (key, expected) in &state.snapshots {
            match listed.get(key) {
                None => self
                    .found
                    .add(Fault::Lost, format!("{key} is missing; it was {:?}", expected.kind)),
                Some(there) if *there != as_listed(expected) => {
                    self.found.add(
                        Fault::Lost,
                        format!("{key} is {there:?} instead of {:?}", as_listed(expected)),
                    );
                }
                Some(_) => {}
            }
        }
        for (key, there) in listed.iter().filter(|(key, _)| !state.snapshots.contains_key(*key)) {
            self.found.add(Fault::Lost, format!("{key} should not exist: {there:?}"));
        }
    }

    /// Every device belongs to a snapshot, and every thin in the pool to a snapshot or the
    /// template.
    fn devices_and_thins(&mut self, state: &mut State) -> Result<(), String> {
        let mut wanted = BTreeSet::new();
        for (key, snapshot) in &state.snapshots {
            let mounts = match snapshot.kind {
                Kind::Committed => self.client.view(&format!("{CHECK}{key}"), key),
                _ => self.client.mounts(key),
            };
            match mounts {
                Ok(mounts) => {
                    wanted.extend(mounts.iter().map(|m| m.source.replace("/dev/mapper/", "")))
                }
                Err(status) => self.found.add(Fault::Refused, format!("mounts of {key}: {status}")),
            }
        }
        let mut shown = BTreeSet::new();
        for (name, thin) in machine::devices()? {
            if wanted.contains(&name) {
                shown.extend(thin);
            } else if !is_pool(&name) {
                self.found
                    .add(Fault::Stuck, format!("{name} is active and belongs to no snapshot"));
            }
        }
        self.thins(state, &shown)
    }

    fn thins(&mut self, state: &mut State, shown: &BTreeSet<u32>) -> Result<(), String> {
        let mapped = machine::thins()?;
        let there: BTreeSet<u32> = mapped.keys().copied().collect();
        for id in shown.difference(&there) {
            self.found
                .add(Fault::Lost, format!("a device shows thin {id}, which is not in the pool"));
        }
        let others: Vec<u32> = there.difference(shown).copied().collect();
        // The first check takes the one thin that no device shows for the template. Later checks
        // expect the same thin.
        let template = state.template.or_else(|| others.first().copied());
        for id in others.iter().filter(|id| Some(**id) != template) {
            self.found.add(Fault::Leaked, format!("thin {id} is in the pool and on no record"));
        }
        match template {
            Some(id) if there.contains(&id) => {
                state.template = Some(id);
                state.template_blocks.get_or_insert(mapped[&id]);
            }
            other => {
                self.found.add(Fault::Lost, format!("the template {other:?} is not in the pool"))
            }
        }
        Ok(())
    }

    fn contents(&mut self, state: &State) -> Result<(), String> {
        for (key, snapshot) in &state.snapshots {
            match snapshot.kind {
                Kind::Committed => {
                    self.layer(key, snapshot);
                    let view = format!("{CHECK}{key}");
                    self.client.remove(&view).map_err(|e| format!("removing {view}: {e}"))?;
                }
                // A file system without synced content may be in any state.
                Kind::Active if !snapshot.files.is_empty() => self.active(key, snapshot),
                _ => {}
            }
        }
        Ok(())
    }

    fn layer(&mut self, key: &str, snapshot: &Snapshot) {
        self.found.layers += 1;
        let mounts = self.client.mounts(&format!("{CHECK}{key}")).map_err(|e| e.to_string());
        let checked = mounts.and_then(|mounts| {
            let mount = mounts.first().ok_or("no mount")?;
            machine::fsck(&mount.source)?;
            let mounted = Mounted::new("check", mount)?;
            let there = scan(&mounted.folder).map_err(|e| e.to_string())?;
            self.found.files += snapshot.files.len() as u64;
            different(&snapshot.files, &there, snapshot.exact)
        });
        if let Err(error) = checked {
            self.found.add(Fault::Lost, format!("content of layer {key}: {error}"));
        }
    }

    fn active(&mut self, key: &str, snapshot: &Snapshot) {
        let mounts = self.client.mounts(key).map_err(|e| e.to_string());
        let checked = mounts.and_then(|mounts| {
            let mounted = Mounted::new("check", mounts.first().ok_or("no mount")?)?;
            let there = scan(&mounted.folder).map_err(|e| e.to_string())?;
            self.found.files += snapshot.files.len() as u64;
            different(&snapshot.files, &there, false)
        });
        if let Err(error) = checked {
            self.found.add(Fault::Lost, format!("content of active {key}: {error}"));
        }
    }
}

/// Removes every snapshot. The pool must then be as empty as at the beginning.
pub fn remove_all(client: &mut Client, state: &mut State, below: Below) -> Found {
    let mut found = Found::default();
    if let Err(error) = remove_each(client, state, below, &mut found) {
        found.add(Fault::Refused, error);
    }
    found
}

fn remove_each(
    client: &mut Client,
    state: &mut State,
    below: Below,
    found: &mut Found,
) -> Result<(), String> {
    // The kernel's leaks are counted before anything is removed. Removing must not add to them.
    let unmapped = unmapped()?;
    match unmapped.checked_sub(state.unmapped) {
        Some(leaked) if leaked <= below.leak_most() => found.kernel_leak = leaked,
        _ => found.add(
            Fault::Leaked,
            format!("{unmapped} blocks in use are mapped by no thin, {} before", state.unmapped),
        ),
    }
    state.unmapped = unmapped;
    while !state.snapshots.is_empty() {
        let parents: BTreeSet<String> =
            state.snapshots.values().map(|s| s.parent.clone()).collect();
        let leaves: Vec<String> =
            state.snapshots.keys().filter(|key| !parents.contains(*key)).cloned().collect();
        for key in leaves {
            if let Err(status) = client.remove(&key) {
                found.add(Fault::Refused, format!("removing {key}: {status}"));
            }
            state.snapshots.remove(&key);
        }
    }
    client.cleanup().map_err(|e| e.to_string())?;
    nothing_is_left(state, &machine::thins()?, machine::used_blocks()?, found);
    Ok(())
}

/// The pool's blocks in use that no thin maps.
fn unmapped() -> Result<u64, String> {
    let mapped = machine::data_blocks(None)?.len() as u64;
    let used = machine::used_blocks()?;
    used.checked_sub(mapped).ok_or_else(|| format!("{mapped} blocks are mapped and {used} in use"))
}

/// Only the template is in the pool, unchanged, and it maps every block in use, except for those
/// that the kernel leaked.
fn nothing_is_left(state: &State, thins: &BTreeMap<u32, u64>, used: u64, found: &mut Found) {
    if !thins.keys().eq(&state.template) {
        found.add(
            Fault::Leaked,
            format!("thins left: {thins:?}, the template is {:?}", state.template),
        );
    }
    let mapped: u64 = thins.values().sum();
    if state.template_blocks != Some(mapped) {
        found.add(
            Fault::Lost,
            format!("the template maps {mapped} blocks, {:?} before", state.template_blocks),
        );
    }
    if used != mapped + state.unmapped {
        let text = format!(
            "{used} blocks in use, {mapped} of them mapped and {} leaked by the kernel",
            state.unmapped
        );
        found.add(Fault::Leaked, text);
    }
}

fn is_pool(name: &str) -> bool {
    ["-pool", "-data", "-metadata"].iter().any(|end| name.ends_with(end))
        || name.starts_with("pw-disk")
}

fn as_listed(snapshot: &Snapshot) -> Listed {
    Listed {
        kind: Some(snapshot.kind),
        parent: snapshot.parent.clone(),
        label: snapshot.label.clone(),
    }
}

fn happened(op: &Op, listed: &BTreeMap<String, Listed>) -> bool {
    match op {
        Op::Prepare { key, .. } | Op::View { key, .. } => listed.contains_key(key),
        Op::Commit { name, key, .. } => listed.contains_key(name) && !listed.contains_key(key),
        Op::Label { key, value } => listed.get(key).is_some_and(|there| there.label == *value),
        Op::Remove { key } => !listed.contains_key(key),
    }
}

fn keys(op: &Op) -> Vec<String> {
    match op {
        Op::Prepare { key, .. }
        | Op::View { key, .. }
        | Op::Label { key, .. }
        | Op::Remove { key } => {
            vec![key.clone()]
        }
        Op::Commit { name, key, .. } => vec![name.clone(), key.clone()],
    }
}

fn different(expected: &Files, there: &Files, exact: bool) -> Result<(), String> {
    for (file, content) in expected {
        match there.get(file) {
            Some(found) if found == content => {}
            found => return Err(format!("{file} is {found:?} instead of {content:?}")),
        }
    }
    match there.keys().find(|file| exact && !expected.contains_key(*file)) {
        Some(file) => Err(format!("{file} was not written before the commit")),
        None => Ok(()),
    }
}
