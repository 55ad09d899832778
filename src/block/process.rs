//! Ending a program together with all it has started.
//!
//! `fs/` is the only room that runs programs and may not make system calls; this room makes them
//! and may not run programs. So the one call that a time limit needs lives here.

use std::io;

use nix::sys::signal::{killpg, Signal};
use nix::unistd::Pid;

/// Kills (SIGKILL) every process of the group that the process `leader` leads.
///
/// # Errors
/// The kernel's answer; ESRCH when the whole group is gone already. EINVAL for a `leader` of 0 or 1
/// or beyond the range of process ids, so that a slip never ends the caller's own group or the
/// whole system.
pub fn kill_group(leader: u32) -> io::Result<()> {
    match i32::try_from(leader) {
        Ok(leader) if leader > 1 => Ok(killpg(Pid::from_raw(leader), Signal::SIGKILL)?),
        _ => Err(io::Error::from_raw_os_error(nix::libc::EINVAL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_ends_the_callers_own_group_or_everything() {
        for leader in [0, 1, u32::MAX] {
            assert_eq!(kill_group(leader).unwrap_err().raw_os_error(), Some(nix::libc::EINVAL));
        }
    }
}
