//! The kernel's side of the ioctl buffers, for tests: replies as dm-ioctl.c lays them out, requests
//! as it reads them.
//!
//! Written from linux/dm-ioctl.h and dm-ioctl.c, not from the codec that it is there to test.

use devmapper_snapshotter::dm::{Header, ListEntry, Reply, ReplyData, TargetLine, TargetVersion};
use devmapper_snapshotter::units::DeviceNumber;

pub const HEADER: usize = 312;

/// A reply in a buffer of at least `capacity` bytes.
pub fn reply(reply: &Reply, capacity: usize) -> Vec<u8> {
    let mut data = Vec::new();
    let mut start = HEADER;
    match &reply.data {
        // `offsetof(struct dm_ioctl, data)`: the kernel leaves it where it was.
        ReplyData::None => start = 305,
        ReplyData::Devices(entries) => devices(entries, &mut data),
        ReplyData::Targets(lines) => targets(lines, &mut data),
        ReplyData::Versions(list) => versions(list, &mut data),
        ReplyData::Deps(list) => deps(list, &mut data),
        ReplyData::Text(text) => {
            data.extend_from_slice(text.as_bytes());
            data.push(0);
        }
    }
    let size = (start + data.len()) as u32;
    let mut buffer = header(&reply.header);
    buffer[12..16].copy_from_slice(&size.to_ne_bytes());
    buffer[16..20].copy_from_slice(&(start as u32).to_ne_bytes());
    buffer.truncate(start);
    buffer.append(&mut data);
    buffer.resize(buffer.len().max(capacity).max(HEADER), 0);
    buffer
}

fn header(header: &Header) -> Vec<u8> {
    let mut buffer = vec![0; HEADER];
    let mut put = |at: usize, value: u32| buffer[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    put(0, header.version.major);
    put(4, header.version.minor);
    put(8, header.version.patch);
    put(20, header.target_count);
    put(24, header.open_count);
    put(28, header.flags.0);
    put(32, header.event_nr);
    buffer[40..48].copy_from_slice(&header.device.to_ne_bytes());
    buffer[48..48 + header.name.len()].copy_from_slice(header.name.as_bytes());
    buffer[176..176 + header.uuid.len()].copy_from_slice(header.uuid.as_bytes());
    buffer
}

fn align(data: &mut Vec<u8>) {
    data.resize(data.len().next_multiple_of(8), 0);
}

fn set_u32(data: &mut [u8], at: usize, value: usize) {
    data[at..at + 4].copy_from_slice(&(value as u32).to_ne_bytes());
}

fn devices(entries: &[ListEntry], data: &mut Vec<u8>) {
    if entries.is_empty() {
        data.extend_from_slice(&[0; 16]);
    }
    let mut last = None;
    for entry in entries {
        let start = data.len();
        if let Some(last) = last.replace(start) {
            set_u32(data, last + 8, start - last);
        }
        data.extend_from_slice(&entry.device.to_u64().to_ne_bytes());
        data.extend_from_slice(&0u32.to_ne_bytes());
        data.extend_from_slice(&entry.name);
        data.push(0);
        align(data);
        data.extend_from_slice(&entry.event_nr.to_ne_bytes());
        let has_uuid = if entry.uuid.is_some() { 1u32 } else { 2 };
        data.extend_from_slice(&has_uuid.to_ne_bytes());
        if let Some(uuid) = &entry.uuid {
            data.extend_from_slice(uuid);
            data.push(0);
            align(data);
        }
    }
}

fn targets(lines: &[TargetLine], data: &mut Vec<u8>) {
    for (number, line) in lines.iter().enumerate() {
        align(data);
        let start = data.len();
        data.extend_from_slice(&line.start.0.to_ne_bytes());
        data.extend_from_slice(&line.length.0.to_ne_bytes());
        data.extend_from_slice(&[0; 24]);
        data[start + 24..start + 24 + line.kind.len()].copy_from_slice(line.kind.as_bytes());
        data.extend_from_slice(line.params.as_bytes());
        data.push(0);
        let next = data.len().next_multiple_of(8);
        set_u32(data, start + 20, next);
        // The size that the kernel states ends with the last string; its `next` points past it.
        if number + 1 < lines.len() {
            align(data);
        }
    }
}

fn versions(list: &[TargetVersion], data: &mut Vec<u8>) {
    let mut last = None;
    for entry in list {
        let start = data.len();
        if let Some(last) = last.replace(start) {
            set_u32(data, last, start - last);
        }
        data.extend_from_slice(&0u32.to_ne_bytes());
        for part in [entry.version.major, entry.version.minor, entry.version.patch] {
            data.extend_from_slice(&part.to_ne_bytes());
        }
        data.extend_from_slice(entry.name.as_bytes());
        data.push(0);
        align(data);
    }
}

fn deps(list: &[DeviceNumber], data: &mut Vec<u8>) {
    data.extend_from_slice(&(list.len() as u32).to_ne_bytes());
    data.extend_from_slice(&0u32.to_ne_bytes());
    for device in list {
        data.extend_from_slice(&device.to_u64().to_ne_bytes());
    }
}

/// A request, read as the kernel reads it.
pub struct Read<'a>(pub &'a [u8]);

impl Read<'_> {
    pub fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    pub fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    pub fn text(&self, at: usize) -> &str {
        let end = self.0[at..].iter().position(|byte| *byte == 0).expect("a NUL");
        std::str::from_utf8(&self.0[at..at + end]).unwrap()
    }

    /// The table of a load: each `next` counts from the start of its own entry.
    pub fn table(&self) -> Vec<TargetLine> {
        use devmapper_snapshotter::units::Sectors;
        let mut at = self.u32(16) as usize;
        let mut lines = Vec::new();
        for _ in 0..self.u32(20) {
            assert_eq!(at % 8, 0, "entries are aligned");
            lines.push(TargetLine {
                start: Sectors(self.u64(at)),
                length: Sectors(self.u64(at + 8)),
                kind: self.text(at + 24).to_owned(),
                params: self.text(at + 40).to_owned(),
            });
            at += self.u32(at + 20) as usize;
        }
        lines
    }
}
