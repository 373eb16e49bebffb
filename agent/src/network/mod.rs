//! The pod network of one node: a bridge with the gateway's address, a cable per pod, host ports, and masquerading for what leaves.
//!
//! A pod has its address as a /32 and reaches everything, its neighbours too, through the gateway. So all its packets pass the host's
//! IP layer, where services are translated and translated back: this works whether or not `bridge-nf-call-iptables` is on.

mod cidr;
mod ipam;
mod link;
pub(crate) mod netlink;
pub(crate) mod nft;
mod rules;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;

use parking_lot::Mutex;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub use cidr::Ipv4Net;

use crate::runtime::PortMapping;
use ipam::Pool;
use link::{Links, Veth};
use nft::Table;

/// Name of the pod's interface inside.
const POD_LINK: &str = "eth0";
/// Cables begin with this, followed by the start of the sandbox id: 15 bytes is the most a name can have.
const CABLE_PREFIX: &str = "cor";
const CABLE_ID_LENGTH: usize = 12;

/// How the network is laid out.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the bridge, at most 15 bytes.
    pub bridge: String,
    /// Addresses of all pods of all nodes: not masqueraded. `None`: only this node's.
    pub cluster_cidr: Option<Ipv4Net>,
    /// Addresses of services: the host reaches them by the bridge even without a default route.
    pub service_cidr: Option<Ipv4Net>,
    /// Largest packet; `None`: as the link of the default route, else 1500.
    pub mtu: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self { bridge: "coracle0".to_owned(), cluster_cidr: None, service_cidr: None, mtu: None }
    }
}

/// What goes wrong with networks.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel or the rights of this process lack something; only what needs it is off.
    #[error("{what}: {source}; {remedy}")]
    Missing {
        /// What was attempted.
        what: String,
        /// The system's answer.
        source: io::Error,
        /// What would help.
        remedy: &'static str,
    },
    /// The node has no addresses for pods yet.
    #[error("the node has no pod CIDR yet")]
    NoPodCidr,
    /// The node's addresses are used up.
    #[error("no free address in the node's pod CIDR {range}: {taken} are taken")]
    Exhausted {
        /// The range.
        range: Ipv4Net,
        /// How many pods have one.
        taken: usize,
    },
    /// Only IPv4 is built.
    #[error("{0}")]
    Unsupported(String),
    /// The system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
}

type Result<T> = std::result::Result<T, NetworkError>;

/// A pod's place in the network.
#[derive(Debug, Clone)]
struct Pod {
    address: Ipv4Addr,
    ports: Vec<PortMapping>,
}

/// The network of this node. Calls block for milliseconds: not from async tasks.
pub struct Network {
    options: Options,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pool: Option<Pool>,
    pods: BTreeMap<String, Pod>,
    bridge: Option<(u32, u32)>,
    table: Table,
}

impl Network {
    /// A network without addresses: nothing is touched before [`Network::set_pod_cidr`].
    pub fn new(options: Options) -> Self {
        Self { options, state: Mutex::default() }
    }

    /// Notes a pod from before a restart, so that its address and host ports stay its own.
    pub fn restore(&self, sandbox: &str, address: Ipv4Addr, ports: &[PortMapping]) {
        let mut state = self.state.lock();
        if let Some(pool) = &mut state.pool {
            pool.restore(sandbox, address);
        }
        state.pods.insert(sandbox.to_owned(), Pod { address, ports: ports.to_vec() });
    }

    /// Whether pods can get addresses; words for the node's condition when not.
    pub fn ready(&self) -> std::result::Result<(), String> {
        match self.state.lock().bridge {
            Some(_) => Ok(()),
            None => Err("network plugin not ready: the node has no pod CIDR yet".to_owned()),
        }
    }

    /// Sets up bridge, forwarding and masquerading for the node's pods. Calling it again with the same range changes nothing.
    ///
    /// # Errors
    /// What is missing, and what to do about it.
    pub fn set_pod_cidr(&self, range: Ipv4Net) -> Result<()> {
        let mut state = self.state.lock();
        if state.bridge.is_some() && state.pool.as_ref().is_some_and(|pool| pool.range() == range) {
            return Ok(());
        }
        if range.prefix() > 30 {
            return Err(NetworkError::Unsupported(format!("pod CIDR {range} is too small: at most /30 is allowed")));
        }
        let mut pool = Pool::new(range);
        for (sandbox, pod) in &state.pods {
            pool.restore(sandbox, pod.address);
        }
        state.bridge = Some(self.set_up_bridge(&pool)?);
        state.pool = Some(pool);
        self.write_rules(&mut state)
    }

    fn set_up_bridge(&self, pool: &Pool) -> Result<(u32, u32)> {
        let name = &self.options.bridge;
        let mut links = Links::open().map_err(io_error("open rtnetlink"))?;
        let mtu = match self.options.mtu {
            Some(mtu) => mtu,
            None => outside_mtu(&mut links).unwrap_or(1500),
        };
        let find = |links: &mut Links| links.index(name).map_err(io_error(format!("find link {name}")));
        let index = match find(&mut links)? {
            Some(index) => index,
            None => {
                links.add_bridge(name, mac_of(pool.gateway()), mtu).map_err(missing(
                    format!("create bridge {name}"),
                    "pods get no network: run as root with CAP_NET_ADMIN, and load the kernel module `bridge`",
                ))?;
                find(&mut links)?.ok_or_else(|| io_error(format!("find link {name}"))(io::ErrorKind::NotFound.into()))?
            }
        };
        let gateway = pool.gateway();
        links.add_address(index, gateway, pool.range().prefix()).map_err(io_error(format!("give {name} the address {gateway}")))?;
        links.up(index).map_err(io_error(format!("bring {name} up")))?;
        if let Some(services) = self.options.service_cidr {
            links.add_route(services, index, None).map_err(io_error(format!("route {services} to {name}")))?;
        }
        self.set_sysctls()?;
        Ok((index, mtu))
    }

    fn set_sysctls(&self) -> Result<()> {
        let name = &self.options.bridge;
        sysctl("net/ipv4/ip_forward", "1").map_err(missing(
            "turn on net.ipv4.ip_forward".to_owned(),
            "pods reach nothing outside of the node: make /proc/sys writable, or set it before the start",
        ))?;
        // Neighbours are behind the gateway by intent: do not tell pods a shorter way.
        for (key, value) in [("send_redirects", "0"), ("route_localnet", "1"), ("rp_filter", "2")] {
            if let Err(e) = sysctl(&format!("net/ipv4/conf/{name}/{key}"), value) {
                tracing::warn!(bridge = name.as_str(), key, error = %e, "setting of the bridge could not be changed");
            }
        }
        let _ = sysctl("net/ipv4/conf/all/send_redirects", "0");
        Ok(())
    }

    /// Gives a pod an address and connects its namespace. The address is the pod's until [`Network::detach`].
    ///
    /// # Errors
    /// No range, no free address, or what the kernel refused.
    pub fn attach(&self, sandbox: &str, netns: &Path, ports: &[PortMapping]) -> Result<Ipv4Addr> {
        let mut state = self.state.lock();
        let (bridge, mtu) = state.bridge.ok_or(NetworkError::NoPodCidr)?;
        let pool = state.pool.as_mut().ok_or(NetworkError::NoPodCidr)?;
        let (gateway, range, taken) = (pool.gateway(), pool.range(), pool.len());
        let address = pool.take(sandbox).ok_or(NetworkError::Exhausted { range, taken })?;
        drop(state);
        let result = connect(sandbox, netns, address, gateway, bridge, mtu);
        let mut state = self.state.lock();
        if let Err(error) = result {
            state.pool.iter_mut().for_each(|pool| pool.release(sandbox));
            return Err(error);
        }
        state.pods.insert(sandbox.to_owned(), Pod { address, ports: ports.to_vec() });
        if !ports.is_empty() {
            self.write_rules(&mut state)?;
        }
        Ok(address)
    }

    /// Disconnects a pod and frees its address. What is gone already is fine.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn detach(&self, sandbox: &str) -> Result<()> {
        let cable = cable_name(sandbox);
        let mut links = Links::open().map_err(io_error("open rtnetlink"))?;
        links.delete(&cable).map_err(io_error(format!("delete link {cable}")))?;
        let mut state = self.state.lock();
        let gone = state.pods.remove(sandbox);
        if let Some(pool) = &mut state.pool {
            pool.release(sandbox);
        }
        match gone {
            Some(pod) if !pod.ports.is_empty() => self.write_rules(&mut state),
            _ => Ok(()),
        }
    }

    fn write_rules(&self, state: &mut State) -> Result<()> {
        let Some(range) = state.pool.as_ref().map(Pool::range) else { return Ok(()) };
        let pods: Vec<_> = state.pods.values().map(|pod| (pod.address, pod.ports.as_slice())).collect();
        let rules = rules::ruleset(&self.options, range, &pods);
        state.table.apply(rules).map_err(missing(
            "write nf_tables rules of the pod network".to_owned(),
            "host ports and masquerading are off: the kernel needs nf_tables with nft_nat, nft_masq and nft_fib_ipv4",
        ))
    }

    /// Takes down everything this network made on the host: cables, bridge, routes, rules.
    ///
    /// # Errors
    /// The first thing the kernel refused; the rest is tried all the same.
    pub fn teardown(options: &Options) -> Result<()> {
        let mut links = Links::open().map_err(io_error("open rtnetlink"))?;
        let mut result = Ok(());
        let mut keep = |r: Result<()>| {
            if result.is_ok() {
                result = r;
            }
        };
        for name in links.names().map_err(io_error("list links"))? {
            if is_cable(&name) {
                keep(links.delete(&name).map_err(io_error(format!("delete link {name}"))));
            }
        }
        if let (Some(services), Ok(Some(index))) = (options.service_cidr, links.index(&options.bridge)) {
            keep(links.delete_route(services, index).map_err(io_error("delete the route to services")));
        }
        keep(links.delete(&options.bridge).map_err(io_error(format!("delete link {}", options.bridge))));
        keep(nft::remove_table(rules::TABLE).map_err(io_error(format!("delete table {}", rules::TABLE))));
        result
    }
}

/// Brings up loopback in the namespace of the calling thread.
pub(crate) fn loopback_up() -> io::Result<()> {
    let mut links = Links::open()?;
    match links.index("lo")? {
        Some(index) => links.up(index),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Lays the cable from the bridge into the pod and sets up the pod's side.
fn connect(sandbox: &str, netns: &Path, address: Ipv4Addr, gateway: Ipv4Addr, bridge: u32, mtu: u32) -> Result<()> {
    let inside = File::open(netns).map_err(io_error(format!("open {}", netns.display())))?;
    let cable = cable_name(sandbox);
    let mut links = Links::open().map_err(io_error("open rtnetlink"))?;
    let veth = Veth { host: &cable, pod: POD_LINK, bridge, mtu, mac: mac_of(address), netns: inside.as_fd() };
    links
        .add_veth(&veth)
        .map_err(missing(format!("create veth pair {cable}"), "the pod gets no network: load the kernel module `veth`"))?;
    let mut set_up = || -> io::Result<()> {
        let index = links.index(&cable)?.ok_or(io::ErrorKind::NotFound)?;
        // With bridge-nf-call a pod that reaches itself through a service comes back on its own port.
        links.hairpin(index)?;
        within(&inside, move || {
            let mut links = Links::open()?;
            let index = links.index(POD_LINK)?.ok_or(io::ErrorKind::NotFound)?;
            links.add_address(index, address, 32)?;
            // Before the link is up: nothing is sent by default settings.
            let _ = sysctl("net/ipv4/conf/all/accept_redirects", "0");
            let _ = sysctl(&format!("net/ipv4/conf/{POD_LINK}/accept_redirects"), "0");
            links.up(index)?;
            links.add_route(Ipv4Net::host(gateway), index, None)?;
            links.add_route(Ipv4Net::ALL, index, Some(gateway))
        })
    };
    set_up().map_err(|e| {
        let _ = Links::open().and_then(|mut links| links.delete(&cable));
        io_error(format!("set up the network of sandbox {sandbox}"))(e)
    })
}

/// Runs something on a thread of its own inside a network namespace.
pub(crate) fn within<T: Send>(netns: &File, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
            work()
        })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the pod's network ended unexpectedly")))
    })
}

fn outside_mtu(links: &mut Links) -> Option<u32> {
    let index = links.default_route().ok()??;
    links.mtu(index).ok()?
}

fn sysctl(key: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys").join(key);
    // Not writing what is so already works on a read-only /proc/sys too.
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(path, value)
}

/// A locally administered address made of the IP address, so that it is the same after every restart.
fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

fn cable_name(sandbox: &str) -> String {
    format!("{CABLE_PREFIX}{}", sandbox.get(..CABLE_ID_LENGTH).unwrap_or(sandbox))
}

fn is_cable(name: &str) -> bool {
    name.strip_prefix(CABLE_PREFIX).is_some_and(|id| id.len() == CABLE_ID_LENGTH && id.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> NetworkError {
    let what = what.into();
    move |source| NetworkError::Io { what, source }
}

fn missing(what: String, remedy: &'static str) -> impl FnOnce(io::Error) -> NetworkError {
    move |source| {
        use io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem, Unsupported};
        // ENODEV, EPROTONOSUPPORT and EAFNOSUPPORT have no kind of their own.
        let lacking = matches!(source.kind(), NotFound | PermissionDenied | ReadOnlyFilesystem | Unsupported)
            || matches!(source.raw_os_error(), Some(19 | 93 | 97));
        if lacking { NetworkError::Missing { what, source, remedy } } else { NetworkError::Io { what, source } }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::{in_a_network_of_its_own, pod_namespace};
