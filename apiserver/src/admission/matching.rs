//! Which writes a policy, a binding or a webhook is about (apiserver `plugin/webhook/predicates`, `plugin/policy/matching`).

use std::{borrow::Cow, sync::Arc};

use coracle_schema::selector::LabelSelector;
use coracle_tree::Value;

use super::{
    attempt::{Attempt, Operation},
    look::{labels, list, text},
};
use crate::{
    registry::{Kind, Object, convert},
    wire::Status,
};

/// The other versions and groups that serve the same objects as a kind.
pub type Equivalents = Arc<dyn Fn(&Kind) -> Vec<Arc<Kind>> + Send + Sync>;

/// What is asked of a write.
pub(super) struct Subject<'a> {
    pub(super) attempt: &'a Attempt<'a>,
    pub(super) new: Option<&'a Object>,
    /// The namespace of the object, if it is in one.
    pub(super) namespace: Option<&'a Value>,
    pub(super) equivalents: &'a Equivalents,
}

/// How a write matched: in the version addressed, or in another one of the kind.
pub(super) type Matched = Option<Arc<Kind>>;

/// An object in the version in which its write matched. The kinds of subresources have one version.
pub(super) async fn versioned<'o>(attempt: &Attempt<'_>, matched: &Matched, object: &'o Object) -> Result<Cow<'o, Object>, Status> {
    match matched {
        Some(other) if !is_shared(attempt, other) => convert::between(attempt.kind, other, object).await.map(Cow::Owned),
        _ => Ok(Cow::Borrowed(object)),
    }
}

/// Whether a subresource's objects are the same in another version of the kind.
pub(super) fn is_shared(attempt: &Attempt<'_>, other: &Kind) -> bool {
    attempt.part_of(other).is_some_and(|(gvk, _)| gvk == attempt.gvk())
}

/// What a write must be like: `matchConstraints`, `matchResources`, or a webhook's selectors and rules.
pub(super) struct Criteria {
    namespaces: Option<LabelSelector>,
    objects: Option<LabelSelector>,
    /// What is wrong with a selector.
    fault: Option<String>,
    excluded: Vec<Rule>,
    rules: Vec<Rule>,
    exact: bool,
}

struct Rule {
    operations: Vec<Operation>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// `pods`, `pods/*`, `*/scale`, `*`, `*/*`: resource and subresource.
    resources: Vec<(String, String)>,
    scope: String,
    names: Vec<String>,
}

impl Rule {
    fn of(rule: &Value) -> Self {
        let texts = |name: &str| list(rule, name).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let split = |given: &str| {
            let (resource, subresource) = given.split_once('/').unwrap_or((given, ""));
            (resource.to_owned(), subresource.to_owned())
        };
        Self {
            operations: list(rule, "/operations").iter().filter_map(Value::as_str).flat_map(Operation::named).copied().collect(),
            groups: texts("/apiGroups"),
            versions: texts("/apiVersions"),
            resources: list(rule, "/resources").iter().filter_map(Value::as_str).map(split).collect(),
            scope: text(rule, "scope").to_owned(),
            names: texts("/resourceNames"),
        }
    }

    /// Whether the rule is about the write, as one of this group, version and resource.
    fn matches(&self, subject: &Subject<'_>, group: &str, version: &str, resource: &str) -> bool {
        let any = |given: &[String], wanted: &str| given.iter().any(|given| given == "*" || given == wanted);
        let (attempt, part) = (subject.attempt, &subject.attempt.request.subresource);
        let resources = || {
            self.resources
                .iter()
                .any(|(given, given_part)| (given == "*" || given == resource) && (given_part == "*" || given_part == part))
        };
        self.operations.contains(&attempt.operation)
            && resources()
            && any(&self.groups, group)
            && any(&self.versions, version)
            && self.scope_matches(attempt)
            && (self.names.is_empty() || self.names.iter().any(|given| given == attempt.name(subject.new)))
    }

    /// Namespaces are in no namespace.
    fn scope_matches(&self, attempt: &Attempt<'_>) -> bool {
        let namespaced = !attempt.request.namespace.is_empty() && !attempt.is_namespace();
        match self.scope.as_str() {
            "Namespaced" => namespaced,
            "Cluster" => !namespaced,
            _ => true,
        }
    }
}

impl Criteria {
    /// Reads them; `rules` is the pointer to the list of rules. `None` where there are none.
    pub(super) fn of(value: Option<&Value>, rules: &str) -> Option<Self> {
        let value = value.filter(|value| value.is_object())?;
        let (namespaces, objects) = (selector(value, "namespaceSelector"), selector(value, "objectSelector"));
        let fault = [&namespaces, &objects].into_iter().find_map(|read| read.as_ref().err().cloned());
        let rules_at = |pointer: &str| list(value, pointer).iter().map(Rule::of).collect();
        Some(Self {
            namespaces: namespaces.ok().flatten(),
            objects: objects.ok().flatten(),
            fault,
            excluded: rules_at("/excludeResourceRules"),
            rules: rules_at(rules),
            exact: text(value, "matchPolicy") == "Exact",
        })
    }

    /// Whether a namespace must be looked at.
    pub(super) fn asks_namespace(&self) -> bool {
        self.namespaces.is_some()
    }

    /// What is wrong with the selectors.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Whether the namespace is selected; `None` when there is no such namespace.
    pub(super) fn namespace_matches(&self, subject: &Subject<'_>) -> Option<bool> {
        let Some(selector) = &self.namespaces else { return Some(true) };
        let attempt = subject.attempt;
        if attempt.is_namespace() {
            // A namespace is selected by what it is going to be, or was.
            let whole = attempt.request.subresource.is_empty() && matches!(attempt.operation, Operation::Create | Operation::Update);
            let written = if whole { subject.new } else { None };
            let value = written.or(attempt.old).map(Object::value);
            return Some(selector.matches(&value.and_then(labels)));
        }
        if attempt.request.namespace.is_empty() {
            return Some(true);
        }
        Some(selector.matches(&labels(subject.namespace?)))
    }

    /// Whether the object is selected, as it is going to be or as it was.
    pub(super) fn object_matches(&self, subject: &Subject<'_>) -> bool {
        let Some(selector) = &self.objects else { return true };
        let of = |object: Option<&Object>| object.is_some_and(|object| selector.matches(&labels(object.value())));
        of(subject.new) || of(subject.attempt.old)
    }

    /// The rule that is about the write, if one is: as it was asked for, or else as another version of the same resource.
    pub(super) fn rule_matches(&self, subject: &Subject<'_>) -> Option<Matched> {
        self.one_of(&self.rules, subject)
    }

    fn one_of(&self, rules: &[Rule], subject: &Subject<'_>) -> Option<Matched> {
        let request = subject.attempt.request;
        if rules.iter().any(|rule| rule.matches(subject, &request.group, &request.version, &request.resource)) {
            return Some(None);
        }
        if self.exact || rules.is_empty() {
            return None;
        }
        let others = (subject.equivalents)(subject.attempt.kind);
        let served = |other: &&Arc<Kind>| request.subresource.is_empty() || other.subresource(&request.subresource).is_some();
        let others: Vec<&Arc<Kind>> = others.iter().filter(served).collect();
        let found = rules.iter().find_map(|rule| {
            let fits = |other: &&&Arc<Kind>| rule.matches(subject, &other.gvk.group, &other.gvk.version, &other.id.resource);
            others.iter().find(fits).map(|other| Arc::clone(other))
        });
        found.map(Some)
    }
}

/// Whether `criteria` of a policy or binding include the write; absent ones include all, as do those without rules.
pub(super) fn matches(criteria: Option<&Criteria>, subject: &Subject<'_>) -> Result<Option<Matched>, String> {
    let Some(criteria) = criteria else { return Ok(Some(None)) };
    if let Some(fault) = criteria.fault() {
        return Err(fault.to_owned());
    }
    match criteria.namespace_matches(subject) {
        Some(true) => {}
        Some(false) => return Ok(None),
        None => return Err(format!("namespaces {:?} not found", subject.attempt.request.namespace)),
    }
    if !criteria.object_matches(subject) || criteria.one_of(&criteria.excluded, subject).is_some() {
        return Ok(None);
    }
    Ok(if criteria.rules.is_empty() { Some(None) } else { criteria.rule_matches(subject) })
}

fn selector(criteria: &Value, name: &str) -> Result<Option<LabelSelector>, String> {
    let given = criteria.get(name).filter(|given| given.as_object().is_some_and(|members| !members.is_empty()));
    let selector = given.map(|given| LabelSelector::from_object(Some(given))).transpose()?;
    Ok(selector.filter(|selector| !selector.is_everything()))
}
