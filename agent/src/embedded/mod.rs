//! The embedded runtime: containers without anything else installed.
//!
//! Each pod has a shim, which is this same binary executed again (`shim`): it outlives the agent, starts containers through one-shots
//! (`shim-exec`, again this binary, which call libcontainer), writes logs and keeps exit codes. The agent speaks to it over a unix socket
//! in the pod's directory and finds it there after a restart.

mod capabilities;
mod cgroup;
mod client;
mod devices;
mod exec;
mod executor;
mod log;
mod oneshot;
mod pause;
mod pod;
mod protocol;
mod record;
mod report;
mod restore;
mod rootfs;
mod runtime;
mod sandbox;
mod seccomp;
mod shim;
mod spec;
mod streams;
pub(crate) mod sys;
mod user;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::images::Store;
use crate::network::{self, Network};
use crate::runtime::{RuntimeError, RuntimeEvent};
use cgroup::Hierarchies;
use pod::Pod;

pub use restore::teardown;
pub use sys::forget_program_pages;

/// Runs the program as shim or one-shot when its arguments say so. The root binary calls this before anything else, because these
/// processes must stay small and single-threaded.
///
/// `args` are those of the process, without its name. `None`: it is neither.
pub fn shim_main(args: &[OsString]) -> Option<ExitCode> {
    match args {
        [verb, dir] if verb == "shim" => Some(shim::main(Path::new(dir))),
        [verb, rest @ ..] if verb == "shim-exec" => Some(oneshot::main(rest)),
        _ => None,
    }
}

/// How the embedded runtime is laid out.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of sandboxes and containers, on a file system that can carry an overlay.
    pub dir: PathBuf,
    /// The program to execute as shim, which calls [`shim_main`] first. `None`: this one.
    pub shim: Option<PathBuf>,
    /// The pod network.
    pub network: network::Options,
}

/// The embedded runtime. Cheap to clone.
#[derive(Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    images: Store,
    network: Network,
    hierarchies: Hierarchies,
    events: broadcast::Sender<RuntimeEvent>,
    pods: Mutex<BTreeMap<String, Arc<Pod>>>,
}

/// Events kept for a slow receiver; one that lags lists again.
const MAX_EVENTS: usize = 1024;

fn failed(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> RuntimeError {
    move |e| RuntimeError::Failed(format!("{what}: {e}"))
}

/// Runs work that blocks on the pool for that.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> crate::runtime::Result<T> + Send + 'static) -> crate::runtime::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(RuntimeError::Failed(format!("runtime work ended unexpectedly: {e}"))),
    }
}

/// A new id: 64 hex digits, as other runtimes have them.
fn new_id() -> crate::runtime::Result<String> {
    use std::fmt::Write as _;
    let mut bytes = [0; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(|e| failed("random bytes for an id")(e.into()))?;
    Ok(bytes.iter().fold(String::with_capacity(64), |mut id, byte| {
        let _ = write!(id, "{byte:02x}");
        id
    }))
}

#[cfg(test)]
mod tests;
