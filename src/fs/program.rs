//! Runs a program with a time limit and keeps its output.

use std::ffi::OsString;
use std::io::{PipeReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::block::kill_group;
use crate::failpoint;

use super::error::FsError;

/// How many bytes of a program's output are kept.
const STDERR_LIMIT: usize = 4096;

/// The interval at which a program's exit is polled. It is also checked when its output ends.
const POLL: Duration = Duration::from_millis(10);

/// How long to wait for a killed program to exit. If it takes longer, it hangs in the kernel and is
/// waited for in the background.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// The exit status and the output of a program that was not killed.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) stderr: String,
}

/// The result of running a program.
#[derive(Debug)]
pub(super) enum Outcome {
    Ended(Ended),
    TimedOut { stderr: String },
}

/// The first executable file with that name in the directories.
pub(super) fn find(program: &str, directories: &[PathBuf]) -> Option<PathBuf> {
    let executable = |path: &PathBuf| {
        std::fs::metadata(path)
            .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    directories.iter().map(|directory| directory.join(program)).find(executable)
}

/// Runs a program without a shell, in its own process group and in the C locale. Standard input is
/// empty. Standard output and standard error are collected together, since e2fsck writes its
/// messages to standard output. At the time limit the whole group is killed.
///
/// # Errors
/// [`FsError::ProgramStart`].
pub(super) fn run(
    program: &Path,
    arguments: &[OsString],
    limit: Duration,
) -> Result<Outcome, FsError> {
    let start_error = |source| FsError::ProgramStart { program: program.to_owned(), source };
    let deadline = Instant::now() + limit;
    failpoint::reach(|| "before a program".into());
    let (said, says) = std::io::pipe().map_err(start_error)?;
    let says_as_well = says.try_clone().map_err(start_error)?;
    // The command is dropped at the end of this statement, which closes our ends of the pipe.
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(says_as_well)
        .stderr(says)
        .process_group(0)
        .spawn()
        .map_err(start_error)?;
    let stderr = collect(said);
    match wait_until(&mut child, &stderr, deadline).map_err(start_error)? {
        Some(status) => {
            failpoint::reach(|| "after a program".into());
            Ok(Outcome::Ended(Ended { status, stderr: stderr.finish(child.id()) }))
        }
        None => {
            kill(child);
            Ok(Outcome::TimedOut { stderr: stderr.so_far() })
        }
    }
}

/// The output of a program, read on a separate thread so that a full pipe never blocks the program.
struct Output {
    kept: Arc<Mutex<Vec<u8>>>,
    /// Nothing is sent. It disconnects when all writing ends of the pipe are closed.
    closed: Receiver<()>,
}

fn collect(mut pipe: PipeReader) -> Output {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let (open, closed) = mpsc::channel();
    let keep = Arc::clone(&kept);
    thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            let mut kept = lock(&keep);
            let space = STDERR_LIMIT - kept.len();
            kept.extend_from_slice(&buffer[..length.min(space)]);
        }
        drop(open);
    });
    Output { kept, closed }
}

impl Output {
    /// The whole output, after the program has ended. Other processes of its group that still hold
    /// the pipe are killed.
    fn finish(&self, group: u32) -> String {
        if self.closed.recv_timeout(POLL) == Err(RecvTimeoutError::Timeout) {
            // A process holds the pipe, so the group still exists and its number was not reused. A
            // holder that has left the group is not waited for.
            let _ = kill_group(group);
            let _ = self.closed.recv_timeout(POLL);
        }
        self.so_far()
    }

    fn so_far(&self) -> String {
        tidy(&lock(&self.kept))
    }
}

fn lock(bytes: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    bytes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the program; `None` at the deadline.
fn wait_until(
    child: &mut Child,
    stderr: &Output,
    deadline: Instant,
) -> std::io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        // Wakes when the program ends, because that closes the pipe.
        if stderr.closed.recv_timeout(POLL.min(left)) == Err(RecvTimeoutError::Disconnected) {
            thread::sleep(Duration::from_millis(1).min(left));
        }
    }
}

/// Kills the program and its process group, and collects its exit status so that no zombie remains.
fn kill(mut child: Child) {
    // This fails only if all processes have ended; then only the exit status is to be collected.
    let _ = kill_group(child.id());
    let deadline = Instant::now() + KILL_PATIENCE;
    while Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(POLL);
    }
    thread::spawn(move || child.wait());
}

/// The text without the usage text that mkfs.xfs prints after each error message.
fn tidy(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<_> = text
        .lines()
        .map(str::trim_end)
        .take_while(|line| !line.starts_with("Usage:"))
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn sh(script: &str, limit: Duration) -> Outcome {
        run(Path::new("/bin/sh"), &["-c".into(), script.into()], limit).unwrap()
    }

    fn ended(script: &str) -> Ended {
        match sh(script, LONG) {
            Outcome::Ended(ended) => ended,
            Outcome::TimedOut { stderr } => panic!("timed out: {stderr}"),
        }
    }

    #[test]
    fn the_output_and_the_exit_status_of_a_program_are_returned() {
        let ended =
            ended("echo no such option >&2; echo; echo Usage: me >&2; echo more >&2; exit 7");
        assert_eq!(ended.status.code(), Some(7));
        assert_eq!(ended.stderr, "no such option");
    }

    #[test]
    fn the_locale_is_c_and_standard_input_is_empty() {
        let ended = ended("read line; echo \"$LC_ALL:$line\" >&2");
        assert_eq!(ended.stderr, "C:");
    }

    #[test]
    fn a_program_with_much_output_is_not_blocked_by_it() {
        let ended = ended("head -c 300000 /dev/zero | tr '\\0' x >&2; exit 3");
        assert_eq!(ended.status.code(), Some(3));
        assert_eq!(ended.stderr.len(), STDERR_LIMIT);
    }

    #[test]
    fn at_the_time_limit_the_program_and_its_children_are_gone() {
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids");
        let script = format!(
            "sleep 1000 & echo $! > {0}; echo $$ >> {0}; echo stuck >&2; wait",
            pids.display()
        );
        let began = Instant::now();
        match sh(&script, Duration::from_secs(1)) {
            Outcome::TimedOut { stderr } => assert_eq!(stderr, "stuck"),
            Outcome::Ended(ended) => panic!("ended: {ended:?}"),
        }
        assert!(began.elapsed() < KILL_PATIENCE, "took {:?}", began.elapsed());
        for pid in std::fs::read_to_string(pids).unwrap().lines() {
            assert!(!runs(pid), "{pid} still runs");
        }
    }

    #[test]
    fn a_child_left_behind_does_not_hold_up_the_answer_and_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let began = Instant::now();
        let ended = ended(&format!("sleep 1000 & echo $! > {}; echo done >&2", pid.display()));
        assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), "done"));
        assert!(began.elapsed() < KILL_PATIENCE, "took {:?}", began.elapsed());
        assert!(!runs(std::fs::read_to_string(pid).unwrap().trim()));
    }

    /// Whether a process runs. A killed process may take a moment to end, and may remain as a
    /// zombie.
    fn runs(pid: &str) -> bool {
        let status = format!("/proc/{pid}/status");
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let gone =
                std::fs::read_to_string(&status).map_or(true, |text| text.contains("State:\tZ"));
            if gone || Instant::now() > deadline {
                return !gone;
            }
            thread::sleep(POLL);
        }
    }

    #[test]
    fn only_executable_files_are_found_and_the_first_directory_wins() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str, mode: u32| {
            let at = directory.path().join(name);
            std::fs::create_dir(&at).unwrap();
            std::fs::write(at.join("mkfs.test"), "").unwrap();
            std::fs::set_permissions(at.join("mkfs.test"), std::fs::Permissions::from_mode(mode))
                .unwrap();
            at
        };
        let places = [place("a", 0o644), place("b", 0o755), place("c", 0o755)];
        assert_eq!(find("mkfs.test", &places), Some(places[1].join("mkfs.test")));
        assert_eq!(find("mkfs.other", &places), None);
        assert_eq!(find("b", &[directory.path().to_owned()]), None, "a directory is no program");
    }

    #[test]
    fn a_program_that_cannot_be_started_is_named() {
        let error = run(Path::new("/no/such/mkfs"), &[], LONG).unwrap_err();
        assert!(error.to_string().starts_with("cannot run /no/such/mkfs: "), "{error}");
    }
}
