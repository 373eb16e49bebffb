//! Namespaces of a pod: made on a thread, pinned to files by bind mounts. No process has to live in them.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

use super::record::{SandboxDir, SandboxRecord};
use crate::network;

/// Size of a pod's `/dev/shm`, as containerd has it.
const SHM_OPTIONS: &std::ffi::CStr = c"mode=1777,size=65536k";

/// Makes the namespaces that the pod has of its own, with loopback up, and sets hostname and sysctls in them.
pub(super) fn pin(record: &SandboxRecord, dir: &SandboxDir) -> io::Result<()> {
    let mut flags = CloneFlags::empty();
    let mut kinds = Vec::new();
    if record.own_network() {
        flags |= CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS;
        kinds.extend(["net", "uts"]);
    }
    if record.own_ipc() {
        flags |= CloneFlags::CLONE_NEWIPC;
        kinds.push("ipc");
        fs::create_dir_all(dir.shm())?;
        let options = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("shm", dir.shm(), "tmpfs", options, SHM_OPTIONS).map_err(|e| named("mount /dev/shm of the pod", e))?;
    }
    fs::create_dir_all(dir.0.join("ns"))?;
    for kind in &kinds {
        File::create(dir.namespace(kind))?;
    }
    std::thread::scope(|scope| {
        let make = || -> io::Result<()> {
            unshare(flags).map_err(|e| named("make the pod's namespaces", e))?;
            if record.own_network() {
                network::loopback_up().map_err(|e| named("bring up loopback in the pod", e))?;
                let name = record.config.hostname.as_bytes();
                rustix::system::sethostname(&name[..name.len().min(63)])?;
                // As containerd has it: low ports and ping need no capability inside a pod.
                let _ = set("net.ipv4.ip_unprivileged_port_start", "0");
                let _ = set("net.ipv4.ping_group_range", "0 2147483647");
            }
            for (key, value) in &record.config.sysctls {
                set(key, value).map_err(|e| named(&format!("set sysctl {key}={value}"), e))?;
            }
            for kind in &kinds {
                mount_bind(format!("/proc/thread-self/ns/{kind}"), dir.namespace(kind)).map_err(|e| named("pin namespace", e))?;
            }
            Ok(())
        };
        let thread = std::thread::Builder::new().name("sandbox".to_owned()).spawn_scoped(scope, make)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that makes namespaces ended unexpectedly")))
    })
}

/// Lets go of them; what is gone already is fine.
pub(super) fn unpin(dir: &SandboxDir) {
    for kind in ["net", "uts", "ipc", "pid"] {
        release(&dir.namespace(kind));
    }
    release(&dir.shm());
}

fn release(path: &Path) {
    while unmount(path, UnmountFlags::DETACH).is_ok() {}
}

/// A sysctl in the namespaces of this thread; dots or slashes between the parts.
fn set(key: &str, value: &str) -> io::Result<()> {
    let path = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
    if path.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    fs::write(Path::new("/proc/sys").join(path), value)
}

fn named(what: &str, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
