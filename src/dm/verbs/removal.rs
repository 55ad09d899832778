//! Waiting until a deferred removal is complete.

use std::time::{Duration, Instant};

use super::client::Dm;
use super::info::{DeviceInfo, Removal};
use crate::dm::error::Result;

/// How often the kernel is asked for the disk of a device whose name is gone. No event tells of it,
/// and it takes 8 to 30 ms.
const LOOK_EVERY: Duration = Duration::from_millis(1);

impl Dm {
    /// Waits until a device is removed and the kernel has let go of everything that it stood on:
    /// then a thin that it showed can be deleted, and a device below it can be mounted or removed.
    /// Call it after [`Dm::remove_deferred`]; it works after any removal, also by another program.
    ///
    /// It waits for two things. First for the device to go, which is an event: the last user closes
    /// it, and the kernel takes its name away. Then for the disk of its number to go, which the
    /// kernel removes right after it has closed the devices below (`__dm_destroy` in
    /// drivers/md/dm.c). No event tells of that, so it is looked up in /sys every millisecond. The
    /// node is removed as well, if it still leads to the device.
    ///
    /// `device` is what [`Dm::activate`] or [`Dm::info`] returned. A name alone would not do: it is
    /// free again before the device is gone. Without /sys only the first wait takes place.
    ///
    /// Returns [`Removal::Deferred`] when `limit` is over and the device, or its disk, is still
    /// there.
    ///
    /// # Errors
    /// Those of [`Dm::info`], and [`Error::Node`](crate::dm::Error::Node) when the control node
    /// cannot be polled or the device's node cannot be removed.
    pub fn wait_removed(&self, device: &DeviceInfo, limit: Duration) -> Result<Removal> {
        let deadline = Instant::now() + limit;
        let left = || deadline.saturating_duration_since(Instant::now());
        let kernel = self.kernel();
        let incarnation = kernel.incarnation(device.device);
        let mut events = kernel.event_source()?;
        loop {
            // Armed before the look: an event in between ends the wait at once.
            events.arm()?;
            match self.info(device.device)? {
                Some(found) if found.is_same_device(device) => {
                    if !events.wait(left())? {
                        return Ok(Removal::Deferred);
                    }
                }
                // Another device has the number.
                Some(_) => break,
                None => {
                    let there = kernel.device_size(device.device).is_some()
                        && kernel.incarnation(device.device) == incarnation;
                    if !there {
                        break;
                    }
                    if left().is_zero() {
                        return Ok(Removal::Deferred);
                    }
                    std::thread::sleep(LOOK_EVERY);
                }
            }
        }
        self.remove_stale_node(device)?;
        Ok(Removal::Done)
    }
}
