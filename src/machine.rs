//! What this machine is called and where it is reached.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use anyhow::{Result, bail};

/// The host name as a node name: lower case, as Kubernetes wants names.
pub(crate) fn node_name() -> Result<String> {
    let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    if host.is_empty() || !host.chars().all(fits) || host.starts_with(['-', '.']) || host.ends_with(['-', '.']) {
        bail!("--node-name: this machine's host name {host:?} cannot name a node; give one of lower case letters, digits, '-' and '.'");
    }
    Ok(host)
}

/// The address of the interface that has the default route; loopback when there is none. Sends nothing.
pub(crate) fn address() -> IpAddr {
    let routed = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        // A documentation address: any that the default route covers will do.
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    routed().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}
