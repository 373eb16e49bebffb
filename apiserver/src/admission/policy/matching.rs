//! Which writes a policy or binding is about (apiserver `plugin/policy/matching`, `plugin/webhook/predicates`).

use coracle_schema::selector::LabelSelector;
use serde_json::{Map, Value};

use crate::{
    admission::{Attempt, Operation, look::list},
    registry::Object,
};

/// What is asked of a write.
pub(super) struct Subject<'a> {
    pub(super) attempt: &'a Attempt<'a>,
    pub(super) new: Option<&'a Object>,
    /// The namespace of the object, if it is in one.
    pub(super) namespace: Option<&'a Value>,
}

pub(super) fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

/// Whether `criteria` (`matchConstraints` or `matchResources`) include the write; absent criteria include all.
pub(super) fn matches(criteria: Option<&Value>, subject: &Subject<'_>) -> Result<bool, String> {
    let Some(criteria) = criteria.filter(|criteria| criteria.is_object()) else { return Ok(true) };
    if !namespace_matches(criteria, subject)? || !object_matches(criteria, subject)? {
        return Ok(false);
    }
    let exact = criteria.get("matchPolicy").and_then(Value::as_str) == Some("Exact");
    if list(criteria, "/excludeResourceRules").iter().any(|rule| rule_matches(rule, subject, exact)) {
        return Ok(false);
    }
    let rules = list(criteria, "/resourceRules");
    Ok(rules.is_empty() || rules.iter().any(|rule| rule_matches(rule, subject, exact)))
}

fn selector(criteria: &Value, name: &str) -> Result<Option<LabelSelector>, String> {
    let given = criteria.get(name).filter(|given| given.as_object().is_some_and(|members| !members.is_empty()));
    let selector = given.map(|given| LabelSelector::from_object(Some(given))).transpose()?;
    Ok(selector.filter(|selector| !selector.is_everything()))
}

fn labels_of(value: &Value) -> Map<String, Value> {
    value.pointer("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default()
}

fn namespace_matches(criteria: &Value, subject: &Subject<'_>) -> Result<bool, String> {
    let Some(selector) = selector(criteria, "namespaceSelector")? else { return Ok(true) };
    let request = subject.attempt.request;
    if request.resource == "namespaces" && request.group.is_empty() {
        // A namespace is selected by what it is going to be, or was.
        let written = if subject.attempt.operation == Operation::Delete { None } else { subject.new };
        let value = written.or(subject.attempt.old).map(Object::value);
        return Ok(selector.matches(&value.map(labels_of).unwrap_or_default()));
    }
    if request.namespace.is_empty() {
        return Ok(true);
    }
    let namespace = subject.namespace.ok_or_else(|| format!("namespaces {:?} not found", request.namespace))?;
    Ok(selector.matches(&labels_of(namespace)))
}

fn object_matches(criteria: &Value, subject: &Subject<'_>) -> Result<bool, String> {
    let Some(selector) = selector(criteria, "objectSelector")? else { return Ok(true) };
    let of = |object: Option<&Object>| object.is_some_and(|object| selector.matches(&labels_of(object.value())));
    Ok(of(subject.new) || of(subject.attempt.old))
}

fn rule_matches(rule: &Value, subject: &Subject<'_>, exact: bool) -> bool {
    let (attempt, request) = (subject.attempt, subject.attempt.request);
    let any = |name: &str, wanted: &str| list(rule, name).iter().filter_map(Value::as_str).any(|given| given == "*" || given == wanted);
    // Another version of the same resource is the same objects.
    let version = !exact || any("/apiVersions", &request.version);
    if !version || !any("/apiGroups", &request.group) || !any("/operations", operation_name(attempt.operation)) {
        return false;
    }
    let namespaced = attempt.kind.is_namespaced() && !(request.resource == "namespaces" && request.group.is_empty());
    let scope = match rule.get("scope").and_then(Value::as_str) {
        Some("Namespaced") => namespaced,
        Some("Cluster") => !namespaced,
        _ => true,
    };
    let named = list(rule, "/resourceNames");
    let name = super::name_of(attempt, subject.new);
    scope && resource_matches(rule, subject) && (named.is_empty() || named.iter().any(|given| given.as_str() == Some(name)))
}

/// `pods`, `pods/*`, `*/scale`, `*`, `*/*`.
fn resource_matches(rule: &Value, subject: &Subject<'_>) -> bool {
    let request = subject.attempt.request;
    list(rule, "/resources").iter().filter_map(Value::as_str).any(|given| {
        let (resource, subresource) = given.split_once('/').unwrap_or((given, ""));
        (resource == "*" || resource == request.resource) && (subresource == "*" || subresource == request.subresource)
    })
}
