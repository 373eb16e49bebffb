//! Policies in a file, a line each: `--authorization-policy-file` (kubernetes `pkg/auth/authorizer/abac`).

use std::path::Path;

use coracle_tree::Value;
use serde::Deserialize;

use super::{Authorizer, Decision, policy::Rule, rules::Known};
use crate::{authn::User, request::RequestInfo};

/// The version that has a kind; what has none is older, and read in another way.
const VERSION: &str = "abac.authorization.kubernetes.io/v1beta1";

/// Everybody who is somebody.
const AUTHENTICATED: &str = "system:authenticated";

/// All policies of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policies(Vec<Policy>);

/// Whom a policy names may do what it names. Empty is nothing, `*` everything.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
struct Policy {
    user: String,
    group: String,
    readonly: bool,
    api_group: String,
    resource: String,
    namespace: String,
    #[serde(rename = "nonResourcePath")]
    path: String,
}

impl Policies {
    /// Reads a file. The error names the line.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => format!("open {}: no such file or directory", path.display()),
            _ => format!("open {}: {e}", path.display()),
        })?;
        Self::parse(&text).map_err(|(line, text, why)| format!("error reading policy file {}, line {line}: {text}: {why}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, (usize, String, String)> {
        let mut policies = Vec::new();
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.trim().starts_with('#')) {
            policies.push(Policy::parse(line).map_err(|why| (at + 1, line.to_owned(), why))?);
        }
        Ok(Self(policies))
    }
}

impl Policy {
    fn parse(line: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(line).map_err(|e| format!("json parse error: {e}"))?;
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        match (text("apiVersion"), text("kind")) {
            (VERSION, "Policy") => {
                let spec = value.get("spec").cloned().unwrap_or_default();
                let spec: Option<Self> = coracle_tree::from_value(spec).map_err(|e| e.to_string())?;
                Ok(spec.unwrap_or_default().of_everybody())
            }
            ("", "") => coracle_tree::from_value(value).map(|old: Self| old.of_everybody().of_old()).map_err(|e| e.to_string()),
            (version, kind) => Err(format!("no kind {kind:?} is registered for version {version:?}; known: {VERSION} Policy")),
        }
    }

    /// `*` is all who are somebody: anonymous users are not among them.
    fn of_everybody(mut self) -> Self {
        if self.user == "*" || self.group == "*" {
            (self.user, self.group) = (String::new(), AUTHENTICATED.to_owned());
        }
        self
    }

    /// Without a version, what is left out means everything.
    fn of_old(mut self) -> Self {
        if self.user.is_empty() && self.group.is_empty() {
            self.group = AUTHENTICATED.to_owned();
        }
        let all = "*".to_owned();
        self.path = if self.namespace.is_empty() && self.resource.is_empty() { all.clone() } else { String::new() };
        for field in [&mut self.namespace, &mut self.resource] {
            if field.is_empty() {
                field.clone_from(&all);
            }
        }
        self.api_group = all;
        self
    }

    fn names(&self, user: &User) -> bool {
        if self.user.is_empty() && self.group.is_empty() {
            return false;
        }
        (self.user.is_empty() || *self.user == *user.name) && (self.group.is_empty() || user.in_group(&self.group))
    }

    fn allows(&self, request: &RequestInfo) -> bool {
        if self.readonly && !matches!(request.verb.as_str(), "get" | "list" | "watch") {
            return false;
        }
        let is = |field: &str, value: &str| field == "*" || field == value;
        if request.is_resource {
            return is(&self.namespace, &request.namespace) && is(&self.resource, &request.resource) && is(&self.api_group, &request.group);
        }
        let prefix = self.path.strip_suffix('*').map(|rest| rest.trim_end_matches('*'));
        self.path == request.path || prefix.is_some_and(|prefix| request.path.starts_with(prefix))
    }
}

impl Authorizer for Policies {
    fn name(&self) -> &str {
        "abac"
    }

    fn decide(&self, user: &User, request: &RequestInfo) -> Decision {
        if self.0.iter().any(|policy| policy.names(user) && policy.allows(request)) {
            return Decision::Allow;
        }
        Decision::NoOpinion("No policy matched.".to_owned())
    }

    fn rules(&self, user: &User, namespace: &str) -> Known {
        let here = |policy: &&Policy| policy.names(user) && (policy.namespace == "*" || policy.namespace == namespace);
        let rule = |policy: &Policy| {
            let verbs: &[&str] = if policy.readonly { &["get", "list", "watch"] } else { &["*"] };
            let one = |text: &str| if text.is_empty() { Vec::new() } else { vec![text.to_owned()] };
            [Rule {
                verbs: verbs.iter().map(ToString::to_string).collect(),
                api_groups: vec![policy.api_group.clone()],
                resources: one(&policy.resource),
                non_resource_urls: one(&policy.path),
                ..Rule::default()
            }]
            .into()
        };
        Known::of(self.0.iter().filter(here).map(rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(policies: &str, user: &User, request: &RequestInfo) -> bool {
        Policies::parse(policies).unwrap().decide(user, request) == Decision::Allow
    }

    fn ask(verb: &str, namespace: &str, resource: &str) -> RequestInfo {
        RequestInfo {
            is_resource: true,
            verb: verb.into(),
            namespace: namespace.into(),
            resource: resource.into(),
            ..RequestInfo::default()
        }
    }

    #[test]
    fn a_policy_allows_what_it_names_to_whom_it_names() {
        let head = r#"{"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": "#;
        let bob = format!("# of bob\n\n{head}{{\"user\": \"bob\", \"namespace\": \"dev\", \"resource\": \"pods\", \"readonly\": true}}}}");
        let user = User::new("bob", &[]);
        assert!(allows(&bob, &user, &ask("get", "dev", "pods")));
        assert!(!allows(&bob, &user, &ask("delete", "dev", "pods")));
        assert!(!allows(&bob, &user, &ask("get", "prod", "pods")));
        assert!(!allows(&bob, &User::new("joe", &[]), &ask("get", "dev", "pods")));
        let paths = format!("{head}{{\"group\": \"system:authenticated\", \"nonResourcePath\": \"/api*\"}}}}");
        let path = |path: &str| RequestInfo { verb: "get".into(), path: path.into(), ..RequestInfo::default() };
        assert!(allows(&paths, &user, &path("/apis")) && !allows(&paths, &user, &path("/metrics")));
        assert!(!allows(&paths, &user, &ask("get", "", "pods")));
    }

    #[test]
    fn without_a_version_what_is_left_out_is_everything() {
        let user = User::new("bob", &[]);
        assert!(allows(r#"{"user": "bob"}"#, &user, &ask("delete", "dev", "pods")));
        assert!(allows(r#"{"readonly": true}"#, &user, &ask("get", "dev", "pods")));
        assert!(!allows(r#"{"readonly": true}"#, &User::anonymous(), &ask("get", "dev", "pods")));
        assert_eq!(Policies::parse("#\nfoo").unwrap_err().0, 2);
    }

    #[test]
    fn everybody_is_who_is_somebody() {
        let head = r#"{"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": "#;
        let all = r#""namespace": "*", "resource": "*", "apiGroup": "*"}"#;
        for whom in [r#"{"user": "*", "#, r#"{"group": "*", "#] {
            for policy in [format!("{head}{whom}{all}}}"), format!("{whom}{all}")] {
                assert!(allows(&policy, &User::new("bob", &[]), &ask("delete", "dev", "pods")), "{policy}");
                assert!(!allows(&policy, &User::anonymous(), &ask("get", "dev", "pods")), "{policy}");
            }
        }
    }
}
