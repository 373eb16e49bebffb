//! Flow schemas, compiled: which requests are whose (upstream `flowcontrol/rule.go`). Matching allocates nothing.

use serde::Deserialize;

use crate::{authn::User, authz::policy::nullable, request::RequestInfo};

/// `spec` of a FlowSchema.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SchemaSpec {
    pub priority_level_configuration: Reference,
    pub matching_precedence: i32,
    pub distinguisher_method: Option<Method>,
    #[serde(deserialize_with = "nullable")]
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Reference {
    pub name: String,
}

/// What tells the flows of a schema apart.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Method {
    #[serde(rename = "type")]
    pub kind: String,
}

/// Whose requests, and which.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Rule {
    #[serde(deserialize_with = "nullable")]
    pub subjects: Vec<Subject>,
    #[serde(deserialize_with = "nullable")]
    pub resource_rules: Vec<ResourceRule>,
    #[serde(rename = "nonResourceRules", deserialize_with = "nullable")]
    pub other_rules: Vec<OtherRule>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Subject {
    pub kind: String,
    pub user: Option<Reference>,
    pub group: Option<Reference>,
    pub service_account: Option<Account>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Account {
    pub namespace: String,
    pub name: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ResourceRule {
    #[serde(deserialize_with = "nullable")]
    pub verbs: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub api_groups: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub resources: Vec<String>,
    pub cluster_scope: bool,
    #[serde(deserialize_with = "nullable")]
    pub namespaces: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct OtherRule {
    #[serde(deserialize_with = "nullable")]
    pub verbs: Vec<String>,
    #[serde(rename = "nonResourceURLs", deserialize_with = "nullable")]
    pub urls: Vec<String>,
}

impl SchemaSpec {
    /// Whether a request is one of this schema's.
    pub(super) fn matches(&self, user: &User, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| rule.matches(user, info))
    }
}

impl Rule {
    fn matches(&self, user: &User, info: &RequestInfo) -> bool {
        if !self.subjects.iter().any(|subject| subject.matches(user)) {
            return false;
        }
        if info.is_resource {
            self.resource_rules.iter().any(|rule| rule.matches(info))
        } else {
            self.other_rules.iter().any(|rule| rule.matches(info))
        }
    }
}

impl Subject {
    fn matches(&self, user: &User) -> bool {
        match self.kind.as_str() {
            "User" => self.user.as_ref().is_some_and(|of| of.name == "*" || *of.name == *user.name),
            "Group" => self.group.as_ref().is_some_and(|of| of.name == "*" || user.in_group(&of.name)),
            "ServiceAccount" => self.service_account.as_ref().is_some_and(|of| of.is(&user.name)),
            _ => false,
        }
    }
}

impl Account {
    fn is(&self, user: &str) -> bool {
        let account = user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
        account.is_some_and(|(namespace, name)| namespace == self.namespace && (self.name == "*" || name == self.name))
    }
}

impl ResourceRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        has(&self.verbs, &info.verb)
            && self.has_resource(info)
            && has(&self.api_groups, &info.group)
            && if info.namespace.is_empty() { self.cluster_scope } else { has(&self.namespaces, &info.namespace) }
    }

    fn has_resource(&self, info: &RequestInfo) -> bool {
        if info.subresource.is_empty() {
            return has(&self.resources, &info.resource);
        }
        let is =
            |known: &str| known.strip_prefix(info.resource.as_str()).and_then(|rest| rest.strip_prefix('/')) == Some(&info.subresource);
        is_all(&self.resources) || self.resources.iter().any(|known| is(known))
    }
}

impl OtherRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        has(&self.verbs, &info.verb) && self.urls.iter().any(|url| covers(url, &info.path))
    }
}

/// Whether a path is this one or below it; `*` stands for any path, and at the end of one for nothing.
fn covers(url: &str, path: &str) -> bool {
    if url == "*" || url == path {
        return true;
    }
    let stem = url.strip_suffix('*').unwrap_or(url);
    path.strip_prefix(stem).is_some_and(|rest| stem.ends_with('/') || rest.starts_with('/'))
}

fn is_all(list: &[String]) -> bool {
    matches!(list, [only] if only == "*")
}

fn has(list: &[String], wanted: &str) -> bool {
    is_all(list) || list.iter().any(|known| known == wanted)
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn rule(value: coracle_tree::Value) -> Rule {
        coracle_tree::from_value(value).unwrap()
    }

    fn resource(verb: &str, namespace: &str, resource: &str, subresource: &str) -> RequestInfo {
        let text = str::to_owned;
        RequestInfo {
            is_resource: true,
            verb: text(verb),
            namespace: text(namespace),
            resource: text(resource),
            subresource: text(subresource),
            ..RequestInfo::default()
        }
    }

    #[test]
    fn lists_that_are_null_are_empty() {
        let rule = r#"{"subjects": [{"kind": "Group", "group": {"name": "*"}}], "nonResourceRules": null,
            "resourceRules": [{"verbs": ["get"], "apiGroups": ["*"], "resources": ["nodes"], "clusterScope": true, "namespaces": null}]}"#;
        let spec: SchemaSpec = serde_json::from_str(&format!(r#"{{"matchingPrecedence": 7, "rules": [{rule}]}}"#)).unwrap();
        let info = RequestInfo { is_resource: true, verb: "get".into(), resource: "nodes".into(), ..RequestInfo::default() };
        assert!(spec.matches(&User::new("jane", &[]), &info));
        assert!(serde_json::from_str::<SchemaSpec>(r#"{"rules": null}"#).unwrap().rules.is_empty());
    }

    #[test]
    fn a_rule_is_about_somebody_and_about_something() {
        let rule = rule(json!({
            "subjects": [{"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": "*"}}, {"kind": "User", "user": {"name": "jo"}}],
            "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["nodes", "nodes/status"], "clusterScope": true, "namespaces": ["a"]}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/x/*"]}],
        }));
        let user = |name: &str| User::new(name, &[]);
        let (jo, account) = (user("jo"), user("system:serviceaccount:kube-system:any"));
        assert!(rule.matches(&jo, &resource("get", "", "nodes", "")) && rule.matches(&account, &resource("get", "a", "nodes", "status")));
        assert!(!rule.matches(&user("system:serviceaccount:kube-system2:any"), &resource("get", "", "nodes", "")));
        for other in [
            resource("list", "", "nodes", ""),
            resource("get", "b", "nodes", ""),
            resource("get", "", "nodes", "proxy"),
            resource("get", "", "pods", ""),
        ] {
            assert!(!rule.matches(&jo, &other), "{other:?}");
        }
        let path = |path: &str| RequestInfo { verb: "get".into(), path: path.into(), ..RequestInfo::default() };
        for (tried, expected) in
            [("/healthz", true), ("/healthz/ping", true), ("/healthzz", false), ("/x/y", true), ("/x", false), ("/", false)]
        {
            assert_eq!(rule.matches(&jo, &path(tried)), expected, "{tried}");
        }
    }
}
