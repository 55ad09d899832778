//! The tables, and how their keys become bytes.
//!
//! redb orders keys by their bytes, so numbers are big-endian. In a key of several parts, each part
//! but the last is preceded by its length, so that every key is unambiguous. This file does not use
//! redb.

use crate::units::{Sectors, ThinId};

use super::owners::Owned;
use super::records::TemplateKey;

/// A table of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    /// Single values: the schema version, the pool, its lapses, the leases of thin ids, the claim
    /// in an external pool, the balloon.
    Meta,
    /// Snapshots by key.
    Snapshots,
    /// Index: parent and child. The values are empty.
    Children,
    /// Templates by file system, options and size.
    Templates,
    /// Reclaim entries by device number.
    Reclaim,
    /// Index: the owner of each thin id and device number.
    Owners,
    /// Thin ids in the pool that are not this daemon's. The values are empty.
    Foreign,
}

impl Table {
    pub(super) const ALL: [Table; 7] = [
        Table::Meta,
        Table::Snapshots,
        Table::Children,
        Table::Templates,
        Table::Reclaim,
        Table::Owners,
        Table::Foreign,
    ];

    /// The table's name in the file.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Table::Meta => "meta",
            Table::Snapshots => "snapshots",
            Table::Children => "children",
            Table::Templates => "templates",
            Table::Reclaim => "reclaim",
            Table::Owners => "owners",
            Table::Foreign => "foreign",
        }
    }
}

/// Keys of [`Table::Meta`].
pub(super) mod meta {
    pub const SCHEMA: &[u8] = b"schema";
    pub const POOL: &[u8] = b"pool";
    pub const LEASES: &[u8] = b"leases";
    pub const LAPSES: &[u8] = b"lapses";
    pub const CLAIM: &[u8] = b"claim";
    pub const COMMITS: &[u8] = b"commits";
    pub const BALLOON: &[u8] = b"balloon";
}

/// The key of a reclaim entry.
pub(super) fn number(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// The key of a foreign thin id.
pub(super) fn foreign(thin: ThinId) -> [u8; 4] {
    thin.get().to_be_bytes()
}

/// The inverse of [`foreign`].
pub(super) fn foreign_from(bytes: &[u8]) -> Option<ThinId> {
    thin_from(bytes)
}

/// The first byte of thin ids in [`Table::Owners`].
const THIN: u8 = b't';
/// The first byte of device numbers in [`Table::Owners`].
const NUMBER: u8 = b'n';

/// The key of a thin id or device number in [`Table::Owners`].
pub(super) fn owned(what: Owned) -> Vec<u8> {
    match what {
        Owned::Thin(thin) => [&[THIN][..], &thin.get().to_be_bytes()].concat(),
        Owned::Number(number) => [&[NUMBER][..], &number.to_be_bytes()].concat(),
    }
}

/// The inverse of [`owned`].
pub(super) fn owned_from(bytes: &[u8]) -> Option<Owned> {
    match bytes.split_first()? {
        (&THIN, rest) => thin_from(rest).map(Owned::Thin),
        (&NUMBER, rest) => Some(Owned::Number(u64::from_be_bytes(rest.try_into().ok()?))),
        _ => None,
    }
}

/// The prefix of all thin ids in [`Table::Owners`].
pub(super) const OWNED_THINS: &[u8] = &[THIN];

fn thin_from(bytes: &[u8]) -> Option<ThinId> {
    ThinId::new(u32::from_be_bytes(bytes.try_into().ok()?)).ok()
}

/// The prefix of all index entries of one parent.
pub(super) fn children_of(parent: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(parent.len() + 4);
    push_part(&mut key, parent);
    key
}

/// The index entry of one child.
pub(super) fn child(parent: &str, child: &str) -> Vec<u8> {
    let mut key = children_of(parent);
    key.extend_from_slice(child.as_bytes());
    key
}

/// The inverse of [`child`]: the parent and the child.
pub(super) fn child_from(bytes: &[u8]) -> Option<(&str, &str)> {
    let (parent, child) = split_part(bytes)?;
    Some((parent, std::str::from_utf8(child).ok()?))
}

/// The key of a template.
pub(super) fn template(key: &TemplateKey) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_part(&mut bytes, &key.fs);
    push_part(&mut bytes, &key.options);
    bytes.extend_from_slice(&key.size.0.to_be_bytes());
    bytes
}

/// The inverse of [`template`].
pub(super) fn template_from(bytes: &[u8]) -> Option<TemplateKey> {
    let (fs, rest) = split_part(bytes)?;
    let (options, size) = split_part(rest)?;
    Some(TemplateKey {
        fs: fs.to_owned(),
        options: options.to_owned(),
        size: Sectors(u64::from_be_bytes(size.try_into().ok()?)),
    })
}

/// Appends the length of a part and the part. A part of 4 GiB or more does not fit into any record.
fn push_part(key: &mut Vec<u8>, part: &str) {
    let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
    key.extend_from_slice(&length.to_be_bytes());
    key.extend_from_slice(part.as_bytes());
}

fn split_part(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (part, rest) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(part).ok()?, rest))
}
