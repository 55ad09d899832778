//! Templates: mkfs runs once for each file system type, options and size; base layers are snapshots
//! of what it made.
//!
//! A template is made on an unrecorded thin and recorded when it is whole and on disk, so a crash
//! leaves nothing half made. Where it cannot be made (no room, no mkfs), the daemon serves all the
//! same: all that stands on a parent needs none. It is made by the next that does.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::create::undone;
use super::error::{During, Subject};
use super::{Error, Shared};
use crate::block::Access;
use crate::pool::{IdGuard, Role};
use crate::store::{SnapshotRecord, TemplateKey, TemplateRecord};

/// Lets one at a time make a template, and remembers how the last try failed, for those who waited
/// for it.
#[derive(Debug, Default)]
pub struct Maker(Mutex<Option<Failure>>);

#[derive(Debug)]
struct Failure {
    at: Instant,
    source: Arc<Error>,
}

/// The template that the settings ask for; made now if there is none yet.
pub fn template(shared: &Shared) -> Result<TemplateRecord, Error> {
    let (key, came) = (key(shared), Instant::now());
    if let Some(record) = shared.store.read(|r| r.template(&key))? {
        return Ok(record);
    }
    let mut failure = shared.maker.0.lock().unwrap_or_else(|e| e.into_inner());
    // Somebody else may have made it meanwhile, or have found that it cannot be.
    if let Some(record) = shared.store.read(|r| r.template(&key))? {
        return Ok(record);
    }
    let what = format!("{} of {}", key.fs, key.size.to_text());
    if let Some(Failure { at, source }) = &*failure {
        if *at > came {
            return Err(Error::Template { what, source: Arc::clone(source) });
        }
    }
    make(shared, &key, &what).map_err(|error| {
        let source = Arc::new(error);
        *failure = Some(Failure { at: Instant::now(), source: Arc::clone(&source) });
        Error::Template { what, source }
    })
}

/// Makes sure of the template, so that what is wrong shows at the start.
///
/// # Errors
/// For settings with which there never can be one, and where the database has failed. Everything
/// else is logged.
pub fn at_start(shared: &Shared) -> Result<(), Error> {
    match template(shared) {
        Ok(_) => Ok(()),
        Err(error) if error.needs_restart() || error.is_misconfiguration() => Err(error),
        Err(error @ Error::Template { .. }) => {
            tracing::error!(%error, "serving without it; layers without a parent are refused until it can be made");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Inodes that the empty file system of a layer without a parent has in use: what was recorded of
/// its template, or of one of the same type where the settings have changed since. Makes none.
pub fn empty_inodes(shared: &Shared, record: &SnapshotRecord) -> Result<u64, Error> {
    let now = key(shared);
    let templates = shared.store.read(|r| r.templates())?;
    let alike = templates.iter().filter(|(key, _)| key.fs == record.fs);
    let best = alike
        .max_by_key(|(key, template)| (*key == now, key.size == record.size, template.created_at));
    Ok(best.and_then(|(_, template)| template.inodes).unwrap_or(0))
}

fn key(shared: &Shared) -> TemplateKey {
    let settings = &shared.settings;
    TemplateKey {
        fs: settings.fs.fs_type.to_string(),
        options: settings.fs.digest(),
        size: settings.base_image_size,
    }
}

fn make(shared: &Shared, key: &TemplateKey, what: &str) -> Result<TemplateRecord, Error> {
    let (fs, size) = (shared.settings.fs.fs_type, key.size);
    shared.must_be_bearable(fs, size)?;
    shared.must_have_room(fs, size)?;
    let started = Instant::now();
    let (thin, record) = format(shared)?;
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
    let made =
        shared.pool.activate(role, thin.get(), size, false).during(IT, "has no device").and_then(
            |node| {
                shared
                    .formatter
                    .format(&node, &shared.settings.fs, size)
                    .during(IT, "cannot be formatted")?;
                shared
                    .disks
                    .open(&node, Access::Read)
                    .and_then(|disk| disk.flush())
                    .during(IT, "cannot be flushed")?;
                let state = shared
                    .formatter
                    .inspect(&node, shared.settings.fs.fs_type)
                    .during(IT, "cannot be measured")?;
                Ok((shared.pool.mapped(role).during(IT, "cannot be measured")?, state.used_inodes))
            },
        );
    // mkfs says no more than "Input/output error" of a full pool; undoing makes room again.
    let made =
        made.map_err(|error| match shared.must_have_room(shared.settings.fs.fs_type, size) {
            Err(full @ Error::NoRoom { .. }) => full,
            _ => error,
        });
    let gone = shared.pool.deactivate(role).during(IT, "keeps its device");
    let (mapped, inodes) = match (made, gone) {
        (Ok(measured), Ok(())) => measured,
        (Err(error), _) | (_, Err(error)) => {
            return Err(undone(
                error,
                shared.pool.take_back(thin).during(IT, "left its thin behind"),
            ));
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
