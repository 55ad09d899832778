//! The options of the verbs. [`Default`] is what `dmsetup` does.

/// How a device is activated ([`Dm::activate`](super::Dm::activate)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ActivateOptions {
    /// Writes fail with EPERM.
    pub read_only: bool,
    /// The minor number it gets, at most [`MAX_MINOR`](crate::dm::MAX_MINOR). Without one the
    /// kernel takes the lowest free number, which is often the one that was freed last.
    pub minor: Option<u32>,
}

/// How a table is loaded ([`Dm::load`](super::Dm::load)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadOptions {
    /// Writes fail with EPERM once the table is in place.
    pub read_only: bool,
}

/// How a device is suspended ([`Dm::suspend`](super::Dm::suspend)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SuspendOptions {
    /// Do not wait for I/O that is queued inside the target.
    pub no_flush: bool,
    /// Do not freeze the file system that is mounted from the device. Later writes wait, but what
    /// the file system still has in memory is not written first.
    pub skip_lockfs: bool,
}

/// How a status is read ([`Dm::status`](super::Dm::status)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatusOptions {
    /// Do not make a pool commit its metadata first. This is about seven times as fast (0.03 ms),
    /// and the numbers are up to a second old.
    pub no_flush: bool,
}

impl StatusOptions {
    /// Without a commit of the pool's metadata.
    pub const NO_FLUSH: StatusOptions = StatusOptions { no_flush: true };
}
