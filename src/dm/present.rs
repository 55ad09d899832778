//! How a change of a device is presented to the rest of the system: the event for udev, and the
//! node.
//!
//! With udev waited for, nodes are udev's to make; what it leaves out or is too slow for is made
//! here. Without it, or with it told to keep out, all are made here.

use std::path::PathBuf;
use std::time::Duration;

use super::client::Dm;
use super::error::{Error, Result};
use super::nodes::{NodeDir, Swept};
use super::reply::Reply;
use super::request::Request;
use super::udev::{self, Cookie, EventCookie, UdevPolicy};
use super::verb::Flags;
use crate::names::DmName;
use crate::units::DeviceNumber;

/// Who looks after the nodes under `/dev/mapper`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NodePolicy {
    /// This library makes, renames and removes them.
    #[default]
    Manage,
    /// Somebody else, or nobody.
    Leave,
}

/// How devices are presented to the rest of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the nodes are; `/dev/mapper`.
    pub node_dir: PathBuf,
    /// Who looks after them.
    pub nodes: NodePolicy,
    /// What udev is told, and whether it is waited for. It keeps out unless set.
    pub udev: UdevPolicy,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            node_dir: PathBuf::from(super::real::NODE_DIR),
            nodes: NodePolicy::Manage,
            udev: UdevPolicy::KEEP_OUT,
        }
    }
}

impl Settings {
    /// Without any nodes: for a modelled kernel.
    #[must_use]
    pub fn without_nodes() -> Settings {
        Settings { nodes: NodePolicy::Leave, ..Settings::default() }
    }
}

impl Dm {
    /// Runs a request that causes a uevent, with what udev shall be told, and waits for udev if
    /// that is wanted.
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

    /// The change is done whatever udev does, so that a slow udev is worth a warning and no more.
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

    pub(super) fn forget_node(&self, name: &DmName) -> Result<()> {
        match self.settings().nodes {
            NodePolicy::Manage => self.nodes().remove(name).map(drop),
            NodePolicy::Leave => Ok(()),
        }
    }

    /// Puts the nodes of all devices whose names start with `prefix` right: makes those that are
    /// missing or lead elsewhere, removes those without a device. (`dmsetup mknodes` does it for
    /// all names.) Does nothing where nodes are left to others.
    ///
    /// # Errors
    /// [`Error::Node`].
    pub fn sweep_nodes(&self, prefix: &str) -> Result<Swept> {
        self.sweep_nodes_of(prefix, |_| true)
    }

    /// The same for those among them that `is_swept` says: names of other programs may start alike.
    ///
    /// # Errors
    /// [`Error::Node`].
    pub fn sweep_nodes_of(
        &self,
        prefix: &str,
        is_swept: impl Fn(&DmName) -> bool,
    ) -> Result<Swept> {
        if self.settings().nodes == NodePolicy::Leave {
            return Ok(Swept::default());
        }
        let nodes = self.nodes();
        // Nodes first: one that is made between the two lists must not be taken for a left-over.
        let present: Vec<DmName> = nodes.names(prefix)?.into_iter().filter(&is_swept).collect();
        let devices = self.list()?;
        let mut swept = Swept::default();
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
