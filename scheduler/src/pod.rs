//! A pod as the cycle sees it: its requests summed up and its wishes parsed once, when it is queued.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    quantity,
    view::{self, Resources},
};

/// Resources summed in the scheduler's units: cpu in thousandths, everything else in whole units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    pub(crate) cpu: i64,
    pub(crate) memory: i64,
    pub(crate) ephemeral: i64,
    /// Extended resources and huge pages.
    pub(crate) other: BTreeMap<Box<str>, i64>,
}

/// A host port wanted: protocol, address (empty or 0.0.0.0 for all), port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    pub(crate) protocol: Box<str>,
    pub(crate) address: Box<str>,
    pub(crate) port: u16,
}

/// A pod to place, or placed.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) view: Arc<view::Pod>,
    pub(crate) requests: Amounts,
    /// cpu and memory with upstream's assumed minimum per container, for scoring (`util.GetNonzeroRequests`).
    pub(crate) scoring: (i64, i64),
    pub(crate) ports: Vec<HostPort>,
}

const ASSUMED_CPU: i64 = 100;
const ASSUMED_MEMORY: i64 = 200 * 1024 * 1024;

impl HostPort {
    /// Whether both cannot be on one node (`HostPortInfo.CheckConflict`).
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        let any = |address: &str| address.is_empty() || address == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.address) || any(&other.address) || self.address == other.address)
    }
}

impl Amounts {
    pub(crate) fn parse(resources: &Resources) -> Self {
        let mut sum = Self::default();
        for (name, value) in resources {
            let number;
            let text = match value {
                serde_json::Value::String(text) => text,
                other => {
                    number = other.to_string();
                    &number
                }
            };
            match name.as_str() {
                "cpu" => sum.cpu = quantity::milli(text).unwrap_or(0),
                "memory" => sum.memory = quantity::units(text).unwrap_or(0),
                "ephemeral-storage" => sum.ephemeral = quantity::units(text).unwrap_or(0),
                "pods" => {}
                _ => {
                    sum.other.insert(name.as_str().into(), quantity::units(text).unwrap_or(0));
                }
            }
        }
        sum
    }

    fn add(&mut self, other: &Self) {
        self.cpu += other.cpu;
        self.memory += other.memory;
        self.ephemeral += other.ephemeral;
        for (name, amount) in &other.other {
            *self.other.entry(name.clone()).or_default() += amount;
        }
    }

    fn at_least(&mut self, other: &Self) {
        self.cpu = self.cpu.max(other.cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral = self.ephemeral.max(other.ephemeral);
        for (name, amount) in &other.other {
            let slot = self.other.entry(name.clone()).or_default();
            *slot = (*slot).max(*amount);
        }
    }
}

impl Pod {
    pub(crate) fn new(view: view::Pod) -> Self {
        let spec = &view.spec;
        let requests = requests(spec);
        let scoring = scoring(spec);
        let containers = spec.containers.iter().chain(spec.init_containers.iter().filter(|c| is_sidecar(c)));
        let ports = containers.flat_map(|c| &c.ports).filter(|p| p.host_port != 0).map(host_port).collect();
        Self { requests, scoring, ports, view: Arc::new(view) }
    }

    /// Namespace and name, for messages.
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.view.metadata.namespace, self.view.metadata.name)
    }
}

fn host_port(port: &view::Port) -> HostPort {
    let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
    HostPort { protocol: protocol.into(), address: port.host_ip.as_str().into(), port: port.host_port }
}

/// An init container that keeps running beside the others (KEP-753).
fn is_sidecar(container: &view::Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What the pod needs at its hungriest moment (`resourcehelper.PodRequests`): the sum of containers and sidecars, or the largest init
/// container together with the sidecars started before it; then pod-level requests, then overhead.
fn requests(spec: &view::PodSpec) -> Amounts {
    let of = |container: &view::Container| Amounts::parse(&container.resources.requests);
    let mut running = Amounts::default();
    for container in &spec.containers {
        running.add(&of(container));
    }
    let mut sidecars = Amounts::default();
    let mut starting = Amounts::default();
    for container in &spec.init_containers {
        let mut moment = of(container);
        if is_sidecar(container) {
            running.add(&moment);
            sidecars.add(&moment);
            moment = sidecars.clone();
        } else {
            moment.add(&sidecars);
        }
        starting.at_least(&moment);
    }
    running.at_least(&starting);
    if let Some(whole) = &spec.resources {
        let whole_amounts = Amounts::parse(&whole.requests);
        if whole.requests.contains_key("cpu") {
            running.cpu = whole_amounts.cpu;
        }
        if whole.requests.contains_key("memory") {
            running.memory = whole_amounts.memory;
        }
    }
    running.add(&Amounts::parse(&spec.overhead));
    running
}

fn scoring(spec: &view::PodSpec) -> (i64, i64) {
    let overhead = Amounts::parse(&spec.overhead);
    let mut sum = (overhead.cpu, overhead.memory);
    for container in &spec.containers {
        let amounts = Amounts::parse(&container.resources.requests);
        sum.0 += if amounts.cpu == 0 { ASSUMED_CPU } else { amounts.cpu };
        sum.1 += if amounts.memory == 0 { ASSUMED_MEMORY } else { amounts.memory };
    }
    sum
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A pod from JSON, for the tests of this crate.
    pub(crate) fn pod(json: serde_json::Value) -> Pod {
        Pod::new(serde_json::from_value(json).unwrap())
    }

    #[test]
    fn requests_are_those_of_the_hungriest_moment() {
        let container = |cpu: &str| serde_json::json!({"resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = container("50m");
        sidecar["restartPolicy"] = "Always".into();
        let pod = pod(serde_json::json!({"spec": {
            "containers": [container("100m"), container("200m")],
            "initContainers": [sidecar, container("500m")],
            "overhead": {"cpu": "10m"},
        }}));
        assert_eq!(pod.requests.cpu, 560, "500m init beside a 50m sidecar, and overhead");
        assert_eq!(pod.scoring.0, 310);
    }

    #[test]
    fn pod_level_requests_replace_the_sum() {
        let pod = pod(serde_json::json!({"spec": {
            "resources": {"requests": {"cpu": "1"}},
            "containers": [{"resources": {"requests": {"cpu": "100m", "memory": "1Mi"}}}],
        }}));
        assert_eq!((pod.requests.cpu, pod.requests.memory), (1000, 1 << 20));
    }

    #[test]
    fn a_host_port_on_all_addresses_conflicts_with_one_on_a_single_address() {
        let port = |address: &str| HostPort { protocol: "TCP".into(), address: address.into(), port: 80 };
        assert!(port("").conflicts(&port("10.0.0.1")));
        assert!(!port("10.0.0.2").conflicts(&port("10.0.0.1")));
    }
}
