//! Slices for `Endpoints` that people write themselves, for services without a selector
//! (upstream `pkg/controller/endpointslicemirroring`).

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service},
    discovery::v1::{Endpoint, EndpointConditions},
};

use super::{
    PACE,
    port::Found,
    slice::{self, Frame, Group},
    slices::{MANAGED_BY, SERVICE, kept_by, wake_on_slices},
};
use crate::{
    caches::Caches,
    change::{Change, Plan},
    object::{Key, Object, controller_reference},
    pod::LAST_APPLIED,
    run::{Controller, Named, Wake},
};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Addresses mirrored of one subset (upstream's `--mirroring-max-endpoints-per-subset`).
const MOST: usize = 1000;

/// The controller.
pub(crate) struct Mirror {
    caches: Arc<Caches>,
}

impl Mirror {
    /// The controller over these caches.
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches }
    }
}

impl Named for Mirror {
    fn name(&self) -> &'static str {
        "endpointslice-mirroring-controller"
    }
    fn identity(&self) -> &'static str {
        "endpointslicemirroring-controller"
    }
    fn reads(&self, wake: &Wake) {
        wake.on_self(&self.caches.services);
        wake.on_self(&self.caches.endpoints);
        wake_on_slices(wake, MANAGER);
    }
    fn pace(&self) -> std::time::Duration {
        PACE
    }
}

impl Controller for Mirror {
    fn plan(&self, key: &Key, _now: Timestamp) -> Plan {
        let existing = kept_by(&self.caches, key, MANAGER);
        let endpoints = self.caches.endpoints.at(key).filter(|endpoints| is_mirrored(endpoints));
        let service = self.caches.services.at(key).filter(|service| has_no_selector(service));
        let mut plan = Plan::nothing();
        let (Some(endpoints), Some(_)) = (endpoints, service) else {
            plan.parallel(existing.iter().map(|slice| Change::delete(slice.as_ref())).collect());
            return plan;
        };
        let groups = groups(endpoints.subsets.as_deref().unwrap_or_default());
        plan.parallel(slice::changes(&frame(&endpoints), &existing, groups));
        plan
    }
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    endpoints.deleted().is_none()
        && endpoints.labels().get(SKIP).is_none_or(|skip| skip != "true")
        && !endpoints.annotations().contains_key(LEADER)
}

fn has_no_selector(service: &Service) -> bool {
    service.deleted().is_none() && service.spec.as_ref().is_some_and(|spec| spec.selector.is_none())
}

fn groups(subsets: &[EndpointSubset]) -> BTreeMap<Group, Vec<Endpoint>> {
    let mut groups: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
    for subset in subsets {
        let ports = subset.ports.iter().flatten().map(|port| Found {
            name: port.name.clone().unwrap_or_default(),
            port: port.port,
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            app_protocol: port.app_protocol.clone(),
        });
        let mut ports: Vec<Found> = ports.collect();
        ports.sort();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(unready).take(MOST) {
            let address_type = if address.ip.contains(':') { "IPv6" } else { "IPv4" };
            groups.entry(Group { address_type, ports: ports.clone() }).or_default().push(endpoint(address, ready));
        }
    }
    groups
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn frame(endpoints: &Endpoints) -> Frame {
    let mut labels = endpoints.labels().clone();
    labels.insert(SERVICE.to_owned(), endpoints.name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut annotations = endpoints.annotations().clone();
    annotations.retain(|key, _| key != TRIGGER && key != LAST_APPLIED);
    Frame {
        namespace: endpoints.namespace().to_owned(),
        service: endpoints.name().to_owned(),
        labels,
        annotations,
        owner: controller_reference(endpoints),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan(labels: &serde_json::Value, selector: &serde_json::Value) -> usize {
        let caches = Arc::new(Caches::default());
        let service = json!({"metadata": {"name": "db", "namespace": "a"}, "spec": {"selector": selector}});
        caches.services.put(serde_json::from_value(service).unwrap());
        let endpoints = json!({"metadata": {"name": "db", "namespace": "a", "labels": labels},
            "subsets": [{"addresses": [{"ip": "1.2.3.4"}, {"ip": "fd00::1"}], "ports": [{"port": 5432}]}]});
        caches.endpoints.put(serde_json::from_value(endpoints).unwrap());
        Mirror::new(caches).plan(&Key::new("a", "db"), Timestamp::UNIX_EPOCH).changes().count()
    }

    #[test]
    fn endpoints_of_services_without_selector_are_mirrored_by_family() {
        assert_eq!(plan(&json!({}), &json!(null)), 2);
        assert_eq!(plan(&json!({}), &json!({"app": "db"})), 0, "the service has a selector");
        assert_eq!(plan(&json!({SKIP: "true"}), &json!(null)), 0, "the endpoints ask not to be");
    }
}
