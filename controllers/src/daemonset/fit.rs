//! Whether a node takes a pod of a daemon set.

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration};

use crate::object::Object;

/// What a node makes of a daemon's pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It shall have one.
    Yes,
    /// It gets none, but may keep the one it has.
    Keep,
    /// It shall have none.
    No,
}

/// Judges a node for pods of this specification, which already tolerate what daemons tolerate.
pub(super) fn judge(spec: &PodSpec, node: &Node) -> Fit {
    if spec.node_name.as_deref().is_some_and(|name| !name.is_empty() && name != node.name()) || !selected(spec, node) {
        return Fit::No;
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let untolerated = |effects: &[&str]| {
        taints
            .iter()
            .any(|taint| effects.contains(&taint.effect.as_str()) && !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
    };
    if !untolerated(&["NoSchedule", "NoExecute"]) {
        Fit::Yes
    } else if untolerated(&["NoExecute"]) {
        Fit::No
    } else {
        Fit::Keep
    }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    crate::node::tolerates(toleration, taint)
}

/// Whether node selector and required node affinity allow the node.
fn selected(spec: &PodSpec, node: &Node) -> bool {
    if !spec.node_selector.as_ref().is_none_or(|wanted| crate::selector::selects_map(wanted, node.labels())) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|required| required.node_selector_terms.iter().any(|term| matches(term, node)))
}

fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let (expressions, fields) = (term.match_expressions.as_deref().unwrap_or_default(), term.match_fields.as_deref().unwrap_or_default());
    // A term without requirements selects nothing.
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|requirement| holds(requirement, node.labels().get(&requirement.key).map(String::as_str)))
        && fields.iter().all(|requirement| holds(requirement, (requirement.key == "metadata.name").then(|| node.name())))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|allowed| allowed == value));
    let compare = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare().is_some_and(|(value, bound)| value > bound),
        "Lt" => compare().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}
