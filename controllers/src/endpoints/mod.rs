//! Where the pods behind a service can be reached: `Endpoints` as of old, and `EndpointSlice`s.

mod mirror;
mod plain;
mod port;
mod slice;
mod slices;

use k8s_openapi::api::core::v1::{ObjectReference, Service};

pub(crate) use self::{mirror::Mirror, plain::PlainEndpoints, slices::Slices};
use crate::{
    object::{Key, Object},
    pod::Pod,
    run::Wake,
    selector,
};

/// Marks the endpoints of services without a cluster address.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Changes of a burst of pods are written together: the second change of a service within this time waits for it to pass.
const PACE: std::time::Duration = std::time::Duration::from_millis(100);

/// Wakes a service when a pod it selects, or selected, changes in a way that shows in its endpoints.
fn wake_on_pods(wake: &Wake) {
    let caches = wake.caches.clone();
    wake.on(&wake.caches.pods, move |delta, wake| {
        if let (Some(old), Some(new)) = (delta.old, delta.new)
            && shown(old) == shown(new)
        {
            return;
        }
        let Some(pod) = delta.last() else { return };
        for service in caches.services.list(pod.namespace()) {
            let Some(wanted) = selector_of(&service) else { continue };
            if delta.both().any(|pod| selector::selects_map(wanted, pod.labels())) {
                wake(Key::of(service.as_ref()));
            }
        }
    });
}

/// All of a pod that endpoints show.
fn shown(pod: &Pod) -> impl PartialEq + '_ {
    (
        (&pod.metadata.uid, &pod.metadata.labels, pod.metadata.deletion_timestamp.is_some()),
        (&pod.status.pod_ips, &pod.status.pod_ip, pod.is_ready(), pod.is_terminal()),
        (&pod.spec.node_name, &pod.spec.hostname, &pod.spec.subdomain),
    )
}

/// The selector of a service whose endpoints are ours to keep.
fn selector_of(service: &Service) -> Option<&crate::object::Labels> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref()
}

fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

fn publishes_unready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or_default()
}

/// The addresses of a pod.
fn addresses(pod: &Pod) -> Vec<&str> {
    let mut all: Vec<&str> = pod.status.pod_ips.iter().map(|ip| ip.ip.as_str()).collect();
    if all.is_empty() {
        all.extend(pod.status.pod_ip.as_deref().filter(|ip| !ip.is_empty()));
    }
    all
}

/// Whether a pod belongs into endpoints at all: it has an address and has not ended, or not begun to end.
fn belongs(pod: &Pod, with_terminating: bool) -> bool {
    !addresses(pod).is_empty() && !pod.is_terminal() && (with_terminating || pod.metadata.deletion_timestamp.is_none())
}

/// The host name a pod has under a headless service of its sub-domain.
fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let matches = pod.spec.subdomain.as_deref() == Some(service.name()) && pod.metadata.namespace == service.namespace();
    pod.spec.hostname.clone().filter(|name| matches && !name.is_empty())
}

fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.metadata.namespace.clone()),
        name: Some(pod.metadata.name.clone()),
        uid: Some(pod.metadata.uid.clone()),
        ..ObjectReference::default()
    }
}
