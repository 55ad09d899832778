//! The modelled kernel's state: disks, devices, pools, and the look-ups that several files need.
//!
//! What a power cut keeps is in [`Disk`]. Everything else here is gone with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use nix::errno::Errno;

use super::disk::Disk;
use super::log::Log;
use super::metadata::Metadata;
use super::pool::Pool;
use crate::dm::kernel::fault_plan::{FaultPlan, Verdict};
use crate::dm::text::Target;
use crate::units::{DeviceNumber, Sectors, ThinId};

/// Device-mapper's major number in this kernel.
pub const MAJOR: u32 = 253;

/// Why a step ended: the kernel refused it, or the machine has been halted.
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
    /// Its number among all devices of this boot.
    pub born: u64,
}

/// A table.
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
    /// Devices whose deferred removal has begun: their names are gone, and what they stand on is
    /// still held. By minor number.
    pub leaving: BTreeMap<u32, Device>,
    /// A deferred removal takes until the next tick.
    pub lingers: bool,
    /// By minor number of the pool's device.
    pub pools: BTreeMap<u32, Pool>,
    /// Counts the events that listeners hear of.
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

    pub fn by_name(&self, name: &str) -> Option<u32> {
        self.devices.iter().find(|(_, device)| device.name == name).map(|(minor, _)| *minor)
    }

    pub fn by_uuid(&self, uuid: &str) -> Option<u32> {
        let is = |device: &Device| device.uuid.as_deref() == Some(uuid);
        self.devices.iter().find(|(_, device)| is(device)).map(|(minor, _)| *minor)
    }

    pub fn device(&self, minor: u32) -> Result<&Device, Errno> {
        self.devices.get(&minor).ok_or(Errno::ENXIO)
    }

    pub fn device_mut(&mut self, minor: u32) -> Result<&mut Device, Errno> {
        self.devices.get_mut(&minor).ok_or(Errno::ENXIO)
    }

    /// The devices, and those that are leaving.
    fn all_devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.values().chain(self.leaving.values())
    }

    /// The device of a number, also one that is leaving.
    pub fn with_leaving(&self, number: DeviceNumber) -> Option<&Device> {
        let device = self.devices.get(&number.minor).or_else(|| self.leaving.get(&number.minor));
        device.filter(|_| number.major == MAJOR)
    }

    /// Whether a minor number is taken.
    pub fn has_minor(&self, minor: u32) -> bool {
        self.with_leaving(Machine::number(minor)).is_some()
    }

    /// How many hold a device open: files, and tables of other devices.
    pub fn open_count(&self, number: DeviceNumber) -> u32 {
        let handles = match self.devices.get(&number.minor) {
            Some(device) if number.major == MAJOR => device.handles,
            _ => 0,
        };
        let tables = self.all_devices().flat_map(|d| d.live.iter().chain(&d.inactive));
        handles + tables.filter(|table| table.devices().contains(&number)).count() as u32
    }

    /// How many tables, live or loaded, stand on a thin.
    pub fn thin_devices(&self, pool: u32, id: ThinId) -> usize {
        let tables = self.all_devices().flat_map(|d| d.live.iter().chain(&d.inactive));
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

    pub fn put_superblock(&mut self, (disk, sector): (DeviceNumber, u64), metadata: Arc<Metadata>) {
        if let Some(disk) = self.disks.get_mut(&disk) {
            disk.put_superblock(sector, metadata);
        }
    }

    /// Asks the plan about a step that makes something durable.
    pub fn step(&self, what: &str) -> Verdict {
        self.plan.as_ref().map_or(Verdict::Go, |plan| plan.step(what))
    }

    /// The size of a disk or a device.
    pub fn size(&self, number: DeviceNumber) -> Option<Sectors> {
        if let Some(disk) = self.disks.get(&number) {
            return Some(disk.size());
        }
        let device = self.with_leaving(number)?;
        Some(Sectors(device.live.as_ref().map_or(0, Table::size)))
    }
}
