//! The slices of services with a selector (upstream `pkg/controller/endpointslice`).

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointSlice, ForNode, ForZone},
};

use super::{
    HEADLESS, PACE, addresses, belongs, hostname, is_headless, port, publishes_unready, selector_of,
    slice::{self, Frame, Group},
    target, wake_on_pods,
};
use crate::{
    caches::Caches,
    change::Plan,
    object::{Key, Labels, Object, controller_reference},
    pod::Pod,
    run::{Controller, Named, Wake},
    selector,
};

/// The label that names a slice's service.
pub(super) const SERVICE: &str = "kubernetes.io/service-name";
/// The label that names who keeps a slice.
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE: &str = "topology.kubernetes.io/zone";

/// The controller.
pub(crate) struct Slices {
    caches: Arc<Caches>,
}

impl Slices {
    /// The controller over these caches.
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches }
    }

    fn zone(&self, node: Option<&str>) -> Option<String> {
        self.caches.nodes.get("", node?)?.labels().get(ZONE).cloned()
    }

    fn endpoint(&self, service: &Service, pod: &Pod, address: &str) -> Endpoint {
        let (serving, terminating) = (pod.is_ready(), pod.metadata.deletion_timestamp.is_some());
        let ready = publishes_unready(service) || (serving && !terminating);
        let zone = self.zone(pod.spec.node_name.as_deref());
        Endpoint {
            addresses: vec![address.to_owned()],
            conditions: Some(EndpointConditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) }),
            hostname: hostname(pod, service),
            node_name: pod.spec.node_name.clone(),
            target_ref: Some(target(pod)),
            hints: hints(service, pod, zone.as_ref()).filter(|_| ready),
            zone,
            deprecated_topology: None,
        }
    }
}

/// Hints for services that prefer their callers' neighbourhood (KEP 3015).
fn hints(service: &Service, pod: &Pod, zone: Option<&String>) -> Option<EndpointHints> {
    let preference = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let for_zones = Some(vec![ForZone { name: zone?.clone() }]);
    match preference {
        "PreferClose" | "PreferSameZone" => Some(EndpointHints { for_zones, for_nodes: None }),
        "PreferSameNode" => {
            let for_nodes = Some(vec![ForNode { name: pod.spec.node_name.clone()? }]);
            Some(EndpointHints { for_zones, for_nodes })
        }
        _ => None,
    }
}

/// The slices of a service kept by `manager`.
pub(super) fn kept_by(caches: &Caches, key: &Key, manager: &str) -> Vec<Arc<EndpointSlice>> {
    let is = |slice: &EndpointSlice, label: &str, value: &str| slice.labels().get(label).is_some_and(|found| found == value);
    let mut slices = caches.endpoint_slices.list(&key.namespace);
    slices.retain(|slice| is(slice, SERVICE, &key.name) && is(slice, MANAGED_BY, manager));
    slices
}

/// Wakes the service of a slice kept by `manager`.
pub(super) fn wake_on_slices(wake: &Wake, manager: &'static str) {
    wake.on(&wake.caches.endpoint_slices, move |delta, wake| {
        for slice in delta.both().filter(|slice| slice.labels().get(MANAGED_BY).is_some_and(|found| found == manager)) {
            slice.labels().get(SERVICE).into_iter().for_each(|service| wake(Key::new(slice.namespace(), service)));
        }
    });
}

impl Named for Slices {
    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }
    fn identity(&self) -> &'static str {
        "endpointslice-controller"
    }
    fn reads(&self, wake: &Wake) {
        self.caches.nodes.need();
        wake.on_self(&self.caches.services);
        wake_on_slices(wake, MANAGER);
        wake_on_pods(wake);
    }
    fn pace(&self) -> std::time::Duration {
        PACE
    }
}

impl Controller for Slices {
    fn plan(&self, key: &Key, _now: Timestamp) -> Plan {
        // The slices of a service that is gone are garbage: the service owned them.
        let Some(service) = self.caches.services.at(key).filter(|service| service.deleted().is_none()) else { return Plan::nothing() };
        let existing = kept_by(&self.caches, key, MANAGER);
        let mut plan = Plan::nothing();
        let Some(wanted) = selector_of(&service) else {
            plan.parallel(existing.iter().map(|slice| crate::change::Change::delete(slice.as_ref())).collect());
            return plan;
        };
        let mut pods = self.caches.pods.list(&key.namespace);
        pods.retain(|pod| selector::selects_map(wanted, pod.labels()) && belongs(pod, true));
        let groups = groups(&service, &pods, |pod, address| self.endpoint(&service, pod, address));
        plan.parallel(slice::changes(&frame(&service, &existing), &existing, groups));
        plan
    }
}

/// The endpoints by address family and ports; a family without any has an empty group, for the placeholder.
fn groups(service: &Service, pods: &[Arc<Pod>], endpoint: impl Fn(&Pod, &str) -> Endpoint) -> BTreeMap<Group, Vec<Endpoint>> {
    let mut groups: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
    let no_ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref()).is_none_or(Vec::is_empty);
    for address_type in families(service) {
        let before = groups.len();
        for pod in pods {
            let ports = port::found(service, pod);
            let Some(address) = addresses(pod).into_iter().find(|ip| ip.contains(':') == (address_type == "IPv6")) else { continue };
            if ports.is_empty() && !(no_ports && is_headless(service)) {
                continue;
            }
            groups.entry(Group { address_type, ports }).or_default().push(endpoint(pod, address));
        }
        if groups.len() == before {
            groups.insert(Group { address_type, ports: Vec::new() }, Vec::new());
        }
    }
    groups
}

/// The families of a service; one that an older server wrote does not say.
fn families(service: &Service) -> Vec<&'static str> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let listed = spec.ip_families.iter().flatten().map(|family| if family == "IPv6" { "IPv6" } else { "IPv4" });
    let listed: Vec<&str> = listed.collect();
    match spec.cluster_ip.as_deref().unwrap_or_default() {
        _ if !listed.is_empty() => listed,
        "" | "None" => vec!["IPv4", "IPv6"],
        address if address.contains(':') => vec!["IPv6"],
        _ => vec!["IPv4"],
    }
}

fn frame(service: &Service, existing: &[Arc<EndpointSlice>]) -> Frame {
    let mut labels: Labels = service.labels().clone();
    labels.retain(|label, _| ![SERVICE, MANAGED_BY, HEADLESS].contains(&label.as_str()));
    labels.insert(SERVICE.to_owned(), service.name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    Frame {
        namespace: service.namespace().to_owned(),
        service: service.name().to_owned(),
        labels,
        // Annotations are other people's: they stay as they are.
        annotations: existing.first().map(|slice| slice.annotations().clone()).unwrap_or_default(),
        owner: controller_reference(service),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::change::Verb;

    fn created(service: Value, pods: Vec<Value>) -> Vec<Value> {
        let caches = Arc::new(Caches::default());
        caches.services.put(serde_json::from_value(service).unwrap());
        caches.nodes.put(serde_json::from_value(json!({"metadata": {"name": "n", "labels": {ZONE: "z1"}}})).unwrap());
        pods.into_iter().for_each(|pod| caches.pods.put(serde_json::from_value(pod).unwrap()));
        let plan = Slices::new(caches).plan(&Key::new("a", "web"), Timestamp::UNIX_EPOCH);
        plan.changes()
            .map(|change| match &change.verb {
                Verb::Create(body) => serde_json::from_slice(body).unwrap(),
                other => panic!("unexpected {other:?}"),
            })
            .collect()
    }

    fn service(spec: Value) -> Value {
        let mut spec = spec;
        spec["selector"] = json!({"app": "web"});
        json!({"metadata": {"name": "web", "namespace": "a", "uid": "s", "labels": {"team": "x"}}, "spec": spec})
    }

    fn pod(name: &str, ip: &str, ready: bool, deleted: bool) -> Value {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "a", "uid": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "n", "hostname": name, "subdomain": "web"},
            "status": {"phase": "Running", "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}]},
        });
        if deleted {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        pod
    }

    #[test]
    fn conditions_tell_ready_serving_and_terminating_apart() {
        let spec = json!({"ports": [{"name": "http", "port": 80}], "clusterIP": "10.0.0.1", "trafficDistribution": "PreferClose"});
        let pods = vec![pod("a", "10.1.0.1", true, false), pod("b", "10.1.0.2", false, false), pod("c", "10.1.0.3", true, true)];
        let slices = created(service(spec), pods);
        assert_eq!(slices.len(), 1);
        let conditions: Vec<&Value> = slices[0]["endpoints"].as_array().unwrap().iter().map(|endpoint| &endpoint["conditions"]).collect();
        assert_eq!(
            conditions,
            [
                &json!({"ready": true, "serving": true, "terminating": false}),
                &json!({"ready": false, "serving": false, "terminating": false}),
                &json!({"ready": false, "serving": true, "terminating": true}),
            ]
        );
        let first = &slices[0]["endpoints"][0];
        assert_eq!((first["zone"].as_str(), first["hostname"].as_str()), (Some("z1"), Some("a")));
        assert_eq!(first["hints"], json!({"forZones": [{"name": "z1"}]}));
        let labels = &slices[0]["metadata"]["labels"];
        assert_eq!(labels, &json!({"team": "x", SERVICE: "web", MANAGED_BY: MANAGER}));
        assert_eq!(slices[0]["metadata"]["generateName"], "web-");
        assert_eq!(slices[0]["ports"], json!([{"name": "http", "port": 80, "protocol": "TCP"}]));
    }

    #[test]
    fn each_family_has_its_own_slices_and_its_own_placeholder() {
        let spec = json!({"clusterIP": "None", "ipFamilies": ["IPv4", "IPv6"], "ports": [{"port": 80}]});
        let slices = created(service(spec), vec![pod("a", "fd00::1", true, false)]);
        let mut told: Vec<(&str, usize)> =
            slices.iter().map(|slice| (slice["addressType"].as_str().unwrap(), slice["endpoints"].as_array().unwrap().len())).collect();
        told.sort_unstable();
        assert_eq!(told, [("IPv4", 0), ("IPv6", 1)]);
        assert_eq!(slices[0]["metadata"]["labels"][HEADLESS], "");
        let old = created(service(json!({"clusterIP": "fd00::9", "ports": [{"port": 80}]})), vec![pod("a", "fd00::1", true, false)]);
        assert_eq!((old.len(), &old[0]["addressType"]), (1, &json!("IPv6")), "of a service that does not say its families");
    }
}
