//! `Endpoints` (upstream `pkg/controller/endpoint`).

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    HEADLESS, PACE, addresses, belongs, hostname, is_headless,
    port::{self, Found},
    publishes_unready, selector_of, target, wake_on_pods,
};
use crate::{
    caches::Caches,
    change::{Change, Note, Plan},
    object::{Key, Object},
    pod::Pod,
    run::{Controller, Named, Wake},
    selector,
};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const CAPACITY: usize = 1000;

/// The controller.
pub(crate) struct PlainEndpoints {
    caches: Arc<Caches>,
}

impl PlainEndpoints {
    /// The controller over these caches.
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches }
    }
}

impl Named for PlainEndpoints {
    fn name(&self) -> &'static str {
        "endpoints-controller"
    }
    fn identity(&self) -> &'static str {
        "endpoint-controller"
    }
    fn reads(&self, wake: &Wake) {
        wake.on_self(&self.caches.services);
        wake.on(&self.caches.endpoints, |delta, wake| {
            if let (Some(old), None) = (delta.old, delta.new) {
                wake(Key::of(old.as_ref()));
            }
        });
        wake_on_pods(wake);
    }
    fn pace(&self) -> std::time::Duration {
        PACE
    }
}

impl Controller for PlainEndpoints {
    fn plan(&self, key: &Key, _now: Timestamp) -> Plan {
        let current = self.caches.endpoints.at(key);
        let Some(service) = self.caches.services.at(key) else {
            // Only what we made goes with the service: others' endpoints may be locks or have their own life.
            let ours = current.filter(|endpoints| endpoints.labels().get(MANAGED_BY).is_some_and(|manager| manager == MANAGER));
            return ours.map(|endpoints| Change::delete(endpoints.as_ref()).into()).unwrap_or_default();
        };
        let Some(wanted) = selector_of(&service).filter(|_| service.deleted().is_none()) else { return Plan::nothing() };
        let mut pods = self.caches.pods.list(&key.namespace);
        pods.retain(|pod| selector::selects_map(wanted, pod.labels()) && belongs(pod, publishes_unready(&service)));
        write(&service, current.as_deref(), subsets(&service, &pods))
    }
}

/// The subsets: pods with the same ports share one.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let of_six = of_six(service);
    let mut groups: BTreeMap<Vec<Found>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    let no_ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref()).is_none_or(Vec::is_empty);
    let mut count = 0;
    let truncated = pods.len() > CAPACITY;
    // Ready ones first, so that they are the ones kept when there are too many.
    let mut pods: Vec<&Arc<Pod>> = pods.iter().collect();
    pods.sort_by_key(|pod| !pod.is_ready());
    for pod in pods.into_iter().take(CAPACITY) {
        let ports = port::found(service, pod);
        if ports.is_empty() && !(no_ports && is_headless(service)) {
            continue;
        }
        let all = addresses(pod);
        let of_six = of_six.unwrap_or_else(|| all.first().is_some_and(|ip| ip.contains(':')));
        let Some(ip) = all.into_iter().find(|ip| ip.contains(':') == of_six) else { continue };
        let address = EndpointAddress {
            ip: ip.to_owned(),
            hostname: hostname(pod, service),
            node_name: pod.spec.node_name.clone(),
            target_ref: Some(target(pod)),
        };
        count += 1;
        let group = groups.entry(ports).or_default();
        if publishes_unready(service) || pod.is_ready() { group.0.push(address) } else { group.1.push(address) }
    }
    let subsets = groups.into_iter().map(|(ports, (mut ready, mut unready))| {
        ready.sort_by(|a, b| a.ip.cmp(&b.ip));
        unready.sort_by(|a, b| a.ip.cmp(&b.ip));
        EndpointSubset {
            addresses: Some(ready).filter(|list| !list.is_empty()),
            not_ready_addresses: Some(unready).filter(|list| !list.is_empty()),
            ports: Some(ports.into_iter().map(endpoint_port).collect::<Vec<_>>()).filter(|list| !list.is_empty()),
        }
    });
    (subsets.collect(), truncated && count == CAPACITY)
}

/// Whether the addresses of a service are of IPv6, by its first family, or its own address where an older server wrote it; `None`: it does
/// not say.
fn of_six(service: &Service) -> Option<bool> {
    let spec = service.spec.as_ref()?;
    match (spec.ip_families.iter().flatten().next(), spec.cluster_ip.as_deref().unwrap_or_default()) {
        (Some(family), _) => Some(family == "IPv6"),
        (None, "" | "None") => None,
        (None, address) => Some(address.contains(':')),
    }
}

fn endpoint_port(found: Found) -> EndpointPort {
    EndpointPort {
        name: Some(found.name).filter(|name| !name.is_empty()),
        port: found.port,
        protocol: Some(found.protocol),
        app_protocol: found.app_protocol,
    }
}

fn write(service: &Service, current: Option<&Endpoints>, (subsets, truncated): (Vec<EndpointSubset>, bool)) -> Plan {
    let mut labels = service.labels().clone();
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    let subsets = Some(subsets).filter(|list| !list.is_empty());
    let failed = |endpoints: &str| {
        Note::warning(service, "FailedToCreateEndpoint", format!("Failed to create endpoint for service {endpoints}: {{error}}"))
    };
    let full_name = format!("{}/{}", service.namespace(), service.name());
    let Some(current) = current else {
        let mut metadata = ObjectMeta {
            name: Some(service.name().to_owned()),
            namespace: Some(service.namespace().to_owned()),
            labels: Some(labels),
            ..ObjectMeta::default()
        };
        mark_capacity(&mut metadata, truncated);
        return Change::create(&Endpoints { metadata, subsets }).on_failure(failed(&full_name)).into();
    };
    let mut wanted = current.clone();
    wanted.metadata.labels = Some(labels);
    wanted.subsets = subsets;
    mark_capacity(&mut wanted.metadata, truncated);
    let same_subsets = current.subsets.clone().filter(|list| !list.is_empty()) == wanted.subsets;
    if same_subsets && current.labels() == wanted.labels() && current.annotations() == wanted.annotations() {
        return Plan::nothing();
    }
    let failed = Note::warning(current, "FailedToUpdateEndpoint", format!("Failed to update endpoint {full_name}: {{error}}"));
    Change::update(&wanted).on_failure(failed).into()
}

fn mark_capacity(metadata: &mut ObjectMeta, truncated: bool) {
    if truncated {
        metadata.annotations.get_or_insert_default().insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(OVER_CAPACITY);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
    use serde_json::json;

    use super::*;

    fn service() -> Service {
        let spec = ServiceSpec {
            selector: Some([("app".to_owned(), "web".to_owned())].into()),
            ports: Some(vec![ServicePort { port: 80, ..ServicePort::default() }]),
            cluster_ip: Some("10.0.0.1".into()),
            ..ServiceSpec::default()
        };
        let metadata = ObjectMeta { name: Some("web".into()), namespace: Some("a".into()), ..ObjectMeta::default() };
        Service { metadata, spec: Some(spec), status: None }
    }

    fn pod(name: &str, ip: &str, ready: bool) -> Pod {
        let status = if ready { "True" } else { "False" };
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "a", "uid": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "n"},
            "status": {"phase": "Running", "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": status}]},
        }))
        .unwrap()
    }

    fn plan(service: Service, pods: Vec<Pod>, current: Option<Endpoints>) -> Option<serde_json::Value> {
        let caches = Arc::new(Caches::default());
        caches.services.put(service);
        pods.into_iter().for_each(|pod| caches.pods.put(pod));
        current.into_iter().for_each(|endpoints| caches.endpoints.put(endpoints));
        let plan = PlainEndpoints::new(caches).plan(&Key::new("a", "web"), Timestamp::UNIX_EPOCH);
        let change = plan.changes().next()?.clone();
        Some(match change.verb {
            crate::change::Verb::Create(body) => serde_json::from_slice(&body).unwrap(),
            crate::change::Verb::Update { object, .. } => object,
            other => panic!("unexpected {other:?}"),
        })
    }

    #[test]
    fn ready_and_unready_addresses_are_told_apart_and_ended_pods_left_out() {
        let mut ended = pod("d", "10.1.0.4", true);
        ended.status.phase = "Succeeded".into();
        let mut going = pod("e", "10.1.0.5", true);
        going.metadata.deletion_timestamp = Some(Timestamp::UNIX_EPOCH);
        let pods = vec![pod("a", "10.1.0.2", true), pod("b", "10.1.0.1", true), pod("c", "10.1.0.3", false), ended, going];
        let object = plan(service(), pods, None).unwrap();
        let subset = &object["subsets"][0];
        assert_eq!(subset["addresses"][0]["ip"], "10.1.0.1");
        assert_eq!(subset["addresses"].as_array().unwrap().len(), 2);
        assert_eq!(subset["notReadyAddresses"][0]["targetRef"]["name"], "c");
        assert_eq!(subset["ports"], json!([{"port": 80, "protocol": "TCP"}]));
        assert_eq!(object["metadata"]["labels"][MANAGED_BY], MANAGER);
    }

    #[test]
    fn unchanged_endpoints_are_not_written_and_unready_pods_published_if_asked() {
        let first = plan(service(), vec![pod("c", "10.1.0.3", false)], None).unwrap();
        let current: Endpoints = serde_json::from_value(first).unwrap();
        assert_eq!(plan(service(), vec![pod("c", "10.1.0.3", false)], Some(current.clone())), None);
        let mut publishing = service();
        publishing.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
        let object = plan(publishing, vec![pod("c", "10.1.0.3", false)], Some(current)).unwrap();
        assert_eq!(object["subsets"][0]["addresses"][0]["ip"], "10.1.0.3");
    }

    #[test]
    fn of_a_pod_with_two_addresses_the_one_of_the_services_first_family_is_shown() {
        let mut both = pod("a", "10.1.0.1", true);
        both.status.pod_ips.push(serde_json::from_value(json!({"ip": "fd00::1"})).unwrap());
        let shown = |families: Option<&[&str]>, address: &str| {
            let mut service = service();
            let spec = service.spec.as_mut().unwrap();
            spec.ip_families = families.map(|families| families.iter().map(|family| (*family).to_owned()).collect());
            spec.cluster_ip = Some(address.to_owned());
            let object = plan(service, vec![both.clone()], None).unwrap();
            object["subsets"][0]["addresses"][0]["ip"].as_str().unwrap().to_owned()
        };
        assert_eq!(shown(Some(&["IPv6", "IPv4"]), "fd00::9"), "fd00::1");
        assert_eq!(shown(Some(&["IPv4", "IPv6"]), "10.0.0.9"), "10.1.0.1");
        assert_eq!((shown(None, "fd00::9"), shown(None, "None")), ("fd00::1".into(), "10.1.0.1".into()));
    }

    #[test]
    fn a_service_without_selector_is_left_to_its_owner() {
        let mut own = service();
        own.spec.as_mut().unwrap().selector = None;
        assert_eq!(plan(own, vec![pod("a", "10.1.0.2", true)], None), None);
    }
}
