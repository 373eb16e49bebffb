//! The parts of Services and EndpointSlices that rules are made of.

use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;

/// A service with an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Service {
    /// Cluster IPs of family IPv4.
    pub(super) cluster_ips: Vec<Ipv4Addr>,
    /// External IPs and those of load balancers.
    pub(super) external_ips: Vec<Ipv4Addr>,
    /// Ports.
    pub(super) ports: Vec<Port>,
    /// How long a client stays with its endpoint (`sessionAffinity: ClientIP`).
    pub(super) affinity: Option<Duration>,
    /// `externalTrafficPolicy: Local`.
    pub(super) external_local: bool,
    /// `internalTrafficPolicy: Local`.
    pub(super) internal_local: bool,
}

/// A port of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Port {
    /// Its name, which ties it to ports of slices.
    pub(super) name: String,
    /// Transport protocol number.
    pub(super) protocol: u8,
    /// The port.
    pub(super) port: u16,
    /// The port on every node; 0 = none.
    pub(super) node_port: u16,
}

/// A slice of endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Slice {
    /// Namespace and name of the service.
    pub(super) service: (String, String),
    /// Name, protocol, port.
    pub(super) ports: Vec<(String, u8, u16)>,
    /// Endpoints that may serve.
    pub(super) endpoints: Vec<Endpoint>,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Its address.
    pub(super) address: Ipv4Addr,
    /// It takes traffic.
    pub(super) ready: bool,
    /// It still serves while it ends: used when nothing is ready.
    pub(super) draining: bool,
    /// Its node.
    pub(super) node: String,
}

/// The label that another proxy claims a service by.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS: &str = "service.kubernetes.io/headless";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const DEFAULT_AFFINITY: Duration = Duration::from_secs(10_800);

/// What matters of a Service; `None` when it has no address, or is somebody else's.
pub(super) fn service(object: &core::Service) -> Option<Service> {
    let labels = object.metadata.labels.clone().unwrap_or_default();
    let spec = object.spec.as_ref()?;
    if labels.contains_key(OTHER_PROXY) || labels.contains_key(HEADLESS) || spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let ips = spec.cluster_ips.clone().unwrap_or_else(|| spec.cluster_ip.iter().cloned().collect());
    let cluster_ips: Vec<Ipv4Addr> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    if cluster_ips.is_empty() {
        return None;
    }
    let balancer = object.status.iter().filter_map(|s| s.load_balancer.as_ref()?.ingress.as_ref()).flatten();
    // An address that a balancer only shows (mode Proxy) is not ours to translate.
    let balancer = balancer.filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip.clone());
    let external = spec.external_ips.iter().flatten().cloned().chain(balancer);
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: protocol(port.protocol.as_deref())?,
            port: u16::try_from(port.port).ok()?,
            node_port: port.node_port.and_then(|p| u16::try_from(p).ok()).unwrap_or(0),
        })
    });
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let seconds = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
        seconds.and_then(|s| u64::try_from(s).ok()).map_or(DEFAULT_AFFINITY, Duration::from_secs)
    });
    Some(Service {
        cluster_ips,
        external_ips: external.filter_map(|ip| ip.parse().ok()).collect(),
        ports: ports.collect(),
        affinity,
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
    })
}

/// What matters of an EndpointSlice; `None` when it is not of IPv4 addresses or of no service.
pub(super) fn slice(object: &discovery::EndpointSlice) -> Option<Slice> {
    if object.address_type != "IPv4" {
        return None;
    }
    let name = object.metadata.labels.as_ref()?.get(SERVICE_NAME)?.clone();
    let ports = object.ports.iter().flatten().filter_map(|port| {
        let number = u16::try_from(port.port?).ok()?;
        Some((port.name.clone().unwrap_or_default(), protocol(port.protocol.as_deref())?, number))
    });
    let endpoints = object.endpoints.iter().flatten().filter_map(|endpoint| {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        let serving = conditions.serving.unwrap_or(ready);
        let draining = serving && conditions.terminating.unwrap_or(false);
        let address = endpoint.addresses.first()?.parse().ok()?;
        (ready || draining).then(|| Endpoint { address, ready, draining, node: endpoint.node_name.clone().unwrap_or_default() })
    });
    Some(Slice {
        service: (object.metadata.namespace.clone().unwrap_or_default(), name),
        ports: ports.collect(),
        endpoints: endpoints.collect(),
    })
}

fn protocol(name: Option<&str>) -> Option<u8> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn headless_external_and_foreign_services_are_left_alone() {
        let of = |spec: serde_json::Value, labels: serde_json::Value| {
            service(&serde_json::from_value(json!({"metadata": {"labels": labels}, "spec": spec})).unwrap())
        };
        assert!(of(json!({"clusterIP": "None", "clusterIPs": ["None"]}), json!({})).is_none());
        assert!(of(json!({"type": "ExternalName", "externalName": "x"}), json!({})).is_none());
        assert!(of(json!({"clusterIP": "10.43.0.9"}), json!({"service.kubernetes.io/service-proxy-name": "x"})).is_none());
        let found = of(json!({"clusterIPs": ["fd00::1", "10.43.0.9"], "sessionAffinity": "ClientIP"}), json!({})).unwrap();
        assert_eq!(found.cluster_ips, [Ipv4Addr::new(10, 43, 0, 9)]);
        assert_eq!(found.affinity, Some(DEFAULT_AFFINITY));
    }

    #[test]
    fn endpoints_that_are_not_ready_count_only_while_they_drain() {
        let object = json!({
            "addressType": "IPv4", "metadata": {"namespace": "n", "labels": {"kubernetes.io/service-name": "s"}},
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [
                {"addresses": ["10.42.0.2"]},
                {"addresses": ["10.42.0.3"], "conditions": {"ready": false}},
                {"addresses": ["10.42.0.4"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            ],
        });
        let slice = slice(&serde_json::from_value(object).unwrap()).unwrap();
        let seen: Vec<_> = slice.endpoints.iter().map(|e| (e.address.octets()[3], e.ready, e.draining)).collect();
        assert_eq!(seen, [(2, true, false), (4, false, true)]);
        assert_eq!(slice.ports, [("http".to_owned(), 6, 8080)]);
    }
}
