//! What to do about one object that should be there. Pure.

use coracle_tree::{Map, Value};

use crate::{
    aggregator::AUTOMANAGED,
    authz::policy::{Rule, uncovered},
};

/// An object that should be there.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Plural resource; the group stands in the object's `apiVersion`.
    pub resource: &'static str,
    /// Empty for cluster kinds.
    pub namespace: String,
    /// The object.
    pub object: Value,
    /// Its status, written after it; `Null` when it needs none.
    pub status: Value,
    /// How one that is there already is treated.
    pub care: Care,
}

/// How an object that is there already is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Care {
    /// Left alone.
    Keep,
    /// Missing rules, selectors, labels and annotations are added (`pkg/registry/rbac/reconciliation`).
    Role,
    /// Missing subjects, labels and annotations are added.
    Binding,
    /// These members, by JSON pointer, are made as wanted.
    Same(&'static [&'static str]),
    /// The same, unless somebody took off the label that says that this server keeps the object.
    Automanaged(&'static [&'static str]),
}

/// The next write, if any.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing to do.
    Nothing,
    /// Create it as wanted.
    Create,
    /// Replace it by this.
    Update(Value),
    /// Remove it and create it as wanted: what differs can never be changed.
    Recreate,
}

/// Opts an object out of being added to.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// What to write, given what is there.
pub fn settle(now: Option<&Value>, wanted: &Wanted) -> Step {
    let Some(now) = now else { return Step::Create };
    let mut next = now.clone();
    match wanted.care {
        Care::Keep => return Step::Nothing,
        Care::Role | Care::Binding if now["metadata"]["annotations"][AUTOUPDATE] == "false" => return Step::Nothing,
        Care::Role => {
            add_metadata(&mut next, &wanted.object);
            add_rules(&mut next, &wanted.object);
        }
        Care::Binding => {
            add_metadata(&mut next, &wanted.object);
            add_missing(&mut next, &wanted.object, "subjects");
        }
        Care::Automanaged(_) if !is_automanaged(now) => return Step::Nothing,
        // The addresses of a slice are of one family, for good.
        Care::Same(_) if now["addressType"] != wanted.object["addressType"] => return Step::Recreate,
        Care::Same(pointers) | Care::Automanaged(pointers) => {
            for pointer in pointers {
                let value = wanted.object.pointer(pointer).unwrap_or(&Value::Null);
                if !contains(now.pointer(pointer).unwrap_or(&Value::Null), value) {
                    set(&mut next, pointer, value.clone());
                }
            }
        }
    }
    if next == *now { Step::Nothing } else { Step::Update(next) }
}

/// Whether the status of an object that is there is not as wanted.
pub fn status_differs(now: Option<&Value>, wanted: &Wanted) -> bool {
    let there = now.and_then(|n| n.get("status")).unwrap_or(&Value::Null);
    if matches!(wanted.care, Care::Automanaged(_)) && now.is_some_and(|now| !is_automanaged(now)) {
        return false;
    }
    !wanted.status.is_null() && !contains(there, &without_times(&wanted.status))
}

/// Whether this server keeps an `APIService`.
fn is_automanaged(object: &Value) -> bool {
    matches!(object["metadata"]["labels"][AUTOMANAGED].as_str(), Some("onstart" | "true"))
}

/// Adds labels and annotations that are not there; those that are stay as they are.
fn add_metadata(next: &mut Value, wanted: &Value) {
    for name in ["labels", "annotations"] {
        let Some(missing) = wanted["metadata"][name].as_object() else { continue };
        let slot = &mut next["metadata"][name];
        if !slot.is_object() {
            *slot = Value::Object(Map::new());
        }
        for (key, value) in missing {
            if slot.get(key).is_none() {
                slot[key] = value.clone();
            }
        }
    }
}

/// Adds rules that those there do not cover. A role that aggregates gets missing selectors instead: its rules are others'.
fn add_rules(next: &mut Value, wanted: &Value) {
    if wanted.get("aggregationRule").is_some() {
        if !next["aggregationRule"].is_object() {
            next["aggregationRule"] = Value::Object(Map::new());
        }
        add_missing(&mut next["aggregationRule"], &wanted["aggregationRule"], "clusterRoleSelectors");
        return;
    }
    let rules = |of: &Value| -> Vec<Rule> {
        let list = of["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(|r| serde::Deserialize::deserialize(r).ok()).collect()
    };
    let missing = uncovered(&[rules(next).into()], &rules(wanted));
    if missing.is_empty() {
        return;
    }
    if !next["rules"].is_array() {
        next["rules"] = Value::Array(Vec::new());
    }
    if let Some(list) = next["rules"].as_array_mut() {
        list.extend(missing.iter().filter_map(|r| coracle_tree::to_value(r).ok()));
    }
}

/// Adds the items of the list member that are not in it.
fn add_missing(next: &mut Value, wanted: &Value, member: &str) {
    let Some(items) = wanted[member].as_array() else { return };
    let missing: Vec<Value> = {
        let there = next[member].as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().filter(|i| !there.iter().any(|t| contains(t, i))).cloned().collect()
    };
    if missing.is_empty() {
        return;
    }
    if !next[member].is_array() {
        next[member] = Value::Array(Vec::new());
    }
    if let Some(list) = next[member].as_array_mut() {
        list.extend(missing);
    }
}

/// Whether `there` has everything `wanted` has; defaults that were filled in do no harm.
fn contains(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => wanted.iter().all(|(k, w)| there.get(k).map_or(w.is_null(), |t| contains(t, w))),
        (Value::Array(there), Value::Array(wanted)) => there.len() == wanted.len() && there.iter().zip(wanted).all(|(t, w)| contains(t, w)),
        _ => there == wanted,
    }
}

/// Conditions without the times of their transitions.
fn without_times(status: &Value) -> Value {
    let mut status = status.clone();
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        if let Some(condition) = condition.as_object_mut() {
            condition.remove("lastTransitionTime");
        }
    }
    status
}

/// Sets what a pointer of one or two names points to.
fn set(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    for name in pointer.split('/').skip(1) {
        at = &mut at[name];
    }
    *at = value;
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "literals are easier to read without borrows")]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn wanted(care: Care, object: Value) -> Wanted {
        Wanted { resource: "clusterroles", namespace: String::new(), object, status: Value::Null, care }
    }

    fn role(rules: Value) -> Value {
        json!({"metadata": {"name": "r", "labels": {"a": "1"}, "annotations": {AUTOUPDATE: "true"}}, "rules": rules})
    }

    #[test]
    fn missing_objects_are_created_and_right_ones_left_alone() {
        let want = wanted(Care::Role, role(json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}])));
        assert_eq!(settle(None, &want), Step::Create);
        let wider = role(json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]));
        assert_eq!(settle(Some(&wider), &want), Step::Nothing);
        assert_eq!(settle(Some(&json!({})), &wanted(Care::Keep, json!({"a": 1}))), Step::Nothing);
    }

    #[test]
    fn an_api_service_somebody_took_over_is_left_alone() {
        let object = |labels: Value, service: Value| json!({"metadata": {"name": "v1.g", "labels": labels}, "spec": {"service": service}});
        let kept = json!({AUTOMANAGED: "onstart"});
        let status = json!({"conditions": [{"type": "Available", "reason": "Local"}]});
        let want = Wanted { status, ..wanted(Care::Automanaged(&["/spec"]), object(kept.clone(), Value::Null)) };
        let (spoiled, theirs) = (object(kept, json!({"name": "x"})), object(json!({}), json!({"name": "x"})));
        assert_eq!(settle(Some(&spoiled), &want), Step::Update(want.object.clone()));
        assert!(status_differs(Some(&spoiled), &want));
        assert_eq!((settle(Some(&theirs), &want), status_differs(Some(&theirs), &want)), (Step::Nothing, false));
    }

    #[test]
    fn missing_rules_and_labels_are_added_unless_opted_out() {
        let want = wanted(Care::Role, role(json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}])));
        let mut there = role(json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]));
        there["metadata"]["labels"] = json!({"mine": "x"});
        let Step::Update(next) = settle(Some(&there), &want) else { panic!("must be updated") };
        assert_eq!(next["metadata"]["labels"], json!({"mine": "x", "a": "1"}));
        assert_eq!(next["rules"][1], json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}));
        there["metadata"]["annotations"][AUTOUPDATE] = "false".into();
        assert_eq!(settle(Some(&there), &want), Step::Nothing);
    }

    #[test]
    fn missing_subjects_are_added_to_bindings() {
        let subject = |name: &str| json!({"kind": "User", "name": name});
        let want = wanted(Care::Binding, json!({"metadata": {}, "subjects": [subject("a")]}));
        let there = json!({"metadata": {}, "subjects": [subject("b")]});
        let Step::Update(next) = settle(Some(&there), &want) else { panic!("must be updated") };
        assert_eq!(next["subjects"], json!([subject("b"), subject("a")]));
        assert_eq!(settle(Some(&next), &want), Step::Nothing);
    }

    #[test]
    fn members_are_made_as_wanted_but_defaults_stay() {
        let want = wanted(Care::Same(&["/spec/ports", "/subsets"]), json!({"spec": {"ports": [{"port": 443}]}}));
        let same = json!({"spec": {"ports": [{"port": 443, "protocol": "TCP"}], "type": "ClusterIP"}});
        assert_eq!(settle(Some(&same), &want), Step::Nothing);
        let Step::Update(next) = settle(Some(&json!({"spec": {"ports": [], "type": "ClusterIP"}})), &want) else {
            panic!("must be updated")
        };
        assert_eq!(next, json!({"spec": {"ports": [{"port": 443}], "type": "ClusterIP"}}));
    }

    #[test]
    fn what_can_never_be_changed_is_made_anew() {
        let slice = |family: &str| json!({"addressType": family, "endpoints": []});
        let want = wanted(Care::Same(&["/endpoints"]), slice("IPv6"));
        assert_eq!(settle(Some(&slice("IPv4")), &want), Step::Recreate);
        assert_eq!(settle(Some(&slice("IPv6")), &want), Step::Nothing);
    }

    #[test]
    fn a_status_counts_without_its_times() {
        let mut want = wanted(Care::Keep, json!({}));
        want.status = json!({"conditions": [{"type": "Available", "status": "True", "lastTransitionTime": "now"}]});
        let there = json!({"status": {"conditions": [{"type": "Available", "status": "True", "lastTransitionTime": "then"}]}});
        assert!(!status_differs(Some(&there), &want) && status_differs(Some(&json!({})), &want));
    }
}
