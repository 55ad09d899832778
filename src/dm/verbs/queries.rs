//! The verbs that ask: versions, lists, tables, status, dependencies, messages.

use super::client::Dm;
use super::info::{DeviceInfo, ListedDevice};
use super::options::StatusOptions;
use crate::dm::error::{Error, Result, TableError};
use crate::dm::interface::{DriverVersion, Flags, Verb};
use crate::dm::text::{Target, TargetLine, TargetStatus};
use crate::dm::wire::{Payload, Reply, ReplyData, Request, Selector, TargetVersion};
use crate::names::{DmName, DmUuid};
use crate::units::{DeviceNumber, Sectors};

impl Dm {
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

    /// All devices of the machine, sorted by name. A device whose name is not UTF-8 is left out,
    /// since no verb could name it.
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
                tracing::debug!(device = %entry.device, "not listed: its name is not UTF-8");
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
    pub fn info(&self, device: impl Into<Selector>) -> Result<Option<DeviceInfo>> {
        match self.submit(&Request::new(Verb::Info).device(device)) {
            Ok(reply) => DeviceInfo::from_header(Verb::Info, &reply.header).map(Some),
            Err(Error::NoSuchDevice { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The live table (`DM_TABLE_STATUS` with the table flag); empty when there is none.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO), [`Error::Table`] for a malformed line.
    pub fn table(&self, device: impl Into<Selector>) -> Result<Vec<Target>> {
        let device = device.into();
        parse(Verb::Table, &device, &self.table_lines(&device)?, Target::from_line)
    }

    /// The table in the inactive slot; empty when there is none.
    ///
    /// # Errors
    /// As [`Dm::table`].
    pub fn inactive_table(&self, device: impl Into<Selector>) -> Result<Vec<Target>> {
        let device = device.into();
        let request = Request::new(Verb::Table).device(&device).flags(Flags::QUERY_INACTIVE);
        parse(Verb::Table, &device, &lines_of(self.submit(&request)?), Target::from_line)
    }

    pub(super) fn table_lines(&self, device: &Selector) -> Result<Vec<TargetLine>> {
        // Without a flush: a pool would commit its metadata just to print its table.
        let request = Request::new(Verb::Table).device(device).flags(Flags::NO_FLUSH);
        self.submit(&request).map(lines_of)
    }

    /// What each target says of itself (`DM_TABLE_STATUS`).
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO), [`Error::Table`] for a malformed line.
    pub fn status(
        &self,
        device: impl Into<Selector>,
        options: StatusOptions,
    ) -> Result<Vec<TargetStatus>> {
        self.status_and_events(&device.into(), options).map(|(status, _)| status)
    }

    /// The same, and how many events the device had had right before (`__dev_status` in
    /// drivers/md/dm-ioctl.c).
    pub(super) fn status_and_events(
        &self,
        device: &Selector,
        options: StatusOptions,
    ) -> Result<(Vec<TargetStatus>, u32)> {
        let flags = Flags::NONE.with_if(options.no_flush, Flags::NO_FLUSH);
        let reply = self.submit(&Request::new(Verb::Status).device(device).flags(flags))?;
        let events = reply.header.event_nr;
        Ok((parse(Verb::Status, device, &lines_of(reply), TargetStatus::from_line)?, events))
    }

    /// Waits until the device has had more than `event_nr` events, and says how many
    /// (`DM_DEV_WAIT`). No event is missed: one that came since the number was read ends the wait
    /// at once. There is no time limit; a signal or the device's removal ends the wait too. While
    /// it lasts, the kernel cannot finish a removal of the device.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO); EINTR.
    pub fn wait_event(&self, device: impl Into<Selector>, event_nr: u32) -> Result<u32> {
        let request = Request::new(Verb::Wait).device(device).flags(Flags::NO_FLUSH);
        Ok(self.submit(&request.event_nr(event_nr))?.header.event_nr)
    }

    /// The devices that the live table stands on (`DM_TABLE_DEPS`).
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO).
    pub fn deps(&self, device: impl Into<Selector>) -> Result<Vec<DeviceNumber>> {
        match self.submit(&Request::new(Verb::Deps).device(device))?.data {
            ReplyData::Deps(deps) => Ok(deps),
            _ => Ok(Vec::new()),
        }
    }

    /// Sends a message to the target that answers for `sector` (`DM_TARGET_MSG`), and returns its
    /// answer if it gives one.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] (ENXIO), [`Error::MessageRefused`] (EINVAL), and those of the pool's
    /// messages.
    pub fn message(
        &self,
        device: impl Into<Selector>,
        sector: Sectors,
        text: &str,
    ) -> Result<Option<String>> {
        let payload = Payload::Message { sector, text: text.to_owned() };
        match self.submit(&Request::new(Verb::Message).device(device).payload(payload))?.data {
            ReplyData::Text(answer) => Ok(Some(answer)),
            _ => Ok(None),
        }
    }
}

fn lines_of(reply: Reply) -> Vec<TargetLine> {
    match reply.data {
        ReplyData::Targets(lines) => lines,
        _ => Vec::new(),
    }
}

fn parse<T>(
    verb: Verb,
    device: &Selector,
    lines: &[TargetLine],
    line: fn(&TargetLine) -> std::result::Result<T, TableError>,
) -> Result<Vec<T>> {
    let parsed = lines.iter().map(line).collect::<std::result::Result<_, _>>();
    parsed.map_err(|source| Error::Table { verb, device: device.to_string(), source })
}
