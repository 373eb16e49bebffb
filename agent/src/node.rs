//! The node's own object: registration, status when it changes (at least every five minutes), lease every ten seconds (kubelet
//! `kubelet_node_status.go`, `nodestatus/setters.go`, `component-helpers/apimachinery/lease`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerImage, Node, NodeCondition, NodeSpec};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use crate::api::{self, ApiError};
use crate::clock::{time, until};
use crate::context::{Context, NodeView, Reserve};
use crate::machine::{self, Machine};
use crate::pods::qos::Amounts;

/// Version reported as kubelet's: the API level and, as a pre-release, who really speaks.
pub const KUBELET_VERSION: &str = concat!("v1.37.1-coracle.", env!("CARGO_PKG_VERSION"));

const LEASE_PERIOD: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
const STATUS_PERIOD: Duration = Duration::from_secs(300);
/// How often pressure is looked at.
const LOOK_PERIOD: Duration = Duration::from_secs(10);
/// Images named in the status.
const IMAGES: usize = 50;

/// Type, whether it holds, reason, message.
type Condition = (&'static str, bool, &'static str, String);

/// What may change about a node from one look to the next.
#[derive(Debug, Clone, PartialEq, Default)]
struct Observed {
    conditions: Vec<Condition>,
    images: Vec<ContainerImage>,
}

/// Keeps the node's object and lease until the agent stops.
pub async fn run(ctx: Arc<Context>) {
    let (ctx, stop) = (&ctx, ctx.stop.clone());
    let keep = async {
        let machine = if ctx.options.materialize { machine::read(&ctx.options.data_dir) } else { Machine::default() };
        let mut keeper =
            Keeper { ctx, machine, observed: Observed::default(), transitions: BTreeMap::new(), written: None, uid: String::new() };
        keeper.settle();
        keeper.register().await;
        keeper.keep().await;
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = keep => {}
    }
}

struct Keeper<'a> {
    ctx: &'a Arc<Context>,
    machine: Machine,
    observed: Observed,
    /// Since when each condition has its status.
    transitions: BTreeMap<&'static str, (bool, Timestamp)>,
    written: Option<Timestamp>,
    uid: String,
}

/// What is read of the node as the API server has it.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Created {
    metadata: CreatedMeta,
    spec: NodeSpec,
    status: CreatedStatus,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct CreatedStatus {
    conditions: Vec<NodeCondition>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct CreatedMeta {
    uid: String,
}

impl Keeper<'_> {
    /// Works out what the node offers.
    fn settle(&self) {
        let capacity = self.capacity();
        let reserve = self.ctx.options.reserve.memory;
        let disk_reserve = if self.ctx.options.materialize { capacity.ephemeral_storage / 10 } else { 0 };
        *self.ctx.node.write() = NodeView {
            labels: self.labels(),
            allocatable: Amounts {
                cpu_milli: capacity.cpu_milli,
                memory: (capacity.memory - reserve).max(0),
                ephemeral_storage: capacity.ephemeral_storage - disk_reserve,
            },
            memory_capacity: capacity.memory,
            ..NodeView::default()
        };
    }

    fn capacity(&self) -> Amounts {
        self.ctx.options.capacity.unwrap_or(self.machine.capacity)
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let arch = machine::architecture();
        let name = self.ctx.options.node_name.as_str();
        let own = [
            ("beta.kubernetes.io/arch", arch),
            ("beta.kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", arch),
            ("kubernetes.io/hostname", name),
            ("kubernetes.io/os", "linux"),
        ];
        let mut labels = self.ctx.options.labels.clone();
        labels.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
        labels
    }

    /// Registers the node, waiting for the API server as long as it takes.
    async fn register(&mut self) {
        let mut pause = Duration::from_millis(100);
        loop {
            self.look().await;
            match self.register_once().await {
                Ok(()) => break,
                Err(error) => {
                    tracing::debug!(node = self.ctx.options.node_name, %error, "node not registered, trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(7));
                }
            }
        }
        self.ctx.recorder.node("Starting", "Starting kubelet.".to_owned());
    }

    async fn register_once(&mut self) -> Result<(), ApiError> {
        let name = &self.ctx.options.node_name;
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {
                "name": name, "labels": self.labels(),
                "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
            },
            "spec": {"taints": self.ctx.options.taints.iter().filter_map(|t| taint(t)).collect::<Vec<_>>()},
            "status": self.status(),
        });
        match api::create(&self.ctx.client, "/api/v1/nodes", &node).await {
            Ok(bytes) => self.uid = serde_json::from_slice::<Created>(&bytes).unwrap_or_default().metadata.uid,
            Err(error) if error.is_conflict() => {
                let known: Created = api::get(&self.ctx.client, &format!("/api/v1/nodes/{name}")).await?;
                self.uid.clone_from(&known.metadata.uid);
                self.resume(known).await;
                // Labels of the agent's own are kept as it says; others belong to others.
                let labels = json!({"metadata": {"labels": self.labels()}});
                api::patch(&self.ctx.client, &format!("/api/v1/nodes/{name}"), api::STRATEGIC_MERGE, &labels).await?;
            }
            Err(error) => return Err(error),
        }
        self.write_status().await?;
        self.renew().await
    }

    /// Goes on where the agent's last life ended: with the pod ranges given then, so that the node need not be unready until they are
    /// heard of again, and with conditions that have been as they are since then.
    async fn resume(&mut self, known: Created) {
        let given = known.spec.pod_cidrs.unwrap_or_default();
        if self.ctx.options.pod_cidrs.is_empty() && !given.is_empty() {
            if let Err(error) = self.ctx.runtime.set_pod_cidrs(&given).await {
                tracing::error!(node = self.ctx.options.node_name, %error, "pod address ranges refused by the runtime");
            }
            self.look().await;
        }
        for old in known.status.conditions {
            let now = self.transitions.iter_mut().find(|(kind, (holds, _))| **kind == old.type_ && *holds == (old.status == "True"));
            if let (Some((_, (_, since))), Some(time), true) = (now, old.last_transition_time, old.status != "Unknown") {
                *since = time.0;
            }
        }
    }

    async fn keep(&mut self) {
        // A fleet follows the objects of all its nodes at once.
        let _watch = self.ctx.options.materialize.then(|| {
            let nodes = HashMap::from([(self.ctx.options.node_name.clone(), self.ctx.clone())]);
            AbortOnDropHandle::new(self.ctx.tasks.spawn(follow(self.ctx.client.clone(), nodes)))
        });
        // Many nodes in one process: their beats are spread over the period.
        let phase = self.ctx.options.node_name.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte))) % 9_000;
        let first = tokio::time::Instant::now() + Duration::from_millis(1000 + phase);
        let mut beat = tokio::time::interval_at(first, LEASE_PERIOD.min(LOOK_PERIOD));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut missed = false;
        loop {
            // A node that is not ready looks more often: what it waits for comes soon.
            let soon = async {
                let unready = self.observed.conditions.iter().any(|c| c.0 == "Ready" && !c.1);
                if unready && self.ctx.options.materialize {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            let renew = tokio::select! {
                _ = beat.tick() => true,
                () = soon => false,
                () = self.ctx.node_changed.notified() => false,
            };
            if renew {
                match self.renew().await {
                    Ok(()) => missed = false,
                    Err(error) if !missed => {
                        tracing::warn!(node = self.ctx.options.node_name, %error, "lease not renewed");
                        missed = true;
                    }
                    Err(_) => {}
                }
            }
            let changed = self.look().await;
            let now = self.ctx.options.clock.now();
            let due = self.written.is_none_or(|at| until(at, now) >= STATUS_PERIOD);
            if changed || due {
                match self.write_status().await {
                    Err(error) if error.is_not_found() => self.register().await,
                    Err(error) => {
                        self.written = None;
                        tracing::warn!(node = self.ctx.options.node_name, %error, "node status not written, trying again");
                    }
                    Ok(()) => {}
                }
            }
        }
    }

    /// Looks at runtime, pressure and images; true when something visible changed.
    async fn look(&mut self) -> bool {
        let runtime = self.ctx.runtime.status().await;
        let (pressure, mut conditions) = if self.ctx.options.materialize { self.pressure() } else { (Vec::new(), no_pressure()) };
        let reasons: Vec<String> =
            runtime
                .not_ready
                .iter()
                .map(|why| format!("container runtime is down: {why}"))
                .chain(runtime.network_not_ready.iter().map(|why| {
                    format!("container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{why}")
                }))
                .collect();
        conditions.push(if reasons.is_empty() {
            ("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned())
        } else {
            ("Ready", false, "KubeletNotReady", format!("[{}]", reasons.join(", ")))
        });
        {
            let mut view = self.ctx.node.write();
            view.pressure = pressure;
            view.network_ready = runtime.network_not_ready.is_none();
        }
        let images = self.images().await;
        let next = Observed { conditions, images };
        let changed = next != self.observed;
        let now = self.ctx.options.clock.now();
        for (kind, holds, reason, _) in &next.conditions {
            let known = self.transitions.get(kind).map(|(held, _)| *held);
            if known != Some(*holds) {
                self.transitions.insert(kind, (*holds, now));
                let event = if *kind == "Ready" { if *holds { "NodeReady" } else { "NodeNotReady" } } else { event_of(reason) };
                self.ctx.recorder.node(event, format!("Node {} status is now: {event}", self.ctx.options.node_name));
            }
        }
        self.observed = next;
        changed
    }

    fn pressure(&self) -> (Vec<&'static str>, Vec<Condition>) {
        let Reserve { memory, disk, inodes, processes } = self.ctx.options.reserve;
        let memory = machine::available_memory() < memory;
        let disk = machine::disk(&self.ctx.options.data_dir)
            .is_some_and(|d| d.free < d.total / 100 * disk || d.inodes_free < d.inodes / 100 * inodes);
        let pids = machine::processes().is_some_and(|(running, limit)| running > limit / 100 * (100 - processes));
        let mut pressure = Vec::new();
        let mut conditions = no_pressure();
        let rows = [
            (memory, "MemoryPressure", "KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            (disk, "DiskPressure", "KubeletHasDiskPressure", "kubelet has disk pressure"),
            (pids, "PIDPressure", "KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        ];
        for (at, (holds, kind, reason, message)) in rows.into_iter().enumerate() {
            if holds {
                pressure.push(kind);
                conditions[at] = (kind, true, reason, message.to_owned());
            }
        }
        (pressure, conditions)
    }

    async fn images(&self) -> Vec<ContainerImage> {
        let mut images = self.ctx.images.list().await.unwrap_or_default();
        images.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.id.cmp(&b.id)));
        images.truncate(IMAGES);
        let named = images.into_iter().map(|image| ContainerImage {
            names: Some(image.digests.into_iter().chain(image.tags).take(5).collect()),
            size_bytes: i64::try_from(image.size_bytes).ok(),
        });
        named.collect()
    }

    fn status(&self) -> Value {
        let options = &self.ctx.options;
        let now = options.clock.now();
        let conditions = self.observed.conditions.iter().map(|(kind, holds, reason, message)| NodeCondition {
            type_: (*kind).to_owned(),
            status: if *holds { "True" } else { "False" }.to_owned(),
            reason: Some((*reason).to_owned()),
            message: Some(message.clone()),
            last_heartbeat_time: Some(time(now)),
            last_transition_time: self.transitions.get(kind).map(|(_, since)| time(*since)),
        });
        let mut addresses: Vec<Value> =
            options.node_ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()})).collect();
        addresses.push(json!({"type": "Hostname", "address": options.node_name}));
        let version = self.ctx.runtime.version();
        let mut status = json!({
            "conditions": conditions.collect::<Vec<_>>(),
            "addresses": addresses,
            "capacity": resources(self.capacity(), options.max_pods),
            "allocatable": resources(self.ctx.node.read().allocatable, options.max_pods),
            "images": self.observed.images,
            "nodeInfo": {
                "architecture": machine::architecture(), "bootID": self.machine.boot_id, "kernelVersion": self.machine.kernel,
                "containerRuntimeVersion": format!("{}://{}", version.name, version.version),
                "kubeletVersion": KUBELET_VERSION, "kubeProxyVersion": "", "machineID": self.machine.machine_id,
                "operatingSystem": "linux", "osImage": self.machine.os_image, "systemUUID": self.machine.system_uuid,
                "swap": {"capacity": self.machine.swap},
            },
        });
        if options.port != 0 {
            status["daemonEndpoints"] = json!({"kubeletEndpoint": {"Port": options.port}});
        }
        status
    }

    async fn write_status(&mut self) -> Result<(), ApiError> {
        let path = format!("/api/v1/nodes/{}/status", self.ctx.options.node_name);
        let mut body = json!({"status": self.status()});
        // The machine's addresses replace all that were there before.
        if let Some(list) = body["status"]["addresses"].as_array_mut() {
            list.push(json!({"$patch": "replace"}));
        }
        api::patch(&self.ctx.client, &path, api::STRATEGIC_MERGE, &body).await?;
        self.written = Some(self.ctx.options.clock.now());
        Ok(())
    }

    /// Renews the lease, making it when there is none.
    async fn renew(&self) -> Result<(), ApiError> {
        let name = &self.ctx.options.node_name;
        let now = self.ctx.options.clock.now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}");
        match api::patch(&self.ctx.client, &path, api::MERGE, &json!({"spec": {"renewTime": now}})).await {
            Err(error) if error.is_not_found() => {}
            other => return other,
        }
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {
                "name": name, "namespace": "kube-node-lease",
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": name, "uid": self.uid}],
            },
            "spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now},
        });
        api::create(&self.ctx.client, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", &lease).await.map(drop)
    }
}

fn no_pressure() -> Vec<Condition> {
    vec![
        ("MemoryPressure", false, "KubeletHasSufficientMemory", "kubelet has sufficient memory available".to_owned()),
        ("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure".to_owned()),
        ("PIDPressure", false, "KubeletHasSufficientPID", "kubelet has sufficient PID available".to_owned()),
    ]
}

fn event_of(reason: &'static str) -> &'static str {
    match reason {
        "KubeletHasSufficientMemory" => "NodeHasSufficientMemory",
        "KubeletHasInsufficientMemory" => "NodeHasInsufficientMemory",
        "KubeletHasNoDiskPressure" => "NodeHasNoDiskPressure",
        "KubeletHasDiskPressure" => "NodeHasDiskPressure",
        "KubeletHasSufficientPID" => "NodeHasSufficientPID",
        "KubeletHasInsufficientPID" => "NodeHasInsufficientPID",
        other => other,
    }
}

fn resources(amounts: Amounts, pods: u32) -> Value {
    let cpu = if amounts.cpu_milli % 1000 == 0 { (amounts.cpu_milli / 1000).to_string() } else { format!("{}m", amounts.cpu_milli) };
    json!({
        "cpu": cpu, "memory": format!("{}Ki", amounts.memory / 1024), "ephemeral-storage": format!("{}Ki", amounts.ephemeral_storage / 1024),
        "pods": pods.to_string(),
    })
}

/// `key=value:Effect` or `key:Effect`.
fn taint(text: &str) -> Option<Value> {
    let (left, effect) = text.rsplit_once(':')?;
    let (key, value) = left.split_once('=').unwrap_or((left, ""));
    Some(if value.is_empty() { json!({"key": key, "effect": effect}) } else { json!({"key": key, "value": value, "effect": effect}) })
}

/// Follows the objects of these nodes for labels and pod address ranges: one by name, several by one watch of all.
pub(crate) async fn follow(client: Client, nodes: HashMap<String, Arc<Context>>) {
    let only = nodes.keys().next().filter(|_| nodes.len() == 1);
    let config = only.map_or_else(watcher::Config::default, |name| watcher::Config::default().fields(&format!("metadata.name={name}")));
    let mut events = std::pin::pin!(watcher(Api::<Node>::all(client), config).default_backoff().applied_objects());
    let mut ranges: HashMap<String, Vec<String>> = HashMap::new();
    while let Some(event) = events.next().await {
        let Ok(node) = event else { continue };
        let Some((name, ctx)) = node.metadata.name.as_ref().and_then(|name| nodes.get_key_value(name)) else { continue };
        if let Some(labels) = node.metadata.labels {
            ctx.node.write().labels = labels;
        }
        let spec = node.spec.unwrap_or_default();
        let given = spec.pod_cidrs.or(spec.pod_cidr.map(|one| vec![one])).unwrap_or_default();
        if !ctx.options.pod_cidrs.is_empty() || given.is_empty() || ranges.get(name) == Some(&given) {
            continue;
        }
        match ctx.runtime.set_pod_cidrs(&given).await {
            Ok(()) => {
                ranges.insert(name.clone(), given);
                ctx.node_changed.notify_one();
            }
            Err(error) => tracing::error!(node = name, %error, "pod address ranges refused by the runtime"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_are_read_with_and_without_a_value() {
        assert_eq!(taint("a=b:NoSchedule"), Some(json!({"key": "a", "value": "b", "effect": "NoSchedule"})));
        assert_eq!(taint("node.kubernetes.io/x:NoExecute"), Some(json!({"key": "node.kubernetes.io/x", "effect": "NoExecute"})));
        assert_eq!(taint("nonsense"), None);
    }

    #[test]
    fn resources_read_as_quantities() {
        let amounts = Amounts { cpu_milli: 1500, memory: 1 << 30, ephemeral_storage: 0 };
        assert_eq!(resources(amounts, 110), json!({"cpu": "1500m", "memory": "1048576Ki", "ephemeral-storage": "0Ki", "pods": "110"}));
    }
}
