//! What is kept on disk about sandboxes and containers: enough to know them all again after the agent, or the machine, was away.
//!
//! Under the runtime's directory, one directory per sandbox:
//!
//! - `sandbox.json`: configuration, address, boot; written by the agent.
//! - `shim.sock`, `shim.log`: the shim's socket, and its last words if it should fail.
//! - `ns/{net,ipc,uts}`: the namespaces, pinned by bind mounts. `shm`: the pod's `/dev/shm`.
//! - `containers/<id>/container.json`: configuration; written by the agent.
//! - `containers/<id>/status.json`: state and exit code; written by the shim.
//! - `containers/<id>/{config.json,rootfs,upper,work,oci}`: the OCI bundle and libcontainer's state.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::images::ImageConfig;
use crate::runtime::{ContainerConfig, NamespaceMode, SandboxConfig};

/// A sandbox on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SandboxRecord {
    /// Its id.
    pub(super) id: String,
    /// As given.
    pub(super) config: SandboxConfig,
    /// When it was made, nanoseconds since 1970.
    pub(super) created_ns: i64,
    /// `boot_id` of the kernel it was made under: namespaces do not outlive it.
    pub(super) boot: String,
    /// Address in the pod network.
    pub(super) address: Option<Ipv4Addr>,
    /// Stopped for good.
    pub(super) stopped: bool,
}

impl SandboxRecord {
    /// Whether it has a network namespace of its own.
    pub(super) fn own_network(&self) -> bool {
        self.config.namespaces.network != NamespaceMode::Node
    }

    /// Whether it has an IPC namespace of its own.
    pub(super) fn own_ipc(&self) -> bool {
        self.config.namespaces.ipc != NamespaceMode::Node
    }

    /// Cgroup of its containers.
    pub(super) fn cgroup_parent(&self) -> String {
        match self.config.cgroup_parent.trim_end_matches('/') {
            "" => format!("/coracle/{}", &self.id),
            parent => format!("/{}", parent.trim_start_matches('/')),
        }
    }
}

/// A container on disk: all that the one-shot needs to make it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    /// Its id.
    pub(super) id: String,
    /// As given.
    pub(super) config: ContainerConfig,
    /// What the image says.
    pub(super) image: ImageConfig,
    /// Directory of the layers.
    pub(super) layers_dir: PathBuf,
    /// Their names in it, lowest first.
    pub(super) layers: Vec<String>,
    /// When it was made, nanoseconds since 1970.
    pub(super) created_ns: i64,
}

/// Where a container's life is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) enum Phase {
    /// Not started.
    #[default]
    Created,
    /// Running.
    Running,
    /// Ended, or never came to run.
    Exited,
}

/// A container's state, as the shim knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Status {
    /// Where its life is.
    pub(super) phase: Phase,
    /// Its first process, when running.
    pub(super) pid: i32,
    /// Start, nanoseconds since 1970; 0 = never.
    pub(super) started_ns: i64,
    /// End, nanoseconds since 1970; 0 = not yet.
    pub(super) finished_ns: i64,
    /// Exit code, 128+n for signal n.
    pub(super) exit_code: i32,
    /// `OOMKilled`, `StartError` or empty.
    pub(super) reason: String,
    /// Words about the end.
    pub(super) message: String,
}

/// Paths of one sandbox.
#[derive(Debug, Clone)]
pub(super) struct SandboxDir(pub(super) PathBuf);

impl SandboxDir {
    pub(super) fn record(&self) -> PathBuf {
        self.0.join("sandbox.json")
    }
    pub(super) fn namespace(&self, kind: &str) -> PathBuf {
        self.0.join("ns").join(kind)
    }
    pub(super) fn shm(&self) -> PathBuf {
        self.0.join("shm")
    }
    pub(super) fn containers(&self) -> PathBuf {
        self.0.join("containers")
    }
    pub(super) fn container(&self, id: &str) -> ContainerDir {
        ContainerDir(self.containers().join(id))
    }
}

/// Paths of one container.
#[derive(Debug, Clone)]
pub(super) struct ContainerDir(pub(super) PathBuf);

impl ContainerDir {
    pub(super) fn record(&self) -> PathBuf {
        self.0.join("container.json")
    }
    pub(super) fn status(&self) -> PathBuf {
        self.0.join("status.json")
    }
    pub(super) fn result(&self) -> PathBuf {
        self.0.join("run.result")
    }
    pub(super) fn report(&self) -> PathBuf {
        self.0.join("report")
    }
    pub(super) fn rootfs(&self) -> PathBuf {
        self.0.join("rootfs")
    }
    pub(super) fn oci(&self) -> PathBuf {
        self.0.join("oci")
    }
}

/// Writes a record so that a reader sees the old or the new one. Not synced: after a power cut nothing of it runs any more.
pub(super) fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, serde_json::to_vec(value)?)?;
    fs::rename(beside, path)
}

/// Reads a record.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// The running kernel's boot id.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Now, in nanoseconds since 1970.
pub(super) fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A time on disk as a timestamp; 0 is none.
pub(super) fn timestamp(ns: i64) -> Option<Timestamp> {
    if ns == 0 { None } else { Timestamp::from_nanosecond(ns.into()).ok() }
}
