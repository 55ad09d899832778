//! The verbs that make, change and take away devices, in terms of names, tables and typed errors.
//!
//! [`Dm`] turns a verb into requests and hands them to a [`Kernel`]. What is asked of devices is in
//! [`queries`](super::queries), what concerns thin pools in [`thin`](super::thin), nodes and udev
//! in [`present`](super::present). It must not know which kernel it talks to.

use std::sync::Arc;

use super::error::Result;
use super::info::{DeviceInfo, Removal};
use super::present::Settings;
use super::reply::Reply;
use super::request::{Payload, Request, TargetLine};
use super::table::Target;
use super::verb::{Flags, Verb};
#[cfg(doc)]
use super::Error;
use super::{explain, Kernel};
use crate::names::{DmName, DmUuid};
use crate::units::Sectors;

/// How a device is activated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ActivateOptions {
    /// Writes fail with EPERM.
    pub read_only: bool,
    /// The minor number it gets, at most [`MAX_MINOR`]; by default the kernel takes the lowest free
    /// one, which is often the one that was given back last.
    pub minor: Option<u32>,
}

/// The largest minor number: the kernel has 20 bits for it (`MINORBITS` in linux/kdev_t.h).
pub const MAX_MINOR: u32 = (1 << 20) - 1;

/// How a table is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadOptions {
    /// Writes fail with EPERM once the table is in place.
    pub read_only: bool,
    /// The table holds a secret (a key of dm-crypt): kernel and library wipe their copies of it.
    pub secure: bool,
}

impl LoadOptions {
    fn flags(self) -> Flags {
        Flags::NONE
            .with_if(self.read_only, Flags::READ_ONLY)
            .with_if(self.secure, Flags::SECURE_DATA)
    }
}

/// How a device is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SuspendOptions {
    /// Do not wait for I/O that is queued inside the target.
    pub no_flush: bool,
    /// Do not freeze the file system that is mounted from it. What is written meanwhile waits, but
    /// what the file system holds back is not written first.
    pub skip_lockfs: bool,
}

/// Device-mapper's verbs over one kernel. Cheap to clone; all methods block and can be called from
/// any number of threads.
#[derive(Debug, Clone)]
pub struct Dm {
    kernel: Arc<dyn Kernel>,
    settings: Arc<Settings>,
}

impl Dm {
    /// The verbs over `kernel`.
    #[must_use]
    pub fn new(kernel: Arc<dyn Kernel>, settings: Settings) -> Dm {
        Dm { kernel, settings: Arc::new(settings) }
    }

    /// The kernel that all requests go to.
    #[must_use]
    pub fn kernel(&self) -> &Arc<dyn Kernel> {
        &self.kernel
    }

    /// How devices are presented.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn submit(&self, request: &Request) -> Result<Reply> {
        let result = self.kernel.submit(request);
        if let Err(error) = &result {
            tracing::debug!(%request, %error, "device-mapper request failed");
        }
        result
    }

    pub(super) fn named(&self, verb: Verb, name: &DmName) -> Request {
        Request::new(verb).name(name.clone())
    }

    /// Makes a device without a table (`DM_DEV_CREATE`). It has a number and a node; all I/O on it
    /// fails.
    ///
    /// # Errors
    /// [`Error::NameOrUuidInUse`] (EBUSY).
    pub fn create(&self, name: &DmName, uuid: Option<&DmUuid>) -> Result<DeviceInfo> {
        let info = self.create_device(name, uuid, None)?;
        match self.make_node(name, info.device) {
            Ok(()) => Ok(info),
            Err(error) => Err(error.after_rollback(self.remove(name))),
        }
    }

    fn create_device(
        &self,
        name: &DmName,
        uuid: Option<&DmUuid>,
        minor: Option<u32>,
    ) -> Result<DeviceInfo> {
        let mut request = self.named(Verb::Create, name);
        if let Some(uuid) = uuid {
            request = request.create_uuid(uuid.clone());
        }
        if let Some(minor) = minor {
            request = request.minor(minor);
        }
        let reply = self.submit(&request)?;
        DeviceInfo::from_header(Verb::Create, &reply.header)
    }

    /// Makes a device with this table and starts it: create, load, resume, one request each. When a
    /// step fails, what was made is removed again.
    ///
    /// # Errors
    /// [`Error::NameOrUuidInUse`] (EBUSY); [`Error::MinorInUse`] (ENXIO), [`Error::Codec`] for a
    /// minor number above [`MAX_MINOR`]; [`Error::NoSuchThin`] (ENODATA), [`Error::TableTooLong`],
    /// [`Error::WrongPool`], [`Error::PoolSuspended`], [`Error::TargetMissing`],
    /// [`Error::BackingDeviceMissing`] and [`Error::TableRefused`] (EINVAL). [`Error::Rollback`]
    /// when the removal failed as well.
    pub fn activate(
        &self,
        name: &DmName,
        uuid: Option<&DmUuid>,
        table: &[Target],
        options: ActivateOptions,
    ) -> Result<DeviceInfo> {
        self.create_device(name, uuid, options.minor)?;
        let started = self
            .load_into(
                name,
                table,
                LoadOptions { read_only: options.read_only, secure: false },
                true,
            )
            .and_then(|_| self.resume_reply(name))
            .and_then(|reply| DeviceInfo::from_header(Verb::Resume, &reply.header))
            .and_then(|info| self.make_node(name, info.device).map(|()| info));
        started.map_err(|error| error.after_rollback(self.remove(name)))
    }

    /// Loads a table into the inactive slot (`DM_TABLE_LOAD`); the next resume puts it in place.
    /// For a device that has a live table, that resume is also when the kernel looks whether the
    /// devices below are large enough.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO), and those about tables of [`Dm::activate`].
    pub fn load(&self, name: &DmName, table: &[Target]) -> Result<DeviceInfo> {
        self.load_into(name, table, LoadOptions::default(), false)
    }

    /// [`Dm::load`], read-only or with a secret in the table.
    ///
    /// # Errors
    /// As [`Dm::load`].
    pub fn load_with(
        &self,
        name: &DmName,
        table: &[Target],
        options: LoadOptions,
    ) -> Result<DeviceInfo> {
        self.load_into(name, table, options, false)
    }

    /// `exists` says that the device is known to be there, so that ENXIO is about a device below.
    fn load_into(
        &self,
        name: &DmName,
        table: &[Target],
        options: LoadOptions,
        exists: bool,
    ) -> Result<DeviceInfo> {
        let lines = table.iter().map(Target::to_line).collect();
        let reply = self
            .submit(&self.load_request(name, lines, options))
            .map_err(|error| explain::load_error(self, name, table, exists, error))?;
        DeviceInfo::from_header(Verb::Load, &reply.header)
    }

    fn load_request(&self, name: &DmName, lines: Vec<TargetLine>, options: LoadOptions) -> Request {
        self.named(Verb::Load, name).flags(options.flags()).payload(Payload::Table(lines))
    }

    /// Stops I/O (`DM_DEV_SUSPEND`): what is under way is waited for, what comes later waits.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO). EINVAL when it has been suspended by somebody else at the
    /// same time.
    pub fn suspend(&self, name: &DmName, options: SuspendOptions) -> Result<DeviceInfo> {
        let flags = Flags::NONE
            .with_if(options.no_flush, Flags::NO_FLUSH)
            .with_if(options.skip_lockfs, Flags::SKIP_LOCKFS);
        let reply = self.submit(&self.named(Verb::Suspend, name).flags(flags))?;
        DeviceInfo::from_header(Verb::Suspend, &reply.header)
    }

    /// Starts I/O (`DM_DEV_SUSPEND` without the flag), with the table of the inactive slot if there
    /// is one. A device that is not suspended stays as it is.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO).
    pub fn resume(&self, name: &DmName) -> Result<DeviceInfo> {
        let reply = self.resume_reply(name)?;
        let info = DeviceInfo::from_header(Verb::Resume, &reply.header)?;
        self.make_node(name, info.device)?;
        Ok(info)
    }

    fn resume_reply(&self, name: &DmName) -> Result<Reply> {
        self.submit_event(self.named(Verb::Resume, name))
    }

    /// Gives a running device another table: load, suspend, resume. Whatever fails, the device is
    /// not left suspended: the table it had is put back.
    ///
    /// # Errors
    /// Those of [`Dm::load`] and [`Dm::resume`]; [`Error::Rollback`] when the old table could not
    /// be put back.
    pub fn reload(&self, name: &DmName, table: &[Target]) -> Result<DeviceInfo> {
        let old = self.table_lines(name)?;
        let read_only = self.info(name)?.is_some_and(|info| info.read_only);
        let options = LoadOptions { read_only, secure: false };
        self.load_into(name, table, options, true)?;
        if let Err(error) = self.suspend(name, SuspendOptions::default()) {
            return Err(error.after_rollback(self.clear(name).map(drop)));
        }
        self.resume(name).map_err(|error| {
            let error = explain::resume_error(self, name, table, error);
            error.after_rollback(self.put_back(name, old, options))
        })
    }

    /// Loads the table that a device had and starts it; one that had none is left without.
    fn put_back(&self, name: &DmName, old: Vec<TargetLine>, options: LoadOptions) -> Result<()> {
        if old.is_empty() {
            return self.clear(name).map(drop);
        }
        self.submit(&self.load_request(name, old, options))?;
        self.resume(name).map(drop)
    }

    /// Empties the inactive slot (`DM_TABLE_CLEAR`).
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO).
    pub fn clear(&self, name: &DmName) -> Result<DeviceInfo> {
        let reply = self.submit(&self.named(Verb::Clear, name))?;
        DeviceInfo::from_header(Verb::Clear, &reply.header)
    }

    /// Gives a device another name (`DM_DEV_RENAME`), and its node with it.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO), [`Error::NameOrUuidInUse`] (EBUSY).
    pub fn rename(&self, name: &DmName, new: &DmName) -> Result<()> {
        self.submit_event(
            self.named(Verb::Rename, name).payload(Payload::Text(new.as_str().to_owned())),
        )?;
        self.rename_node(name, new)
    }

    /// Gives a device that has no uuid its uuid, for good (`DM_DEV_RENAME` with the uuid flag).
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO), [`Error::NameOrUuidInUse`] (EBUSY),
    /// [`Error::UuidAlreadySet`] (EINVAL).
    pub fn set_uuid(&self, name: &DmName, uuid: &DmUuid) -> Result<()> {
        let request = self
            .named(Verb::Rename, name)
            .flags(Flags::UUID)
            .payload(Payload::Text(uuid.as_str().to_owned()));
        self.submit_event(request).map(drop)
    }

    /// Takes a device away (`DM_DEV_REMOVE`). That it succeeds proves that nobody had it open.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO), [`Error::Busy`] (EBUSY).
    pub fn remove(&self, name: &DmName) -> Result<()> {
        self.submit_event(self.named(Verb::Remove, name))?;
        self.forget_node(name)
    }

    /// Takes a device away now, or when its last user closes it. Meanwhile it can be opened again,
    /// which puts the removal off further. After a deferred removal the name is free some
    /// milliseconds before the thin below it can be deleted. Kernel 3.13 and later.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO).
    pub fn remove_deferred(&self, name: &DmName) -> Result<Removal> {
        let reply =
            self.submit_event(self.named(Verb::Remove, name).flags(Flags::DEFERRED_REMOVE))?;
        if reply.header.flags.contains(Flags::DEFERRED_REMOVE) {
            return Ok(Removal::Deferred);
        }
        self.forget_node(name)?;
        Ok(Removal::Done)
    }

    /// Takes a deferred removal back.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO), [`Error::Busy`] (EBUSY) when it is being removed already.
    pub fn cancel_deferred_remove(&self, name: &DmName) -> Result<()> {
        self.message(name, Sectors::ZERO, "@cancel_deferred_remove").map(drop)
    }
}
