//! The memory layout of the device-mapper ioctls: requests to bytes, bytes to replies.
//!
//! Everything is copied field by field with bounds checks. No struct is cast onto a buffer, so this
//! file needs no `unsafe`, and a reply that is cut short or has wrong offsets is an error that
//! names the field. Layouts: linux/dm-ioctl.h. It does not know how a buffer reaches the kernel.

use super::reply::{Header, ListEntry, Reply, ReplyData, TargetVersion};
use super::request::{Payload, Request, MAX_MINOR};
use super::selector::Selector;
use crate::dm::error::CodecError;
use crate::dm::interface::{DriverVersion, Flags, Verb};
use crate::dm::text::TargetLine;
use crate::names::{MAX_NAME_BYTES, MAX_UUID_BYTES};
use crate::units::{DeviceNumber, Sectors};

/// `sizeof(struct dm_ioctl)`: where data begins, in requests and in replies.
pub const HEADER_BYTES: usize = 312;

/// The interface version that requests state. The kernel takes any that is not newer than its own,
/// and no request needs more than the first.
pub const REQUEST_VERSION: DriverVersion = DriverVersion::new(4, 0, 0);

/// Longest type of a target: `DM_MAX_TYPE_NAME` less the NUL.
const MAX_KIND_BYTES: usize = 15;

/// `sizeof(struct dm_target_spec)`.
const SPEC_BYTES: usize = 40;

/// `sizeof(struct dm_target_versions)`.
const VERSIONS_BYTES: usize = 16;

/// Offsets in `struct dm_ioctl`.
mod at {
    pub const VERSION: usize = 0;
    pub const DATA_SIZE: usize = 12;
    pub const DATA_START: usize = 16;
    pub const TARGET_COUNT: usize = 20;
    pub const OPEN_COUNT: usize = 24;
    pub const FLAGS: usize = 28;
    pub const EVENT_NR: usize = 32;
    pub const DEV: usize = 40;
    pub const NAME: usize = 48;
    pub const UUID: usize = 176;
    pub const NAME_BYTES: usize = 128;
    pub const UUID_BYTES: usize = 129;
}

/// The request in memory, with space for an answer of `space` bytes after the header.
///
/// # Errors
/// [`CodecError::DoesNotFit`] for a target type above 15 bytes and for text with a NUL,
/// [`CodecError::RequestTooLarge`] above 4 GiB, [`CodecError::OutOfRange`] for a minor number of
/// more than 20 bits.
pub fn encode(request: &Request, space: usize) -> Result<Vec<u8>, CodecError> {
    let mut buffer = Vec::with_capacity(HEADER_BYTES + space);
    buffer.resize(HEADER_BYTES, 0);
    let target_count = encode_payload(request, &mut buffer)?;
    let size = buffer.len().max(HEADER_BYTES + space);
    buffer.resize(size, 0);
    let data_size = u32::try_from(size).map_err(|_| CodecError::RequestTooLarge { bytes: size })?;

    put_u32(&mut buffer, at::VERSION, REQUEST_VERSION.major);
    put_u32(&mut buffer, at::VERSION + 4, REQUEST_VERSION.minor);
    put_u32(&mut buffer, at::VERSION + 8, REQUEST_VERSION.patch);
    put_u32(&mut buffer, at::DATA_SIZE, data_size);
    put_u32(&mut buffer, at::DATA_START, HEADER_BYTES as u32);
    put_u32(&mut buffer, at::TARGET_COUNT, target_count);
    put_u32(&mut buffer, at::FLAGS, request.all_flags().0);
    put_u32(&mut buffer, at::EVENT_NR, request.raw_event_nr());
    encode_device(request, &mut buffer)?;
    Ok(buffer)
}

fn encode_device(request: &Request, buffer: &mut [u8]) -> Result<(), CodecError> {
    match request.selector() {
        None => {}
        Some(Selector::Name(name)) => {
            put_text(buffer, at::NAME, "name", name.as_str(), MAX_NAME_BYTES)?
        }
        Some(Selector::Uuid(uuid)) => {
            put_text(buffer, at::UUID, "uuid", uuid.as_str(), MAX_UUID_BYTES)?
        }
        Some(Selector::Number(number)) => put_u64(buffer, at::DEV, number.to_u64()),
    }
    if let Some(uuid) = request.new_uuid() {
        put_text(buffer, at::UUID, "uuid", uuid.as_str(), MAX_UUID_BYTES)?;
    }
    if let Some(minor) = request.new_minor() {
        // The kernel would silently take the low 20 bits.
        if minor > MAX_MINOR {
            return Err(CodecError::OutOfRange { field: "dev (minor)", value: minor.into() });
        }
        // The kernel looks only at the minor number.
        put_u64(buffer, at::DEV, DeviceNumber { major: 0, minor }.to_u64());
    }
    Ok(())
}

/// Appends what the request carries; returns its target count.
fn encode_payload(request: &Request, buffer: &mut Vec<u8>) -> Result<u32, CodecError> {
    match request.carried() {
        Payload::None => {}
        Payload::Table(lines) => {
            for line in lines {
                encode_spec(line, buffer)?;
            }
            return u32::try_from(lines.len()).map_err(|_| CodecError::OutOfRange {
                field: "target_count",
                value: lines.len() as u64,
            });
        }
        Payload::Message { sector, text } => {
            buffer.extend_from_slice(&sector.0.to_ne_bytes());
            push_text(buffer, "message", text)?;
        }
        Payload::Text(text) => push_text(buffer, "data", text)?,
    }
    Ok(0)
}

/// One `struct dm_target_spec` and its parameters; `next` counts from the start of this one.
fn encode_spec(line: &TargetLine, buffer: &mut Vec<u8>) -> Result<(), CodecError> {
    let start = buffer.len();
    buffer.resize(start + SPEC_BYTES, 0);
    put_u64(buffer, start, line.start.0);
    put_u64(buffer, start + 8, line.length.0);
    put_text(buffer, start + 24, "target_type", &line.kind, MAX_KIND_BYTES)?;
    push_text(buffer, "target parameters", &line.params)?;
    buffer.resize(buffer.len().next_multiple_of(8), 0);
    let next = buffer.len() - start;
    let next = u32::try_from(next).map_err(|_| CodecError::RequestTooLarge { bytes: next })?;
    put_u32(buffer, start + 20, next);
    Ok(())
}

fn push_text(buffer: &mut Vec<u8>, field: &'static str, text: &str) -> Result<(), CodecError> {
    if text.bytes().any(|b| b == 0) {
        return Err(CodecError::DoesNotFit {
            field,
            text: text.to_owned(),
            limit: u32::MAX as usize,
        });
    }
    buffer.extend_from_slice(text.as_bytes());
    buffer.push(0);
    Ok(())
}

fn put_text(
    buffer: &mut [u8],
    offset: usize,
    field: &'static str,
    text: &str,
    limit: usize,
) -> Result<(), CodecError> {
    if text.len() > limit || text.bytes().any(|b| b == 0) {
        return Err(CodecError::DoesNotFit { field, text: text.to_owned(), limit });
    }
    buffer[offset..offset + text.len()].copy_from_slice(text.as_bytes());
    Ok(())
}

fn put_u32(buffer: &mut [u8], offset: usize, value: u32) {
    buffer[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
}

fn put_u64(buffer: &mut [u8], offset: usize, value: u64) {
    buffer[offset..offset + 8].copy_from_slice(&value.to_ne_bytes());
}

/// The version in a reply's header: the kernel fills it in even where it refuses the request.
///
/// # Errors
/// [`CodecError::Truncated`] when there is no whole version.
pub fn decode_version(buffer: &[u8]) -> Result<DriverVersion, CodecError> {
    let reader = Reader { bytes: buffer };
    Ok(DriverVersion {
        major: reader.u32("version[0]", at::VERSION)?,
        minor: reader.u32("version[1]", at::VERSION + 4)?,
        patch: reader.u32("version[2]", at::VERSION + 8)?,
    })
}

/// The flags in a reply's header.
///
/// # Errors
/// [`CodecError::Truncated`] when they are not there.
pub fn decode_flags(buffer: &[u8]) -> Result<Flags, CodecError> {
    Ok(Flags(Reader { bytes: buffer }.u32("flags", at::FLAGS)?))
}

/// The kernel's answer to `verb`, from the buffer it was given.
///
/// A reply with [`Flags::BUFFER_FULL`] carries no data; the caller asks again with more space.
///
/// # Errors
/// [`CodecError`], which names the field, for a reply that is cut short, points outside itself or
/// holds a string without an end.
pub fn decode(verb: Verb, buffer: &[u8]) -> Result<Reply, CodecError> {
    let header = decode_header(buffer)?;
    if header.flags.contains(Flags::BUFFER_FULL) {
        return Ok(Reply { header, data: ReplyData::None });
    }
    let data = match verb {
        Verb::List => ReplyData::Devices(decode_devices(data(buffer)?, header.version)?),
        Verb::Status | Verb::Table | Verb::Wait => {
            ReplyData::Targets(decode_targets(data(buffer)?, header.target_count)?)
        }
        Verb::ListVersions | Verb::TargetVersion => {
            ReplyData::Versions(decode_versions(data(buffer)?)?)
        }
        Verb::Deps => ReplyData::Deps(decode_deps(data(buffer)?)?),
        Verb::Message if header.flags.contains(Flags::DATA_OUT) => {
            ReplyData::Text(data(buffer)?.text("message output", 0)?)
        }
        _ => ReplyData::None,
    };
    Ok(Reply { header, data })
}

fn decode_header(buffer: &[u8]) -> Result<Header, CodecError> {
    let reader = Reader { bytes: buffer };
    // The kernel's type is signed; it never lets it fall below zero.
    let open_count = reader.u32("open_count", at::OPEN_COUNT)?;
    if i32::try_from(open_count).is_err() {
        return Err(CodecError::OutOfRange { field: "open_count", value: u64::from(open_count) });
    }
    Ok(Header {
        version: decode_version(buffer)?,
        flags: decode_flags(buffer)?,
        target_count: reader.u32("target_count", at::TARGET_COUNT)?,
        open_count,
        event_nr: reader.u32("event_nr", at::EVENT_NR)?,
        device: reader.u64("dev", at::DEV)?,
        name: reader.fixed_text("name", at::NAME, at::NAME_BYTES)?,
        uuid: reader.fixed_text("uuid", at::UUID, at::UUID_BYTES)?,
    })
}

/// The part of the reply between `data_start` and `data_size`.
fn data(buffer: &[u8]) -> Result<Reader<'_>, CodecError> {
    let reader = Reader { bytes: buffer };
    let start = reader.u32("data_start", at::DATA_START)? as usize;
    let size = reader.u32("data_size", at::DATA_SIZE)? as usize;
    if size > buffer.len() {
        return Err(CodecError::Truncated {
            field: "data_size",
            offset: 0,
            needed: size,
            end: buffer.len(),
        });
    }
    // The start is within the header when the kernel has nothing to say (offsetof data).
    let bytes = buffer
        .get(start..size.max(start))
        .ok_or(CodecError::BadOffset { field: "data_start", value: start as u64 })?;
    Ok(Reader { bytes })
}

/// `struct dm_name_list`: entries that each point to the next from their own start.
fn decode_devices(data: Reader<'_>, version: DriverVersion) -> Result<Vec<ListEntry>, CodecError> {
    const NAME: usize = 12;
    let mut devices = Vec::new();
    if data.bytes.is_empty() {
        return Ok(devices);
    }
    let mut offset = 0;
    loop {
        let device = data.u64("dm_name_list.dev", offset)?;
        if device == 0 {
            // An entry without a number: there is no device at all.
            return Ok(devices);
        }
        let next = data.u32("dm_name_list.next", offset + 8)?;
        let entry = data.entry("dm_name_list.next", offset, next)?;
        let name = entry.c_string("dm_name_list.name", NAME)?.to_vec();
        let (event_nr, uuid) = decode_device_tail(&entry, NAME + name.len() + 1, version)?;
        devices.push(ListEntry { device: DeviceNumber::from_u64(device), name, event_nr, uuid });
        if next == 0 {
            return Ok(devices);
        }
        offset += next as usize;
    }
}

/// What is behind a name in the list: the event number and, from interface 4.45 on, flags and uuid.
fn decode_device_tail(
    entry: &Reader<'_>,
    name_end: usize,
    version: DriverVersion,
) -> Result<(u32, Option<Vec<u8>>), CodecError> {
    const HAS_UUID: u32 = 1;
    let offset = name_end.next_multiple_of(8);
    let event_nr = entry.u32("dm_name_list.event_nr", offset)?;
    if version < DriverVersion::new(4, 45, 0) {
        return Ok((event_nr, None));
    }
    let uuid = if entry.u32("dm_name_list.flags", offset + 4)? & HAS_UUID != 0 {
        Some(entry.c_string("dm_name_list.uuid", offset + 8)?.to_vec())
    } else {
        None
    };
    Ok((event_nr, uuid))
}

/// `struct dm_target_spec`: `next` counts from the start of the first one.
fn decode_targets(data: Reader<'_>, count: u32) -> Result<Vec<TargetLine>, CodecError> {
    let mut lines = Vec::new();
    let mut offset = 0;
    for _ in 0..count {
        let next = data.u32("dm_target_spec.next", offset + 20)?;
        let end = next as usize;
        // The last one points to where another would be: past the end, rounded up to 8.
        if end <= offset || end > data.bytes.len().next_multiple_of(8) {
            return Err(CodecError::BadOffset { field: "dm_target_spec.next", value: next.into() });
        }
        let spec = Reader { bytes: &data.bytes[..end.min(data.bytes.len())] };
        lines.push(TargetLine {
            start: Sectors(spec.u64("dm_target_spec.sector_start", offset)?),
            length: Sectors(spec.u64("dm_target_spec.length", offset + 8)?),
            kind: spec.fixed_text("dm_target_spec.target_type", offset + 24, MAX_KIND_BYTES + 1)?,
            params: spec.text("dm_target_spec parameters", offset + SPEC_BYTES)?,
        });
        offset = end;
    }
    Ok(lines)
}

/// `struct dm_target_versions`: entries that each point to the next from their own start.
fn decode_versions(data: Reader<'_>) -> Result<Vec<TargetVersion>, CodecError> {
    let mut versions = Vec::new();
    if data.bytes.is_empty() {
        return Ok(versions);
    }
    let mut offset = 0;
    loop {
        let next = data.u32("dm_target_versions.next", offset)?;
        let entry = data.entry("dm_target_versions.next", offset, next)?;
        versions.push(TargetVersion {
            version: DriverVersion {
                major: entry.u32("dm_target_versions.version[0]", 4)?,
                minor: entry.u32("dm_target_versions.version[1]", 8)?,
                patch: entry.u32("dm_target_versions.version[2]", 12)?,
            },
            name: entry.text("dm_target_versions.name", VERSIONS_BYTES)?,
        });
        if next == 0 {
            return Ok(versions);
        }
        offset += next as usize;
    }
}

/// `struct dm_target_deps`.
fn decode_deps(data: Reader<'_>) -> Result<Vec<DeviceNumber>, CodecError> {
    if data.bytes.is_empty() {
        // There is no live table.
        return Ok(Vec::new());
    }
    let count = data.u32("dm_target_deps.count", 0)? as usize;
    let mut deps = Vec::new();
    for index in 0..count {
        let dev = data.u64("dm_target_deps.dev", 8 + 8 * index)?;
        deps.push(DeviceNumber::from_u64(dev));
    }
    Ok(deps)
}

/// Reads within bounds.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn slice(
        &self,
        field: &'static str,
        offset: usize,
        needed: usize,
    ) -> Result<&'a [u8], CodecError> {
        offset
            .checked_add(needed)
            .and_then(|end| self.bytes.get(offset..end))
            .ok_or(CodecError::Truncated { field, offset, needed, end: self.bytes.len() })
    }

    fn u32(&self, field: &'static str, offset: usize) -> Result<u32, CodecError> {
        let mut value = [0; 4];
        value.copy_from_slice(self.slice(field, offset, 4)?);
        Ok(u32::from_ne_bytes(value))
    }

    fn u64(&self, field: &'static str, offset: usize) -> Result<u64, CodecError> {
        let mut value = [0; 8];
        value.copy_from_slice(self.slice(field, offset, 8)?);
        Ok(u64::from_ne_bytes(value))
    }

    /// The bytes before the NUL that must come before the buffer's end.
    fn c_string(&self, field: &'static str, offset: usize) -> Result<&'a [u8], CodecError> {
        let rest = self.slice(field, offset, 0).map(|_| &self.bytes[offset..])?;
        let end = rest.iter().position(|b| *b == 0);
        end.map(|end| &rest[..end]).ok_or(CodecError::Unterminated { field, offset })
    }

    fn text(&self, field: &'static str, offset: usize) -> Result<String, CodecError> {
        let bytes = self.c_string(field, offset)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| CodecError::NotText { field, offset })
    }

    /// A string in a field of `width` bytes, NUL included.
    fn fixed_text(
        &self,
        field: &'static str,
        offset: usize,
        width: usize,
    ) -> Result<String, CodecError> {
        let field_alone = Reader { bytes: self.slice(field, offset, width)? };
        field_alone.text(field, 0).map_err(|error| match error {
            CodecError::Unterminated { field, .. } => CodecError::Unterminated { field, offset },
            CodecError::NotText { field, .. } => CodecError::NotText { field, offset },
            other => other,
        })
    }

    /// The entry at `offset` of a list whose entries point to the next from their own start; the
    /// last says 0 and has all the rest.
    fn entry(
        &self,
        field: &'static str,
        offset: usize,
        next: u32,
    ) -> Result<Reader<'a>, CodecError> {
        let length = if next == 0 { self.bytes.len() - offset } else { next as usize };
        let bad = CodecError::BadOffset { field, value: next.into() };
        if next != 0 && next < 8 {
            return Err(bad);
        }
        offset
            .checked_add(length)
            .and_then(|end| self.bytes.get(offset..end))
            .map(|bytes| Reader { bytes })
            .ok_or(bad)
    }
}
