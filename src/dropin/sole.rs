//! Two API servers on one etcd share objects upstream; here each has its own. The second to come says so.
//!
//! Who came first holds a socket in the abstract namespace under the store's address: it is no file, and the kernel frees it however the
//! process ends.

/// Held for as long as this server uses the store's name.
pub(crate) struct Sole {
    #[cfg(target_os = "linux")]
    _socket: Option<std::os::unix::net::UnixListener>,
}

impl Sole {
    /// Takes the store's name, or warns that another process has it.
    #[cfg(target_os = "linux")]
    pub(crate) fn claim(servers: &str) -> Self {
        use std::os::{
            linux::net::SocketAddrExt,
            unix::net::{SocketAddr, UnixListener},
        };
        if servers.is_empty() {
            return Self { _socket: None };
        }
        let socket = SocketAddr::from_abstract_name(format!("coracle-etcd {servers}")).and_then(|name| UnixListener::bind_addr(&name));
        if socket.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse) {
            tracing::warn!(
                "--etcd-servers={servers}: another kube-apiserver names it, too; they do not share objects: each keeps its own in memory"
            );
        }
        Self { _socket: socket.ok() }
    }

    /// Elsewhere nobody can tell.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn claim(_servers: &str) -> Self {
        Self {}
    }
}
