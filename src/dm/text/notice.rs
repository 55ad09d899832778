//! What the kernel's log says of a thin pool: each change of its mode and each low water mark.
//!
//! The pool's event number counts the same events and does not say which kind each was. Each of
//! them prints one line to the log: a change of mode right after its event, a low water mark right
//! before (`notify_of_pool_mode_change`, `check_low_water_mark` and `metadata_low_callback` in
//! drivers/md/dm-thin.c). The words are the same in all kernels from 4.14 on. Programs can write to
//! the log too, but their lines carry another facility than the kernel's.

use crate::units::DeviceNumber;

/// A line of a thin pool in the kernel's log. Each is one event of the pool's device as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolNotice {
    /// From here on a write that needs a new block gets one, or waits until there is one.
    ServesWrites,
    /// From here on a write that needs a new block fails: the pool is out of data space and does
    /// not queue (or its time-out for queueing has passed), it is out of metadata space, read-only,
    /// or failed.
    RefusesWrites,
    /// The free blocks for data or for metadata have fallen to the low water mark.
    LowWater,
}

/// Reads a line of dm-thin.
fn parse(line: &str) -> Option<(DeviceNumber, PoolNotice)> {
    let (device, said) = line.strip_prefix("device-mapper: thin: ")?.split_once(": ")?;
    let (major, minor) = device.split_once(':')?;
    let device = DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? };
    let notice =
        match said.strip_prefix("switching pool to ").and_then(|rest| rest.strip_suffix(" mode")) {
            Some("write" | "out-of-data-space (queue IO)") => PoolNotice::ServesWrites,
            Some(_) => PoolNotice::RefusesWrites,
            None if said.starts_with("reached low water mark for ") => PoolNotice::LowWater,
            None => return None,
        };
    Some((device, notice))
}

/// Reads a record of `/dev/kmsg`: `priority,number,microseconds,flags[,…];text`, then lines of
/// properties. Returns the record's number and what it says of a pool; `None` when it is no record.
pub fn notice_of_record(bytes: &[u8]) -> Option<(u64, Option<(DeviceNumber, PoolNotice)>)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (header, rest) = text.split_once(';')?;
    let mut fields = header.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let number = fields.next()?.parse().ok()?;
    let by_the_kernel = priority >> 3 == 0;
    Some((number, rest.lines().next().filter(|_| by_the_kernel).and_then(parse)))
}

#[cfg(test)]
mod tests {
    use super::PoolNotice::{LowWater, RefusesWrites, ServesWrites};
    use super::*;

    #[test]
    fn the_kernels_lines_are_told_apart() {
        let pool = DeviceNumber { major: 253, minor: 2 };
        for (said, notice) in [
            ("switching pool to write mode", ServesWrites),
            ("switching pool to out-of-data-space (queue IO) mode", ServesWrites),
            ("switching pool to out-of-data-space (error IO) mode", RefusesWrites),
            ("switching pool to read-only mode", RefusesWrites),
            ("switching pool to fail mode", RefusesWrites),
            ("switching pool to failure mode", RefusesWrites),
            ("reached low water mark for data device: sending event.", LowWater),
            ("reached low water mark for metadata device: sending event.", LowWater),
        ] {
            assert_eq!(
                parse(&format!("device-mapper: thin: 253:2: {said}")),
                Some((pool, notice)),
                "{said}"
            );
        }
        for line in [
            "device-mapper: thin: 253:2: growing the data device from 1 to 2 blocks",
            "device-mapper: thin: Data device (loop0) discard unsupported: Disabling discard \
             passdown.",
            "device-mapper: thin: metadata operation failed",
            "thin: 253:2: switching pool to write mode",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_record_is_believed_when_the_kernel_wrote_it() {
        let line = "device-mapper: thin: 253:2: switching pool to read-only mode";
        let pool = DeviceNumber { major: 253, minor: 2 };
        let said = |header: &str| {
            notice_of_record(format!("{header};{line}\n SUBSYSTEM=block\n").as_bytes())
        };
        assert_eq!(said("6,17,5,-"), Some((17, Some((pool, RefusesWrites)))));
        assert_eq!(said("4,18,5,-,caller=T1"), Some((18, Some((pool, RefusesWrites)))));
        // Written by a program into /dev/kmsg: facility 1.
        assert_eq!(said("14,19,5,-"), Some((19, None)));
        assert_eq!(notice_of_record(b"nonsense"), None);
        assert_eq!(notice_of_record(b"6,20,5,-;another line\n"), Some((20, None)));
    }
}
