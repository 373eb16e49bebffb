//! Which requests are written down, and how much of them (`audit.k8s.io/v1` Policy, `apiserver/pkg/audit/policy`).

use std::{path::Path, sync::Arc};

use coracle_schema::{FieldErrors, go, name};
use serde::Deserialize;

use super::event::Stage;
use crate::{authn::User, request::RequestInfo, wire::yaml};

/// How much of a request is written down; the more the greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[expect(missing_docs, reason = "the names are the API's")]
pub enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// A policy file: the first rule that matches decides; what none matches is not written down.
#[derive(Debug)]
pub(super) struct Policy {
    rules: Vec<Rule>,
}

/// What a rule says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict<'a> {
    /// How much.
    pub(super) level: Level,
    /// When not.
    pub(super) omit_stages: &'a Arc<[Stage]>,
    /// Whether objects are written without their managed fields.
    pub(super) omit_managed_fields: bool,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: coracle_tree::Value,
    #[serde(default)]
    rules: Vec<Written>,
    #[serde(default)]
    omit_stages: Vec<String>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(default)]
    level: String,
    #[serde(default)]
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
    #[serde(flatten)]
    matching: Matching,
}

/// Empty lists match everything.
#[derive(Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase")]
struct Matching {
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    paths: Vec<String>,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

#[derive(Debug)]
struct Rule {
    level: Level,
    omit_stages: Arc<[Stage]>,
    omit_managed_fields: bool,
    matching: Matching,
}

impl Policy {
    /// Reads a policy file. The error names file and field.
    pub(super) fn load(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|e| format!("audit policy {}: {e}", path.display()))?;
        Self::parse(&bytes).map_err(|e| format!("audit policy {}: {e}", path.display()))
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let document = yaml::read(bytes)?;
        let document: Document = coracle_tree::from_value(document.value).map_err(|e| e.to_string())?;
        if document.api_version != "audit.k8s.io/v1" || document.kind != "Policy" {
            return Err(format!("{} {} is not known; known: audit.k8s.io/v1 Policy", document.api_version, document.kind));
        }
        let mut errors = FieldErrors::none();
        let everywhere = stages(&document.omit_stages, "omitStages", &mut errors);
        let mut rules = Vec::new();
        for (at, written) in document.rules.into_iter().enumerate() {
            let path = format!("rules[{at}]");
            written.check(&path, &mut errors);
            let mut omit_stages = stages(&written.omit_stages, &format!("{path}.omitStages"), &mut errors);
            omit_stages.extend(&everywhere);
            rules.push(Rule {
                level: level(&written.level).unwrap_or_default(),
                omit_stages: omit_stages.into(),
                omit_managed_fields: written.omit_managed_fields.unwrap_or(document.omit_managed_fields),
                matching: written.matching,
            });
        }
        if let Some(error) = errors.0.first() {
            return Err(error.to_string());
        }
        if rules.is_empty() {
            return Err("rules: Required value: a policy without rules writes nothing down".to_owned());
        }
        Ok(Self { rules })
    }

    /// What is to be written of a request; `None` when nothing is.
    pub(super) fn verdict(&self, user: Option<&User>, request: &RequestInfo) -> Option<Verdict<'_>> {
        let rule = self.rules.iter().find(|rule| rule.matching.matches(user, request))?;
        let Rule { level, omit_stages, omit_managed_fields, .. } = rule;
        (*level > Level::None).then_some(Verdict { level: *level, omit_stages, omit_managed_fields: *omit_managed_fields })
    }
}

const LEVELS: [(&str, Level); 4] =
    [("None", Level::None), ("Metadata", Level::Metadata), ("Request", Level::Request), ("RequestResponse", Level::RequestResponse)];

fn level(text: &str) -> Option<Level> {
    LEVELS.iter().find(|(name, _)| *name == text).map(|(_, level)| *level)
}

fn stages(texts: &[String], path: &str, errors: &mut FieldErrors) -> Vec<Stage> {
    let mut stages = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        match Stage::parse(text) {
            Some(stage) => stages.push(stage),
            None => errors.invalid(
                format!("{path}[{at}]"),
                go::quoted(text),
                "allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic",
            ),
        }
    }
    stages
}

impl Written {
    fn check(&self, path: &str, errors: &mut FieldErrors) {
        match self.level.as_str() {
            "" => errors.required(format!("{path}.level"), ""),
            text if level(text).is_none() => {
                errors.not_supported(format!("{path}.level"), go::quoted(text), &LEVELS.map(|(name, _)| name));
            }
            _ => {}
        }
        let Matching { resources, namespaces, paths, .. } = &self.matching;
        for (at, url) in paths.iter().enumerate().filter(|(_, url)| *url != "*") {
            let path = format!("{path}.nonResourceURLs[{at}]");
            if !url.starts_with('/') {
                errors.invalid(&path, go::quoted(url), "non-resource URL rules must begin with a '/' character");
            }
            if url.find('*').is_some_and(|star| star + 1 < url.len()) {
                errors.invalid(&path, go::quoted(url), "non-resource URL wildcards '*' must be the final character of the rule");
            }
        }
        for given in resources {
            if !given.group.is_empty() && given.group != "*" && !name::is_subdomain(&given.group) {
                let why = name::subdomain(&given.group).join(",");
                errors.invalid(format!("{path}.resources.group"), go::quoted(&given.group), &why);
            }
            if given.resources.is_empty() && !given.resource_names.is_empty() {
                let shown = format!("{:?}", given.resource_names);
                errors.invalid(format!("{path}.resources.resourceNames"), shown, "using resourceNames requires at least one resource");
            }
        }
        let of_resources = !resources.is_empty() || !namespaces.is_empty();
        if of_resources && !paths.is_empty() {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            errors.invalid(format!("{path}.nonResourceURLs"), format!("{paths:?}"), why);
        }
    }
}

impl Matching {
    fn matches(&self, user: Option<&User>, request: &RequestInfo) -> bool {
        let has = |list: &[String], text: &str| list.iter().any(|item| item == text);
        let named = self.users.is_empty() || user.is_some_and(|user| has(&self.users, &user.name));
        let grouped = self.user_groups.is_empty() || user.is_some_and(|user| user.groups.iter().any(|g| has(&self.user_groups, g)));
        if !named || !grouped || !(self.verbs.is_empty() || has(&self.verbs, &request.verb)) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return request.is_resource
                && (self.namespaces.is_empty() || has(&self.namespaces, &request.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|r| r.matches(request)));
        }
        self.paths.is_empty() || (!request.is_resource && self.paths.iter().any(|spec| path_matches(spec, &request.path)))
    }
}

fn path_matches(spec: &str, path: &str) -> bool {
    spec == "*" || spec == path || spec.strip_suffix('*').is_some_and(|start| path.starts_with(start))
}

impl Resources {
    fn matches(&self, request: &RequestInfo) -> bool {
        if self.group != "*" && self.group != request.group {
            return false;
        }
        let part = &request.subresource;
        let whole = if part.is_empty() { request.resource.clone() } else { format!("{}/{part}", request.resource) };
        let fits = |given: &String| {
            given == "*"
                || *given == whole
                || (!part.is_empty() && given.strip_prefix("*/") == Some(part))
                || given.strip_suffix("/*") == Some(&request.resource)
        };
        let named = self.resource_names.is_empty() || self.resource_names.contains(&request.name);
        self.resources.is_empty() || (named && self.resources.iter().any(fits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: ["RequestReceived"]
rules:
- level: None
  users: ["system:kube-proxy"]
  verbs: ["watch"]
  resources: [{group: "", resources: ["endpoints", "services/*"]}]
- level: Request
  namespaces: ["kube-system"]
  resources: [{group: "", resources: ["configmaps"], resourceNames: ["controller-leader"]}]
  omitManagedFields: true
- level: None
  userGroups: ["system:authenticated"]
  nonResourceURLs: ["/api*", "/version"]
- level: RequestResponse
  resources: [{group: "apps"}, {group: "*", resources: ["*/scale"]}]
- level: Metadata
  omitStages: ["ResponseStarted"]
"#;

    fn level_of(user: &str, verb: &str, at: &str) -> Level {
        let policy = Policy::parse(FILE.as_bytes()).unwrap();
        let request = match at.strip_prefix('/') {
            Some(_) => RequestInfo { verb: verb.into(), path: at.into(), ..RequestInfo::default() },
            None => {
                let mut parts = at.split(' ').map(|p| p.trim_matches('-').to_owned());
                let mut next = || parts.next().unwrap_or_default();
                RequestInfo {
                    is_resource: true,
                    verb: verb.into(),
                    group: next(),
                    resource: next(),
                    subresource: next(),
                    namespace: next(),
                    name: next(),
                    ..RequestInfo::default()
                }
            }
        };
        policy.verdict(Some(&User::new(user, &[])), &request).map_or(Level::None, |v| v.level)
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let cases = [
            ("system:kube-proxy", "watch", "- endpoints", Level::None),
            ("system:kube-proxy", "watch", "- services status", Level::None),
            ("system:kube-proxy", "list", "- endpoints", Level::Metadata),
            ("jane", "get", "- configmaps - kube-system controller-leader", Level::Request),
            ("jane", "get", "- configmaps - kube-system other", Level::Metadata),
            ("jane", "get", "/apis/apps", Level::None),
            ("jane", "get", "/version/x", Level::Metadata),
            ("jane", "update", "apps deployments", Level::RequestResponse),
            ("jane", "update", "- replicationcontrollers scale", Level::RequestResponse),
        ];
        for (user, verb, at, expected) in cases {
            assert_eq!(level_of(user, verb, at), expected, "{user} {verb} {at}");
        }
    }

    #[test]
    fn stages_to_omit_add_up_and_managed_fields_are_told_by_the_rule() {
        let policy = Policy::parse(FILE.as_bytes()).unwrap();
        assert_eq!(*policy.rules[4].omit_stages, [Stage::ResponseStarted, Stage::RequestReceived]);
        assert_eq!((policy.rules[1].omit_managed_fields, policy.rules[4].omit_managed_fields), (true, false));
    }

    #[test]
    fn mistakes_are_named() {
        let head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";
        let cases = [
            ("rules: []", "rules: Required value: a policy without rules writes nothing down"),
            ("rules: [{}]", "rules[0].level: Required value"),
            (
                "rules: [{level: All}]",
                r#"rules[0].level: Unsupported value: "All": supported values: "None", "Metadata", "Request", "RequestResponse""#,
            ),
            (
                "rules: [{level: None, nonResourceURLs: [\"/a*b\"]}]",
                r#"rules[0].nonResourceURLs[0]: Invalid value: "/a*b": non-resource URL wildcards '*' must be the final character of the rule"#,
            ),
            (
                "rules: [{level: None}]\nomitStages: [Start]",
                r#"omitStages[0]: Invalid value: "Start": allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic"#,
            ),
        ];
        for (rest, expected) in cases {
            assert_eq!(Policy::parse(format!("{head}{rest}").as_bytes()).unwrap_err(), expected);
        }
        assert!(Policy::parse(b"apiVersion: v1\nkind: Policy\nrules: []").unwrap_err().contains("known: audit.k8s.io/v1 Policy"));
        assert!(Policy::parse(format!("{head}rulez: []").as_bytes()).unwrap_err().contains("unknown field `rulez`"));
        let rule = Policy::parse(format!("{head}rules: [{{level: None, usrs: [a]}}]").as_bytes());
        assert!(rule.unwrap_err().contains("unknown field `usrs`"));
    }
}
