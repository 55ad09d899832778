//! Kills a program together with the processes it has started.
//!
//! `fs` is the only module that runs programs, and it may not make system calls. This module may
//! make them and may not run programs. So this call, which a time limit needs, is here.

use std::io;

use nix::sys::signal::{killpg, Signal};
use nix::unistd::Pid;

/// Sends SIGKILL to every process of the group that the process `leader` leads.
///
/// # Errors
/// The kernel's answer; ESRCH when the group has no process left. EINVAL when `leader` is 0 or 1 or
/// no process id at all, so that a mistake never kills the caller's own group or the whole system.
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
    fn no_number_kills_the_callers_own_group_or_all_processes() {
        for leader in [0, 1, u32::MAX] {
            assert_eq!(kill_group(leader).unwrap_err().raw_os_error(), Some(nix::libc::EINVAL));
        }
    }
}
