//! The judge: checks the invariants I1 to I7 on a world, one after the other.

use std::collections::BTreeMap;

use devmapper_snapshotter::dm::{ActivateOptions, StatusOptions, Target};
use devmapper_snapshotter::names::DmName;
use devmapper_snapshotter::snapshotter::Finding;
use devmapper_snapshotter::store::{Kind, SnapshotRecord};
use devmapper_snapshotter::units::{DeviceNumber, Sectors};

use super::files::{mark, Superblock, FIRST};
use super::machine::{BLOCK, BLOCKS};
use super::model::{Model, Op, Snapshot};
use super::world::{World, POOL};

/// What an end may have lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The machine has gone on.
    Nothing,
    /// Writes that their users did not flush.
    Unflushed,
}

type Verdict = Result<(), String>;

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Verdict {
    match holds {
        true => Ok(()),
        false => Err(otherwise()),
    }
}

/// Blocks and thins in use by a daemon that has only its template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Empty {
    pub thins: usize,
    pub data_blocks: u64,
}

impl Empty {
    pub fn of(world: &World) -> Empty {
        let status = world.dm().pool_status(&World::pool_name(), StatusOptions::default()).unwrap();
        Empty { thins: world.thins().len(), data_blocks: status.working().unwrap().data.used }
    }
}

/// Checks a world whose daemon has just been started after an end. `possible` are the models that
/// may be true. Returns the one that is.
pub fn after_start(world: &mut World, possible: &[Model], loss: Loss) -> Result<Model, String> {
    findings(world, "right after the start", |finding| {
        matches!(finding, Finding::Unwanted { .. })
    })?;
    let swept = world.snapshotter().cleanup().map_err(|e| format!("I7: cleanup: {e}"))?;
    ensure(swept.failed == 0, || format!("I7: cleanup failed for {} entries", swept.failed))?;
    let open = |finding: &Finding| matches!(finding, Finding::Unwanted { open: 1.., .. });
    findings(world, "after the clean-up", open)?;
    let mut model = state(world, possible)?.clone();
    forget_users(world, &model);
    contents(world, &mut model, loss)?;
    users_go_on(world, &model)?;
    Ok(model)
}

/// Database, pool and kernel agree, except for the findings that `may_be` allows.
pub fn findings(world: &World, when: &str, may_be: impl Fn(&Finding) -> bool) -> Verdict {
    let findings = world
        .snapshotter()
        .check(Some(&world.thins()))
        .map_err(|e| format!("the checker {when}: {e}"))?;
    let found: Vec<String> =
        findings.iter().filter(|f| !may_be(f)).map(ToString::to_string).collect();
    ensure(found.is_empty(), || format!("I3, I5 {when}: {}", found.join("; ")))
}

fn records(world: &World) -> BTreeMap<String, SnapshotRecord> {
    world
        .store()
        .read(|r| r.page(None, usize::MAX))
        .expect("the database can be read")
        .into_iter()
        .collect()
}

/// I1, I2: the records agree with one of the models.
pub fn state<'a>(world: &World, possible: &'a [Model]) -> Result<&'a Model, String> {
    let found = records(world);
    let like = |model: &&Model| {
        model.snapshots.keys().eq(found.keys())
            && model.snapshots.iter().all(|(key, snapshot)| same(snapshot, &found[key]))
    };
    possible.iter().find(like).ok_or_else(|| {
        let describe = |record: &SnapshotRecord| {
            format!(
                "{} on {:?} of {} with {:?}",
                record.kind,
                record.parent,
                record.size,
                record.labels.get("label")
            )
        };
        let found: Vec<_> =
            found.iter().map(|(key, record)| format!("{key}: {}", describe(record))).collect();
        let possible: Vec<_> = possible.iter().map(|model| &model.snapshots).collect();
        format!("I1, I2: found [{}], possible were {possible:?}", found.join(", "))
    })
}

fn same(snapshot: &Snapshot, record: &SnapshotRecord) -> bool {
    snapshot.kind == record.kind
        && snapshot.parent == record.parent.clone().unwrap_or_default()
        && snapshot.label.map(|label| label.to_string()).as_ref() == record.labels.get("label")
        && record.size == Sectors(snapshot.size * BLOCK.0)
}

/// Users whose snapshot was committed or removed.
pub fn forget_users(world: &mut World, model: &Model) {
    let gone: Vec<String> =
        world.users.attached.keys().filter(|key| !model.attached.contains(*key)).cloned().collect();
    gone.iter().for_each(|key| world.users.orphan(key));
}

/// I4: every snapshot has content that it may have, and a sound file system. That of a committed
/// one is clean. From now on the content is known.
pub fn contents(world: &World, model: &mut Model, loss: Loss) -> Verdict {
    let dm = world.dm();
    let pool =
        dm.info(&World::pool_name()).ok().flatten().ok_or("I5: the pool is not there")?.device;
    for (key, record) in records(world) {
        let snapshot = model
            .snapshots
            .get_mut(&key)
            .ok_or_else(|| format!("I1: {key} is on record, and the model has none"))?;
        content(world, pool, &record, snapshot, loss)
            .map_err(|what| format!("I4: {key}: {what}"))?;
    }
    Ok(())
}

/// Reads a thin through a device of the judge.
fn content(
    world: &World,
    pool: DeviceNumber,
    record: &SnapshotRecord,
    snapshot: &mut Snapshot,
    loss: Loss,
) -> Verdict {
    let dm = world.dm();
    let name = DmName::new("judge").unwrap();
    let table = [Target::thin(pool, record.thin, record.size)];
    dm.activate(&name, None, &table, ActivateOptions { read_only: true, ..Default::default() })
        .map_err(|e| e.to_string())?;
    let judged = blocks(world, &name, record, snapshot, loss);
    dm.remove(&name).map_err(|e| e.to_string())?;
    judged
}

fn blocks(
    world: &World,
    name: &DmName,
    record: &SnapshotRecord,
    snapshot: &mut Snapshot,
    loss: Loss,
) -> Verdict {
    let handle = world.machine.kernel.open(name).map_err(|e| e.to_string())?;
    let superblock =
        Superblock::read(&handle).map_err(|e| e.to_string())?.ok_or("no file system")?;
    ensure(superblock.size == record.size, || {
        format!("its file system has {}, the snapshot {}", superblock.size, record.size)
    })?;
    if snapshot.kind == Kind::Committed {
        ensure(superblock.clean, || "its file system is not clean".into())?;
        ensure(record.inodes == Some(superblock.inodes), || {
            format!("{:?} inodes recorded", record.inodes)
        })?;
    }
    let exact = loss == Loss::Nothing || snapshot.kind != Kind::Active;
    for block in 1..snapshot.size {
        let found = handle.read_block(block, BLOCK).map_err(|e| format!("block {block}: {e}"))?;
        let fine = match snapshot.content.get(&block) {
            _ if block < FIRST => found == mark(block),
            None => found == 0,
            Some(block) if exact => block.holds(found),
            Some(block) => block.may_hold(found),
        };
        ensure(fine, || {
            format!("block {block} holds {found}, expected {:?}", snapshot.content.get(&block))
        })?;
        if let Some(block) = snapshot.content.get_mut(&block) {
            block.found(found);
        }
    }
    Ok(())
}

/// I5 from a user's view: a user with an open device goes on. A user whose snapshot is gone changes
/// nothing.
fn users_go_on(world: &World, model: &Model) -> Verdict {
    for orphan in &world.users.orphans {
        // It may be read-only, or not work any more.
        let _ = orphan.handle.write_block(FIRST + 1, BLOCK, 0xdead);
    }
    for (key, attached) in &world.users.attached {
        if model.snapshots[key].kind == Kind::Active {
            let block = FIRST + 9;
            let old = attached
                .handle
                .read_block(block, BLOCK)
                .map_err(|e| format!("I5: the user of {key}: {e}"))?;
            attached
                .handle
                .write_block(block, BLOCK, old)
                .map_err(|e| format!("I5: the user of {key}: {e}"))?;
        }
    }
    Ok(())
}

/// I2: an unanswered call can be made again and succeeds.
pub fn ask_again(world: &mut World, model: &mut Model, op: &Op) -> Verdict {
    if let Op::Prepare { key, .. } | Op::View { key, .. } = op {
        if model.snapshots.contains_key(key) && !model.snapshots.values().any(|s| s.parent == *key)
        {
            try_op(world, model, &Op::Remove { key: key.clone() })?;
        }
    }
    try_op(world, model, op)
}

/// Makes a call whose outcome the model knows.
pub fn try_op(world: &mut World, model: &mut Model, op: &Op) -> Verdict {
    let expected = model.apply(op);
    match (world.run(op), expected) {
        (Ok(()), Ok(())) => Ok(()),
        (Err(super::world::Failure::Snapshotter(error)), Err(refusal))
            if super::model::Refusal::of(&error) == Some(refusal) =>
        {
            Ok(())
        }
        (Err(failure), expected) => {
            Err(format!("I2: {op:?} again: {failure}, expected {expected:?}"))
        }
        (Ok(()), Err(refusal)) => Err(format!("I2: {op:?} again succeeds, expected {refusal:?}")),
    }
}

/// I6: after everything is removed, the pool is as empty as before.
pub fn remove_everything(world: &mut World, mut left: Model, empty: Empty) -> Verdict {
    contents(world, &mut left, Loss::Nothing)?;
    world.users = Default::default();
    while !left.snapshots.is_empty() {
        let leaf = |key: &&String| !left.snapshots.values().any(|s| s.parent == **key);
        let key = left.snapshots.keys().find(leaf).cloned().expect("snapshots form trees");
        try_op(world, &mut left, &Op::Remove { key })?;
    }
    let swept = world.snapshotter().cleanup().map_err(|e| format!("I6: cleanup: {e}"))?;
    ensure(swept.busy + swept.failed == 0, || {
        format!("I6: not everything was reclaimed: {swept:?}")
    })?;
    findings(world, "when all is removed", |_| false)?;
    let now = Empty::of(world);
    ensure(now == empty, || format!("I6: in use now: {now:?}, at the beginning: {empty:?}"))?;
    let devices: Vec<String> = world
        .dm()
        .list()
        .map_err(|e| e.to_string())?
        .iter()
        .map(|device| device.name.to_string())
        .collect();
    ensure(devices == ["data", "metadata", "pool"].map(|role| format!("{POOL}-{role}")), || {
        format!("I6: devices are left: {devices:?}")
    })
}

/// The model of a daemon without snapshots.
pub fn nothing() -> Model {
    Model { base: BLOCKS, ..Model::default() }
}
