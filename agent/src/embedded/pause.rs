//! The first process of a PID namespace that the containers of a pod share (`shareProcessNamespace`): it takes in orphans and lives as long
//! as the shim does.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, ExitCode, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::WaitOptions;

use super::record::SandboxDir;
use super::sys;

/// Makes the namespace and pins it, in a one-shot whose standard input is a pipe from the shim.
pub(super) fn make(dir: &SandboxDir) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWPID)?;
    // The first child is process 1 of the new namespace; when this one-shot ends it belongs to the shim.
    let child = Command::new("/proc/self/exe").args(["shim-exec", "pause"]).env_clear().stdin(Stdio::inherit()).spawn()?;
    let path = dir.namespace("pid");
    std::fs::create_dir_all(dir.0.join("ns"))?;
    std::fs::File::create(&path)?;
    rustix::mount::mount_bind(format!("/proc/{}/ns/pid", child.id()), path)?;
    Ok(())
}

/// Has a one-shot make the namespace; it goes when the answer is dropped.
pub(super) fn start(dir: &SandboxDir) -> io::Result<OwnedFd> {
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new("/proc/self/exe");
    command.args(["shim-exec", "pause-make"]).arg(&dir.0).env_clear().stdin(reader);
    let status = command.status()?;
    if status.success() { Ok(writer.into()) } else { Err(io::Error::other(format!("make the pod's PID namespace: {status}"))) }
}

/// Process 1: collects orphans until the shim is gone, then takes the whole namespace along.
pub(super) fn main() -> ExitCode {
    match wait() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn wait() -> io::Result<()> {
    let mut ended = SigSet::empty();
    ended.add(Signal::SIGCHLD);
    ended.thread_block()?;
    let signals = SignalFd::with_flags(&ended, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    sys::forget_program_pages();
    loop {
        let stdin = rustix::stdio::stdin();
        let mut fds = [PollFd::new(&signals, PollFlags::IN), PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        if !fds[1].revents().is_empty() {
            return Ok(());
        }
        while signals.read_signal()?.is_some() {}
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    }
}
