//! Parts of messages that tell the operator what to do.

use std::path::{Path, PathBuf};

use crate::units::{Sectors, ThinId};

/// How a metadata area is made larger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataGrowth {
    File(PathBuf),
    Device(PathBuf),
    /// It cannot grow: on this disk the data area follows right behind it.
    Never {
        disk: PathBuf,
    },
    /// By the owner of a shared pool.
    ItsOwner,
}

/// Where the metadata of a pool is, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataPlace {
    /// What thin_check is run on while the pool is not assembled.
    pub path: PathBuf,
    pub growth: MetadataGrowth,
}

/// A number of bytes for a reader.
pub fn bytes(bytes: u64) -> String {
    Sectors(bytes / 512).to_text()
}

pub fn shortage(what: &str, free: u64, total: u64, percent: u8) -> String {
    let (free_size, total) = (bytes(free), bytes(total));
    if free == 0 {
        return format!("nothing of {total} of {what} is free");
    }
    format!(
        "{free_size} of {total} of {what} free, less than the {percent} % that min_free_percent \
         keeps"
    )
}

/// How to take a pool apart, if it is assembled.
pub fn taken_apart(active: bool) -> &'static str {
    if active {
        "stop what uses the pool, remove its devices and then the pool itself ('dmsetup remove', \
         or a reboot), "
    } else {
        ""
    }
}

/// How to get a pool with full metadata to work again. `check` is what thin_check has to be run on
/// before the pool takes changes.
pub fn way_out(growth: &MetadataGrowth, check: Option<&Path>, active: bool) -> String {
    let larger = match growth {
        MetadataGrowth::File(file) => {
            format!("make {} larger by a quarter or more ('truncate -s')", file.display())
        }
        MetadataGrowth::Device(device) => format!(
            "make {} larger by a quarter or more ('lvextend' for a volume)",
            device.display()
        ),
        MetadataGrowth::Never { disk } => {
            return format!(
                "It lies on {} with the data right behind it, so it cannot get larger there. What \
                 is mounted can still be read: save what exists only there, then start with an \
                 empty state directory, an empty disk and a larger 'metadata_size'",
                disk.display()
            )
        }
        MetadataGrowth::ItsOwner => {
            return "Its owner makes it larger ('lvextend --poolmetadatasize' with LVM); then start \
                    the daemon again"
                .into()
        }
    };
    let check = check
        .map(|path| format!(", run 'thin_check --clear-needs-check-flag {}'", path.display()))
        .unwrap_or_default();
    format!("{}{larger}{check}, and start the daemon again", begun(taken_apart(active)))
}

/// The start of a sentence: with a capital letter, or `Now` where there is no text.
fn begun(text: &str) -> String {
    match text.chars().next() {
        Some(first) => format!("{}{}", first.to_uppercase(), &text[first.len_utf8()..]),
        None => "Now ".into(),
    }
}

pub fn known_by(uuid: &str) -> String {
    if uuid.is_empty() {
        "no dm uuid".into()
    } else {
        format!("dm uuid {uuid}")
    }
}

/// The owner of a device that has one of our names. `ours` is the UUID of the pool on record.
pub fn owner(of_this_program: bool, store: &Path, ours: Option<&str>) -> String {
    let other = if of_this_program { "another daemon of this program" } else { "another program" };
    match ours {
        Some(uuid) => format!(
            "{other}; those of the database {} have uuids of DMSNAPSHOTTER-{uuid}-",
            store.display()
        ),
        None => format!("{other}; the database {} knows no pool yet", store.display()),
    }
}

/// What to do about a lost database, if a device may belong to its pool.
pub fn lost_database(of_this_program: bool, ours: Option<&str>) -> &'static str {
    if ours.is_none() && of_this_program {
        "; if it is of this daemon's own pool, put its database back"
    } else {
        ""
    }
}

pub fn missing_area(live: bool) -> &'static str {
    if live {
        ", or is another file than the one that the assembled pool has open (/proc and losetup -a \
         show that one). Put it back under this name: copy it while the pool is assembled, or stop \
         what uses the pool first"
    } else {
        ". Put it back, or start with an empty state directory and pull anew"
    }
}

pub fn of_origin(origin: &Option<ThinId>) -> String {
    origin.map(|id| format!(" as a snapshot of thin {id}")).unwrap_or_default()
}
