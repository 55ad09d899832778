//! What a record owns. Nobody else may own the same; `changes` sees to that through an index, and
//! whoever checks the index computes it from here again.

use crate::units::ThinId;

use super::records::{BalloonRecord, ReclaimRecord, SnapshotRecord, TemplateRecord};

/// What can be owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owned {
    /// A thin id.
    Thin(ThinId),
    /// A device number.
    Number(u64),
}

/// A record that owns something.
pub(super) trait Owns {
    /// All that it owns.
    fn owns(&self) -> Vec<Owned>;
}

impl Owns for SnapshotRecord {
    fn owns(&self) -> Vec<Owned> {
        let thin = self.owned_thin().map(Owned::Thin);
        thin.into_iter().chain([Owned::Number(self.number)]).collect()
    }
}

impl Owns for TemplateRecord {
    fn owns(&self) -> Vec<Owned> {
        vec![Owned::Thin(self.thin), Owned::Number(self.number)]
    }
}

impl Owns for ReclaimRecord {
    fn owns(&self) -> Vec<Owned> {
        let thin = self.thin().map(Owned::Thin);
        thin.into_iter().chain([Owned::Number(self.number)]).collect()
    }
}

impl Owns for BalloonRecord {
    fn owns(&self) -> Vec<Owned> {
        vec![Owned::Thin(self.thin)]
    }
}

/// A foreign thin is itself what its entry owns.
impl Owns for ThinId {
    fn owns(&self) -> Vec<Owned> {
        vec![Owned::Thin(*self)]
    }
}
