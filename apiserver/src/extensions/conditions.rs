//! What the status of a CRD should say: names, establishment, approval and structure (upstream's controllers `status`, `establish`,
//! `apiapproval` and `nonstructuralschema`). Pure.

use std::collections::BTreeSet;

use coracle_tree::{Map, Value, json};

use super::{
    definition::{Definition, Names},
    names::Taken,
};
use crate::registry::condition::{self, Condition};

/// The annotation by which APIs of Kubernetes' own groups say who approved them.
const APPROVAL: &str = "api-approved.kubernetes.io";

/// Where approval is discussed.
const POLICY: &str = "see https://github.com/kubernetes/enhancements/pull/1111";

/// What the status should say, where it does not.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Verdict {
    /// The names granted.
    pub names: Option<Names>,
    /// Conditions to set.
    pub conditions: Vec<Condition>,
    /// Conditions to take away.
    pub gone: Vec<&'static str>,
}

impl Verdict {
    /// Whether the status is as it should be.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Writes it into the status of a CRD.
    pub(super) fn write(&self, definition: &mut Value, now: &str) {
        if !definition["status"].is_object() {
            definition["status"] = json!({});
        }
        if let Some(names) = &self.names {
            definition["status"]["acceptedNames"] = names_value(names);
        }
        for condition in &self.conditions {
            condition::set(definition, condition, now);
        }
        if let Some(list) = definition["status"]["conditions"].as_array_mut() {
            list.retain(|c| !self.gone.iter().any(|gone| c["type"] == *gone));
        }
    }
}

/// Whether the schemas of a CRD are structural: the condition that says they are not.
#[derive(Debug, Default)]
pub(super) struct Structure(Option<Condition>);

impl Structure {
    /// What is wrong with them, each thing told once.
    pub(super) fn violated(mut why: Vec<String>) -> Self {
        let mut told = BTreeSet::new();
        why.retain(|one| told.insert(one.clone()));
        let message = match &*why {
            [] => return Self(None),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        Self(Some(condition("NonStructuralSchema", "True", "Violations", &message)))
    }

    /// The schema of a version cannot be read as one.
    pub(super) fn unknown(version: &str, why: &str) -> Self {
        let message = format!("failed to check validation schema for version {version}: {why}");
        Self(Some(condition("NonStructuralSchema", "Unknown", "StructuralError", &message)))
    }
}

/// What should change in the status of a CRD. `trusted`: whether the certificates its conversion webhook is recognised by can be read.
pub(super) fn judge(definition: &Definition, taken: &Taken, structure: Structure, trusted: bool) -> Verdict {
    let mut verdict = Verdict::default();
    let mut accepted = definition.is_true("NamesAccepted");
    if definition.spec.names != definition.status.accepted_names || definition.condition("NamesAccepted").is_none() {
        let (names, condition) = taken.grant(definition);
        accepted = condition.status == "True";
        if names != definition.status.accepted_names || definition.condition("NamesAccepted") != Some(&condition) {
            verdict.names = Some(names);
            verdict.conditions.push(condition);
        }
    }
    if !definition.is_true("Established") {
        let condition = match (accepted, trusted) {
            (false, _) => established("False", "NotAccepted", "not all names are accepted"),
            (true, false) => established("False", "InvalidCABundle", "The conversion webhook CABundle is invalid"),
            (true, true) => established("True", "InitialNamesAccepted", "the initial names have been accepted"),
        };
        verdict.conditions.push(condition);
    }
    match structure.0 {
        Some(condition) => verdict.conditions.push(condition),
        None if definition.condition("NonStructuralSchema").is_some() => verdict.gone.push("NonStructuralSchema"),
        None => {}
    }
    verdict.conditions.extend(approval(definition));
    verdict.conditions.retain(|condition| definition.condition(&condition.kind) != Some(condition));
    verdict
}

fn established(status: &str, reason: &str, message: &str) -> Condition {
    condition("Established", status, reason, message)
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Condition {
    Condition { kind: kind.to_owned(), status: status.to_owned(), reason: reason.to_owned(), message: message.to_owned() }
}

/// Kubernetes' own groups are for those whose API was approved.
fn approval(definition: &Definition) -> Option<Condition> {
    let group = &definition.spec.group;
    let is = |domain: &str| group.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if !is("k8s.io") && !is("kubernetes.io") {
        return None;
    }
    let text = definition.metadata.annotations.get(APPROVAL).map(String::as_str).unwrap_or_default();
    let of = |status: &str, reason: &str, message: &str| Some(condition("KubernetesAPIApprovalPolicyConformant", status, reason, message));
    let is_url = text.parse::<http::Uri>().is_ok_and(|uri| uri.scheme().is_some() && uri.host().is_some_and(|h| !h.is_empty()));
    if text.is_empty() {
        of("False", "MissingAnnotation", &format!("protected groups must have approval annotation {APPROVAL:?}, {POLICY}"))
    } else if text.starts_with("unapproved") {
        of("False", "UnapprovedAnnotation", &format!("not approved: {text:?}"))
    } else if is_url {
        of("True", "ApprovedAnnotation", &format!("approved in {text}"))
    } else {
        let how = "with either a URL or a reason starting with \"unapproved\"";
        of("False", "InvalidAnnotation", &format!("protected groups must have approval annotation {APPROVAL:?} {how}, {POLICY}"))
    }
}

/// The condition of a CRD whose objects are being deleted, or were.
pub(super) fn terminating(status: &str, reason: &str, message: &str) -> Condition {
    condition("Terminating", status, reason, message)
}

fn names_value(names: &Names) -> Value {
    let mut value = json!({"plural": names.plural, "kind": names.kind});
    let optional = [("singular", json!(names.singular)), ("listKind", json!(names.list_kind))];
    let lists = [("shortNames", json!(names.short_names)), ("categories", json!(names.categories))];
    let members: &mut Map = match value.as_object_mut() {
        Some(members) => members,
        None => return value,
    };
    members.extend(optional.into_iter().filter(|(_, v)| *v != json!("")).map(|(k, v)| (k.to_owned(), v)));
    members.extend(lists.into_iter().filter(|(_, v)| *v != json!([])).map(|(k, v)| (k.to_owned(), v)));
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(group: &str, annotation: &str) -> Definition {
        let value = json!({
            "metadata": {"name": format!("widgets.{group}"), "annotations": {APPROVAL: annotation}},
            "spec": {"group": group, "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"}},
        });
        Definition::read(value.to_string().as_bytes()).unwrap()
    }

    fn of(definition: &Definition) -> Verdict {
        judge(definition, &Taken::default(), Structure::default(), true)
    }

    #[test]
    fn a_new_definition_is_named_and_established_in_one_step_and_then_left_alone() {
        let new = definition("example.com", "");
        let verdict = of(&new);
        let reasons: Vec<&str> = verdict.conditions.iter().map(|c| c.reason.as_str()).collect();
        assert_eq!(reasons, ["NoConflicts", "InitialNamesAccepted"]);
        let mut value =
            json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "names": names_value(&new.spec.names)}});
        verdict.write(&mut value, "2024-01-01T00:00:00Z");
        assert_eq!(
            value["status"]["acceptedNames"],
            json!({"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"})
        );
        let settled = Definition::read(value.to_string().as_bytes()).unwrap();
        assert!(settled.is_served());
        assert!(of(&settled).is_empty(), "{:?}", of(&settled));
    }

    #[test]
    fn a_webhook_nobody_can_recognise_keeps_the_kind_from_being_established() {
        let verdict = judge(&definition("example.com", ""), &Taken::default(), Structure::default(), false);
        assert_eq!((verdict.conditions[1].status.as_str(), verdict.conditions[1].reason.as_str()), ("False", "InvalidCABundle"));
    }

    #[test]
    fn kubernetes_own_groups_tell_whether_they_were_approved() {
        let reason = |group: &str, text: &str| of(&definition(group, text)).conditions.get(2).map(|c| format!("{} {}", c.status, c.reason));
        assert_eq!(reason("x.k8s.io", "").as_deref(), Some("False MissingAnnotation"));
        assert_eq!(reason("x.k8s.io", "unapproved, for a test").as_deref(), Some("False UnapprovedAnnotation"));
        assert_eq!(reason("kubernetes.io", "https://github.com/kubernetes/kubernetes/pull/1").as_deref(), Some("True ApprovedAnnotation"));
        assert_eq!(reason("x.kubernetes.io", "yes").as_deref(), Some("False InvalidAnnotation"));
        assert_eq!(reason("notk8s.io", ""), None);
    }

    #[test]
    fn violations_come_and_go_as_a_condition() {
        let error = "spec.versions[0].schema.openAPIV3Schema.type: Required value: must not be empty at the root";
        let new = definition("example.com", "");
        let verdict = judge(&new, &Taken::default(), Structure::violated(vec![error.into(), error.into()]), true);
        assert_eq!(verdict.conditions[2].message, error);
        let mut bad = new;
        bad.status.conditions.push(verdict.conditions[2].clone());
        assert_eq!(of(&bad).gone, ["NonStructuralSchema"]);
    }

    #[test]
    fn the_time_of_a_condition_moves_with_its_status_only() {
        let mut value = json!({});
        condition::set(&mut value, &terminating("True", "A", "a"), "1");
        condition::set(&mut value, &terminating("True", "B", "b"), "2");
        assert_eq!(
            (&value["status"]["conditions"][0]["reason"], &value["status"]["conditions"][0]["lastTransitionTime"]),
            (&json!("B"), &json!("1"))
        );
        condition::set(&mut value, &terminating("False", "C", "c"), "3");
        assert_eq!(value["status"]["conditions"][0]["lastTransitionTime"], "3");
    }
}
