//! One server per data directory: the lock that says so, and how to find who holds it.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    process::{Pid, Signal, kill_process},
};

/// Held while a server runs; freed by the kernel however it ends.
pub(crate) struct Lock {
    _file: File,
}

const NAME: &str = "server.lock";

/// Takes the lock of a data directory, or says which process has it.
pub(crate) fn take(data_dir: &Path) -> Result<Lock> {
    std::fs::create_dir_all(data_dir).with_context(|| format!("--data-dir: cannot create {}", data_dir.display()))?;
    let path = data_dir.join(NAME);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("--data-dir: cannot write {}", path.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            bail!("--data-dir: {} is in use by the server with pid {}; `coracle stop` ends it", data_dir.display(), holder(&mut file)?)
        }
        Err(error) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(Lock { _file: file })
}

/// Whether no server runs in a data directory.
pub(crate) fn is_free(data_dir: &Path) -> bool {
    match File::open(data_dir.join(NAME)) {
        Ok(file) => flock(&file, FlockOperation::NonBlockingLockShared).is_ok(),
        Err(_) => true,
    }
}

/// Ends the server of a data directory with SIGTERM and waits for it; whether one was running.
pub(crate) fn stop_holder(data_dir: &Path, patience: Duration) -> Result<bool> {
    let path = data_dir.join(NAME);
    let Ok(mut file) = OpenOptions::new().read(true).write(true).open(&path) else { return Ok(false) };
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        return Ok(false);
    }
    let pid = holder(&mut file)?;
    let process = Pid::from_raw(pid).with_context(|| format!("{} holds no process id", path.display()))?;
    kill_process(process, Signal::TERM).with_context(|| format!("cannot end the server with pid {pid}"))?;
    let start = Instant::now();
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if start.elapsed() > patience {
            bail!("the server with pid {pid} has not ended within {patience:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(true)
}

fn holder(file: &mut File) -> Result<i32> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    text.trim().parse().context("the lock file holds no process id")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_served_once_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = take(folder.path()).unwrap();
        let error = take(folder.path()).err().unwrap().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(first);
        take(folder.path()).unwrap();
    }
}
