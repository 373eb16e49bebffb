//! Labels of nodes that have new names, and selectors that select nothing.

use coracle_schema::name;
use coracle_tree::Value;

use crate::kinds::view;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const NO_SELECTOR: &str = "a null labelSelector results in matching no pod";

/// What upstream says of old labels of nodes (`pkg/api/node/util.go`).
pub(super) fn renamed(label: &str) -> Option<&'static str> {
    Some(match label {
        "beta.kubernetes.io/arch" => r#"deprecated since v1.14; use "kubernetes.io/arch" instead"#,
        "beta.kubernetes.io/os" => r#"deprecated since v1.14; use "kubernetes.io/os" instead"#,
        "failure-domain.beta.kubernetes.io/region" => r#"deprecated since v1.17; use "topology.kubernetes.io/region" instead"#,
        "failure-domain.beta.kubernetes.io/zone" => r#"deprecated since v1.17; use "topology.kubernetes.io/zone" instead"#,
        "beta.kubernetes.io/instance-type" => r#"deprecated since v1.17; use "node.kubernetes.io/instance-type" instead"#,
        "app.kubernetes.io/created-by" => "deprecated since v1.9",
        "scheduler.alpha.kubernetes.io/preferAvoidPods" => "deprecated since v1.22; use Taints and Tolerations instead",
        "node-role.kubernetes.io/master" => r#"use "node-role.kubernetes.io/control-plane" instead"#,
        _ => return None,
    })
}

/// Warns of labels by which a pod chooses its node.
pub(super) fn of(spec: &Value, path: &str, all: &mut Vec<String>) {
    for key in view::map(spec, "nodeSelector").keys() {
        all.extend(renamed(key).map(|text| format!("{path}.nodeSelector[{key}]: {text}")));
    }
    let affinity = view::member(view::member(spec, "affinity"), "nodeAffinity");
    let path_of = |mode: &str| format!("{path}.affinity.nodeAffinity.{mode}");
    for (at, chosen) in view::list(view::member(affinity, REQUIRED), "nodeSelectorTerms").iter().enumerate() {
        term(chosen, false, &format!("{}.nodeSelectorTerms[{at}]", path_of(REQUIRED)), all);
    }
    for (at, weighted) in view::list(affinity, PREFERRED).iter().enumerate() {
        term(view::member(weighted, "preference"), true, &format!("{}[{at}].preference", path_of(PREFERRED)), all);
    }
    for (at, constraint) in view::list(spec, "topologySpreadConstraints").iter().enumerate() {
        let (key, path) = (view::text(constraint, "topologyKey"), format!("{path}.topologySpreadConstraints[{at}]"));
        all.extend(renamed(key).map(|text| format!("{path}.topologyKey: {key} is {text}")));
        if view::get(constraint, "labelSelector").is_none() {
            all.push(format!("{path}.labelSelector: {NO_SELECTOR}"));
        }
    }
}

/// What is preferred is not validated: values that no label can have are told here.
fn term(term: &Value, values: bool, path: &str, all: &mut Vec<String>) {
    for (at, expression) in view::list(term, "matchExpressions").iter().enumerate() {
        let (key, path) = (view::text(expression, "key"), format!("{path}.matchExpressions[{at}]"));
        all.extend(renamed(key).map(|text| format!("{path}.key: {key} is {text}")));
        let given = view::list(expression, "values").iter().filter(|_| values).enumerate();
        for (at, value) in given.filter_map(|(at, value)| Some((at, value.as_str()?))) {
            all.extend(name::label_value(value).into_iter().map(|why| format!("{path}.values[{at}]: {value} is invalid, {why}")));
        }
    }
}

/// Warns of terms about other pods that no pod can meet.
pub(super) fn of_other_pods(spec: &Value, path: &str, all: &mut Vec<String>) {
    let lacks = |term: &Value| view::get(term, "labelSelector").is_none();
    for kind in ["podAffinity", "podAntiAffinity"] {
        let (terms, path) = (view::member(view::member(spec, "affinity"), kind), format_args!("{path}.affinity.{kind}"));
        let required = view::list(terms, REQUIRED).iter().enumerate();
        all.extend(required.filter(|(_, t)| lacks(t)).map(|(at, _)| format!("{path}.{REQUIRED}[{at}].labelSelector: {NO_SELECTOR}")));
        let weighted = view::list(terms, PREFERRED).iter().map(|term| view::member(term, "podAffinityTerm")).enumerate();
        let text = |at| format!("{path}.{PREFERRED}[{at}].podAffinityTerm.labelSelector: {NO_SELECTOR}");
        all.extend(weighted.filter(|(_, t)| lacks(t)).map(|(at, _)| text(at)));
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn old_labels_and_missing_selectors_are_told() {
        let spec = json!({
            "nodeSelector": {"beta.kubernetes.io/os": "linux"},
            "affinity": {
                "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                    {"preference": {"matchExpressions": [{"key": "node-role.kubernetes.io/master", "values": ["a b"]}]}},
                ]},
                "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}, {"labelSelector": {}}]},
            },
            "topologySpreadConstraints": [{"topologyKey": "failure-domain.beta.kubernetes.io/zone"}],
        });
        let mut all = Vec::new();
        of(&spec, "spec", &mut all);
        of_other_pods(&spec, "spec", &mut all);
        let term = "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0]";
        assert_eq!(all[0], "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead");
        assert_eq!(all[1], format!("{term}.key: node-role.kubernetes.io/master is use \"node-role.kubernetes.io/control-plane\" instead"));
        assert!(all[2].starts_with(&format!("{term}.values[0]: a b is invalid, a valid label must be")), "{}", all[2]);
        assert!(all[3].starts_with("spec.topologySpreadConstraints[0].topologyKey: failure-domain.beta.kubernetes.io/zone is deprecated"));
        assert_eq!(all[4], format!("spec.topologySpreadConstraints[0].labelSelector: {NO_SELECTOR}"));
        assert_eq!(all[5..], [format!("spec.affinity.podAffinity.{REQUIRED}[0].labelSelector: {NO_SELECTOR}")]);
    }
}
