//! The pods of a daemon set.

use std::sync::Arc;

use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{
            NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod as FullPod, PodSpec, PodTemplateSpec, Toleration,
        },
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    change::{Change, Note},
    history::HASH_LABEL,
    object::{Key, Kind, Object, controller_reference},
    pod::Pod,
};

/// The label with the generation of the template; deprecated, and still set.
const GENERATION: &str = "pod-template-generation";
const DEPRECATED: &str = "deprecated.daemonset.template.generation";

/// What daemons put up with (upstream's `AddOrUpdateDaemonPodTolerations`).
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// The specification of the set's pods, wherever they run.
pub(super) fn spec(set: &DaemonSet) -> PodSpec {
    let mut spec = set.spec.template.spec.clone().unwrap_or_default();
    let network = spec.host_network.unwrap_or_default().then_some(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    spec
}

/// The creation of the pod for a node: the scheduler binds it, but has no choice.
pub(super) fn create(set: &DaemonSet, spec: &PodSpec, hash: &str, node: &str) -> Change {
    let template: &PodTemplateSpec = &set.spec.template;
    let from = template.metadata.clone().unwrap_or_default();
    let mut labels = from.labels.unwrap_or_default();
    labels.insert(HASH_LABEL.to_owned(), hash.to_owned());
    labels.insert(GENERATION.to_owned(), generation(set));
    let mut spec = spec.clone();
    pin(&mut spec, node);
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", set.name())),
        namespace: Some(set.namespace().to_owned()),
        labels: Some(labels),
        annotations: from.annotations,
        finalizers: from.finalizers,
        owner_references: Some(vec![controller_reference(set)]),
        ..ObjectMeta::default()
    };
    let body: Arc<[u8]> = serde_json::to_vec(&FullPod { metadata, spec: Some(spec), status: None }).unwrap_or_default().into();
    Change::create_bytes(Pod::RESOURCE, Key::new(set.namespace(), ""), body)
        .on_success(Note::normal(set, "SuccessfulCreate", "Created pod: {name}"))
        .on_failure(Note::warning(set, "FailedCreate", "Error creating: {error}"))
}

/// Whether a pod was made from the present template.
pub(super) fn is_current(set: &DaemonSet, pod: &Pod, hash: &str) -> bool {
    let label = |key: &str| pod.labels().get(key);
    label(HASH_LABEL).is_some_and(|found| found == hash)
        || (set.annotations().contains_key(DEPRECATED) && label(GENERATION).is_some_and(|found| *found == generation(set)))
}

fn generation(set: &DaemonSet) -> String {
    set.annotations().get(DEPRECATED).cloned().unwrap_or_else(|| set.generation().to_string())
}

/// Replaces required node affinity by the node's name: what the set asks for was judged when the node was chosen.
fn pin(spec: &mut PodSpec, node: &str) {
    let requirement =
        NodeSelectorRequirement { key: "metadata.name".to_owned(), operator: "In".to_owned(), values: Some(vec![node.to_owned()]) };
    let term = NodeSelectorTerm { match_expressions: None, match_fields: Some(vec![requirement]) };
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_with(NodeAffinity::default);
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector { node_selector_terms: vec![term] });
}

/// The node a daemon's pod is on, or is pinned to.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    if let Some(node) = pod.spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        return Some(node);
    }
    let affinity = pod.spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let field = terms.iter().flat_map(|term| &term.match_fields).find(|field| field.key == "metadata.name")?;
    field.values.first().map(String::as_str)
}
