//! The commands besides serving: `ls`, `check` and `check --repair`, for a stopped daemon.

use std::collections::BTreeMap;

use devmapper_snapshotter::config::Config;
use devmapper_snapshotter::pool::{DeviceNames, MetadataError, Pool, PoolError, Role};
use devmapper_snapshotter::snapshotter;
use devmapper_snapshotter::store::{Kind, ReclaimKind, Store, StoreError};
use devmapper_snapshotter::units::{bytes_text, ThinId};
use devmapper_snapshotter::wiring::{database, device_mapper, Opened, StateDirectory, Stopped};

pub type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// `check`: lists every disagreement between database, pool and devices. Changes nothing.
pub fn check(config: &Config) -> Result<(), AnyError> {
    let stopped = Stopped::look(config)?;
    verdict(findings(&stopped.store, stopped.pool.as_ref())?)
}

/// `check --repair`: lists the disagreements, does what a start of the daemon does, and lists what
/// is left.
pub fn repair(config: &Config) -> Result<(), AnyError> {
    let dm = device_mapper()?;
    // The state directory must exist: a repair does not make one.
    drop(StateDirectory::look(&config.root)?);
    let _state = StateDirectory::own(&config.root)?;
    let before = Stopped::read(config, dm.clone())?;
    findings(&before.store, before.pool.as_ref())?;
    drop(before);
    let Opened { store, pool, snapshotter } = Opened::open(config, dm)?;
    let swept = snapshotter.cleanup()?;
    snapshotter.stop_reclaiming();
    println!(
        "repaired: what a start puts right; {} removals finished, {} still in use",
        swept.reclaimed, swept.busy
    );
    // Removals that hang keep the database open, so it is not opened a second time here.
    verdict(findings(&store, Some(&pool))?)
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
            "note: {unmapped} of the pool's blocks are in use and no thin maps them: \
             dm-thin leaves such blocks behind when the power goes while it fills them, or when \
             the disk cannot fill them. They do no harm; thin_repair, run on the metadata of the \
             stopped pool, frees them"
        ),
        Err(error) => {
            println!("note: blocks that are in use and no thin maps were not looked for: {error}")
        }
    }
    let pool = pool.device_name();
    match &thins {
        Some(thins) => println!("{} thins in pool {pool}; {found} disagreements", thins.len()),
        None => println!(
            "thins were not compared, since pool {pool} is written to faster than its metadata can \
             be read; {found} disagreements"
        ),
    }
    Ok(found)
}

/// The thins in the pool, each with the number of blocks that it maps. `None` if the pool is
/// written to faster than its metadata can be read.
fn thins(pool: &Pool) -> Result<Option<BTreeMap<ThinId, u64>>, AnyError> {
    match pool.thins() {
        Err(PoolError::Metadata { source: MetadataError::Changing, .. }) => Ok(None),
        thins => Ok(Some(thins?)),
    }
}

/// `ls`: lists every snapshot, template and removal under way. Changes nothing.
pub fn list(config: &Config) -> Result<(), AnyError> {
    let stopped = Stopped::look(config)?;
    let (store, pool) = (&stopped.store, &stopped.pool);
    let Some(record) = store.read(|r| r.pool())? else {
        return Err(format!(
            "the database {} knows no pool yet, so there is nothing to list",
            database(&config.root).display()
        )
        .into());
    };
    let names = DeviceNames::new(&config.name, &record.uuid);
    let mapped = pool.as_ref().map(thins).transpose()?.flatten().unwrap_or_default();
    let rows = rows(store)?;
    println!("{:<10} {:<40} {:>8} {:>11} KEY < PARENT", "KIND", "DEVICE", "THIN", "MAPPED");
    for row in rows {
        row.print(&names, pool.as_ref(), &mapped);
    }
    Ok(())
}

fn rows(store: &Store) -> Result<Vec<Row>, StoreError> {
    store.read(|r| {
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
    })
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

    /// A `-` stands for a device that is not active, and for what is not known without the pool.
    fn print(&self, names: &DeviceNames, pool: Option<&Pool>, mapped: &BTreeMap<ThinId, u64>) {
        let active = pool.is_some_and(|pool| pool.info(self.role).is_ok_and(|info| info.is_some()));
        let device = if active { names.name(self.role).to_string() } else { "-".into() };
        let block = pool.map_or(0, |pool| pool.block_size().0 * 512);
        let bytes = mapped.get(&self.thin).map_or("-".into(), |blocks| bytes_text(blocks * block));
        let key = printable(&self.key);
        let parent = self
            .parent
            .as_ref()
            .map(|parent| format!(" < {}", printable(parent)))
            .unwrap_or_default();
        println!("{:<10} {device:<40} {:>8} {bytes:>11} {key}{parent}", self.kind, self.thin.get());
    }
}

/// A key can contain control characters; they are escaped, so that each key takes one line.
fn printable(key: &str) -> String {
    let escaped =
        |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    key.chars().map(escaped).collect()
}
