//! The modelled kernel's state and its verbs: devices, tables, removal, events.
//!
//! What a power cut keeps is in [`Disk`]; everything else here is gone with it. Errnos are those of
//! drivers/md/dm-ioctl.c and dm.c, as the contract tests see them on a real kernel.

use std::collections::BTreeMap;
use std::sync::Arc;

use nix::errno::Errno;

use super::disk::Disk;
use super::events::Log;
use super::pool::Pool;
use crate::dm::fault::{FaultPlan, Verdict};
use crate::dm::message::PoolMessage;
use crate::dm::{
    DriverVersion, Flags, Header, ListEntry, Payload, Reply, ReplyData, Request, Selector, Target,
    TargetLine, TargetVersion, Verb,
};
use crate::names::{DmName, DmUuid};
use crate::units::{DeviceNumber, Sectors, ThinId};

/// Device-mapper's major number in this kernel.
pub const MAJOR: u32 = 253;

/// The interface that is modelled: kernel 6.1's.
const VERSION: DriverVersion = DriverVersion::new(4, 47, 0);

/// The targets that are modelled.
const TARGETS: [(&str, DriverVersion); 4] = [
    ("thin-pool", DriverVersion::new(1, 22, 0)),
    ("thin", DriverVersion::new(1, 22, 0)),
    ("linear", DriverVersion::new(1, 4, 0)),
    ("error", DriverVersion::new(1, 5, 0)),
];

/// Why a step does not go on: the kernel says no, or there is no kernel any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    Errno(Errno),
    Halted,
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Stop {
        Stop::Errno(errno)
    }
}

pub type Outcome<T> = Result<T, Stop>;

/// A device.
#[derive(Debug, Default)]
pub struct Device {
    pub name: String,
    pub uuid: Option<String>,
    pub live: Option<Table>,
    pub inactive: Option<Table>,
    pub suspended: bool,
    pub read_only: bool,
    /// Open files.
    pub handles: u32,
    pub deferred_remove: bool,
    pub event_nr: u32,
    /// Which of all devices of this boot it is.
    pub born: u64,
}

/// A table, with the devices it names looked up.
#[derive(Debug, Clone)]
pub struct Table {
    pub targets: Vec<Target>,
    pub read_only: bool,
}

impl Table {
    pub fn size(&self) -> u64 {
        self.targets.last().map_or(0, |target| target.start().0 + target.length().0)
    }

    /// The devices below, each once, in the order they are named.
    pub fn devices(&self) -> Vec<DeviceNumber> {
        let mut devices: Vec<DeviceNumber> = Vec::new();
        for device in self.targets.iter().flat_map(Target::devices).filter_map(|d| d.number()) {
            if !devices.contains(&device) {
                devices.push(device);
            }
        }
        devices
    }
}

/// A whole modelled machine.
#[derive(Debug, Default)]
pub struct Machine {
    pub disks: BTreeMap<DeviceNumber, Disk>,
    /// By minor number.
    pub devices: BTreeMap<u32, Device>,
    /// By minor number of the pool's device.
    pub pools: BTreeMap<u32, Pool>,
    /// Counts everything that a listener hears of.
    pub events: u64,
    pub log: Log,
    /// How often this machine has been switched on.
    pub boot: u64,
    /// How many devices there have been on this boot.
    pub births: u64,
    pub plan: Option<Arc<FaultPlan>>,
    pub halted: bool,
}

impl Machine {
    pub fn number(minor: u32) -> DeviceNumber {
        DeviceNumber { major: MAJOR, minor }
    }

    /// Answers one request.
    pub fn submit(&mut self, request: &Request) -> Outcome<Reply> {
        if self.halted {
            return Err(Stop::Halted);
        }
        match request.verb() {
            Verb::Version | Verb::ArmPoll => Ok(plain(Header::default())),
            Verb::RemoveAll => self.remove_all(),
            Verb::List => Ok(self.list(request)),
            Verb::ListVersions => Ok(versions(None)),
            Verb::TargetVersion => match request.device_name() {
                Some(name) if is_target(name.as_str()) => Ok(versions(Some(name.as_str()))),
                _ => Err(Errno::EINVAL.into()),
            },
            Verb::Create => self.create(request),
            _ => {
                let minor = self.find(request)?;
                self.submit_to(minor, request)
            }
        }
    }

    fn submit_to(&mut self, minor: u32, request: &Request) -> Outcome<Reply> {
        let inactive = request.has(Flags::QUERY_INACTIVE);
        match request.verb() {
            Verb::Remove => return self.remove(minor, request.has(Flags::DEFERRED_REMOVE)),
            Verb::Rename => self.rename(minor, request)?,
            Verb::Suspend => self.suspend(minor)?,
            Verb::Resume => self.resume(minor)?,
            Verb::Load => self.load(minor, request)?,
            Verb::Clear => self.clear(minor),
            Verb::Message => self.message(minor, request)?,
            Verb::SetGeometry => {}
            Verb::Wait => return Err(Errno::EINTR.into()),
            Verb::Deps => return Ok(self.reply(minor, inactive, self.deps(minor, inactive))),
            Verb::Table => return Ok(self.reply(minor, inactive, self.table(minor, inactive))),
            Verb::Status => {
                let lines = self.status(minor, inactive, request.has(Flags::NO_FLUSH))?;
                return Ok(self.reply(minor, inactive, lines));
            }
            _ => {}
        }
        Ok(self.reply(minor, inactive, ReplyData::None))
    }

    /// The device that a request is about.
    fn find(&self, request: &Request) -> Result<u32, Errno> {
        let found = match request.selector() {
            Selector::None => None,
            Selector::Name(name) => self.by_name(name.as_str()),
            Selector::Uuid(uuid) => self.by_uuid(uuid.as_str()),
            Selector::Number(number) => (number.major == MAJOR
                && self.devices.contains_key(&number.minor))
            .then_some(number.minor),
        };
        found.ok_or(Errno::ENXIO)
    }

    pub fn by_name(&self, name: &str) -> Option<u32> {
        self.devices.iter().find(|(_, device)| device.name == name).map(|(minor, _)| *minor)
    }

    fn by_uuid(&self, uuid: &str) -> Option<u32> {
        let is = |device: &Device| device.uuid.as_deref() == Some(uuid);
        self.devices.iter().find(|(_, device)| is(device)).map(|(minor, _)| *minor)
    }

    pub fn device(&self, minor: u32) -> Result<&Device, Errno> {
        self.devices.get(&minor).ok_or(Errno::ENXIO)
    }

    fn device_mut(&mut self, minor: u32) -> Result<&mut Device, Errno> {
        self.devices.get_mut(&minor).ok_or(Errno::ENXIO)
    }

    fn create(&mut self, request: &Request) -> Outcome<Reply> {
        let name = request.device_name().map(DmName::as_str).ok_or(Errno::EINVAL)?.to_owned();
        let uuid = request.new_uuid().map(|uuid| uuid.as_str().to_owned());
        let taken = self.by_name(&name).is_some()
            || uuid.as_deref().is_some_and(|uuid| self.by_uuid(uuid).is_some());
        let minor = match request.new_minor() {
            Some(minor) => minor,
            None => (0..).find(|m| !self.devices.contains_key(m)).ok_or(Errno::EBUSY)?,
        };
        // The number comes first, and the kernel says ENXIO whatever is wrong with it.
        if self.devices.contains_key(&minor) {
            return Err(Errno::ENXIO.into());
        }
        if taken {
            return Err(Errno::EBUSY.into());
        }
        self.births += 1;
        self.devices.insert(minor, Device { name, uuid, born: self.births, ..Device::default() });
        self.events += 1;
        Ok(self.reply(minor, false, ReplyData::None))
    }

    /// How many hold a device open: files, and tables of other devices.
    pub fn open_count(&self, number: DeviceNumber) -> u32 {
        let handles = match self.devices.get(&number.minor) {
            Some(device) if number.major == MAJOR => device.handles,
            _ => 0,
        };
        let tables = self.devices.values().flat_map(|d| d.live.iter().chain(&d.inactive));
        handles + tables.filter(|table| table.devices().contains(&number)).count() as u32
    }

    fn remove(&mut self, minor: u32, deferred: bool) -> Outcome<Reply> {
        if self.open_count(Machine::number(minor)) > 0 {
            if !deferred {
                return Err(Errno::EBUSY.into());
            }
            self.device_mut(minor)?.deferred_remove = true;
            return Ok(self.reply(minor, false, ReplyData::None));
        }
        self.destroy(minor)?;
        let flags = Flags::UEVENT_GENERATED;
        Ok(plain(Header { flags, ..Header::default() }))
    }

    /// Takes a device away that nobody holds open, and with it those below that wait for it.
    fn destroy(&mut self, minor: u32) -> Outcome<()> {
        if self.pools.contains_key(&minor) {
            self.commit(minor)?;
            self.pools.remove(&minor);
        }
        let Some(device) = self.devices.remove(&minor) else { return Ok(()) };
        self.events += 1;
        let below = device.live.iter().chain(&device.inactive).flat_map(Table::devices);
        for number in below.collect::<Vec<_>>() {
            self.closed(number)?;
        }
        Ok(())
    }

    /// Somebody has closed a device: a deferred removal may happen now.
    pub fn closed(&mut self, number: DeviceNumber) -> Outcome<()> {
        let waits = number.major == MAJOR
            && self.devices.get(&number.minor).is_some_and(|device| device.deferred_remove);
        if waits && self.open_count(number) == 0 {
            self.destroy(number.minor)?;
        }
        Ok(())
    }

    fn remove_all(&mut self) -> Outcome<Reply> {
        loop {
            let unused = self.devices.keys().find(|m| self.open_count(Machine::number(**m)) == 0);
            match unused.copied() {
                Some(minor) => self.destroy(minor)?,
                None => return Ok(plain(Header::default())),
            }
        }
    }

    fn rename(&mut self, minor: u32, request: &Request) -> Outcome<()> {
        let Payload::Text(new) = request.carried() else { return Err(Errno::EINVAL.into()) };
        if request.has(Flags::UUID) {
            DmUuid::new(new.as_str()).map_err(|_| Errno::EINVAL)?;
            if self.by_uuid(new).is_some() {
                return Err(Errno::EBUSY.into());
            }
            if self.device(minor)?.uuid.is_some() {
                return Err(Errno::EINVAL.into());
            }
            self.device_mut(minor)?.uuid = Some(new.clone());
        } else {
            DmName::new(new.as_str()).map_err(|_| Errno::EINVAL)?;
            if self.by_name(new).is_some() {
                return Err(Errno::EBUSY.into());
            }
            self.device_mut(minor)?.name.clone_from(new);
        }
        self.event(minor);
        Ok(())
    }

    fn suspend(&mut self, minor: u32) -> Outcome<()> {
        if self.pools.contains_key(&minor) {
            self.commit(minor)?;
        }
        if let Some((pool, _)) = self.thin_of(minor) {
            self.commit(pool)?;
        }
        self.device_mut(minor)?.suspended = true;
        Ok(())
    }

    fn clear(&mut self, minor: u32) {
        let Some(device) = self.devices.get_mut(&minor) else { return };
        let Some(table) = device.inactive.take() else { return };
        if device.live.is_none() {
            self.pools.remove(&minor);
        }
        for number in table.devices() {
            // What waited for this table to go may go too; a crash here is one of the whole
            // machine.
            let _ = self.closed(number);
        }
    }

    fn message(&mut self, minor: u32, request: &Request) -> Outcome<()> {
        let Payload::Message { sector, text } = request.carried() else {
            return Err(Errno::EINVAL.into());
        };
        let word = text.split_ascii_whitespace().next().ok_or(Errno::EINVAL)?;
        if word.eq_ignore_ascii_case("@cancel_deferred_remove") {
            self.device_mut(minor)?.deferred_remove = false;
            return Ok(());
        }
        let table = self.device(minor)?.live.as_ref().ok_or(Errno::EINVAL)?;
        if sector.0 >= table.size() || !matches!(table.targets[..], [Target::ThinPool(_)]) {
            return Err(Errno::EINVAL.into());
        }
        let pool = self.pools.get(&minor).ok_or(Errno::EINVAL)?;
        if !pool.is_writable() {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let message = PoolMessage::parse(text).map_err(|_| Errno::EINVAL)?;
        if let PoolMessage::Delete(id) = message {
            if pool.current.thins.contains_key(&id) && self.thin_devices(minor, id) > 0 {
                return Err(Errno::EBUSY.into());
            }
        }
        let pool = self.pools.get_mut(&minor).ok_or(Errno::EINVAL)?;
        let answered = pool.message(message);
        if pool.failed {
            self.mode_event(minor);
        }
        answered?;
        self.commit(minor)?;
        if self.pools.get_mut(&minor).is_some_and(Pool::leave_out_of_space) {
            self.mode_event(minor);
        }
        Ok(())
    }

    /// How many tables, live or loaded, stand on a thin.
    fn thin_devices(&self, pool: u32, id: crate::units::ThinId) -> usize {
        let tables = self.devices.values().flat_map(|d| d.live.iter().chain(&d.inactive));
        let is = |target: &Target| {
            matches!(target, Target::Thin(thin)
                if thin.id == id && thin.pool.number() == Some(Machine::number(pool)))
        };
        tables.flat_map(|table| &table.targets).filter(|target| is(target)).count()
    }

    /// The thin that a device shows, and the pool it is in.
    pub fn thin_of(&self, minor: u32) -> Option<(u32, ThinId)> {
        let table = self.devices.get(&minor)?.live.as_ref()?;
        table.targets.iter().find_map(|target| match target {
            Target::Thin(thin) => thin.pool.number().map(|number| (number.minor, thin.id)),
            _ => None,
        })
    }

    /// Makes a pool's metadata durable, and the data it points to first. The kernel hides a failure
    /// of this from whoever caused it: the pool goes read-only instead.
    pub fn commit(&mut self, minor: u32) -> Outcome<()> {
        let Some(pool) = self.pools.get(&minor) else { return Ok(()) };
        let disks = self.disks_below(pool.data_device);
        let dirty = disks.iter().any(|disk| self.disks.get(disk).is_some_and(Disk::is_dirty));
        if !pool.is_writable() || (!pool.changed && !dirty) {
            return Ok(());
        }
        if self.locate(pool.metadata_device, 0) != Some(pool.place) {
            // Its metadata can neither be written nor read back.
            if let Some(pool) = self.pools.get_mut(&minor) {
                pool.failed = true;
            }
            self.mode_event(minor);
            return Ok(());
        }
        let verdict = self.step("pool commit");
        if matches!(verdict, Verdict::Halt) {
            self.halted = true;
            return Err(Stop::Halted);
        }
        let Some(pool) = self.pools.get_mut(&minor) else { return Ok(()) };
        if let Verdict::Fail(_) = verdict {
            pool.abort();
            self.mode_event(minor);
            return Ok(());
        }
        for disk in disks {
            if let Some(disk) = self.disks.get_mut(&disk) {
                disk.flush();
            }
        }
        pool.committed = Arc::new(pool.current.clone());
        pool.changed = false;
        let (place, committed) = (pool.place, Arc::clone(&pool.committed));
        self.put_superblock(place, committed);
        if verdict == Verdict::GoThenHalt {
            self.halted = true;
            return Err(Stop::Halted);
        }
        Ok(())
    }

    pub fn put_superblock(
        &mut self,
        (disk, sector): (DeviceNumber, u64),
        metadata: Arc<super::metadata::Metadata>,
    ) {
        if let Some(disk) = self.disks.get_mut(&disk) {
            disk.put_superblock(sector, metadata);
        }
    }

    /// Asks the plan what becomes of something that is about to be made durable.
    pub fn step(&self, what: &str) -> Verdict {
        self.plan.as_ref().map_or(Verdict::Go, |plan| plan.step(what))
    }

    fn list(&self, request: &Request) -> Reply {
        let uuids = request.has(Flags::UUID);
        let entries = self.devices.iter().map(|(minor, device)| ListEntry {
            device: Machine::number(*minor),
            name: device.name.clone().into_bytes(),
            event_nr: Some(device.event_nr),
            uuid: device.uuid.clone().filter(|_| uuids).map(String::into_bytes),
        });
        Reply { data: ReplyData::Devices(entries.collect()), ..plain(Header::default()) }
    }

    fn deps(&self, minor: u32, inactive: bool) -> ReplyData {
        ReplyData::Deps(self.chosen(minor, inactive).map(Table::devices).unwrap_or_default())
    }

    fn table(&self, minor: u32, inactive: bool) -> ReplyData {
        let table = self.chosen(minor, inactive);
        let lines = table.iter().flat_map(|table| &table.targets).map(Target::to_line);
        ReplyData::Targets(lines.collect())
    }

    fn chosen(&self, minor: u32, inactive: bool) -> Option<&Table> {
        let device = self.devices.get(&minor)?;
        if inactive {
            device.inactive.as_ref()
        } else {
            device.live.as_ref()
        }
    }

    fn status(&mut self, minor: u32, inactive: bool, no_flush: bool) -> Outcome<ReplyData> {
        if !no_flush {
            let suspended = self.device(minor)?.suspended;
            if self.pools.contains_key(&minor) && !suspended {
                self.commit(minor)?;
            }
        }
        let Some(table) = self.chosen(minor, inactive) else {
            return Ok(ReplyData::Targets(Vec::new()));
        };
        let lines = table
            .targets
            .iter()
            .map(|target| TargetLine { params: self.status_of(minor, target), ..target.to_line() });
        Ok(ReplyData::Targets(lines.collect()))
    }

    fn status_of(&self, minor: u32, target: &Target) -> String {
        match target {
            Target::ThinPool(_) => {
                self.pools.get(&minor).map(|pool| pool.status().to_string()).unwrap_or_default()
            }
            Target::Thin(thin) => self.thin_status(thin).to_string(),
            _ => String::new(),
        }
    }

    /// The header that the kernel answers with, and `data`.
    fn reply(&self, minor: u32, inactive: bool, data: ReplyData) -> Reply {
        let Some(device) = self.devices.get(&minor) else { return plain(Header::default()) };
        let table = self.chosen(minor, inactive);
        let read_only = match inactive {
            true => table.is_some_and(|table| table.read_only),
            false => table.is_some() && device.read_only,
        };
        let flags = Flags::NONE
            .with_if(device.suspended, Flags::SUSPEND)
            .with_if(device.live.is_some(), Flags::ACTIVE_PRESENT)
            .with_if(device.inactive.is_some(), Flags::INACTIVE_PRESENT)
            .with_if(read_only, Flags::READ_ONLY)
            .with_if(device.deferred_remove, Flags::DEFERRED_REMOVE);
        let header = Header {
            version: VERSION,
            flags,
            target_count: table.map_or(0, |table| table.targets.len() as u32),
            open_count: self.open_count(Machine::number(minor)),
            event_nr: device.event_nr,
            device: Machine::number(minor).to_u64(),
            name: device.name.clone(),
            uuid: device.uuid.clone().unwrap_or_default(),
        };
        Reply { header, data }
    }

    /// The size of a disk or a device.
    pub fn size(&self, number: DeviceNumber) -> Option<Sectors> {
        if let Some(disk) = self.disks.get(&number) {
            return Some(disk.size());
        }
        let device = self.devices.get(&number.minor).filter(|_| number.major == MAJOR)?;
        Some(Sectors(device.live.as_ref().map_or(0, Table::size)))
    }
}

fn plain(header: Header) -> Reply {
    Reply { header: Header { version: VERSION, ..header }, data: ReplyData::None }
}

/// Whether there is such a target.
pub fn is_target(name: &str) -> bool {
    TARGETS.iter().any(|(target, _)| *target == name)
}

fn versions(only: Option<&str>) -> Reply {
    let wanted = TARGETS.iter().filter(|(name, _)| only.is_none_or(|only| only == *name));
    let versions =
        wanted.map(|(name, version)| TargetVersion { name: (*name).to_owned(), version: *version });
    Reply { data: ReplyData::Versions(versions.collect()), ..plain(Header::default()) }
}
