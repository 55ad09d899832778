//! The interface and the targets that are modelled.

use crate::dm::interface::DriverVersion;

/// The interface that is modelled: kernel 6.1's.
pub const VERSION: DriverVersion = DriverVersion::new(4, 47, 0);

/// The targets that are modelled.
pub const TARGETS: [(&str, DriverVersion); 4] = [
    ("thin-pool", DriverVersion::new(1, 22, 0)),
    ("thin", DriverVersion::new(1, 22, 0)),
    ("linear", DriverVersion::new(1, 4, 0)),
    ("error", DriverVersion::new(1, 5, 0)),
];

/// Whether there is such a target.
pub fn is_target(name: &str) -> bool {
    TARGETS.iter().any(|(target, _)| *target == name)
}
