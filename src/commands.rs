//! What the program does besides serving: look at a stopped daemon's state, and put it right.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytesize::ByteSize;
use devmapper_snapshotter::block::RealDisks;
use devmapper_snapshotter::config::Config;
use devmapper_snapshotter::pool::{DeviceNames, Pool, Role};
use devmapper_snapshotter::snapshotter;
use devmapper_snapshotter::store::{Kind, ReclaimKind};
use devmapper_snapshotter::units::ThinId;

use crate::{database, open, parts, AnyError, Parts};

/// See [`crate::Command::Check`].
pub fn check(config: &Config, repair: bool) -> Result<(), AnyError> {
    if !database(config).exists() {
        return Err(format!("there is no database {}, so there is nothing to check", database(config).display()).into());
    }
    let mut left = findings(config)?;
    if repair {
        let swept = open(config)?.cleanup()?;
        println!(
            "repaired: what a start puts right; {} removals finished, {} still in use",
            swept.reclaimed, swept.busy
        );
        left = findings(config)?;
    }
    match left {
        0 => Ok(()),
        1 => Err("1 disagreement".into()),
        n => Err(format!("{n} disagreements").into()),
    }
}

/// Prints every disagreement; returns how many there are.
fn findings(config: &Config) -> Result<usize, AnyError> {
    let Parts { dm, store, backer, settings } = parts(config)?;
    let Some(pool) = Pool::attach(&settings, dm, Arc::clone(&store), backer)? else {
        let mut found = store.read(|r| r.check_indexes())?;
        found.extend(store.check_complete().err().map(|error| error.to_string()));
        found.iter().for_each(|what| println!("the database: {what}"));
        println!(
            "the pool is not assembled, as after a reboot; the next start assembles it. The database alone was checked"
        );
        return Ok(found.len());
    };
    let thins = pool.thins(&RealDisks)?.into_keys().collect();
    let found = snapshotter::check(&store, &pool, Some(&thins))?;
    found.iter().for_each(|finding| println!("{finding}"));
    let claim = pool.check_claim(&RealDisks)?;
    claim.iter().for_each(|what| println!("{what}"));
    let found = found.len() + usize::from(claim.is_some());
    for line in pool.company(&RealDisks)?.lines(pool.device_name()) {
        println!("note: {line}");
    }
    let unmapped = pool.unmapped(&RealDisks)?;
    if unmapped > 0 {
        println!(
            "note: {unmapped} of the pool's blocks are in use and no thin maps them: dm-thin leaves such blocks behind when the \
             power goes while it fills them, or the disk fails to. They do no harm; thin_repair, run on the metadata of the stopped pool, frees them"
        );
    }
    println!("{} thins in pool {}; {found} disagreements", thins.len(), pool.device_name());
    Ok(found)
}

/// See [`crate::Command::Ls`].
pub fn list(config: &Config) -> Result<(), AnyError> {
    if !database(config).exists() {
        return Err(format!("there is no database {}, so there is nothing to list", database(config).display()).into());
    }
    let Parts { dm, store, backer, settings } = parts(config)?;
    let Some(record) = store.read(|r| r.pool())? else {
        return Err("the database knows no pool yet".into());
    };
    let names = DeviceNames::new(&record.name, &record.uuid);
    let pool = Pool::attach(&settings, dm, Arc::clone(&store), backer)?;
    let mapped = match &pool {
        Some(pool) => pool.thins(&RealDisks)?,
        None => BTreeMap::new(),
    };
    let rows = store.read(|r| {
        let mut rows = Vec::new();
        for (_, template) in r.templates()? {
            rows.push(Row::new("template", "(template)", None, Role::Template(template.thin), template.thin));
        }
        let mut after: Option<String> = None;
        loop {
            let page = r.page(after.as_deref(), 256)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, record) in page {
                let role =
                    if record.kind == Kind::View { Role::View(record.number) } else { Role::Snapshot(record.number) };
                rows.push(Row::new(record.kind.as_str(), &key, record.parent.as_deref(), role, record.thin));
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

    /// A device that is not active is shown as `-`, and so is what cannot be known without the pool.
    fn print(&self, names: &DeviceNames, pool: Option<&Pool>, mapped: &BTreeMap<ThinId, u64>) {
        let active = pool.is_some_and(|pool| pool.info(self.role).is_ok_and(|info| info.is_some()));
        let device = if active { names.name(self.role).to_string() } else { "-".into() };
        let block = pool.map_or(0, |pool| pool.block_size().0 * 512);
        let bytes =
            mapped.get(&self.thin).map_or("-".into(), |blocks| ByteSize(blocks * block).display().iec().to_string());
        let parent = self.parent.as_ref().map(|parent| format!(" < {parent}")).unwrap_or_default();
        println!("{:<10} {device:<40} {:>8} {bytes:>11} {}{parent}", self.kind, self.thin.get(), self.key);
    }
}
