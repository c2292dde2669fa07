//! What the process tests share: a cluster from the example on addresses of its own, its processes, and waiting with a deadline.
#![allow(dead_code)] // Every test binary uses its own part.

pub(crate) mod addresses;
pub(crate) mod cluster;
pub(crate) mod exposition;
pub(crate) mod http;
pub(crate) mod replica;
pub(crate) mod wan;

use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_trunkline");

/// The binary under test.
pub(crate) fn trunkline() -> Command {
    unattended(Command::new(BINARY))
}

/// A command that nobody types into, and that is told nothing but by its arguments.
fn unattended(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // The caller's environment must not decide.
    command.env_remove("TRUNKLINE_NODE").env_remove("TRUNKLINE_LOG");
    command
}

/// Runs it to its end: exit code, standard output, standard error.
pub(crate) fn run(args: &[&str]) -> (i32, String, String) {
    finished(trunkline().args(args).output().unwrap())
}

/// An ended process: exit code, standard output, standard error.
pub(crate) fn finished(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// Looks every few milliseconds until there is something; panics when the time is over.
pub(crate) fn poll<T>(what: &str, within: Duration, look: impl FnMut() -> Option<T>) -> T {
    poll_for(within, look).unwrap_or_else(|| panic!("{what}: not within {within:?}"))
}

/// Looks every few milliseconds until there is something or the time is over.
pub(crate) fn poll_for<T>(within: Duration, look: impl FnMut() -> Option<T>) -> Option<T> {
    poll_every(Duration::from_millis(10), within, look)
}

/// The same, as often as is said.
pub(crate) fn poll_every<T>(
    pause: Duration,
    within: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> Option<T> {
    let deadline = Instant::now() + within;
    let (_keep, never) = mpsc::channel::<()>();
    loop {
        let found = look();
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        let _ = never.recv_timeout(pause);
    }
}

/// Sends a signal by name, as `TERM`.
pub(crate) fn signal(child: &Child, name: &str) {
    // The shell's own `kill` is everywhere.
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", child.id())]).status().unwrap();
    assert!(status.success(), "kill -{name} {}", child.id());
}

/// Waits for the end of a process and gives its exit code; -1 if a signal ended it.
pub(crate) fn exit_code(child: &mut Child, within: Duration) -> i32 {
    poll("exit", within, || child.try_wait().unwrap()).code().unwrap_or(-1)
}
