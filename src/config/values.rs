//! Converts TOML values to the types of the options, or refuses them with a reason.

use std::net::SocketAddr;
use std::path::PathBuf;

use toml::Value;

use crate::names::{DevicePrefix, DmName};
use crate::units::{bytes_text, parse_bytes, Sectors};

use super::options::PoolFeature;
use super::paths;

/// dm-thin's block sizes (thin-provisioning.rst): 64 KiB to 1 GiB, in multiples of 64 KiB.
const BLOCK_STEP: u64 = 64 << 10;
const BLOCK_MAX: u64 = 1 << 30;

pub fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) if text.is_empty() => Err("is empty".into()),
        // Control characters break C strings, lists, logs and file names. No option needs one.
        Value::String(text) => match text.chars().find(|c| c.is_control()) {
            Some(control) => Err(format!("{text:?} contains the control character {control:?}")),
            None => Ok(text.clone()),
        },
        other => Err(format!("is {} where a string is needed", kind(other))),
    }
}

pub fn texts(value: &Value) -> Result<Vec<String>, String> {
    let Value::Array(items) = value else {
        return Err(format!("is {} where a list of strings is needed", kind(value)));
    };
    items.iter().map(text).collect()
}

pub fn pool_features(value: &Value) -> Result<Vec<PoolFeature>, String> {
    let feature = |word: String| {
        let known = PoolFeature::ALL.into_iter().find(|feature| feature.to_string() == word);
        known.ok_or_else(|| {
            format!("{word:?} is not one of {}", PoolFeature::ALL.map(|f| f.to_string()).join(", "))
        })
    };
    texts(value)?.into_iter().map(feature).collect()
}

pub fn boolean(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("is {} where true or false is needed", kind(value)))
}

pub fn percent(value: &Value) -> Result<u8, String> {
    match value {
        Value::Integer(n @ 0..=90) => Ok(*n as u8),
        Value::Integer(n) => Err(format!("is {n} where a percentage from 0 to 90 is needed")),
        other => Err(format!("is {} where a percentage from 0 to 90 is needed", kind(other))),
    }
}

pub fn path(value: &Value) -> Result<PathBuf, String> {
    text(value).map(PathBuf::from)
}

pub fn device(value: &Value) -> Result<PathBuf, String> {
    paths::absolute(path(value)?)
}

pub fn socket_address(value: &Value) -> Result<SocketAddr, String> {
    let text = text(value)?;
    text.parse()
        .map_err(|_| format!("{text:?} is not an address and a port such as 127.0.0.1:9653"))
}

pub fn device_name(value: &Value) -> Result<DmName, String> {
    DmName::new(text(value)?).map_err(|e| e.to_string())
}

pub fn device_prefix(value: &Value) -> Result<DevicePrefix, String> {
    DevicePrefix::new(text(value)?).map_err(|e| e.to_string())
}

pub fn file_system(value: &Value) -> Result<String, String> {
    let name = text(value)?;
    name.parse::<crate::fs::FsType>().map_err(|e| e.to_string())?;
    Ok(name)
}

/// A size in bytes, not rounded.
fn exact_size(value: &Value, least: u64, most: u64) -> Result<u64, String> {
    const FORM: &str = "write a number and a unit, such as \"10GiB\" (KiB, MiB, GiB, TiB; KB, MB, \
                        GB, TB are powers of 1000)";
    let Value::String(text) = value else {
        return Err(format!("is {} where a size is needed: {FORM}", kind(value)));
    };
    let bytes = parse_bytes(text).ok_or_else(|| format!("{text:?} is not a size: {FORM}"))?;
    if bytes < least {
        return Err(format!("{text:?} is too small; at least {} is needed", bytes_text(least)));
    }
    if bytes > most {
        return Err(format!("{text:?} is too large; at most {} is allowed", bytes_text(most)));
    }
    Ok(bytes)
}

/// The size of a device or an area, rounded up to a multiple of 64 KiB.
pub fn size(value: &Value, least: u64, most: u64) -> Result<Sectors, String> {
    exact_size(value, least, most).map(Sectors::of_device)
}

/// A pool's block size. It is not rounded, but refused if dm-thin cannot have it.
pub fn block_size(value: &Value) -> Result<Sectors, String> {
    let bytes = exact_size(value, BLOCK_STEP, BLOCK_MAX)?;
    if bytes.is_multiple_of(BLOCK_STEP) {
        Ok(Sectors(bytes / 512))
    } else {
        Err("is not a multiple of 64KiB".into())
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "an integer",
        Value::Float(_) => "a float",
        Value::Boolean(_) => "a boolean",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}
