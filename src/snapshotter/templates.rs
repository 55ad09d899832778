//! Templates: mkfs runs once for each file system type, options and size. Base layers are snapshots
//! of what it made.
//!
//! A template is made on a thin that is not on record, and recorded when it is complete and on
//! disk. So a crash leaves no incomplete template. If it cannot be made (no free space, no mkfs),
//! the daemon serves without it, since snapshots with a parent do not need it. The next snapshot
//! without a parent tries again.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::error::{During, Subject};
use super::maker::Failure;
use super::shared::Shared;
use super::undo::undone;
use super::Error;
use crate::block::Access;
use crate::pool::{IdGuard, Role};
use crate::store::{SnapshotRecord, TemplateKey, TemplateRecord};

/// The template that the settings ask for. It is made now if there is none yet.
pub fn template(shared: &Shared) -> Result<TemplateRecord, Error> {
    let (key, came) = (key(shared), Instant::now());
    if let Some(record) = shared.store.read(|r| r.template(&key))? {
        return Ok(record);
    }
    let mut failure = shared.maker.lock();
    // Another thread may have made it meanwhile, or found that it cannot be made.
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

/// Makes the template at the start, so that the operator sees at once what is wrong.
///
/// # Errors
/// For settings with which it can never be made, and where the database has failed. Other errors
/// are logged.
pub fn at_start(shared: &Shared) -> Result<(), Error> {
    match template(shared) {
        Ok(_) => Ok(()),
        Err(error) if error.needs_restart() || error.is_misconfiguration() => Err(error),
        Err(error @ Error::Template { .. }) => {
            tracing::error!(
                %error,
                "serving without it; layers without a parent are refused until it can be made"
            );
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Inodes in use in the empty file system that a layer without a parent was made from. The answer
/// is what was recorded with its template, or with another template of the same type if the
/// settings have changed since. No template is made.
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
    shared.must_have_space(fs, size)?;
    let started = Instant::now();
    let (thin, record) = make_thin(shared)?;
    if let Err(error) = shared.store.commit(|c| c.put_template(key, &record)) {
        // It may be on record all the same. The next start finds out.
        thin.stay_leased();
        return Err(error.into());
    }
    drop(thin);
    tracing::info!(
        thin = %record.thin,
        mapped = record.mapped,
        took = ?started.elapsed(),
        "made the template for {what}"
    );
    Ok(record)
}

/// Makes a thin with an empty file system. It is not on record yet and has no device.
fn make_thin(shared: &Shared) -> Result<(IdGuard<'_>, TemplateRecord), Error> {
    let (fs, size) = (shared.settings.fs.fs_type, shared.settings.base_image_size);
    let thin = shared.pool.create(None).during(Subject::Template, "has no thin")?;
    let role = Role::Template(thin.get());
    // mkfs only says "Input/output error" of a full pool. Undoing frees the space again.
    let made =
        format(shared, role, &thin).map_err(|error| match shared.must_have_space(fs, size) {
            Err(full @ Error::NoSpace { .. }) => full,
            _ => error,
        });
    let gone = shared.pool.deactivate(role).during(Subject::Template, "keeps its device");
    let (mapped, inodes) = match (made, gone) {
        (Ok(measured), Ok(())) => measured,
        (Err(error), _) | (_, Err(error)) => {
            let undo = shared.pool.take_back(thin);
            return Err(undone(error, undo.during(Subject::Template, "left its thin behind")));
        }
    };
    let record = TemplateRecord {
        number: thin.get().get().into(),
        thin: thin.get(),
        size,
        mapped: Some(mapped),
        inodes: Some(inodes),
        created_at: SystemTime::now(),
    };
    Ok((thin, record))
}

/// Makes the file system, and measures what it maps and the inodes it uses.
fn format(shared: &Shared, role: Role, thin: &IdGuard<'_>) -> Result<(u64, u64), Error> {
    const IT: Subject = Subject::Template;
    let (spec, size) = (&shared.settings.fs, shared.settings.base_image_size);
    let active = shared.pool.activate(role, thin.get(), size, false);
    let node = active.during(IT, "has no device")?;
    shared.formatter.format(&node, spec, size).during(IT, "cannot be formatted")?;
    let flushed = shared.disks.open(&node, Access::Read).and_then(|disk| disk.flush());
    flushed.during(IT, "cannot be flushed")?;
    let state = shared.formatter.inspect(&node, spec.fs_type).during(IT, "cannot be measured")?;
    Ok((shared.pool.mapped(role).during(IT, "cannot be measured")?, state.used_inodes))
}
