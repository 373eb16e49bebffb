//! What every part of one node's agent shares.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use kube::Client;
use parking_lot::RwLock;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cgroups::Cgroups;
use crate::clock::Clock;
use crate::objects::Objects;
use crate::pods::qos::Amounts;
use crate::pods::registry::Directory;
use crate::pods::status::NodeFacts;
use crate::pull::Puller;
use crate::recorder::{Level, Recorder};
use crate::runtime::{Images, Runtime};
use crate::volumes::token::Tokens;

/// How one node is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the node.
    pub node_name: String,
    /// Addresses of the node, primary first.
    pub node_ips: Vec<IpAddr>,
    /// Directory for volumes, logs and pod files; nothing outside it is written.
    pub data_dir: PathBuf,
    /// Nameservers given to pods with `dnsPolicy: ClusterFirst`.
    pub cluster_dns: Vec<IpAddr>,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// Address ranges of this node's pods; empty = taken from `node.spec.podCIDRs` when a controller has set it.
    pub pod_cidrs: Vec<String>,
    /// Port of the agent's server, written into the node's status; 0 = none.
    pub port: u16,
    /// Labels added at registration.
    pub labels: BTreeMap<String, String>,
    /// Taints at registration, each `key=value:Effect` or `key:Effect`.
    pub taints: Vec<String>,
    /// Most pods this node takes.
    pub max_pods: u32,
    /// Capacity told to the cluster instead of the machine's (hollow nodes).
    pub capacity: Option<Amounts>,
    /// What must stay free on the machine.
    pub reserve: Reserve,
    /// Whether containers really exist: volumes, environment, cgroups and probes are prepared only then.
    pub materialize: bool,
    /// Whether pods get cgroups (needs root or delegation).
    pub cgroups: bool,
    /// Which events are written.
    pub events: Level,
    /// Time source.
    pub clock: Clock,
}

impl Options {
    /// Ordinary settings for a node of that name and address with its data in `data_dir`.
    #[must_use]
    pub fn new(node_name: &str, node_ip: IpAddr, data_dir: PathBuf) -> Self {
        Self {
            node_name: node_name.to_owned(),
            node_ips: vec![node_ip],
            data_dir,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            pod_cidrs: Vec::new(),
            port: 10250,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            max_pods: 110,
            capacity: None,
            reserve: Reserve::KUBELET,
            materialize: true,
            cgroups: true,
            events: Level::All,
            clock: Clock::System,
        }
    }
}

/// What must stay free on the machine: below it the node says that it is under pressure and takes no more pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve {
    /// Bytes of memory; as much is never promised to pods.
    pub memory: i64,
    /// Hundredths of the bytes of the file system of the data directory.
    pub disk: i64,
    /// Hundredths of its inodes.
    pub inodes: u64,
    /// Hundredths of the processes that the machine can run.
    pub processes: u64,
}

impl Reserve {
    /// What kubelet's `--eviction-hard` has by default (`pkg/kubelet/apis/config/v1beta1/defaults_linux.go`).
    pub const KUBELET: Self = Self { memory: 100 << 20, disk: 10, inodes: 5, processes: 10 };
    /// The machine does not matter: nothing really runs.
    pub const NONE: Self = Self { memory: 0, disk: 0, inodes: 0, processes: 0 };
}

/// Labels of the node as far as admission needs them, and what it can hold.
#[derive(Debug, Clone, Default)]
pub struct NodeView {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What pods may use.
    pub allocatable: Amounts,
    /// Bytes of memory in all.
    pub memory_capacity: i64,
    /// Conditions of pressure that keep pods out.
    pub pressure: Vec<&'static str>,
    /// The pod network can be used.
    pub network_ready: bool,
}

/// Shared by all tasks of one node.
pub struct Context {
    /// Settings.
    pub options: Options,
    /// Client with the node's identity.
    pub client: Client,
    /// Runs containers.
    pub runtime: Arc<dyn Runtime>,
    /// Keeps images.
    pub images: Arc<dyn Images>,
    /// Writes events.
    pub recorder: Recorder,
    /// Facts for pod status.
    pub facts: NodeFacts,
    /// Config maps, secrets and services that pods refer to.
    pub objects: Objects,
    /// Service-account tokens handed to pods.
    pub tokens: Tokens,
    /// Pulls in progress.
    pub puller: Puller,
    /// Pod cgroups, when the node has them.
    pub cgroups: Option<Cgroups>,
    /// The node as admission sees it.
    pub node: RwLock<NodeView>,
    /// Rings when something about the node may have changed.
    pub node_changed: Notify,
    /// Pods of this process, this node's among them.
    pub directory: Arc<Directory>,
    /// Owner of all tasks.
    pub tasks: TaskTracker,
    /// Tells all tasks to end.
    pub stop: CancellationToken,
}

impl Context {
    /// Directory of a pod's files.
    #[must_use]
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.options.data_dir.join("pods").join(uid)
    }

    /// Directory of a pod's logs, named as kubelet names it.
    #[must_use]
    pub fn log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.options.data_dir.join("logs").join(format!("{namespace}_{name}_{uid}"))
    }
}
