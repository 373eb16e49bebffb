//! Which port of a pod a service's port means.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::pod::Pod;

/// A service's port, found in a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Found {
    /// The service port's name, empty for the only one.
    pub(super) name: String,
    /// The number in the pod.
    pub(super) port: i32,
    /// `TCP`, `UDP`, `SCTP`.
    pub(super) protocol: String,
    /// What is spoken over it, if told.
    pub(super) app_protocol: Option<String>,
}

/// The ports of a service as this pod has them; a named port the pod does not have is left out.
pub(super) fn found(service: &Service, pod: &Pod) -> Vec<Found> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let mut found: Vec<Found> = ports
        .filter_map(|port| {
            Some(Found {
                name: port.name.clone().unwrap_or_default(),
                port: number(port, pod)?,
                protocol: protocol(port).to_owned(),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    found.sort();
    found
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

fn number(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let name = match &port.target_port {
        None | Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let sidecars = pod.spec.init_containers.iter().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = pod.spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
    let matches =
        |found: &&crate::pod::Port| found.name.as_deref() == Some(name) && found.protocol.as_deref().unwrap_or("TCP") == protocol(port);
    ports.into_iter().find(matches).map(|found| found.container_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_port_is_looked_up_in_the_pod() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [
            {"ports": [{"name": "web", "containerPort": 8080, "protocol": "UDP"}, {"name": "web", "containerPort": 80}]}
        ]}}))
        .unwrap();
        let port = |target: Option<IntOrString>| ServicePort { port: 1, target_port: target, ..ServicePort::default() };
        assert_eq!(number(&port(Some(IntOrString::String("web".into()))), &pod), Some(80));
        assert_eq!(number(&port(Some(IntOrString::String("other".into()))), &pod), None);
        assert_eq!(number(&port(Some(IntOrString::Int(9))), &pod), Some(9));
        assert_eq!(number(&port(None), &pod), Some(1));
    }
}
