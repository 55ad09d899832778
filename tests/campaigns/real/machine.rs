//! The kernel seen from outside the daemon: mounts, device-mapper and thin pools, by their own
//! tools.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use containerd_snapshots::api::types::Mount;
use kit::{try_dmsetup, try_run, try_used_blocks};
use nix::mount::{mount, umount2, MntFlags, MsFlags};

use super::daemon::NAME;

/// A mounted file system. It is unmounted when this is dropped.
pub struct Mounted {
    pub folder: PathBuf,
}

impl Mounted {
    pub fn new(name: &str, what: &Mount) -> Result<Mounted, String> {
        Mounted::device(name, &what.source, &what.r#type, &what.options)
    }

    pub fn device(
        name: &str,
        source: &str,
        fs_type: &str,
        options: &[String],
    ) -> Result<Mounted, String> {
        let folder = Path::new("/run/mounts").join(name);
        fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
        let read_only = options.iter().any(|option| option == "ro");
        let flags = if read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
        let rest: Vec<&str> =
            options.iter().map(String::as_str).filter(|option| *option != "ro").collect();
        mount(Some(source), &folder, Some(fs_type), flags, Some(rest.join(",").as_str()))
            .map_err(|e| format!("mounting {source}: {e}"))?;
        Ok(Mounted { folder })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.folder, MntFlags::empty()) {
            println!("unmounting {}: {error}", self.folder.display());
            let _ = umount2(&self.folder, MntFlags::MNT_DETACH);
        }
        let _ = fs::remove_dir(&self.folder);
    }
}

/// The devices of the daemon, each with the thin that it shows, if it shows one.
pub fn devices() -> Result<BTreeMap<String, Option<u32>>, String> {
    let mut found = BTreeMap::new();
    for line in try_dmsetup(&["table"])?.lines() {
        let Some((name, table)) = line.split_once(": ") else { continue };
        if name.starts_with(&format!("{NAME}-")) {
            let words: Vec<&str> = table.split_whitespace().collect();
            let thin = (words.get(2) == Some(&"thin"))
                .then(|| words.get(4).and_then(|id| id.parse().ok()))
                .flatten();
            found.insert(name.to_owned(), thin);
        }
    }
    Ok(found)
}

/// Devices that are suspended.
pub fn suspended() -> Result<Vec<String>, String> {
    let listed =
        try_dmsetup(&["info", "-c", "--noheadings", "--separator", ",", "-o", "name,suspended"])?;
    let is_suspended =
        |line: &&str| line.split(',').nth(1).is_some_and(|word| word.trim() == "Suspended");
    Ok(listed
        .lines()
        .filter(is_suspended)
        .map(|line| line.split(',').next().unwrap_or("").to_owned())
        .collect())
}

fn pool() -> String {
    format!("{NAME}-pool")
}

/// All thins in the pool, with the number of blocks that each maps, from the metadata.
pub fn thins() -> Result<BTreeMap<u32, u64>, String> {
    let listed = with_metadata("thin_ls", &["--no-headers", "--format", "DEV,MAPPED_BLOCKS"])?;
    let pair = |line: &str| {
        let mut words = line.split_whitespace().map(str::parse);
        Some((words.next()?.ok()?, words.next()?.ok()?))
    };
    listed
        .lines()
        .map(|line| {
            pair(line)
                .map(|(id, blocks)| (id as u32, blocks))
                .ok_or_else(|| format!("thin_ls: {line:?}"))
        })
        .collect()
}

/// Reads the pool's metadata with one of the tools: `program -m ARGUMENTS DEVICE`.
fn with_metadata(program: &str, arguments: &[&str]) -> Result<String, String> {
    let table = try_dmsetup(&["table", &pool()])?;
    let metadata = table.split_whitespace().nth(3).ok_or("the pool's table is short")?;
    let uevent = fs::read_to_string(format!("/sys/dev/block/{metadata}/uevent"))
        .map_err(|e| e.to_string())?;
    let node = uevent
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="))
        .ok_or("a device without a name")?;
    // A crash between the reservation and the release leaves a snapshot of the metadata reserved.
    let _ = try_dmsetup(&["message", &pool(), "0", "release_metadata_snap"]);
    try_dmsetup(&["message", &pool(), "0", "reserve_metadata_snap"])?;
    let device = format!("/dev/{node}");
    let said = try_run(program, &[&["-m"], arguments, &[device.as_str()]].concat());
    try_dmsetup(&["message", &pool(), "0", "release_metadata_snap"])?;
    said
}

/// The pool's data blocks that this thin maps, or that any thin maps.
pub fn data_blocks(thin: Option<u32>) -> Result<BTreeSet<u64>, String> {
    let id = thin.map(|id| id.to_string());
    let dumped =
        with_metadata("thin_dump", &id.iter().flat_map(|id| ["--dev-id", id]).collect::<Vec<_>>())?;
    let mut blocks = BTreeSet::new();
    for line in dumped.lines() {
        let value = |name: &str| -> Option<u64> {
            line.split_once(&format!("{name}=\""))?.1.split('"').next()?.parse().ok()
        };
        if let Some(block) = value("data_block") {
            blocks.insert(block);
        } else if let (Some(first), Some(length)) = (value("data_begin"), value("length")) {
            blocks.extend(first..first + length);
        }
    }
    Ok(blocks)
}

/// The pool's data blocks in use.
pub fn used_blocks() -> Result<u64, String> {
    try_used_blocks(&pool())
}

/// Removes the pool and all devices on it, and leaves its two areas.
pub fn remove_all_but_areas() -> Result<(), String> {
    let is_area = |name: &str| name.ends_with("-data") || name.ends_with("-metadata");
    let ours = |name: &String| name.starts_with(&format!("{NAME}-")) && !is_area(name);
    let mut names: Vec<String> = devices()?.into_keys().filter(ours).collect();
    names.sort_by_key(|name| name.ends_with("-pool"));
    names.iter().try_for_each(|name| try_dmsetup(&["remove", "--retry", name]).map(drop))
}

/// Removes all devices of the daemon, the pool last, but for those whose names begin with `except`.
pub fn remove_devices(except: &str) -> Result<(), String> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let mut names: Vec<String> =
            devices()?.into_keys().filter(|name| !name.starts_with(except)).collect();
        if names.is_empty() {
            return Ok(());
        }
        names.sort_by_key(|name| match name.strip_prefix(NAME).unwrap_or_default() {
            "-pool" => 1,
            "-data" | "-metadata" => 2,
            _ => 0,
        });
        let mut all = vec!["remove"];
        all.extend(names.iter().map(String::as_str));
        let failed = try_dmsetup(&all).err().unwrap_or_default();
        if Instant::now() > end {
            return Err(failed);
        }
    }
}

/// `e2fsck -fn`: an error if anything is wrong.
pub fn fsck(device: &str) -> Result<(), String> {
    try_run("e2fsck", &["-fn", device]).map(drop)
}
