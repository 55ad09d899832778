//! The thin ids and device numbers that a record owns. Each belongs to one record at most.
//! `changes` keeps an index of them, and `check` computes the index again from here.

use crate::units::ThinId;

use super::records::{BalloonRecord, ReclaimRecord, SnapshotRecord, TemplateRecord};

/// A thin id or a device number that a record owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owned {
    Thin(ThinId),
    Number(u64),
}

/// A record that can own thin ids and device numbers.
pub(super) trait Owns {
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

/// The entry of a foreign thin owns that thin id.
impl Owns for ThinId {
    fn owns(&self) -> Vec<Owned> {
        vec![Owned::Thin(*self)]
    }
}
