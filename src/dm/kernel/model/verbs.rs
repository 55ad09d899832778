//! The modelled kernel's verbs: devices, tables, removal, messages. Errnos are those of
//! drivers/md/dm-ioctl.c and dm.c, as the contract tests see them on a real kernel.

use nix::errno::Errno;

use super::machine::{Device, Machine, Outcome, Stop, Table, MAJOR};
use super::pool::Pool;
use super::replies::{plain, versions};
use super::targets::is_target;
use crate::dm::interface::{Flags, Verb};
use crate::dm::text::{PoolMessage, Target};
use crate::dm::wire::{Header, Payload, Reply, ReplyData, Request, Selector};
use crate::names::{DmName, DmUuid};
use crate::units::DeviceNumber;

impl Machine {
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
            None => None,
            Some(Selector::Name(name)) => self.by_name(name.as_str()),
            // A rename looks only at the name (dm_hash_rename).
            Some(_) if request.verb() == Verb::Rename => None,
            Some(Selector::Uuid(uuid)) => self.by_uuid(uuid.as_str()),
            Some(Selector::Number(number)) => (number.major == MAJOR
                && self.devices.contains_key(&number.minor))
            .then_some(number.minor),
        };
        found.ok_or(Errno::ENXIO)
    }

    fn create(&mut self, request: &Request) -> Outcome<Reply> {
        let name = request.device_name().map(DmName::as_str).ok_or(Errno::EINVAL)?.to_owned();
        let uuid = request.new_uuid().map(|uuid| uuid.as_str().to_owned());
        let taken = self.by_name(&name).is_some()
            || uuid.as_deref().is_some_and(|uuid| self.by_uuid(uuid).is_some());
        let minor = match request.new_minor() {
            Some(minor) => minor,
            None => (0..).find(|minor| !self.has_minor(*minor)).ok_or(Errno::EBUSY)?,
        };
        // The kernel looks at the number first, and answers ENXIO whatever is wrong with it.
        if self.has_minor(minor) {
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

    fn remove(&mut self, minor: u32, deferred: bool) -> Outcome<Reply> {
        if self.open_count(Machine::number(minor)) > 0 {
            if !deferred {
                return Err(Errno::EBUSY.into());
            }
            self.device_mut(minor)?.deferred_remove = true;
            return Ok(self.reply(minor, false, ReplyData::None));
        }
        // The kernel fills in the name and the uuid when it has found the device, and no more.
        let device = self.device(minor)?;
        let (name, uuid) = (device.name.clone(), device.uuid.clone().unwrap_or_default());
        self.destroy(minor)?;
        Ok(plain(Header { flags: Flags::UEVENT_GENERATED, name, uuid, ..Header::default() }))
    }

    /// Removes a device that nothing holds open.
    fn destroy(&mut self, minor: u32) -> Outcome<()> {
        self.end_pool(minor)?;
        let Some(device) = self.devices.remove(&minor) else { return Ok(()) };
        self.events += 1;
        self.close_below(&device)
    }

    fn end_pool(&mut self, minor: u32) -> Outcome<()> {
        if self.pools.contains_key(&minor) {
            self.commit(minor)?;
            self.pools.remove(&minor);
        }
        Ok(())
    }

    /// Closes what a removed device stood on. What waits for that is removed too.
    fn close_below(&mut self, device: &Device) -> Outcome<()> {
        let below = device.live.iter().chain(&device.inactive).flat_map(Table::devices);
        for number in below.collect::<Vec<_>>() {
            self.closed(number)?;
        }
        Ok(())
    }

    /// Finishes the removals that linger.
    pub fn finish_removals(&mut self) -> Outcome<()> {
        while let Some(minor) = self.leaving.keys().next().copied() {
            self.end_pool(minor)?;
            if let Some(device) = self.leaving.remove(&minor) {
                self.close_below(&device)?;
            }
        }
        Ok(())
    }

    /// A device has been closed: a deferred removal may happen now.
    pub fn closed(&mut self, number: DeviceNumber) -> Outcome<()> {
        let waits = number.major == MAJOR
            && self.devices.get(&number.minor).is_some_and(|device| device.deferred_remove);
        if !waits || self.open_count(number) > 0 {
            return Ok(());
        }
        if !self.lingers {
            return self.destroy(number.minor);
        }
        if let Some(device) = self.devices.remove(&number.minor) {
            self.leaving.insert(number.minor, device);
            self.events += 1;
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
            // A device that waited for this may be removed now. A crash here ends the machine.
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
}
