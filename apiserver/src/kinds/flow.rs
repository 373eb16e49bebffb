//! Flow schemas and priority levels (upstream `apis/flowcontrol/validation`).

use std::collections::HashSet;

use coracle_schema::{FieldErrors, name};
use coracle_tree::Value;

use super::view;
use crate::registry::{Object, Part, Rules};

/// Rules of `flowschemas`.
pub(super) struct FlowSchema;
/// Rules of `prioritylevelconfigurations`.
pub(super) struct PriorityLevelConfiguration;

const PRECEDENCE_MAX: i64 = 10_000;
const QUEUES_MAX: i64 = 10_000_000;
/// Bits of a request's hash that are dealt from.
const HASH_BITS: u32 = 60;
const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

impl Rules for FlowSchema {
    fn order(&self) -> &'static [&'static str] {
        &[
            "metadata",
            "spec.matchingPrecedence",
            "spec.distinguisherMethod",
            "spec.priorityLevelConfiguration",
            "spec.rules.subjects",
            "spec.rules.",
            "spec.rules.resourceRules",
            "spec.rules.nonResourceRules",
        ]
    }

    /// Of subjects of another kind than they say.
    fn unheard(&self) -> &'static [&'static str] {
        &[
            "spec.rules.subjects.group.name",
            "spec.rules.subjects.user.name",
            "spec.rules.subjects.serviceAccount.name",
            "spec.rules.subjects.serviceAccount.namespace",
        ]
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part != Part::Status {
            spec(view::member(new.value(), "spec"), new.name(), &mut errors);
        }
        condition_types(new.value(), &mut errors);
        errors
    }
}

/// Conditions of these two kinds are older than the common form: only their types count.
fn condition_types(object: &Value, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (at, condition) in view::list(view::member(object, "status"), "conditions").iter().enumerate() {
        let of = view::text(condition, "type");
        if !seen.insert(of) {
            errors.duplicate(format!("status.conditions[{at}].type"), view::quoted(of));
        }
        if of.is_empty() {
            errors.required(format!("status.conditions[{at}].type"), "");
        }
    }
}

fn spec(spec: &Value, schema: &str, errors: &mut FieldErrors) {
    let precedence = view::int(spec, "matchingPrecedence").unwrap_or_default();
    let path = "spec.matchingPrecedence";
    if precedence <= 0 {
        errors.invalid(path, precedence, "must be a positive value");
    }
    if precedence > PRECEDENCE_MAX {
        errors.invalid(path, precedence, &format!("must not be greater than {PRECEDENCE_MAX}"));
    }
    if precedence == 1 && schema != "exempt" {
        errors.invalid(path, precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    if let Some(method) = view::get(spec, "distinguisherMethod")
        && !["ByNamespace", "ByUser"].contains(&view::text(method, "type"))
    {
        errors.not_supported("spec.distinguisherMethod.type", method, &["ByNamespace", "ByUser"]);
    }
    let level = view::text(view::member(spec, "priorityLevelConfiguration"), "name");
    let path = "spec.priorityLevelConfiguration.name";
    if level.is_empty() {
        errors.required(path, "must reference a priority level");
    } else {
        errors.invalid_each(path, level, name::subdomain(level));
    }
    for (at, rule) in view::list(spec, "rules").iter().enumerate() {
        let path = format!("spec.rules[{at}]");
        let subjects = view::list(rule, "subjects");
        if subjects.is_empty() {
            errors.required(format!("{path}.subjects"), "subjects must contain at least one value");
        }
        for (at, given) in subjects.iter().enumerate() {
            subject(given, &format!("{path}.subjects[{at}]"), errors);
        }
        let (resources, others) = (view::list(rule, "resourceRules"), view::list(rule, "nonResourceRules"));
        if resources.is_empty() && others.is_empty() {
            errors.required(&path, "at least one of resourceRules and nonResourceRules has to be non-empty");
        }
        for (at, rule) in resources.iter().enumerate() {
            resource_rule(rule, &format!("{path}.resourceRules[{at}]"), errors);
        }
        for (at, rule) in others.iter().enumerate() {
            other_rule(rule, &format!("{path}.nonResourceRules[{at}]"), errors);
        }
    }
}

/// Kinds of subjects, each with the member that says which.
const SUBJECTS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

fn subject(subject: &Value, path: &str, errors: &mut FieldErrors) {
    let kind = view::text(subject, "kind");
    let Some((_, own)) = SUBJECTS.iter().find(|(known, _)| *known == kind) else {
        return errors.not_supported(format!("{path}.kind"), view::quoted(kind), &["Group", "ServiceAccount", "User"]);
    };
    match view::get(subject, own) {
        None => errors.required(format!("{path}.{own}"), &format!("{own} is required when subject kind is '{kind}'")),
        Some(given) => named(given, *own == "serviceAccount", &format!("{path}.{own}"), errors),
    }
    for (other, member) in SUBJECTS.iter().filter(|(other, _)| *other != kind) {
        if view::get(subject, member).is_some() {
            errors.forbidden(format!("{path}.{member}"), &format!("{member} is forbidden when subject kind is not '{other}'"));
        }
    }
}

fn named(given: &Value, account: bool, path: &str, errors: &mut FieldErrors) {
    let name = view::text(given, "name");
    if name.is_empty() {
        errors.required(format!("{path}.name"), "");
    } else if account && name != "*" {
        errors.invalid_each(&format!("{path}.name"), name, name::subdomain(name));
    }
    if !account {
        return;
    }
    match view::text(given, "namespace") {
        "" => errors.required(format!("{path}.namespace"), "must specify namespace for service account"),
        namespace => errors.invalid_each(&format!("{path}.namespace"), namespace, name::label(namespace)),
    }
}

/// A list that is not empty, and holds nothing else beside `*`.
fn list(rule: &Value, field: &str, path: &str, missing: &str, what: &str, errors: &mut FieldErrors) -> bool {
    let items: Vec<&str> = view::texts(rule, field).collect();
    let any = items.contains(&"*");
    if items.is_empty() {
        errors.required(format!("{path}.{field}"), missing);
    } else if any && items.len() > 1 {
        let detail = format!("if '*' is present, must not specify other {what}");
        errors.invalid(format!("{path}.{field}"), view::member(rule, field), &detail);
    }
    any || items.is_empty()
}

fn verbs(rule: &Value, path: &str, errors: &mut FieldErrors) {
    let done = list(rule, "verbs", path, "verbs must contain at least one value", "verbs", errors);
    if !done && !view::texts(rule, "verbs").all(|verb| VERBS.contains(&verb)) {
        errors.not_supported(format!("{path}.verbs"), view::member(rule, "verbs"), &VERBS);
    }
}

fn resource_rule(rule: &Value, path: &str, errors: &mut FieldErrors) {
    verbs(rule, path, errors);
    list(rule, "apiGroups", path, "resource rules must supply at least one api group", "api groups", errors);
    list(rule, "resources", path, "resource rules must supply at least one resource", "resources", errors);
    let namespaces: Vec<&str> = view::texts(rule, "namespaces").collect();
    if namespaces.is_empty() && view::flag(rule, "clusterScope") {
        return;
    }
    let missing = "resource rules that are not cluster scoped must supply at least one namespace";
    if list(rule, "namespaces", path, missing, "namespaces", errors) {
        return;
    }
    for (at, namespace) in namespaces.iter().enumerate() {
        for why in name::label(namespace) {
            let detail = format!("each member of this list must be '*' or a DNS-1123 label; {why}");
            errors.invalid(format!("{path}.namespaces[{at}]"), view::quoted(namespace), &detail);
        }
    }
}

fn other_rule(rule: &Value, path: &str, errors: &mut FieldErrors) {
    verbs(rule, path, errors);
    let missing = "nonResourceURLs must contain at least one value";
    if list(rule, "nonResourceURLs", path, missing, "non-resource URLs", errors) {
        return;
    }
    for (at, url) in view::texts(rule, "nonResourceURLs").enumerate() {
        let why = match url {
            "" => "must not be empty",
            "/" => continue,
            _ if !url.starts_with('/') => "must start with slash",
            _ if url.contains(' ') => "must not contain white-space",
            _ if url.contains("//") => "must not contain double slash",
            _ if url.matches('*').count() > 1 || (url.contains('*') && !url.ends_with("/*")) => "wildcard can only do suffix matching",
            _ => continue,
        };
        errors.invalid(format!("{path}.nonResourceURLs[{at}]"), view::quoted(url), why);
    }
}

impl Rules for PriorityLevelConfiguration {
    fn unheard(&self) -> &'static [&'static str] {
        &["spec.type", "spec.limited.limitResponse.type"]
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part != Part::Status {
            level(view::member(new.value(), "spec"), new.name(), &mut errors);
            condition_types(new.value(), &mut errors);
            declared(view::member(new.value(), "spec"), &mut errors);
        } else {
            condition_types(new.value(), &mut errors);
        }
        errors
    }
}

fn level(spec: &Value, level: &str, errors: &mut FieldErrors) {
    let of = view::text(spec, "type");
    if (level == "exempt") != (of == "Exempt") {
        errors.invalid("spec.type", view::quoted(of), "must be 'Exempt' if and only if `name` is 'exempt'");
    }
    let (limited, exempt) = (view::get(spec, "limited"), view::get(spec, "exempt"));
    match (of, limited, exempt) {
        ("Exempt", _, Some(exempt)) => {
            shares(exempt, "spec.exempt", errors);
            lendable(exempt, "spec.exempt", errors);
        }
        ("Limited", Some(limited), _) => limited_level(limited, "spec.limited", errors),
        ("" | "Exempt" | "Limited", ..) => {}
        (other, ..) => errors.not_supported("spec.type", view::quoted(other), &["Exempt", "Limited"]),
    }
}

/// What upstream's types declare, and so says last: which member goes with which type, and that there is one.
fn declared(spec: &Value, errors: &mut FieldErrors) {
    let of = view::text(spec, "type");
    let limited = view::get(spec, "limited");
    if view::get(spec, "exempt").is_some() && of != "Exempt" {
        errors.forbidden("spec.exempt", "");
    }
    match (of, limited) {
        ("Limited", None) => errors.required("spec.limited", ""),
        ("Limited", _) | (_, None) => {}
        (_, Some(_)) => errors.forbidden("spec.limited", ""),
    }
    if of.is_empty() {
        errors.required("spec.type", "");
    }
    let Some(limited) = limited else { return };
    let response = view::member(limited, "limitResponse");
    let of = view::text(response, "type");
    match (of, view::get(response, "queuing")) {
        ("Queue", None) => errors.required("spec.limited.limitResponse.queuing", ""),
        ("Queue", _) | (_, None) => {}
        (_, Some(_)) => errors.forbidden("spec.limited.limitResponse.queuing", ""),
    }
    if of.is_empty() {
        errors.required("spec.limited.limitResponse.type", "");
    }
}

fn shares(level: &Value, path: &str, errors: &mut FieldErrors) {
    if let Some(shares) = view::int(level, "nominalConcurrencyShares").filter(|shares| *shares < 0) {
        errors.invalid(format!("{path}.nominalConcurrencyShares"), shares, "must be a non-negative integer");
    }
}

fn lendable(level: &Value, path: &str, errors: &mut FieldErrors) {
    if let Some(percent) = view::int(level, "lendablePercent").filter(|percent| !(0..=100).contains(percent)) {
        errors.invalid(format!("{path}.lendablePercent"), percent, "must be between 0 and 100, inclusive");
    }
}

fn limited_level(level: &Value, path: &str, errors: &mut FieldErrors) {
    shares(level, path, errors);
    let response = view::member(level, "limitResponse");
    let queuing = view::get(response, "queuing");
    let at = format!("{path}.limitResponse");
    match (view::text(response, "type"), queuing) {
        ("Queue", Some(queuing)) => queues(queuing, &format!("{at}.queuing"), errors),
        ("" | "Queue" | "Reject", _) => {}
        (other, _) => errors.not_supported(format!("{at}.type"), view::quoted(other), &["Queue", "Reject"]),
    }
    lendable(level, path, errors);
    if let Some(percent) = view::int(level, "borrowingLimitPercent").filter(|percent| *percent < 0) {
        errors.invalid(format!("{path}.borrowingLimitPercent"), percent, "if specified, must be a non-negative integer");
    }
}

fn queues(queuing: &Value, path: &str, errors: &mut FieldErrors) {
    let int = |field| view::int(queuing, field).unwrap_or_default();
    let (limit, queues, hand) = (int("queueLengthLimit"), int("queues"), int("handSize"));
    if limit <= 0 {
        errors.invalid(format!("{path}.queueLengthLimit"), limit, "must be positive");
    }
    if queues <= 0 {
        errors.invalid(format!("{path}.queues"), queues, "must be positive");
    } else if queues > QUEUES_MAX {
        errors.invalid(format!("{path}.queues"), queues, &format!("must not be greater than {QUEUES_MAX}"));
    }
    let path = format!("{path}.handSize");
    if hand <= 0 {
        errors.invalid(path, hand, "must be positive");
    } else if hand > queues {
        errors.invalid(path, hand, &format!("should not be greater than queues ({queues})"));
    } else if entropy(queues, hand) > HASH_BITS {
        let detail = format!("required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}");
        errors.invalid(path, hand, &detail);
    }
}

/// Bits needed to deal a hand from a deck (`RequiredEntropyBits`).
fn entropy(deck: i64, hand: i64) -> u32 {
    (0..hand.min(deck)).map(|dealt| ((deck - dealt) as f64).log2()).sum::<f64>().ceil() as u32
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn a_schema_has_a_precedence_a_level_and_rules_for_somebody() {
        let rules = json!([{"subjects": [{"kind": "User", "group": {"name": "g"}}], "nonResourceRules": [{"verbs": ["odd"], "nonResourceURLs": ["x"]}]}]);
        let object = Object::new(json!({"metadata": {"name": "a"}, "spec": {"matchingPrecedence": 1, "rules": rules}})).unwrap();
        let texts: Vec<String> = FlowSchema.validate(&object, None, Part::Whole).0.iter().map(ToString::to_string).collect();
        assert_eq!(texts[0], "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1");
        assert_eq!(texts[1], "spec.priorityLevelConfiguration.name: Required value: must reference a priority level");
        assert_eq!(texts[2], "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'");
        assert_eq!(texts[3], "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'");
        assert!(texts[4].starts_with("spec.rules[0].nonResourceRules[0].verbs: Unsupported value: [\"odd\"]"), "{}", texts[4]);
        assert_eq!(texts[5], "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"x\": must start with slash");
    }

    #[test]
    fn a_hand_fits_into_the_hash() {
        assert_eq!(entropy(16, 4), 16);
        assert!(entropy(1 << 20, 4) > HASH_BITS);
    }
}
