//! Running programs.

use std::process::Command;

/// What the program printed, without the white space around it; the error has all that it said.
pub fn try_run(program: &str, arguments: &[&str]) -> Result<String, String> {
    finish(program, arguments, Command::new(program).args(arguments))
}

/// Runs a program that must succeed.
#[track_caller]
pub fn run(program: &str, arguments: &[&str]) -> String {
    try_run(program, arguments).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs dmsetup, which makes and removes nodes by itself: the guests have no udev daemon.
pub fn try_dmsetup(arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new("dmsetup");
    finish("dmsetup", arguments, command.args(arguments).env("DM_DISABLE_UDEV", "1"))
}

/// Runs dmsetup, which must succeed.
#[track_caller]
pub fn dmsetup(arguments: &[&str]) -> String {
    try_dmsetup(arguments).unwrap_or_else(|error| panic!("{error}"))
}

/// How many data blocks of a thin pool are in use.
pub fn try_used_blocks(pool: &str) -> Result<u64, String> {
    let status = try_dmsetup(&["status", pool])?;
    let data = status.split_whitespace().nth(5).and_then(|data| data.split('/').next());
    data.and_then(|used| used.parse().ok())
        .ok_or_else(|| format!("the status of {pool} is {status:?}"))
}

/// How many data blocks are in use of a thin pool that is there.
#[track_caller]
pub fn used_blocks(pool: &str) -> u64 {
    try_used_blocks(pool).unwrap_or_else(|error| panic!("{error}"))
}

fn finish(program: &str, arguments: &[&str], command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(printed.trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}\n{printed}{said}", arguments.join(" "), output.status))
}
