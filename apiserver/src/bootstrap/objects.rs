//! What a cluster has from its first start, beside roles: namespaces, priority classes, the API's own service, flow control, API services.

use std::net::IpAddr;

use coracle_schema::tables::GroupVersion;
use coracle_tree::{Value, json};
use jiff::Timestamp;

use super::{
    flow,
    settle::{Care, Wanted},
};

/// The facts about this server that objects tell.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Address clients outside reach the API at.
    pub advertise_address: IpAddr,
    /// Its port.
    pub secure_port: u16,
    /// The address of the API's own service: the first that services have.
    pub service_address: IpAddr,
    /// For the times of conditions.
    pub now: Timestamp,
}

/// The API of API services itself is registered nowhere (`createAPIServer` of kube-aggregator installs it beside the others).
const UNREGISTERED: &str = "apiregistration.k8s.io";

/// All of them.
pub fn all(facts: &Facts, groups: &[GroupVersion]) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = namespaces().chain(priority_classes()).chain(flow::all(&time(facts))).collect();
    wanted.push(service(facts));
    wanted.extend(api_services(facts, groups));
    wanted
}

fn object(resource: &'static str, object: Value, care: Care) -> Wanted {
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    Wanted { resource, namespace, object, status: Value::Null, care }
}

fn namespaces() -> impl Iterator<Item = Wanted> {
    ["default", "kube-system", "kube-public", "kube-node-lease"]
        .into_iter()
        .map(|name| object("namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}), Care::Keep))
}

fn priority_classes() -> impl Iterator<Item = Wanted> {
    let critical = [
        ("system-node-critical", 2_000_001_000, "Used for system critical pods that must not be moved from their current node."),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ];
    critical.into_iter().map(|(name, value, description)| {
        let class = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority",
        });
        object("priorityclasses", class, Care::Keep)
    })
}

/// The service `kubernetes`.
pub fn service(facts: &Facts) -> Wanted {
    let (address, port, family) = (facts.service_address.to_string(), facts.secure_port, family(facts.service_address));
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
            "sessionAffinity": "None", "ipFamilies": [family], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster",
        },
    });
    object("services", service, Care::Same(&["/spec/ports"]))
}

/// Its endpoints in both forms. A loopback address leads nowhere from a pod, and is refused in endpoints.
pub fn endpoints(facts: &Facts) -> Vec<Wanted> {
    let (advertised, port) = (facts.advertise_address.to_string(), facts.secure_port);
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": advertised}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
    });
    let address_type = self::family(facts.advertise_address);
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": address_type,
        "endpoints": [{"addresses": [advertised], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    if facts.advertise_address.is_loopback() {
        return Vec::new();
    }
    vec![object("endpoints", endpoints, Care::Same(&["/subsets"])), object("endpointslices", slice, Care::Same(&["/endpoints", "/ports"]))]
}

/// An APIService for every group and version served here.
fn api_services(facts: &Facts, groups: &[GroupVersion]) -> Vec<Wanted> {
    let served = groups.iter().filter(|of| of.priority != (0, 0) && of.group != UNREGISTERED);
    let services = served.map(|GroupVersion { group, version, priority: (of_group, of_version), .. }| {
        let spec = json!({"group": group, "version": version, "groupPriorityMinimum": of_group, "versionPriority": of_version});
        let labels = json!({"kube-aggregator.kubernetes.io/automanaged": "onstart"});
        let service = json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": format!("{version}.{group}"), "labels": labels}, "spec": spec,
        });
        let condition = json!({
            "type": "Available", "status": "True", "reason": "Local", "message": "Local APIServices are always available",
            "lastTransitionTime": time(facts),
        });
        let wanted = object("apiservices", service, Care::Automanaged(&["/spec"]));
        Wanted { status: json!({"conditions": [condition]}), ..wanted }
    });
    services.collect()
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn time(facts: &Facts) -> String {
    coracle_schema::time::seconds(facts.now)
}
