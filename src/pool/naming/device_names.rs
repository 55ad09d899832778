//! The names and uuids of a pool's devices: every one is formed here and read back here.
//!
//! The name tells an operator what a device is for. The uuid contains the UUID of the pool, so that
//! a device is recognised as ours by more than its name. This file knows nothing of what is in the
//! pool.

use super::minors::minors;
use crate::names::{DevicePrefix, DmName, DmUuid};
use crate::units::ThinId;

/// The start of the dm uuid of every device of this program. The UUID of the pool follows.
const UUID_START: &str = "DMSNAPSHOTTER-";

/// What a device is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    Pool,
    /// The data area of a pool of our own.
    Data,
    /// The metadata area of a pool of our own.
    Metadata,
    /// The marker thin in a shared pool, while the claim is written into it.
    Claim,
    /// A snapshot, by its number, which is also the id of its thin.
    Snapshot(u64),
    /// A read-only device on a committed thin, by a number of its own.
    View(u64),
    /// A template, while it is made.
    Template(ThinId),
    /// A thin that is discarded before it is deleted.
    Reclaim(ThinId),
    /// The thin that holds the blocks whose space was given back to the file system below the pool.
    Balloon,
}

/// Forms and reads the names of one pool's devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNames {
    prefix: DevicePrefix,
    uuid: String,
}

impl DeviceNames {
    /// `uuid` is the pool's, 32 hexadecimal digits.
    pub fn new(prefix: &DevicePrefix, uuid: &str) -> Self {
        DeviceNames { prefix: prefix.clone(), uuid: uuid.into() }
    }

    /// The prefix of all names, without the `-` that follows it.
    pub fn prefix(&self) -> &str {
        self.prefix.as_str()
    }

    pub fn name(&self, role: Role) -> DmName {
        DmName::new(format!("{}-{}", self.prefix, suffix(role)))
            .expect("the length of a prefix is limited so that every suffix fits")
    }

    pub fn uuid(&self, role: Role) -> DmUuid {
        DmUuid::new(format!("{}{}", self.uuid_start(), suffix(role)))
            .expect("a uuid and a suffix fit")
    }

    /// What a device of this name is for. `None` for a name that this pool does not use.
    pub fn role(&self, name: &str) -> Option<Role> {
        role_under(&self.prefix, name)
    }

    /// The minor numbers for the device `role`, in the order in which to try them. None for a
    /// device whose number the kernel chooses.
    pub fn minors(&self, role: Role) -> impl Iterator<Item = u32> {
        let id = match role {
            Role::Pool | Role::Data | Role::Metadata | Role::Claim | Role::Balloon => None,
            Role::Snapshot(number) | Role::View(number) => u32::try_from(number).ok(),
            Role::Template(id) | Role::Reclaim(id) => Some(id.get()),
        };
        id.map(|id| minors(&self.uuid, id)).into_iter().flatten()
    }

    /// Whether a device with this uuid belongs to this pool.
    pub fn owns(&self, uuid: &str) -> bool {
        uuid.starts_with(&self.uuid_start())
    }

    /// The UUID of the other database of this program that a device with this dm uuid belongs to.
    /// `None` for a device of ours or of another program.
    pub fn other_owner<'u>(&self, uuid: &'u str) -> Option<&'u str> {
        let (owner, _) = uuid.strip_prefix(UUID_START)?.split_once('-')?;
        (owner != self.uuid).then_some(owner)
    }

    fn uuid_start(&self) -> String {
        format!("{UUID_START}{}-", self.uuid)
    }
}

/// What a device of this name is for to a daemon of this prefix, whatever pool it belongs to. Each
/// name has a role under at most one prefix, because no suffix ends in `-` and another suffix.
pub fn role_under(prefix: &DevicePrefix, name: &str) -> Option<Role> {
    parse(name.strip_prefix(prefix.as_str())?.strip_prefix('-')?)
}

/// Whether a device of this dm uuid belongs to this program: to our pool or to another one.
pub fn is_of_this_program(uuid: &str) -> bool {
    uuid.starts_with(UUID_START)
}

fn suffix(role: Role) -> String {
    match role {
        Role::Pool => "pool".into(),
        Role::Data => "data".into(),
        Role::Metadata => "metadata".into(),
        Role::Claim => "claim".into(),
        Role::Snapshot(number) => format!("snap-{number}"),
        Role::View(number) => format!("view-{number}"),
        Role::Template(id) => format!("template-{}", id.get()),
        Role::Reclaim(id) => format!("reclaim-{}", id.get()),
        Role::Balloon => "balloon".into(),
    }
}

fn parse(suffix: &str) -> Option<Role> {
    match suffix {
        "pool" => return Some(Role::Pool),
        "data" => return Some(Role::Data),
        "metadata" => return Some(Role::Metadata),
        "claim" => return Some(Role::Claim),
        "balloon" => return Some(Role::Balloon),
        _ => {}
    }
    let (what, number) = suffix.split_once('-')?;
    let id = ThinId::new(number.parse().ok()?).ok()?;
    if id.get().to_string() != number {
        return None;
    }
    match what {
        "snap" => Some(Role::Snapshot(id.get().into())),
        "view" => Some(Role::View(id.get().into())),
        "template" => Some(Role::Template(id)),
        "reclaim" => Some(Role::Reclaim(id)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn roles() -> impl Strategy<Value = Role> {
        let id = (0..=ThinId::MAX.get()).prop_map(|n| ThinId::new(n).unwrap());
        (0..9u8, id).prop_map(|(kind, id)| match kind {
            0 => Role::Pool,
            1 => Role::Data,
            2 => Role::Metadata,
            3 => Role::Snapshot(id.get().into()),
            4 => Role::View(id.get().into()),
            5 => Role::Template(id),
            6 => Role::Claim,
            7 => Role::Balloon,
            _ => Role::Reclaim(id),
        })
    }

    proptest! {
        #[test]
        fn a_name_is_read_back_as_what_it_was_formed_from(role in roles(), prefix in "[a-z][a-z0-9-]{0,99}") {
            let names = DeviceNames::new(&DevicePrefix::new(prefix).unwrap(), "00112233445566778899aabbccddeeff");
            prop_assert_eq!(names.role(names.name(role).as_str()), Some(role));
            prop_assert!(names.owns(names.uuid(role).as_str()));
        }

        /// The name of a daemon may begin with another's, or look like a device of another.
        #[test]
        fn no_device_of_one_daemon_has_a_role_for_another(
            role in roles(),
            short in "[a-z][a-z0-9-]{0,9}",
            more in "(-snap|-view|-pool|-data|-metadata|-template|-reclaim|-[0-9]{1,3}|[a-z0-9-]{1,4}){1,3}",
        ) {
            let [one, other] = [short.clone(), format!("{short}{more}")].map(|name| DevicePrefix::new(name).unwrap());
            for (one, other) in [(&one, &other), (&other, &one)] {
                let device = DeviceNames::new(other, "aa").name(role);
                prop_assert_eq!(role_under(one, device.as_str()), None, "{} has {}", one, device);
            }
        }
    }

    #[test]
    fn names_of_other_devices_have_no_role() {
        let names = DeviceNames::new(&DevicePrefix::new("pool").unwrap(), "aa");
        for name in [
            "pool",
            "pool-",
            "pool-snap-",
            "pool-snap-x",
            "pool-snap-01",
            "pool-snap-16777216",
            "other-snap-1",
            "pool2-snap-1",
        ] {
            assert_eq!(names.role(name), None, "{name}");
        }
        assert!(!names.owns("DMSNAPSHOTTER-ab-snap-1"));
        assert!(!names.owns("LVM-aa"));
    }
}
