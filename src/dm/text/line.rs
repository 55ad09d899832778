//! One line of a table or of a status, as text: the form in which the kernel takes and gives it.

use crate::units::Sectors;

/// One line of a table or of a status. The typed forms are [`Target`](super::Target) and
/// [`TargetStatus`](super::TargetStatus).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetLine {
    /// First sector of the device that the target answers for.
    pub start: Sectors,
    /// How many sectors it answers for.
    pub length: Sectors,
    /// The target's type, at most 15 bytes.
    pub kind: String,
    /// The rest of the line.
    pub params: String,
}
