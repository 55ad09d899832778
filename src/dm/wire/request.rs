//! What can be asked of the kernel, as plain values. One [`Request`] is one ioctl on
//! `/dev/mapper/control`.

use std::fmt;

use super::cookie::EventCookie;
use super::selector::Selector;
use crate::dm::interface::{Flags, Verb};
use crate::dm::text::TargetLine;
use crate::names::{DmName, DmUuid};
use crate::units::Sectors;

/// What a request carries after its header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Payload {
    /// Nothing.
    #[default]
    None,
    /// A table, for [`Verb::Load`].
    Table(Vec<TargetLine>),
    /// A message to the target that answers for `sector`, for [`Verb::Message`].
    Message {
        /// A sector of the target; any for messages to the device.
        sector: Sectors,
        /// The words of the message.
        text: String,
    },
    /// A new name or uuid, for [`Verb::Rename`], or a geometry, for [`Verb::SetGeometry`].
    Text(String),
}

/// The largest minor number: the kernel has 20 bits for it (`MINORBITS` in linux/kdev_t.h).
pub const MAX_MINOR: u32 = (1 << 20) - 1;

/// One ioctl, as values: the low-level request builder. Docker's package calls this a task.
///
/// ```
/// use devmapper_snapshotter::dm::{Request, Verb};
/// use devmapper_snapshotter::names::DmName;
///
/// let request = Request::new(Verb::Info).name(DmName::new("vg-pool")?);
/// assert_eq!(request.to_string(), "info of vg-pool");
/// # Ok::<(), devmapper_snapshotter::names::NameError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    verb: Verb,
    flags: Flags,
    device: Option<Selector>,
    create_uuid: Option<DmUuid>,
    minor: Option<u32>,
    event_nr: u32,
    payload: Payload,
}

impl Request {
    /// A request that does `verb` to no device yet.
    #[must_use]
    pub fn new(verb: Verb) -> Request {
        Request {
            verb,
            flags: verb.implied_flags(),
            device: None,
            create_uuid: None,
            minor: None,
            event_nr: 0,
            payload: Payload::None,
        }
    }

    /// The name of the device that the request is about. With [`Verb::Create`] it is the name that
    /// the device gets, with [`Verb::TargetVersion`] it is a target's.
    #[must_use]
    pub fn name(self, name: DmName) -> Request {
        self.device(&name)
    }

    /// The device that the request is about.
    #[must_use]
    pub fn device(mut self, device: impl Into<Selector>) -> Request {
        self.device = Some(device.into());
        self
    }

    /// The uuid that a device is created with, for [`Verb::Create`]. (Other verbs look a device up
    /// by [`Selector::Uuid`]: the kernel ignores the name when a uuid is there.)
    #[must_use]
    pub fn create_uuid(mut self, uuid: DmUuid) -> Request {
        self.create_uuid = Some(uuid);
        self
    }

    /// The minor number that a device is created with, for [`Verb::Create`].
    #[must_use]
    pub fn minor(mut self, minor: u32) -> Request {
        self.minor = Some(minor);
        self.flags |= Flags::PERSISTENT_DEV;
        self
    }

    /// Adds flags.
    #[must_use]
    pub fn flags(mut self, flags: Flags) -> Request {
        self.flags |= flags;
        self
    }

    /// The number of the last event that the caller knows, for [`Verb::Wait`].
    #[must_use]
    pub fn event_nr(mut self, event_nr: u32) -> Request {
        self.event_nr = event_nr;
        self
    }

    /// What udev gets with the event, for [`Verb::Resume`], [`Verb::Remove`] and [`Verb::Rename`].
    #[must_use]
    pub fn cookie(mut self, cookie: EventCookie) -> Request {
        self.event_nr = cookie.to_event_nr();
        self
    }

    /// What the request carries.
    #[must_use]
    pub fn payload(mut self, payload: Payload) -> Request {
        self.payload = payload;
        self
    }

    /// The verb.
    #[must_use]
    pub fn verb(&self) -> Verb {
        self.verb
    }

    /// All flags, including those that the verb implies.
    #[must_use]
    pub fn all_flags(&self) -> Flags {
        self.flags
    }

    /// Whether it has these flags.
    #[must_use]
    pub fn has(&self, flags: Flags) -> bool {
        self.flags.contains(flags)
    }

    /// The device that it is about, if any.
    #[must_use]
    pub fn selector(&self) -> Option<&Selector> {
        self.device.as_ref()
    }

    /// How an error names its device.
    #[must_use]
    pub fn subject(&self) -> String {
        self.device.as_ref().map_or_else(|| "no device".to_owned(), Selector::to_string)
    }

    /// The name of its device, if it is given by name.
    #[must_use]
    pub fn device_name(&self) -> Option<&DmName> {
        match &self.device {
            Some(Selector::Name(name)) => Some(name),
            _ => None,
        }
    }

    /// The uuid for a new device.
    #[must_use]
    pub fn new_uuid(&self) -> Option<&DmUuid> {
        self.create_uuid.as_ref()
    }

    /// The minor number for a new device.
    #[must_use]
    pub fn new_minor(&self) -> Option<u32> {
        self.minor
    }

    /// The event number or the cookie, as the kernel gets it.
    #[must_use]
    pub fn raw_event_nr(&self) -> u32 {
        self.event_nr
    }

    /// What the request carries.
    #[must_use]
    pub fn carried(&self) -> &Payload {
        &self.payload
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.verb)?;
        if let Some(device) = &self.device {
            write!(f, " of {device}")?;
        }
        if let Payload::Message { text, .. } = &self.payload {
            write!(f, " ({text})")?;
        }
        Ok(())
    }
}
