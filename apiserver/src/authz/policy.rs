//! One RBAC rule: what it matches (`pkg/apis/rbac/v1/evaluation_helpers.go`) and what it covers (`component-helpers/auth/rbac/validation`).

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::request::RequestInfo;

/// `rbac/v1.PolicyRule`
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "named as in the API")]
pub struct Rule {
    #[serde(deserialize_with = "crate::authz::policy::nullable", skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    #[serde(deserialize_with = "crate::authz::policy::nullable", skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    #[serde(deserialize_with = "crate::authz::policy::nullable")]
    pub verbs: Vec<String>,
    #[serde(deserialize_with = "crate::authz::policy::nullable", skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", deserialize_with = "crate::authz::policy::nullable", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

impl Rule {
    /// Every verb on every resource.
    pub fn everything() -> Self {
        let all = || vec!["*".to_owned()];
        Self { api_groups: all(), resources: all(), verbs: all(), ..Self::default() }
    }

    /// Every verb on every other path.
    pub fn every_path() -> Self {
        let all = || vec!["*".to_owned()];
        Self { non_resource_urls: all(), verbs: all(), ..Self::default() }
    }

    /// Whether the rule allows the request.
    pub fn allows(&self, request: &RequestInfo) -> bool {
        if !has(&self.verbs, &request.verb) {
            return false;
        }
        if !request.is_resource {
            return self.non_resource_urls.iter().any(|u| path_matches(u, &request.path));
        }
        has(&self.api_groups, &request.group)
            && self.resources.iter().any(|r| resource_matches(r, &request.resource, &request.subresource))
            && (self.resource_names.is_empty() || self.resource_names.contains(&request.name))
    }

    /// Whether this rule, which asks for exactly one thing in each list ([`Rule::broken_down`]), is covered by `owner`.
    fn covered_by(&self, owner: &Self) -> bool {
        let all = |own: &[String], asked: &[String]| asked.iter().all(|a| has(own, a));
        if !all(&owner.verbs, &self.verbs) {
            return false;
        }
        if !self.non_resource_urls.is_empty() {
            return self.non_resource_urls.iter().all(|u| owner.non_resource_urls.iter().any(|o| path_matches(o, u)));
        }
        let names = owner.resource_names.is_empty()
            || !self.resource_names.is_empty() && self.resource_names.iter().all(|n| owner.resource_names.contains(n));
        all(&owner.api_groups, &self.api_groups) && self.resources.iter().all(|r| owns_resource(&owner.resources, r)) && names
    }

    /// The same rights as rules that each name one verb on one resource of one group and at most one name, or one path.
    fn broken_down(&self) -> Vec<Self> {
        let mut rules = Vec::new();
        for (group, resource) in self.api_groups.iter().flat_map(|g| self.resources.iter().map(move |r| (g, r))) {
            for verb in &self.verbs {
                let one = Self {
                    api_groups: vec![group.clone()],
                    resources: vec![resource.clone()],
                    verbs: vec![verb.clone()],
                    ..Self::default()
                };
                if self.resource_names.is_empty() {
                    rules.push(one);
                } else {
                    rules.extend(self.resource_names.iter().map(|n| Self { resource_names: vec![n.clone()], ..one.clone() }));
                }
            }
        }
        for (url, verb) in self.non_resource_urls.iter().flat_map(|u| self.verbs.iter().map(move |v| (u, v))) {
            rules.push(Self { non_resource_urls: vec![url.clone()], verbs: vec![verb.clone()], ..Self::default() });
        }
        rules
    }
}

/// What of `asked` the `owned` rules do not cover, in small rules, those that differ in the verb only put together.
pub fn uncovered(owned: &[Arc<[Rule]>], asked: &[Rule]) -> Vec<Rule> {
    let mut missing: Vec<Rule> = Vec::new();
    for one in asked.iter().flat_map(Rule::broken_down) {
        if owned.iter().flat_map(|rules| rules.iter()).any(|o| one.covered_by(o)) {
            continue;
        }
        let same = |m: &&mut Rule| Rule { verbs: Vec::new(), ..(*m).clone() } == Rule { verbs: Vec::new(), ..one.clone() };
        match missing.iter_mut().find(same) {
            Some(found) => found.verbs.extend(one.verbs.into_iter().filter(|v| !found.verbs.contains(v)).collect::<Vec<_>>()),
            None => missing.push(one),
        }
    }
    missing
}

/// `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`, as upstream prints rules in refusals (`CompactString`).
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let shown: Vec<String> = parts
            .iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(name, list)| format!("{name}:[{}]", list.iter().map(|t| format!("{t:?}")).collect::<Vec<_>>().join(" ")))
            .collect();
        write!(f, "{{{}}}", shown.join(", "))
    }
}

/// Lists in rules may be `null` in what Go clients write.
pub(crate) fn nullable<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|i| i == "*" || i == wanted)
}

/// `pods` matches only the main resource, `pods/log` only that subresource, `*/scale` that of every resource, `*` everything.
fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        // A review may name both in one, as rules do.
        Some(_) if subresource.is_empty() => rule == resource,
        Some((of, sub)) => sub == subresource && (of == "*" || of == resource),
    }
}

/// Whether owned resources include one of a rule: literally, by `*`, or by `*/sub`.
fn owns_resource(owned: &[String], wanted: &str) -> bool {
    if has(owned, wanted) {
        return true;
    }
    wanted.split_once('/').is_some_and(|(_, sub)| owned.iter().any(|o| o.strip_prefix("*/") == Some(sub)))
}

/// A rule's path matches itself and, with a trailing `*`, what starts so.
fn path_matches(rule: &str, path: &str) -> bool {
    rule == path || rule.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn rule(value: coracle_tree::Value) -> Rule {
        coracle_tree::from_value(value).unwrap()
    }

    fn ask(verb: &str, what: &str, name: &str) -> RequestInfo {
        if what.starts_with('/') {
            return RequestInfo { verb: verb.into(), path: what.into(), ..RequestInfo::default() };
        }
        let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
        let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
        RequestInfo {
            is_resource: true,
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..RequestInfo::default()
        }
    }

    #[test]
    fn rules_match_verbs_groups_resources_subresources_and_names() {
        let core = |resources: &str, verbs: &str| rule(json!({"apiGroups": [""], "resources": [resources], "verbs": [verbs]}));
        let cases = [
            (core("pods", "get"), ask("get", "pods", "a"), true),
            (core("pods", "get"), ask("list", "pods", ""), false),
            (core("pods", "*"), ask("list", "pods", ""), true),
            (core("pods", "get"), ask("get", "pods/log", "a"), false),
            (core("pods/log", "get"), ask("get", "pods/log", "a"), true),
            (core("pods/log", "get"), ask("get", "pods", "a"), false),
            (core("*/scale", "get"), ask("get", "pods/scale", "a"), true),
            (core("*/scale", "get"), ask("get", "pods/log", "a"), false),
            (core("*", "get"), ask("get", "pods/log", "a"), true),
            (core("deployments", "get"), ask("get", "deployments.apps", "a"), false),
            (Rule::everything(), ask("frob", "deployments.apps/x", "a"), true),
            (Rule::everything(), ask("get", "/metrics", ""), false),
        ];
        for (rule, request, expected) in cases {
            assert_eq!(rule.allows(&request), expected, "{rule} {request:?}");
        }
        let named = rule(json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["*"], "resourceNames": ["a"]}));
        assert!(named.allows(&ask("get", "pods", "a")));
        assert!(!named.allows(&ask("get", "pods", "b")) && !named.allows(&ask("list", "pods", "")));
    }

    #[test]
    fn a_review_may_name_a_subresource_as_rules_do() {
        let exec = |resource: &str| RequestInfo { resource: resource.into(), subresource: String::new(), ..ask("create", "pods", "") };
        let rule = rule(json!({"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]}));
        assert!(rule.allows(&exec("pods/exec")) && !rule.allows(&exec("pods")) && !rule.allows(&exec("pods/log")));
    }

    #[test]
    fn paths_match_exactly_or_by_a_trailing_star() {
        let paths = rule(json!({"nonResourceURLs": ["/healthz", "/api/*"], "verbs": ["get"]}));
        for (path, expected) in [("/healthz", true), ("/healthz/etcd", false), ("/api/v1", true), ("/api", false)] {
            assert_eq!(paths.allows(&ask("get", path, "")), expected, "{path}");
        }
        assert!(Rule::every_path().allows(&ask("post", "/anything", "")));
    }

    #[test]
    fn uncovered_is_what_no_owned_rule_grants() {
        let asked = [rule(json!({"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "delete"]}))];
        let owned: Arc<[Rule]> = [rule(json!({"apiGroups": ["*"], "resources": ["pods", "*/log"], "verbs": ["get"]}))].into();
        let missing: Vec<String> = uncovered(std::slice::from_ref(&owned), &asked).iter().map(ToString::to_string).collect();
        assert_eq!(
            missing,
            [r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}"#, r#"{APIGroups:[""], Resources:["pods/log"], Verbs:["delete"]}"#]
        );
        assert!(uncovered(&[[Rule::everything()].into()], &asked).is_empty());
        let named = [rule(json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], "resourceNames": ["a"]}))];
        assert!(!uncovered(&[named.clone().into()], &asked).is_empty());
        assert!(uncovered(&[owned], &named).is_empty());
    }

    #[test]
    fn null_lists_read_as_empty() {
        assert_eq!(rule(json!({"apiGroups": null, "verbs": ["get"]})).api_groups, Vec::<String>::new());
    }
}
