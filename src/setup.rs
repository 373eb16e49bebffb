//! What the flags leave open, decided once: addresses, names, what runs.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Result, bail};

use crate::{
    certs::Names,
    machine,
    options::{Part, ServerOptions, StoreChoice, Switch, is_root},
};

/// A server's settings with nothing left open.
pub(crate) struct Setup {
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: IpAddr,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) agent: bool,
    pub(crate) hollow_nodes: u32,
    pub(crate) scheduler: bool,
    pub(crate) controllers: bool,
    /// Other servers may work on the same store.
    pub(crate) shared: bool,
    pub(crate) node_name: String,
    pub(crate) node_ip: IpAddr,
    /// The API's own service: the first address of the service range.
    pub(crate) service_address: Ipv4Addr,
}

/// Where services find the cluster's DNS: the tenth address of the service range, as everywhere.
pub(crate) const DNS_OFFSET: u32 = 10;

impl Setup {
    pub(crate) fn new(options: &ServerOptions) -> Result<Self> {
        if options.store != StoreChoice::Etcd && !options.etcd.etcd_servers.is_empty() {
            bail!("--etcd-servers needs --store=etcd");
        }
        if options.store != StoreChoice::Etcd && (options.token.is_some() || options.token_file.is_some()) {
            bail!("--token and --token-file need --store=etcd: servers on one etcd are joined with it");
        }
        if options.store == StoreChoice::Memory && options.agent == Some(Switch::On) {
            bail!("--store=memory with --agent=on would forget pods whose containers go on; use --store=embedded");
        }
        let agent = match options.agent {
            Some(Switch::On) if !is_root() => {
                bail!("--agent=on needs root to set up containers; run as root, or use --hollow-nodes for nodes without containers")
            }
            Some(switch) => switch == Switch::On,
            None => is_root(),
        };
        let hollow_nodes = options.hollow_nodes.unwrap_or(u32::from(options.agent.is_none() && !agent));
        let node_ip = options.node_ip.unwrap_or_else(machine::address);
        let any = if agent { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
        let listen = options.listen.unwrap_or(SocketAddr::new(any.into(), 6443));
        // The API's own service cannot lead to a loopback address; pods could not use it.
        let reached = if listen.ip().is_unspecified() || listen.ip().is_loopback() { node_ip } else { listen.ip() };
        Ok(Self {
            advertise: options.advertise_address.unwrap_or(reached),
            listen,
            kubeconfig: options.kubeconfig.clone().unwrap_or_else(|| options.data_dir.join("admin.kubeconfig")),
            agent,
            hollow_nodes,
            scheduler: !options.without.contains(&Part::Scheduler),
            controllers: !options.without.contains(&Part::Controllers),
            shared: options.store == StoreChoice::Etcd,
            node_name: options.node_name.clone().map_or_else(machine::node_name, Ok)?,
            node_ip,
            service_address: options.service_cidr.nth(1),
        })
    }

    /// Whether other servers and pods are told an address that nobody listens on.
    pub(crate) fn is_out_of_reach(&self) -> bool {
        self.shared && self.listen.ip().is_loopback() && !self.advertise.is_loopback()
    }

    /// The server's address for a client on this machine.
    pub(crate) fn url(&self) -> String {
        let host = if self.listen.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { self.listen.ip() };
        format!("https://{}", SocketAddr::new(host, self.listen.port()))
    }

    /// Under which names server and agent must be recognised.
    pub(crate) fn names(&self, more: &[String]) -> Names {
        let dns = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
        let mut server: Vec<String> = dns.map(String::from).into();
        server.push(self.node_name.clone());
        let addresses = [Ipv4Addr::LOCALHOST.into(), self.service_address.into(), self.node_ip, self.advertise];
        server.extend(addresses.iter().filter(|address| !address.is_unspecified()).map(ToString::to_string));
        if !self.listen.ip().is_unspecified() {
            server.push(self.listen.ip().to_string());
        }
        server.extend_from_slice(more);
        let mut agent = vec![self.node_name.clone(), "localhost".into(), Ipv4Addr::LOCALHOST.to_string(), self.node_ip.to_string()];
        for names in [&mut server, &mut agent] {
            names.sort();
            names.dedup();
        }
        Names { server, agent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::server_of;

    fn of(line: &str) -> Result<Setup> {
        Setup::new(&server_of(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).unwrap())
    }

    #[test]
    fn a_token_without_other_servers_is_refused() {
        for line in ["--agent=off --token=x", "--agent=off --store=memory --token-file=/x"] {
            let error = of(line).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("--token and --token-file need --store=etcd"), "{error}");
        }
        of("--agent=off --store=etcd --etcd-servers=http://127.0.0.1:2379 --token=x").unwrap();
    }

    #[test]
    fn a_shared_server_that_listens_where_the_others_do_not_look_is_out_of_reach() {
        let of = |more: &str| of(&format!("--agent=off --node-ip=192.0.2.7 {more}")).unwrap().is_out_of_reach();
        assert!(of("--store=etcd"));
        assert!(!of("--store=etcd --listen=0.0.0.0:6443") && !of("--store=etcd --listen=192.0.2.7:6443"));
        assert!(!of("--store=etcd --advertise-address=127.0.0.1") && !of("--store=memory"));
    }
}
