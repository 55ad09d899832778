//! How a change of a device is presented to the rest of the system: the event for udev, and the
//! node.
//!
//! Where udev is waited for, it makes the nodes, and this library makes those that udev leaves out
//! or is too slow for. Otherwise this library makes them all.

use std::path::PathBuf;
use std::time::Duration;

use super::client::Dm;
use super::info::DeviceInfo;
use crate::dm::error::{Error, Result};
use crate::dm::host::{udev, Cookie, NodeDir, NodePolicy, NodeSweep, UdevPolicy};
use crate::dm::interface::Flags;
use crate::dm::wire::{EventCookie, Reply, Request};
use crate::names::DmName;
use crate::units::DeviceNumber;

impl Dm {
    /// Runs a request that causes a uevent. Tells udev what to leave out, and waits for it where
    /// the settings say so.
    pub(super) fn submit_event(&self, request: Request) -> Result<Reply> {
        match self.settings().udev {
            UdevPolicy::Wait { flags, limit } if udev::is_running() => {
                let cookie = Cookie::new()?;
                cookie.expect()?;
                let reply = self.submit(&request.cookie(cookie.with(flags)))?;
                self.wait_for_udev(
                    cookie,
                    reply.header.flags.contains(Flags::UEVENT_GENERATED),
                    limit,
                )?;
                Ok(reply)
            }
            policy => self.submit(&request.cookie(EventCookie { flags: policy.flags(), base: 0 })),
        }
    }

    /// The change is done whatever udev does, so a slow udev is only worth a warning.
    fn wait_for_udev(&self, cookie: Cookie, happened: bool, limit: Duration) -> Result<()> {
        if !happened {
            // Nothing changed (a resume of a running device), or the removal is deferred.
            return Ok(());
        }
        match cookie.wait(limit) {
            Err(error @ Error::UdevTimeout { .. }) => {
                tracing::warn!(%error, "going on without udev");
                Ok(())
            }
            result => result,
        }
    }

    /// Moves the node along with the name.
    pub(super) fn rename_node(&self, old: &DmName, new: &DmName) -> Result<()> {
        if self.settings().nodes == NodePolicy::Leave {
            return Ok(());
        }
        if let Some(info) = self.info(new)? {
            self.nodes().make(new, info.device)?;
        }
        self.nodes().remove(old).map(drop)
    }

    fn nodes(&self) -> NodeDir {
        NodeDir::new(self.settings().node_dir.clone())
    }

    /// Where the node of a device is.
    #[must_use]
    pub fn node(&self, name: &DmName) -> PathBuf {
        self.nodes().path(name)
    }

    pub(super) fn make_node(&self, name: &DmName, device: DeviceNumber) -> Result<()> {
        match self.settings().nodes {
            NodePolicy::Manage => self.nodes().make(name, device).map(drop),
            NodePolicy::Leave => Ok(()),
        }
    }

    pub(super) fn remove_node(&self, name: &DmName) -> Result<()> {
        match self.settings().nodes {
            NodePolicy::Manage => self.nodes().remove(name).map(drop),
            NodePolicy::Leave => Ok(()),
        }
    }

    /// Removes the node of a device that is gone, unless its name has another device or node by
    /// now.
    pub(super) fn remove_stale_node(&self, device: &DeviceInfo) -> Result<()> {
        let stale = self.nodes().device(&device.name) == Some(device.device);
        if stale && self.info(&device.name)?.is_none() {
            return self.remove_node(&device.name);
        }
        Ok(())
    }

    /// Corrects the nodes of all devices whose names start with `prefix`: makes those that are
    /// missing or lead to another device, removes those without a device. (`dmsetup mknodes` does
    /// it for all names.) Does nothing with [`NodePolicy::Leave`].
    ///
    /// # Errors
    /// [`Error::Node`].
    pub fn sweep_nodes(&self, prefix: &str) -> Result<NodeSweep> {
        self.sweep_nodes_of(prefix, |_| true)
    }

    /// The same for those among them that `is_swept` accepts: names of other programs may have the
    /// same beginning.
    ///
    /// # Errors
    /// [`Error::Node`].
    pub fn sweep_nodes_of(
        &self,
        prefix: &str,
        is_swept: impl Fn(&DmName) -> bool,
    ) -> Result<NodeSweep> {
        if self.settings().nodes == NodePolicy::Leave {
            return Ok(NodeSweep::default());
        }
        let nodes = self.nodes();
        // Nodes are listed first: one that is made between the two lists has a device.
        let present: Vec<DmName> = nodes.names(prefix)?.into_iter().filter(&is_swept).collect();
        let devices = self.list()?;
        let mut swept = NodeSweep::default();
        for device in
            devices.iter().filter(|d| d.name.as_str().starts_with(prefix) && is_swept(&d.name))
        {
            if nodes.make(&device.name, device.device)? {
                swept.made.push(device.name.clone());
            }
        }
        for name in present {
            // The list is in the order of the names.
            let has_device = devices.binary_search_by(|device| device.name.cmp(&name)).is_ok();
            if !has_device && nodes.remove(&name)? {
                swept.removed.push(nodes.path(&name));
            }
        }
        Ok(swept)
    }
}
