//! What the program does besides serving: look at a stopped daemon's state, and put it right.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytesize::ByteSize;
use devmapper_snapshotter::config::Config;
use devmapper_snapshotter::dm::Dm;
use devmapper_snapshotter::pool::{DeviceNames, MetadataError, Pool, PoolError, Role};
use devmapper_snapshotter::snapshotter;
use devmapper_snapshotter::store::{Kind, ReclaimKind, Store};
use devmapper_snapshotter::units::ThinId;

use crate::{
    database, device_mapper, look_at_state_directory, open, own_state_directory, parts, AnyError,
};

/// What can be looked at without a change to anything: the pool as the kernel has it, if it is
/// assembled, and the database as a copy in memory. No daemon starts meanwhile.
struct Stopped {
    store: Arc<Store>,
    pool: Option<Pool>,
    _lock: Option<std::fs::File>,
}

impl Stopped {
    fn look(config: &Config) -> Result<Stopped, AnyError> {
        let dm = device_mapper()?;
        let lock = look_at_state_directory(&config.root)?;
        Stopped::read(config, dm, lock)
    }

    fn read(config: &Config, dm: Dm, lock: Option<std::fs::File>) -> Result<Stopped, AnyError> {
        let store = Arc::new(Store::open_copy(&database(&config.root))?);
        let (backer, settings) = parts(config);
        let pool = Pool::attach(&settings, dm, Arc::clone(&store), backer)?;
        Ok(Stopped { store, pool, _lock: lock })
    }
}

/// See [`crate::Command::Check`]. Changes nothing.
pub fn check(config: &Config) -> Result<(), AnyError> {
    let Stopped { store, pool, _lock } = Stopped::look(config)?;
    verdict(findings(&store, pool.as_ref())?)
}

/// See [`crate::Command::Check`].
pub fn repair(config: &Config) -> Result<(), AnyError> {
    let dm = device_mapper()?;
    // It repairs what is there, and makes nothing where nothing is.
    drop(look_at_state_directory(&config.root)?);
    let _lock = own_state_directory(&config.root)?;
    let before = Stopped::read(config, dm.clone(), None)?;
    findings(&before.store, before.pool.as_ref())?;
    drop(before);
    let (pool, snapshotter) = open(config, dm)?;
    let swept = snapshotter.cleanup()?;
    snapshotter.stop_reclaiming();
    println!(
        "repaired: what a start puts right; {} removals finished, {} still in use",
        swept.reclaimed, swept.busy
    );
    // What the kernel holds up goes on behind this, with the database open: it is not read from its
    // file.
    verdict(findings(snapshotter.store(), Some(&pool))?)
}

fn verdict(left: usize) -> Result<(), AnyError> {
    match left {
        0 => Ok(()),
        1 => Err("1 disagreement".into()),
        n => Err(format!("{n} disagreements").into()),
    }
}

/// Prints every disagreement; returns how many there are.
fn findings(store: &Store, pool: Option<&Pool>) -> Result<usize, AnyError> {
    let Some(pool) = pool else {
        let mut found = store.read(|r| r.check_indexes())?;
        found.extend(store.check_complete().err().map(|error| error.to_string()));
        found.iter().for_each(|what| println!("the database: {what}"));
        let why = match store.read(|r| r.pool())? {
            None => "the database knows no pool yet; the next start makes one",
            Some(_) => "the pool is not assembled, as after a reboot; the next start assembles it",
        };
        println!("{why}. The database alone was checked");
        return Ok(found.len());
    };
    let thins = thins(pool)?.map(|thins| thins.into_keys().collect());
    let found = snapshotter::check(store, pool, thins.as_ref())?;
    found.iter().for_each(|finding| println!("{finding}"));
    let claim = pool.check_claim()?;
    claim.iter().for_each(|what| println!("{what}"));
    let found = found.len() + usize::from(claim.is_some());
    for line in pool.other_users()?.lines(pool.device_name()) {
        println!("note: {line}");
    }
    match pool.unmapped() {
        Ok(0) => {}
        Ok(unmapped) => println!(
            "note: {unmapped} of the pool's blocks are in use and no thin maps them: dm-thin leaves such blocks behind when the \
             power goes while it fills them, or the disk fails to. They do no harm; thin_repair, run on the metadata of the stopped pool, frees them"
        ),
        Err(error) => println!("note: blocks that are in use and no thin maps were not looked for: {error}"),
    }
    let pool = pool.device_name();
    match &thins {
        Some(thins) => println!("{} thins in pool {pool}; {found} disagreements", thins.len()),
        None => println!(
            "thins were not compared, since pool {pool} is written to faster than its metadata can be read; {found} disagreements"
        ),
    }
    Ok(found)
}

/// The thins in the pool with the blocks they map; `None` while it is written to faster than that
/// can be read.
fn thins(pool: &Pool) -> Result<Option<BTreeMap<ThinId, u64>>, AnyError> {
    match pool.thins() {
        Err(PoolError::Metadata { source: MetadataError::Changing, .. }) => Ok(None),
        thins => Ok(Some(thins?)),
    }
}

/// See [`crate::Command::Ls`]. Changes nothing.
pub fn list(config: &Config) -> Result<(), AnyError> {
    let Stopped { store, pool, _lock } = Stopped::look(config)?;
    let Some(record) = store.read(|r| r.pool())? else {
        return Err(format!(
            "the database {} knows no pool yet, so there is nothing to list",
            database(&config.root).display()
        )
        .into());
    };
    let names = DeviceNames::new(&config.name, &record.uuid);
    let mapped = pool.as_ref().map(thins).transpose()?.flatten().unwrap_or_default();
    let rows = store.read(|r| {
        let mut rows = Vec::new();
        for (_, template) in r.templates()? {
            rows.push(Row::new(
                "template",
                "(template)",
                None,
                Role::Template(template.thin),
                template.thin,
            ));
        }
        let mut after: Option<String> = None;
        loop {
            let page = r.page(after.as_deref(), 256)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, record) in page {
                let role = if record.kind == Kind::View {
                    Role::View(record.number)
                } else {
                    Role::Snapshot(record.number)
                };
                rows.push(Row::new(
                    record.kind.as_str(),
                    &key,
                    record.parent.as_deref(),
                    role,
                    record.thin,
                ));
            }
        }
        for entry in r.reclaims(None, usize::MAX)? {
            let (role, thin) = match entry.kind {
                ReclaimKind::Thin(thin) => (Role::Snapshot(entry.number), thin),
                ReclaimKind::View { of } => (Role::View(entry.number), of),
            };
            rows.push(Row::new("removed", &entry.key, None, role, thin));
        }
        Ok(rows)
    })?;
    println!("{:<10} {:<40} {:>8} {:>11} KEY < PARENT", "KIND", "DEVICE", "THIN", "MAPPED");
    for row in rows {
        row.print(&names, pool.as_ref(), &mapped);
    }
    Ok(())
}

/// A line of the list.
struct Row {
    kind: String,
    key: String,
    parent: Option<String>,
    role: Role,
    thin: ThinId,
}

impl Row {
    fn new(kind: &str, key: &str, parent: Option<&str>, role: Role, thin: ThinId) -> Row {
        Row { kind: kind.into(), key: key.into(), parent: parent.map(Into::into), role, thin }
    }

    /// A device that is not active is shown as `-`, and so is what cannot be known without the
    /// pool.
    fn print(&self, names: &DeviceNames, pool: Option<&Pool>, mapped: &BTreeMap<ThinId, u64>) {
        let active = pool.is_some_and(|pool| pool.info(self.role).is_ok_and(|info| info.is_some()));
        let device = if active { names.name(self.role).to_string() } else { "-".into() };
        let block = pool.map_or(0, |pool| pool.block_size().0 * 512);
        let bytes = mapped
            .get(&self.thin)
            .map_or("-".into(), |blocks| ByteSize(blocks * block).display().iec().to_string());
        let key = printable(&self.key);
        let parent = self
            .parent
            .as_ref()
            .map(|parent| format!(" < {}", printable(parent)))
            .unwrap_or_default();
        println!("{:<10} {device:<40} {:>8} {bytes:>11} {key}{parent}", self.kind, self.thin.get());
    }
}

/// A key may hold anything; a list has one line for each.
fn printable(key: &str) -> String {
    let escaped =
        |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    key.chars().map(escaped).collect()
}
