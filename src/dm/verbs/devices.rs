//! The verbs that make, change and remove devices.

use super::client::Dm;
use super::explain;
use super::info::{DeviceInfo, Removal};
use super::options::{ActivateOptions, LoadOptions, SuspendOptions};
#[cfg(doc)]
use crate::dm::error::Error;
use crate::dm::error::Result;
use crate::dm::interface::{Flags, Verb};
use crate::dm::text::{Target, TargetLine};
#[cfg(doc)]
use crate::dm::wire::MAX_MINOR;
use crate::dm::wire::{Payload, Reply, Request, Selector};
use crate::names::{DmName, DmUuid};
use crate::units::Sectors;

impl Dm {
    /// Makes a device without a table (`DM_DEV_CREATE`). It has a number and a node. All I/O on it
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
        let mut request = Request::new(Verb::Create).device(name);
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
    /// step fails, the device is removed again.
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
        let device = Selector::from(name);
        let started = self
            .load_new(&device, table, LoadOptions { read_only: options.read_only })
            .and_then(|_| self.resume(name));
        started.map_err(|error| error.after_rollback(self.remove(name)))
    }

    /// Loads a table into the inactive slot (`DM_TABLE_LOAD`). The next resume puts it in place.
    /// For a device that has a live table, the kernel checks the sizes of the devices below only at
    /// that resume.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO), and those about tables of [`Dm::activate`].
    pub fn load(
        &self,
        device: impl Into<Selector>,
        table: &[Target],
        options: LoadOptions,
    ) -> Result<DeviceInfo> {
        let device = device.into();
        let lines = table.iter().map(Target::to_line).collect();
        self.load_lines(&device, lines, options).map_err(|error| {
            let exists = || matches!(self.info(&device), Ok(Some(_)));
            explain::load_error(self, &device, table, exists, error)
        })
    }

    /// Loads a table into a device that is known to exist: ENXIO is about a device below.
    fn load_new(
        &self,
        device: &Selector,
        table: &[Target],
        options: LoadOptions,
    ) -> Result<DeviceInfo> {
        let lines = table.iter().map(Target::to_line).collect();
        self.load_lines(device, lines, options)
            .map_err(|error| explain::load_error(self, device, table, || true, error))
    }

    fn load_lines(
        &self,
        device: &Selector,
        lines: Vec<TargetLine>,
        options: LoadOptions,
    ) -> Result<DeviceInfo> {
        let flags = Flags::NONE.with_if(options.read_only, Flags::READ_ONLY);
        let request =
            Request::new(Verb::Load).device(device).flags(flags).payload(Payload::Table(lines));
        DeviceInfo::from_header(Verb::Load, &self.submit(&request)?.header)
    }

    /// Stops I/O (`DM_DEV_SUSPEND`): what is under way is waited for, what comes later waits.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO). EINVAL when another process suspends it at the same time.
    pub fn suspend(
        &self,
        device: impl Into<Selector>,
        options: SuspendOptions,
    ) -> Result<DeviceInfo> {
        let flags = Flags::NONE
            .with_if(options.no_flush, Flags::NO_FLUSH)
            .with_if(options.skip_lockfs, Flags::SKIP_LOCKFS);
        let reply = self.submit(&Request::new(Verb::Suspend).device(device).flags(flags))?;
        DeviceInfo::from_header(Verb::Suspend, &reply.header)
    }

    /// Starts I/O (`DM_DEV_SUSPEND` without the flag), with the table of the inactive slot if there
    /// is one. A device that is not suspended stays as it is.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO).
    pub fn resume(&self, device: impl Into<Selector>) -> Result<DeviceInfo> {
        let reply = self.submit_event(Request::new(Verb::Resume).device(device))?;
        let info = DeviceInfo::from_header(Verb::Resume, &reply.header)?;
        self.make_node(&info.name, info.device)?;
        Ok(info)
    }

    /// Gives a running device another table: load, suspend, resume. It stays read-only or writable.
    /// When a step fails, the device is not left suspended: it gets its old table back.
    ///
    /// # Errors
    /// Those of [`Dm::load`] and [`Dm::resume`]; [`Error::Rollback`] when the old table could not
    /// be put back.
    pub fn reload(&self, device: impl Into<Selector>, table: &[Target]) -> Result<DeviceInfo> {
        let device = device.into();
        let old = self.table_lines(&device)?;
        let read_only = self.info(&device)?.is_some_and(|info| info.read_only);
        let options = LoadOptions { read_only };
        self.load_new(&device, table, options)?;
        if let Err(error) = self.suspend(&device, SuspendOptions::default()) {
            return Err(error.after_rollback(self.clear(&device).map(drop)));
        }
        self.resume(&device).map_err(|error| {
            let error = explain::resume_error(self, &device, table, error);
            error.after_rollback(self.put_back(&device, old, options))
        })
    }

    /// Loads the table that a device had and starts it. A device that had none gets none.
    fn put_back(
        &self,
        device: &Selector,
        old: Vec<TargetLine>,
        options: LoadOptions,
    ) -> Result<()> {
        if old.is_empty() {
            return self.clear(device).map(drop);
        }
        self.load_lines(device, old, options)?;
        self.resume(device).map(drop)
    }

    /// Empties the inactive slot (`DM_TABLE_CLEAR`).
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO).
    pub fn clear(&self, device: impl Into<Selector>) -> Result<DeviceInfo> {
        let reply = self.submit(&Request::new(Verb::Clear).device(device))?;
        DeviceInfo::from_header(Verb::Clear, &reply.header)
    }

    /// Gives a device another name (`DM_DEV_RENAME`), and its node with it.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO), [`Error::NameOrUuidInUse`] (EBUSY).
    pub fn rename(&self, name: &DmName, new: &DmName) -> Result<()> {
        let payload = Payload::Text(new.as_str().to_owned());
        self.submit_event(Request::new(Verb::Rename).device(name).payload(payload))?;
        self.rename_node(name, new)
    }

    /// Gives a device that has no uuid its uuid, for good (`DM_DEV_RENAME` with the uuid flag).
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO), [`Error::NameOrUuidInUse`] (EBUSY),
    /// [`Error::UuidAlreadySet`] (EINVAL).
    pub fn set_uuid(&self, name: &DmName, uuid: &DmUuid) -> Result<()> {
        let payload = Payload::Text(uuid.as_str().to_owned());
        let request = Request::new(Verb::Rename).device(name).flags(Flags::UUID).payload(payload);
        self.submit_event(request).map(drop)
    }

    /// Removes a device (`DM_DEV_REMOVE`). Success proves that nothing had it open.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO), [`Error::Busy`] (EBUSY).
    pub fn remove(&self, device: impl Into<Selector>) -> Result<()> {
        let device = device.into();
        let reply = self.submit_event(Request::new(Verb::Remove).device(&device))?;
        self.forget_node(&device, &reply)
    }

    /// Removes a device now, or when its last user closes it. Until then it can be opened again,
    /// which delays the removal further. After a removal that was deferred, the name is free some
    /// milliseconds before what the device stood on: [`Dm::wait_removed`] waits for both.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO).
    pub fn remove_deferred(&self, device: impl Into<Selector>) -> Result<Removal> {
        let device = device.into();
        let request = Request::new(Verb::Remove).device(&device).flags(Flags::DEFERRED_REMOVE);
        let reply = self.submit_event(request)?;
        if reply.header.flags.contains(Flags::DEFERRED_REMOVE) {
            return Ok(Removal::Deferred);
        }
        self.forget_node(&device, &reply)?;
        Ok(Removal::Done)
    }

    /// Cancels a deferred removal.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO), [`Error::Busy`] (EBUSY) when it is being removed already.
    pub fn cancel_deferred_remove(&self, device: impl Into<Selector>) -> Result<()> {
        self.message(device, Sectors::ZERO, "@cancel_deferred_remove").map(drop)
    }

    /// Removes the node of a device that has been removed. Its name is in the reply where the
    /// caller named the device by something else (`__find_device_hash_cell` in
    /// drivers/md/dm-ioctl.c).
    fn forget_node(&self, device: &Selector, reply: &Reply) -> Result<()> {
        match device {
            Selector::Name(name) => self.remove_node(name),
            _ => match DmName::new(reply.header.name.as_str()) {
                Ok(name) => self.remove_node(&name),
                Err(_) => Ok(()),
            },
        }
    }
}
