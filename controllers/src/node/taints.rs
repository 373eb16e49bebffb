//! Taints by which controllers mark nodes, and which pods put up with them.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint, Toleration};

use super::{condition, ready};
use crate::time;

/// The node's state is known to be bad.
pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// The node's state is not known.
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Someone says the node is gone for good.
pub(super) const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions that become taints with the effect `NoSchedule` when they have this status.
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];

/// The taints a node shall have: ours by its conditions, the others as they are. Without `evict` there are none with the
/// effect `NoExecute` of ours.
pub(super) fn wanted(node: &Node, evict: bool, now: Timestamp) -> Vec<Taint> {
    let present = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut ours: Vec<(&str, &str)> = BY_CONDITION
        .iter()
        .filter(|(type_, status, _)| condition(node, type_).is_some_and(|condition| condition.status == *status))
        .map(|(_, _, key)| (*key, "NoSchedule"))
        .collect();
    if node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default() {
        ours.push((UNSCHEDULABLE, "NoSchedule"));
    }
    if evict {
        match condition(node, "Ready").map(|_| ready(node)) {
            Some("False") => ours.push((NOT_READY, "NoExecute")),
            Some("Unknown") => ours.push((UNREACHABLE, "NoExecute")),
            _ => {}
        }
    }
    let is_ours = |taint: &Taint| {
        let by_condition = BY_CONDITION.iter().any(|(_, _, key)| *key == taint.key) || taint.key == UNSCHEDULABLE;
        (taint.effect == "NoSchedule" && by_condition)
            || (taint.effect == "NoExecute" && [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()))
    };
    let wants = |taint: &Taint| ours.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut taints: Vec<Taint> = present.into_iter().filter(|taint| !is_ours(taint) || wants(taint)).collect();
    for (key, effect) in ours {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            taints.push(Taint { key: key.to_owned(), effect: effect.to_owned(), time_added: Some(time::api(now)), value: None });
        }
    }
    taints
}

/// Whether the toleration is about this taint.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(node: serde_json::Value, evict: bool) -> Vec<String> {
        let node: Node = serde_json::from_value(node).unwrap();
        wanted(&node, evict, Timestamp::UNIX_EPOCH)
            .into_iter()
            .map(|taint| format!("{}:{}", taint.key.replace("node.kubernetes.io/", ""), taint.effect))
            .collect()
    }

    #[test]
    fn taints_follow_the_conditions_and_leave_others_alone() {
        let node = |status: &str, taints: serde_json::Value| json!({"spec": {"taints": taints}, "status": {"conditions": [{"type": "Ready", "status": status}]}});
        let none = json!([]);
        assert_eq!(told(node("False", none.clone()), true), ["not-ready:NoSchedule", "not-ready:NoExecute"]);
        assert_eq!(told(node("Unknown", none.clone()), true), ["unreachable:NoSchedule", "unreachable:NoExecute"]);
        assert_eq!(told(node("Unknown", none), false), ["unreachable:NoSchedule"]);
        let mixed = json!([{"key": "mine", "effect": "NoExecute"}, {"key": UNREACHABLE, "effect": "NoExecute"}, {"key": NOT_READY, "effect": "NoSchedule"}]);
        assert_eq!(told(node("True", mixed), true), ["mine:NoExecute"]);
    }

    #[test]
    fn tolerations_match_by_key_effect_and_value() {
        let taint = Taint { key: "k".into(), effect: "NoExecute".into(), value: Some("v".into()), time_added: None };
        let cases = [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), true),
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "value": "w"}), false),
            (json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}), false),
            (json!({"key": "other", "operator": "Exists"}), false),
        ];
        for (toleration, expected) in cases {
            let parsed: Toleration = serde_json::from_value(toleration.clone()).unwrap();
            assert_eq!(tolerates(&parsed, &taint), expected, "{toleration}");
        }
    }
}
