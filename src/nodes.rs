//! The nodes of this process: this machine's, and hollow ones.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use coracle_agent::{Agent, ClientFor, Fleet, Options, Shared, embedded, images, network, services, streams};
use tokio_util::sync::CancellationToken;

use crate::{
    clients::InProcess,
    options::{Cidr, ServerOptions},
    setup::{DNS_OFFSET, Setup},
};

/// The last statuses have this long to be written.
const GRACE: Duration = Duration::from_secs(2);
/// As whom the API server speaks to agents.
const API_SERVER: &str = "kube-apiserver-kubelet-client";

/// The running agents.
pub(crate) struct Nodes {
    shared: Option<Shared>,
    lines: Vec<String>,
}

impl Nodes {
    /// Starts the agents the setup asks for.
    pub(crate) async fn start(options: &ServerOptions, setup: &Setup, tls: Arc<rustls::ServerConfig>, clients: &InProcess) -> Result<Self> {
        let mut nodes = Self { shared: None, lines: Vec::new() };
        if setup.hollow_nodes == 0 && !setup.agent {
            return Ok(nodes);
        }
        let shared = Shared::new(CancellationToken::new());
        let port = serve_streams(options, setup, tls, clients, &shared).await?;
        if setup.agent {
            real(options, setup, clients, &shared, port).await?;
            nodes.lines.push(format!("node {} at {}, containers by the embedded runtime", setup.node_name, setup.node_ip));
        }
        if setup.hollow_nodes > 0 {
            hollow(options, setup, clients, &shared, port).await?;
            nodes.lines.push(format!("hollow nodes: {}", setup.hollow_nodes));
        }
        nodes.shared = Some(shared);
        Ok(nodes)
    }

    /// For people: what runs.
    pub(crate) fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Ends the agents; containers go on.
    pub(crate) async fn stop(self) {
        let Some(shared) = self.shared else { return };
        shared.stop.cancel();
        shared.tasks.close();
        if tokio::time::timeout(GRACE, shared.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = shared.tasks.len(), "node agents did not end in {GRACE:?}");
        }
    }
}

/// Where the embedded runtime keeps this machine's pods, and how their network is laid out.
pub(crate) fn runtime_options(data_dir: &Path, cluster: Option<Cidr>, service: Option<Cidr>) -> embedded::Options {
    let net = |cidr: Option<Cidr>| cidr.and_then(|cidr| cidr.to_string().parse().ok());
    let network = network::Options { cluster_cidr: net(cluster), service_cidr: net(service), ..Default::default() };
    embedded::Options { dir: data_dir.join("agent/sandboxes"), shim: None, network }
}

/// This machine's image store.
pub(crate) fn image_store(data_dir: &Path, insecure_registries: &[String]) -> Result<images::Store> {
    let registries = images::Registries { insecure: insecure_registries.to_vec() };
    images::Store::open(&data_dir.join("agent/images"), registries).context("--data-dir: the image store")
}

/// The server for logs and exec, one for all nodes of the process; its port.
async fn serve_streams(
    options: &ServerOptions,
    setup: &Setup,
    tls: Arc<rustls::ServerConfig>,
    clients: &InProcess,
    shared: &Shared,
) -> Result<u16> {
    let (host, port) = if setup.agent { (Ipv4Addr::UNSPECIFIED, options.agent_port) } else { (Ipv4Addr::LOCALHOST, 0) };
    let address = SocketAddr::from((host, port));
    let settings = streams::ServerOptions { address, tls, trusted_users: vec![API_SERVER.into()] };
    let client = clients.node(&setup.node_name);
    let bound = streams::Server::bind(settings, shared.directory.clone(), client, shared.stop.clone()).await;
    let streams = bound.with_context(|| format!("--agent-port: cannot listen on {address}; 0 picks a free port"))?;
    let port = streams.local_addr()?.port();
    shared.tasks.spawn(streams.run());
    Ok(port)
}

async fn real(options: &ServerOptions, setup: &Setup, clients: &InProcess, shared: &Shared, port: u16) -> Result<()> {
    let store = image_store(&options.data_dir, &options.insecure_registries)?;
    let layout = runtime_options(&options.data_dir, Some(options.cluster_cidr), Some(options.service_cidr));
    let runtime = embedded::Embedded::open(layout, store).await.context("--agent")?;
    let archives = options.images_dir.clone().unwrap_or_else(|| options.data_dir.join("images"));
    if archives.is_dir() {
        let runtime = runtime.clone();
        shared.tasks.spawn(async move {
            if let Err(error) = runtime.import_folder(&archives).await {
                tracing::warn!(%error, folder = %archives.display(), "--images-dir: archives not read");
            }
        });
    }
    let settings = Options { port, ..node_options(options, &setup.node_name, setup.node_ip, &options.data_dir.join("agent")) };
    let agent = Agent::build(clients.node(&setup.node_name), Arc::new(runtime), settings, shared).await.context("--agent")?;
    shared.tasks.spawn(agent.run());
    serve_services(options, setup, clients, shared)
}

/// The service proxy of this machine, as `system:kube-proxy`.
fn serve_services(options: &ServerOptions, setup: &Setup, clients: &InProcess, shared: &Shared) -> Result<()> {
    let net = |cidr: Cidr| cidr.to_string().parse().map_err(|error| anyhow::anyhow!("{cidr}: {error}"));
    let settings = services::Options {
        node_name: setup.node_name.clone(),
        pod_cidr: net(options.cluster_cidr).context("--cluster-cidr")?,
        service_cidr: Some(net(options.service_cidr).context("--service-cidr")?),
    };
    let proxy = services::Proxy::new(clients.user("system:kube-proxy", &[]), settings);
    shared.tasks.spawn(proxy.run(shared.stop.clone()));
    Ok(())
}

async fn hollow(options: &ServerOptions, setup: &Setup, clients: &InProcess, shared: &Shared, port: u16) -> Result<()> {
    let settings = |n: u32| {
        // Each server has its own.
        let name = if setup.shared { format!("{}-hollow-{n}", setup.node_name) } else { format!("hollow-{n}") };
        let folder = options.data_dir.join("hollow").join(&name);
        Options {
            port,
            pod_cidrs: ranges(setup, options.cluster_cidr, n),
            ..node_options(options, &name, IpAddr::V4(Ipv4Addr::LOCALHOST), &folder)
        }
    };
    let watch = clients.user("coracle:hollow-nodes", &["system:masters"]);
    let clients = clients.clone();
    let client_for: ClientFor = Arc::new(move |name| clients.node(name));
    let fleet = Fleet::hollow(watch, &client_for, (0..setup.hollow_nodes).map(settings).collect(), shared).await;
    let fleet = fleet.context("--hollow-nodes")?;
    shared.tasks.spawn(fleet.run());
    Ok(())
}

/// The addresses of hollow node `n`, where no controller gives nodes their ranges: without one none is ready. On a shared store the controllers
/// of whoever leads do.
fn ranges(setup: &Setup, cluster: Cidr, n: u32) -> Vec<String> {
    if setup.controllers || setup.shared { Vec::new() } else { vec![format!("{}/24", cluster.nth((n % 256) << 8))] }
}

fn node_options(options: &ServerOptions, name: &str, address: IpAddr, data_dir: &Path) -> Options {
    Options { cluster_dns: vec![options.service_cidr.nth(DNS_OFFSET).into()], ..Options::new(name, address, data_dir.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::server_of;

    #[test]
    fn hollow_nodes_take_a_range_where_nobody_else_gives_them_one() {
        let of = |line: &str| {
            let options = server_of(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).unwrap();
            ranges(&Setup::new(&options).unwrap(), options.cluster_cidr, 2)
        };
        assert_eq!(of("--agent=off --without=controllers"), ["10.42.2.0/24"]);
        assert!(of("--agent=off").is_empty());
        assert!(of("--agent=off --without=controllers --store=etcd").is_empty(), "another server may lead");
    }
}
