//! Templates: mkfs runs once for each file system type, options and size; base layers are snapshots of what it made.
//!
//! A template is made on an unrecorded thin and recorded when it is whole and on disk, so a crash leaves nothing half made.

use bytesize::ByteSize;

use super::create::undone;
use super::error::{During, Subject};
use super::{Error, Shared};
use crate::block::Access;
use crate::pool::{IdGuard, Role};
use crate::store::{TemplateKey, TemplateRecord};

/// The template that the settings ask for; made now if there is none yet.
pub fn template(shared: &Shared) -> Result<TemplateRecord, Error> {
    let settings = &shared.settings;
    let key = TemplateKey {
        fs: settings.fs.fs_type.to_string(),
        options: settings.fs.digest(),
        size: settings.base_image_size,
    };
    match shared.store.read(|r| r.template(&key))? {
        Some(record) => Ok(record),
        None => make(shared, &key),
    }
}

fn make(shared: &Shared, key: &TemplateKey) -> Result<TemplateRecord, Error> {
    let what = format!("{} of {}", key.fs, ByteSize(key.size.0.saturating_mul(512)).display().iec());
    let started = std::time::Instant::now();
    let record = format(shared).map_err(|source| Error::Template { what: what.clone(), source: Box::new(source) })?;
    let (thin, record) = record;
    if let Err(error) = shared.store.commit(|c| c.put_template(key, &record)) {
        // It may be on record all the same; the next start knows.
        thin.stay_leased();
        return Err(error.into());
    }
    drop(thin);
    tracing::info!(thin = %record.thin, mapped = record.mapped, took = ?started.elapsed(), "made the template for {what}");
    Ok(record)
}

fn format(shared: &Shared) -> Result<(IdGuard<'_>, TemplateRecord), Error> {
    const IT: Subject = Subject::Template;
    let size = shared.settings.base_image_size;
    let thin = shared.pool.create(None).during(IT, "has no thin")?;
    let role = Role::Template(thin.get());
    let made = shared.pool.activate(role, thin.get(), size, false).during(IT, "has no device").and_then(|node| {
        shared.formatter.format(&node, &shared.settings.fs, size).during(IT, "cannot be formatted")?;
        shared.disks.open(&node, Access::Read).and_then(|disk| disk.flush()).during(IT, "cannot be flushed")?;
        let state = shared.formatter.inspect(&node, shared.settings.fs.fs_type).during(IT, "cannot be measured")?;
        Ok((shared.pool.mapped(role).during(IT, "cannot be measured")?, state.used_inodes))
    });
    let gone = shared.pool.deactivate(role).during(IT, "keeps its device");
    let (mapped, inodes) = match (made, gone) {
        (Ok(measured), Ok(())) => measured,
        (Err(error), _) | (_, Err(error)) => {
            return Err(undone(error, shared.pool.take_back(thin).during(IT, "left its thin behind")));
        }
    };
    let record = TemplateRecord {
        number: thin.get().get().into(),
        thin: thin.get(),
        size,
        mapped: Some(mapped),
        inodes: Some(inodes),
        created_at: std::time::SystemTime::now(),
    };
    Ok((thin, record))
}
