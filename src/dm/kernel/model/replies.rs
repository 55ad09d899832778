//! What the modelled kernel answers: lists, tables, status, headers.

use super::machine::{Machine, Outcome, Table};
use super::targets::{TARGETS, VERSION};
use crate::dm::interface::Flags;
use crate::dm::text::{Target, TargetLine};
use crate::dm::wire::{Header, ListEntry, Reply, ReplyData, Request, TargetVersion};

impl Machine {
    pub fn list(&self, request: &Request) -> Reply {
        let uuids = request.has(Flags::UUID);
        let entries = self.devices.iter().map(|(minor, device)| ListEntry {
            device: Machine::number(*minor),
            name: device.name.clone().into_bytes(),
            event_nr: device.event_nr,
            uuid: device.uuid.clone().filter(|_| uuids).map(String::into_bytes),
        });
        Reply { data: ReplyData::Devices(entries.collect()), ..plain(Header::default()) }
    }

    pub fn deps(&self, minor: u32, inactive: bool) -> ReplyData {
        ReplyData::Deps(self.chosen(minor, inactive).map(Table::devices).unwrap_or_default())
    }

    pub fn table(&self, minor: u32, inactive: bool) -> ReplyData {
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

    pub fn status(&mut self, minor: u32, inactive: bool, no_flush: bool) -> Outcome<ReplyData> {
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
    pub fn reply(&self, minor: u32, inactive: bool, data: ReplyData) -> Reply {
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
}

/// A reply of a header alone.
pub fn plain(header: Header) -> Reply {
    Reply { header: Header { version: VERSION, ..header }, data: ReplyData::None }
}

/// The targets there are, or only this one.
pub fn versions(only: Option<&str>) -> Reply {
    let wanted = TARGETS.iter().filter(|(name, _)| only.is_none_or(|only| only == *name));
    let versions =
        wanted.map(|(name, version)| TargetVersion { name: (*name).to_owned(), version: *version });
    Reply { data: ReplyData::Versions(versions.collect()), ..plain(Header::default()) }
}
