//! The verbs: what can be done to devices, in terms of names, tables and typed errors.
//!
//! [`Dm`] turns a verb into requests, hands them to a [`Kernel`] and looks after the device nodes. What
//! concerns thin pools is in [`thin`](super::thin). It must not know which kernel it talks to.

use std::path::PathBuf;
use std::sync::Arc;

use super::error::{Error, Result};
use super::info::{DeviceInfo, ListedDevice, Removal};
use super::nodes::{NodeDir, Swept};
use super::request::{
    DriverVersion, Flags, Payload, Reply, ReplyData, Request, Selector, TargetLine, TargetVersion, Verb,
};
use super::status::TargetStatus;
use super::table::{TableError, Target};
use super::udev::{EventCookie, UdevFlags};
use super::{explain, Kernel};
use crate::names::{DmName, DmUuid};
use crate::units::{DeviceNumber, Sectors};

/// Who looks after the nodes under `/dev/mapper`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NodePolicy {
    /// This library makes, renames and removes them.
    #[default]
    Manage,
    /// Somebody else, or nobody.
    Leave,
}

/// How devices are presented to the rest of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the nodes are; `/dev/mapper`.
    pub node_dir: PathBuf,
    /// Who looks after them.
    pub nodes: NodePolicy,
    /// What udev is told to leave out. [`UdevFlags::KEEP_OUT`] unless set.
    pub udev_flags: UdevFlags,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            node_dir: PathBuf::from(super::real::NODE_DIR),
            nodes: NodePolicy::Manage,
            udev_flags: UdevFlags::KEEP_OUT,
        }
    }
}

impl Settings {
    /// Without any nodes: for a modelled kernel.
    #[must_use]
    pub fn without_nodes() -> Settings {
        Settings { nodes: NodePolicy::Leave, ..Settings::default() }
    }
}

/// How a device is activated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ActivateOptions {
    /// Writes fail with EPERM.
    pub read_only: bool,
}

/// How a device is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SuspendOptions {
    /// Do not wait for I/O that is queued inside the target.
    pub no_flush: bool,
    /// Do not freeze the file system that is mounted from it. What is written meanwhile waits, but what the
    /// file system holds back is not written first.
    pub skip_lockfs: bool,
}

/// How a status is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatusOptions {
    /// Do not make a pool commit its metadata first. Seven times as fast, and up to a second behind.
    pub no_flush: bool,
}

/// Device-mapper's verbs over one kernel. Cheap to clone; all methods block and can be called from any
/// number of threads.
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

    fn named(&self, verb: Verb, name: &DmName) -> Request {
        Request::new(verb).name(name.clone())
    }

    /// A request whose uevent tells udev's rules what to leave out.
    fn with_event(&self, verb: Verb, name: &DmName) -> Request {
        self.named(verb, name).cookie(EventCookie { flags: self.settings.udev_flags, base: 0 })
    }

    /// The version of the kernel's interface (`DM_VERSION`).
    ///
    /// # Errors
    /// [`Error::NoPermission`].
    pub fn driver_version(&self) -> Result<DriverVersion> {
        Ok(self.submit(&Request::new(Verb::Version))?.header.version)
    }

    /// The targets that are loaded (`DM_LIST_VERSIONS`).
    ///
    /// # Errors
    /// [`Error::NoPermission`].
    pub fn target_versions(&self) -> Result<Vec<TargetVersion>> {
        match self.submit(&Request::new(Verb::ListVersions))?.data {
            ReplyData::Versions(versions) => Ok(versions),
            _ => Ok(Vec::new()),
        }
    }

    /// All devices of the machine, by name. A device whose name is not text is left out: no verb could
    /// name it.
    ///
    /// # Errors
    /// [`Error::NoPermission`].
    pub fn list(&self) -> Result<Vec<ListedDevice>> {
        let reply = self.submit(&Request::new(Verb::List).flags(Flags::UUID))?;
        let ReplyData::Devices(entries) = reply.data else { return Ok(Vec::new()) };
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok();
        let mut devices = Vec::with_capacity(entries.len());
        for entry in entries {
            let Some(name) = text(entry.name).and_then(|name| DmName::new(name).ok()) else {
                tracing::debug!(device = %entry.device, "left out of the list: its name is not text");
                continue;
            };
            devices.push(ListedDevice {
                name,
                device: entry.device,
                event_nr: entry.event_nr,
                uuid: entry.uuid.and_then(text).and_then(|uuid| DmUuid::new(uuid).ok()),
            });
        }
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(devices)
    }

    /// What is known of a device; `None` when there is no such device.
    ///
    /// # Errors
    /// [`Error::NoPermission`].
    pub fn info(&self, name: &DmName) -> Result<Option<DeviceInfo>> {
        self.info_of(Selector::Name(name.clone()))
    }

    /// What is known of a device that is known by its number or its uuid.
    ///
    /// # Errors
    /// [`Error::NoPermission`].
    pub fn info_of(&self, device: Selector) -> Result<Option<DeviceInfo>> {
        match self.submit(&Request::new(Verb::Info).device(device)) {
            Ok(reply) => DeviceInfo::from_header(Verb::Info, &reply.header).map(Some),
            Err(Error::NoSuchDevice { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a device without a table (`DM_DEV_CREATE`). It has a number and a node; all I/O on it fails.
    ///
    /// # Errors
    /// [`Error::NameOrUuidInUse`] (EBUSY).
    pub fn create(&self, name: &DmName, uuid: Option<&DmUuid>) -> Result<DeviceInfo> {
        let info = self.create_device(name, uuid)?;
        match self.make_node(name, info.device) {
            Ok(()) => Ok(info),
            Err(error) => Err(error.after_rollback(self.remove(name))),
        }
    }

    fn create_device(&self, name: &DmName, uuid: Option<&DmUuid>) -> Result<DeviceInfo> {
        let mut request = self.named(Verb::Create, name);
        if let Some(uuid) = uuid {
            request = request.create_uuid(uuid.clone());
        }
        let reply = self.submit(&request)?;
        DeviceInfo::from_header(Verb::Create, &reply.header)
    }

    /// Makes a device with this table and starts it: create, load, resume, one request each. When a step
    /// fails, what was made is removed again.
    ///
    /// # Errors
    /// [`Error::NameOrUuidInUse`] (EBUSY), [`Error::NoSuchThin`] (ENODATA), [`Error::TableTooLong`],
    /// [`Error::WrongPool`], [`Error::PoolSuspended`], [`Error::TargetMissing`],
    /// [`Error::BackingDeviceMissing`] and [`Error::TableRefused`] (EINVAL). [`Error::Rollback`] when the
    /// removal failed as well.
    pub fn activate(
        &self,
        name: &DmName,
        uuid: Option<&DmUuid>,
        table: &[Target],
        options: ActivateOptions,
    ) -> Result<DeviceInfo> {
        self.create_device(name, uuid)?;
        let started = self
            .load_into(name, table, options.read_only, true)
            .and_then(|_| self.resume_reply(name))
            .and_then(|reply| DeviceInfo::from_header(Verb::Resume, &reply.header))
            .and_then(|info| self.make_node(name, info.device).map(|()| info));
        started.map_err(|error| error.after_rollback(self.remove(name)))
    }

    /// Loads a table into the inactive slot (`DM_TABLE_LOAD`); the next resume puts it in place. For a device
    /// that has a live table, that resume is also when the kernel looks whether the devices below are large
    /// enough.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO), and those about tables of [`Dm::activate`].
    pub fn load(&self, name: &DmName, table: &[Target]) -> Result<DeviceInfo> {
        self.load_into(name, table, false, false)
    }

    /// [`Dm::load`] for a device that shall be read-only.
    ///
    /// # Errors
    /// As [`Dm::load`].
    pub fn load_read_only(&self, name: &DmName, table: &[Target]) -> Result<DeviceInfo> {
        self.load_into(name, table, true, false)
    }

    fn load_into(&self, name: &DmName, table: &[Target], read_only: bool, exists: bool) -> Result<DeviceInfo> {
        let request = self
            .named(Verb::Load, name)
            .flags(Flags::NONE.with_if(read_only, Flags::READ_ONLY))
            .payload(Payload::Table(table.iter().map(Target::to_line).collect()));
        let reply = self.submit(&request).map_err(|error| explain::load_error(self, name, table, exists, error))?;
        DeviceInfo::from_header(Verb::Load, &reply.header)
    }

    /// Stops I/O (`DM_DEV_SUSPEND`): what is under way is waited for, what comes later waits.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO). EINVAL when it has been suspended by somebody else at the same time.
    pub fn suspend(&self, name: &DmName, options: SuspendOptions) -> Result<DeviceInfo> {
        let flags =
            Flags::NONE.with_if(options.no_flush, Flags::NO_FLUSH).with_if(options.skip_lockfs, Flags::SKIP_LOCKFS);
        let reply = self.submit(&self.named(Verb::Suspend, name).flags(flags))?;
        DeviceInfo::from_header(Verb::Suspend, &reply.header)
    }

    /// Starts I/O (`DM_DEV_SUSPEND` without the flag), with the table of the inactive slot if there is one.
    /// A device that is not suspended stays as it is.
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
        self.submit(&self.with_event(Verb::Resume, name))
    }

    /// Gives a running device another table: load, suspend, resume. Whatever fails, the device is not left
    /// suspended: the table it had is put back.
    ///
    /// # Errors
    /// Those of [`Dm::load`] and [`Dm::resume`]; [`Error::Rollback`] when the old table could not be put back.
    pub fn reload(&self, name: &DmName, table: &[Target]) -> Result<DeviceInfo> {
        let old = self.table_lines(name)?;
        let read_only = self.info(name)?.is_some_and(|info| info.read_only);
        self.load_into(name, table, read_only, true)?;
        let changed = self
            .suspend(name, SuspendOptions::default())
            .map_err(|error| error.after_rollback(self.clear(name).map(drop)))
            .and_then(|_| self.resume(name).map_err(|error| explain::resume_error(self, name, table, error)));
        changed.map_err(|error| error.after_rollback(self.put_back(name, old, read_only)))
    }

    /// Loads the table that a device had and starts it.
    fn put_back(&self, name: &DmName, old: Vec<TargetLine>, read_only: bool) -> Result<()> {
        if old.is_empty() {
            return Ok(());
        }
        let load = self
            .named(Verb::Load, name)
            .flags(Flags::NONE.with_if(read_only, Flags::READ_ONLY))
            .payload(Payload::Table(old));
        self.submit(&load)?;
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
        let request = self.with_event(Verb::Rename, name).payload(Payload::Text(new.as_str().to_owned()));
        self.submit(&request)?;
        if self.settings.nodes == NodePolicy::Manage {
            if let Some(info) = self.info(new)? {
                self.nodes().make(new, info.device)?;
            }
            self.nodes().remove(name)?;
        }
        Ok(())
    }

    /// Gives a device that has no uuid its uuid, for good (`DM_DEV_RENAME` with the uuid flag).
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO), [`Error::NameOrUuidInUse`] (EBUSY), [`Error::UuidAlreadySet`] (EINVAL).
    pub fn set_uuid(&self, name: &DmName, uuid: &DmUuid) -> Result<()> {
        let request =
            self.with_event(Verb::Rename, name).flags(Flags::UUID).payload(Payload::Text(uuid.as_str().to_owned()));
        self.submit(&request).map(drop)
    }

    /// Takes a device away (`DM_DEV_REMOVE`). That it succeeds proves that nobody had it open.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO), [`Error::Busy`] (EBUSY).
    pub fn remove(&self, name: &DmName) -> Result<()> {
        self.submit(&self.with_event(Verb::Remove, name))?;
        self.forget_node(name)
    }

    /// Takes a device away now, or when its last user closes it. Meanwhile it can be opened again, which
    /// puts the removal off further. After a deferred removal the name is free some milliseconds before the
    /// thin below it can be deleted. Kernel 3.13 and later.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO).
    pub fn remove_deferred(&self, name: &DmName) -> Result<Removal> {
        let request = self.with_event(Verb::Remove, name).flags(Flags::DEFERRED_REMOVE);
        let reply = self.submit(&request)?;
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

    /// The live table (`DM_TABLE_STATUS` with the table flag); empty when there is none.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO), [`Error::Table`] for a line that makes no sense.
    pub fn table(&self, name: &DmName) -> Result<Vec<Target>> {
        let lines = self.table_lines(name)?;
        lines.iter().map(Target::from_line).collect::<std::result::Result<_, _>>().map_err(|source| Error::Table {
            verb: Verb::Table,
            device: name.to_string(),
            source,
        })
    }

    /// The table in the inactive slot; empty when there is none.
    ///
    /// # Errors
    /// As [`Dm::table`].
    pub fn inactive_table(&self, name: &DmName) -> Result<Vec<Target>> {
        let reply = self.submit(&self.named(Verb::Table, name).flags(Flags::QUERY_INACTIVE))?;
        let lines = lines_of(reply);
        lines
            .iter()
            .map(Target::from_line)
            .collect::<std::result::Result<_, TableError>>()
            .map_err(|source| Error::Table { verb: Verb::Table, device: name.to_string(), source })
    }

    fn table_lines(&self, name: &DmName) -> Result<Vec<TargetLine>> {
        // Without a flush: a pool would commit its metadata just to print its table.
        self.submit(&self.named(Verb::Table, name).flags(Flags::NO_FLUSH)).map(lines_of)
    }

    /// What each target says of itself (`DM_TABLE_STATUS`).
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO), [`Error::Table`] for a line that makes no sense.
    pub fn status(&self, name: &DmName, options: StatusOptions) -> Result<Vec<TargetStatus>> {
        let flags = Flags::NONE.with_if(options.no_flush, Flags::NO_FLUSH);
        let lines = lines_of(self.submit(&self.named(Verb::Status, name).flags(flags))?);
        lines
            .iter()
            .map(TargetStatus::from_line)
            .collect::<std::result::Result<_, _>>()
            .map_err(|source| Error::Table { verb: Verb::Status, device: name.to_string(), source })
    }

    /// The devices that the live table stands on (`DM_TABLE_DEPS`).
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO).
    pub fn deps(&self, name: &DmName) -> Result<Vec<DeviceNumber>> {
        match self.submit(&self.named(Verb::Deps, name))?.data {
            ReplyData::Deps(deps) => Ok(deps),
            _ => Ok(Vec::new()),
        }
    }

    /// Sends a message to the target that answers for `sector` (`DM_TARGET_MSG`), and returns its answer if
    /// it gives one.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO), [`Error::MessageRefused`] (EINVAL), and those of the pool's messages.
    pub fn message(&self, name: &DmName, sector: Sectors, text: &str) -> Result<Option<String>> {
        let payload = Payload::Message { sector, text: text.to_owned() };
        match self.submit(&self.named(Verb::Message, name).payload(payload))?.data {
            ReplyData::Text(answer) => Ok(Some(answer)),
            _ => Ok(None),
        }
    }

    fn nodes(&self) -> NodeDir {
        NodeDir::new(self.settings.node_dir.clone())
    }

    /// Where the node of a device is.
    #[must_use]
    pub fn node(&self, name: &DmName) -> PathBuf {
        self.nodes().path(name)
    }

    fn make_node(&self, name: &DmName, device: DeviceNumber) -> Result<()> {
        match self.settings.nodes {
            NodePolicy::Manage => self.nodes().make(name, device).map(drop),
            NodePolicy::Leave => Ok(()),
        }
    }

    fn forget_node(&self, name: &DmName) -> Result<()> {
        match self.settings.nodes {
            NodePolicy::Manage => self.nodes().remove(name).map(drop),
            NodePolicy::Leave => Ok(()),
        }
    }

    /// Puts the nodes of all devices whose names start with `prefix` right: makes those that are missing or
    /// lead elsewhere, removes those without a device. (`dmsetup mknodes` does it for all names.)
    ///
    /// # Errors
    /// [`Error::Node`].
    pub fn sweep_nodes(&self, prefix: &str) -> Result<Swept> {
        let nodes = self.nodes();
        // Nodes first: one that is made between the two lists must not be taken for a left-over.
        let present = nodes.names(prefix)?;
        let devices = self.list()?;
        let mut swept = Swept::default();
        for device in devices.iter().filter(|d| d.name.as_str().starts_with(prefix)) {
            if nodes.make(&device.name, device.device)? {
                swept.made.push(device.name.clone());
            }
        }
        for name in present {
            if !devices.iter().any(|device| device.name == name) && nodes.remove(&name)? {
                swept.removed.push(nodes.path(&name));
            }
        }
        Ok(swept)
    }
}

fn lines_of(reply: Reply) -> Vec<TargetLine> {
    match reply.data {
        ReplyData::Targets(lines) => lines,
        _ => Vec::new(),
    }
}
