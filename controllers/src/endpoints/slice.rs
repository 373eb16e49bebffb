//! Spreads endpoints over slices with as few writes as can be (upstream `staging/src/k8s.io/endpointslice`).

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use super::port::Found;
use crate::{
    change::Change,
    object::{Labels, Object},
};

/// Endpoints of one slice at most (upstream's `--max-endpoints-per-slice`).
pub(super) const CAPACITY: usize = 100;

/// What one slice holds endpoints of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    /// `IPv4` or `IPv6`.
    pub(super) address_type: &'static str,
    /// The ports all its endpoints have.
    pub(super) ports: Vec<Found>,
}

/// The metadata all slices of a service have.
pub(super) struct Frame {
    /// Namespace of the service and its slices.
    pub(super) namespace: String,
    /// The service's name, which begins the names of the slices.
    pub(super) service: String,
    /// Labels of every slice.
    pub(super) labels: Labels,
    /// Annotations of every slice.
    pub(super) annotations: Labels,
    /// The owner of every slice.
    pub(super) owner: OwnerReference,
}

/// The changes that turn `existing` into slices of `wanted`, none of them empty but for a placeholder `wanted` asks for.
pub(super) fn changes(frame: &Frame, existing: &[Arc<EndpointSlice>], mut wanted: BTreeMap<Group, Vec<Endpoint>>) -> Vec<Change> {
    let mut by_group: BTreeMap<Group, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    let mut changes = Vec::new();
    for slice in existing.iter().filter(|slice| slice.deleted().is_none()) {
        match group(slice).filter(|group| wanted.contains_key(group)) {
            Some(group) => by_group.entry(group).or_default().push(slice),
            None => changes.push(Change::delete(slice.as_ref())),
        }
    }
    while let Some((group, endpoints)) = wanted.pop_first() {
        let slices = by_group.remove(&group).unwrap_or_default();
        spread(frame, &group, &slices, endpoints, &mut changes);
    }
    changes
}

/// A slice as it is and as it shall be.
struct Draft<'a> {
    slice: &'a EndpointSlice,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

fn spread(frame: &Frame, group: &Group, slices: &[&Arc<EndpointSlice>], endpoints: Vec<Endpoint>, changes: &mut Vec<Change>) {
    let placeholder = endpoints.is_empty();
    let mut left: BTreeMap<String, Endpoint> = endpoints.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
    let mut drafts: Vec<Draft<'_>> = slices.iter().map(|slice| keep(frame, slice, &mut left)).collect();
    let mut left: Vec<Endpoint> = left.into_values().collect();
    // First into slices that are written anyway, the emptiest last so that it may run empty and go.
    drafts.sort_by_key(|draft| std::cmp::Reverse(draft.endpoints.len()));
    for draft in drafts.iter_mut().filter(|draft| draft.changed) {
        let room = CAPACITY.saturating_sub(draft.endpoints.len()).min(left.len());
        draft.endpoints.extend(left.drain(..room));
    }
    // Then all the rest into one other slice, if it has room for it: one write, as many as a new slice would cost.
    let fits = drafts.iter_mut().find(|draft| !draft.changed && draft.endpoints.len() + left.len() <= CAPACITY);
    if let Some(draft) = fits.filter(|_| !left.is_empty()) {
        draft.endpoints.append(&mut left);
        draft.changed = true;
    }
    let mut kept = 0;
    for draft in drafts {
        if draft.endpoints.is_empty() && !(placeholder && kept == 0) {
            changes.push(Change::delete(draft.slice));
            continue;
        }
        kept += 1;
        if draft.changed {
            let mut slice = draft.slice.clone();
            slice.metadata.labels = Some(frame.labels.clone());
            slice.metadata.annotations = Some(frame.annotations.clone()).filter(|map| !map.is_empty());
            slice.endpoints = Some(draft.endpoints);
            changes.push(Change::update(&slice));
        }
    }
    while !left.is_empty() {
        let rest = left.split_off(left.len().min(CAPACITY));
        changes.push(Change::create(&new_slice(frame, group, left)));
        left = rest;
        kept += 1;
    }
    if kept == 0 && placeholder {
        changes.push(Change::create(&new_slice(frame, group, Vec::new())));
    }
}

/// Keeps in place what is still wanted, as it is wanted now.
fn keep<'a>(frame: &Frame, slice: &'a EndpointSlice, wanted: &mut BTreeMap<String, Endpoint>) -> Draft<'a> {
    let old = slice.endpoints.as_deref().unwrap_or_default();
    let endpoints: Vec<Endpoint> = old.iter().filter_map(|endpoint| wanted.remove(&identity(endpoint))).collect();
    let changed = endpoints != old || *slice.labels() != frame.labels || *slice.annotations() != frame.annotations;
    Draft { slice, endpoints, changed }
}

/// What makes two endpoints the same one: pod and address.
fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref()).unwrap_or_default();
    format!("{uid}/{}", endpoint.addresses.join(","))
}

fn group(slice: &EndpointSlice) -> Option<Group> {
    let address_type = match slice.address_type.as_str() {
        "IPv4" => "IPv4",
        "IPv6" => "IPv6",
        _ => return None,
    };
    let ports = slice.ports.iter().flatten().map(|port| Found {
        name: port.name.clone().unwrap_or_default(),
        port: port.port.unwrap_or_default(),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
        app_protocol: port.app_protocol.clone(),
    });
    let mut ports: Vec<Found> = ports.collect();
    ports.sort();
    Some(Group { address_type, ports })
}

fn new_slice(frame: &Frame, group: &Group, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let dash = if frame.service.len() < 253 { "-" } else { "" };
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}{dash}", frame.service)),
        namespace: Some(frame.namespace.clone()),
        labels: Some(frame.labels.clone()),
        annotations: Some(frame.annotations.clone()).filter(|map| !map.is_empty()),
        owner_references: Some(vec![frame.owner.clone()]),
        ..ObjectMeta::default()
    };
    let ports = group.ports.iter().map(|found| EndpointPort {
        name: Some(found.name.clone()),
        port: Some(found.port),
        protocol: Some(found.protocol.clone()),
        app_protocol: found.app_protocol.clone(),
    });
    EndpointSlice { metadata, address_type: group.address_type.to_owned(), endpoints: Some(endpoints), ports: Some(ports.collect()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Verb;

    fn frame() -> Frame {
        Frame {
            namespace: "a".into(),
            service: "web".into(),
            labels: [("kubernetes.io/service-name".to_owned(), "web".to_owned())].into(),
            annotations: Labels::new(),
            owner: OwnerReference::default(),
        }
    }

    fn endpoints(range: std::ops::Range<u32>) -> Vec<Endpoint> {
        range.map(|n| Endpoint { addresses: vec![format!("10.0.{}.{}", n / 250, n % 250)], ..Endpoint::default() }).collect()
    }

    fn group() -> Group {
        Group { address_type: "IPv4", ports: vec![] }
    }

    fn slice(name: &str, endpoints: Vec<Endpoint>) -> Arc<EndpointSlice> {
        let mut slice = new_slice(&frame(), &group(), endpoints);
        slice.metadata.name = Some(name.into());
        Arc::new(slice)
    }

    /// `create 100`, `update x 3`, `delete x`.
    fn told(existing: &[Arc<EndpointSlice>], wanted: Vec<Endpoint>) -> Vec<String> {
        let changes = changes(&frame(), existing, [(group(), wanted)].into());
        let told = changes.into_iter().map(|change| match change.verb {
            Verb::Create(body) => {
                let slice: EndpointSlice = serde_json::from_slice(&body).unwrap();
                format!("create {}", slice.endpoints.unwrap().len())
            }
            Verb::Update { object, .. } => format!("update {} {}", change.key.name, object["endpoints"].as_array().unwrap().len()),
            Verb::Delete { .. } => format!("delete {}", change.key.name),
            Verb::Patch { .. } => "patch".to_owned(),
        });
        told.collect()
    }

    #[test]
    fn endpoints_are_cut_into_slices_of_a_hundred() {
        assert_eq!(told(&[], endpoints(0..250)), ["create 100", "create 100", "create 50"]);
    }

    #[test]
    fn one_new_endpoint_costs_one_write() {
        let existing = [slice("x", endpoints(0..100)), slice("y", endpoints(100..150))];
        assert_eq!(told(&existing, endpoints(0..151)), ["update y 51"]);
    }

    #[test]
    fn a_gap_is_filled_where_it_was_made() {
        let existing = [slice("x", endpoints(0..100)), slice("y", endpoints(100..200))];
        assert_eq!(told(&existing, endpoints(1..201)), ["update x 100"]);
    }

    #[test]
    fn nothing_changed_is_nothing_written() {
        assert!(told(&[slice("x", endpoints(0..3))], endpoints(0..3)).is_empty());
    }

    #[test]
    fn a_service_without_pods_keeps_one_empty_slice() {
        assert_eq!(told(&[], vec![]), ["create 0"]);
        assert_eq!(told(&[slice("x", endpoints(0..2)), slice("y", vec![])], vec![]), ["update x 0", "delete y"]);
    }

    #[test]
    fn slices_of_other_ports_go() {
        let mut other = slice("x", endpoints(0..1)).as_ref().clone();
        other.ports = Some(vec![EndpointPort { port: Some(9), ..EndpointPort::default() }]);
        assert_eq!(told(&[Arc::new(other)], endpoints(0..1)), ["delete x", "create 1"]);
    }
}
