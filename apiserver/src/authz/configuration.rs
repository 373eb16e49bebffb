//! Which authorizers there are: `--authorization-config`, an `AuthorizationConfiguration` file
//! (apiserver `pkg/apis/apiserver/{load,validation}`, kubernetes `pkg/kubeapiserver/authorizer/config.go`).

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::Duration,
};

use coracle_schema::{FieldErrors, name, proto::duration};
use serde::Deserialize;

use super::{Mode, conditions::Conditions};
use crate::wire::{
    configuration::Format,
    status::{aggregate, refused},
};

/// Conditions of one webhook at most.
const MOST_CONDITIONS: usize = 64;
/// Longest a webhook may be waited for.
const LONGEST: i64 = 30_000_000_000;

/// The authorizers in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// At least one.
    pub authorizers: Vec<Configured>,
}

/// One authorizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configured {
    /// Its name in reasons; other than of webhooks that of its mode in lower case.
    pub name: String,
    /// How it decides.
    pub mode: Mode,
    /// What only webhooks have.
    pub webhook: Option<WebhookSettings>,
}

/// How a webhook is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookSettings {
    /// Where it is; `None` is the cluster this process runs in (`InClusterConfig`).
    pub kubeconfig: Option<PathBuf>,
    /// For one question.
    pub timeout: Duration,
    /// How long a permission is remembered; zero: not at all.
    pub authorized: Duration,
    /// How long a refusal is remembered; zero: not at all.
    pub unauthorized: Duration,
    /// `v1` or `v1beta1`: the SubjectAccessReview it takes.
    pub version: Version,
    /// Whether the request is refused when the webhook cannot be asked, rather than left to the next authorizer.
    pub deny_on_failure: bool,
    /// Expressions that must all hold for the webhook to be asked.
    pub conditions: Vec<String>,
}

/// Versions of SubjectAccessReview.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Version {
    V1,
    V1beta1,
}

impl Configured {
    /// An authorizer that has only its mode.
    pub fn of(mode: Mode) -> Self {
        Self { name: mode.name().to_lowercase(), mode, webhook: None }
    }
}

impl Version {
    /// By its name; the error names those that there are.
    pub fn named(name: &str) -> Result<Self, String> {
        match name {
            "v1" => Ok(Self::V1),
            "v1beta1" => Ok(Self::V1beta1),
            other => Err(format!("unsupported webhook authorizer version {other:?}, supported versions are \"v1\", \"v1beta1\"")),
        }
    }
}

impl Configuration {
    /// Reads a file: what it says, and its bytes.
    pub fn load(path: &Path) -> Result<(Self, Vec<u8>), String> {
        let bytes = std::fs::read(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => format!("open {}: no such file or directory", path.display()),
            _ => format!("open {}: {e}", path.display()),
        })?;
        Self::parse(&bytes).map(|configuration| (configuration, bytes))
    }

    /// Reads and checks what stands in a file. The error is upstream's.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        // An empty file says nothing.
        let file = if bytes.is_empty() { Ok(File::default()) } else { FORMAT.read(bytes) };
        let file: File = file.map_err(|why| format!("failed to load AuthorizationConfiguration from file: {why}"))?;
        let mut errors = FieldErrors::none();
        let configuration = check(&file, &mut errors);
        refused(&errors)?;
        let named = configuration.authorizers.iter().filter(|one| one.mode != Mode::Webhook).filter_map(|one| {
            let (expected, kind) = (one.mode.name().to_lowercase(), one.mode.name());
            (one.name != expected).then(|| format!("expected name {expected} for authorizer {kind} instead of {}", one.name))
        });
        match aggregate(named) {
            None => Ok(configuration),
            Some(wrong) => Err(wrong),
        }
    }

    /// The modes that are not webhooks: a later configuration must have them, too, for what they need is made once.
    pub(super) fn lasting(&self) -> HashSet<Mode> {
        self.authorizers.iter().map(|one| one.mode).filter(|mode| *mode != Mode::Webhook).collect()
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct File {
    authorizers: Vec<Authorizer>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Authorizer {
    r#type: String,
    name: String,
    webhook: Option<Webhook>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Webhook {
    #[serde(rename = "authorizedTTL")]
    authorized_ttl: Option<String>,
    cache_authorized_requests: Option<bool>,
    #[serde(rename = "unauthorizedTTL")]
    unauthorized_ttl: Option<String>,
    cache_unauthorized_requests: Option<bool>,
    timeout: Option<String>,
    subject_access_review_version: String,
    match_condition_subject_access_review_version: String,
    failure_policy: String,
    connection_info: Connection,
    match_conditions: Vec<Condition>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Connection {
    r#type: String,
    kube_config_file: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Condition {
    expression: String,
}

/// What the file may be. The versions do not differ in what they say of authorizers.
const FORMAT: Format = Format {
    group: "apiserver.config.k8s.io",
    versions: &["v1", "v1beta1", "v1alpha1"],
    kind: "AuthorizationConfiguration",
    others: &["AdmissionConfiguration", "AuthenticationConfiguration", "EncryptionConfiguration", "TracingConfiguration"],
    fields: &[
        ("", &["apiVersion", "kind", "authorizers"]),
        ("authorizers", &["type", "name", "webhook"]),
        (
            "authorizers.webhook",
            &[
                "authorizedTTL",
                "cacheAuthorizedRequests",
                "unauthorizedTTL",
                "cacheUnauthorizedRequests",
                "timeout",
                "subjectAccessReviewVersion",
                "matchConditionSubjectAccessReviewVersion",
                "failurePolicy",
                "connectionInfo",
                "matchConditions",
            ],
        ),
        ("authorizers.webhook.connectionInfo", &["type", "kubeConfigFile"]),
        ("authorizers.webhook.matchConditions", &["expression"]),
    ],
};

/// `ValidateAuthorizationConfiguration`
fn check(file: &File, errors: &mut FieldErrors) -> Configuration {
    if file.authorizers.is_empty() {
        errors.required("authorizers", "at least one authorization mode must be defined");
    }
    let (mut modes, mut names, mut authorizers) = (HashSet::new(), HashSet::new(), Vec::new());
    for (at, one) in file.authorizers.iter().enumerate() {
        let path = format!("authorizers[{at}]");
        if one.r#type.is_empty() {
            errors.required(format!("{path}.type"), "");
            continue;
        }
        let Some(mode) = Mode::named(&one.r#type) else {
            let mut known: Vec<&str> = Mode::ALL.iter().map(|mode| mode.name()).collect();
            known.sort_unstable();
            errors.not_supported(format!("{path}.type"), format!("{:?}", one.r#type), &known);
            continue;
        };
        if !modes.insert(mode) && mode != Mode::Webhook {
            errors.duplicate(format!("{path}.type"), format!("{:?}", one.r#type));
            continue;
        }
        if one.name.is_empty() {
            errors.required(format!("{path}.name"), "");
        } else if !names.insert(one.name.as_str()) {
            errors.duplicate(format!("{path}.name"), format!("{:?}", one.name));
        } else {
            let wrong = name::subdomain(&one.name);
            if !wrong.is_empty() {
                let detail = format!("authorizer name is invalid: {}", wrong.join(", "));
                errors.invalid(format!("{path}.name"), format!("{:?}", one.name), &detail);
            }
        }
        let webhook = match (&one.webhook, mode) {
            (None, Mode::Webhook) => {
                errors.required(format!("{path}.webhook"), "required when type=Webhook");
                continue;
            }
            (Some(webhook), Mode::Webhook) => webhook.check(&path, errors),
            (Some(_), _) => {
                errors.invalid(format!("{path}.webhook"), "\"non-null\"", "may only be specified when type=Webhook");
                None
            }
            (None, _) => None,
        };
        authorizers.push(Configured { name: one.name.clone(), mode, webhook });
    }
    Configuration { authorizers }
}

impl Webhook {
    /// `ValidateWebhookConfiguration`. Paths of webhooks lack `.webhook`, as upstream's do.
    fn check(&self, path: &str, errors: &mut FieldErrors) -> Option<WebhookSettings> {
        let before = errors.0.len();
        let timeout = span(self.timeout.as_deref(), 0, &format!("{path}.timeout"), Some(LONGEST), errors);
        let authorized = span(self.authorized_ttl.as_deref(), 300_000_000_000, &format!("{path}.authorizedTTL"), None, errors);
        let unauthorized = span(self.unauthorized_ttl.as_deref(), 30_000_000_000, &format!("{path}.unauthorizedTTL"), None, errors);
        let version =
            choice(&self.subject_access_review_version, &format!("{path}.subjectAccessReviewVersion"), &["v1", "v1beta1"], errors);
        let versions = format!("{path}.matchConditionSubjectAccessReviewVersion");
        match self.match_condition_subject_access_review_version.as_str() {
            "" if self.match_conditions.is_empty() => {}
            "" => errors.required(versions, "required if match conditions are specified"),
            "v1" => {}
            other => errors.not_supported(versions, format!("{other:?}"), &["v1"]),
        }
        let policy = choice(&self.failure_policy, &format!("{path}.failurePolicy"), &["NoOpinion", "Deny"], errors);
        let kubeconfig = self.connection_info.check(path, errors);
        self.check_conditions(path, errors);
        let kept = |wanted: Option<bool>, span: Duration| if wanted.unwrap_or(true) { span } else { Duration::ZERO };
        (errors.0.len() == before).then(|| WebhookSettings {
            kubeconfig,
            timeout,
            authorized: kept(self.cache_authorized_requests, authorized),
            unauthorized: kept(self.cache_unauthorized_requests, unauthorized),
            version: if version == "v1" { Version::V1 } else { Version::V1beta1 },
            deny_on_failure: policy == "Deny",
            conditions: self.match_conditions.iter().map(|condition| condition.expression.clone()).collect(),
        })
    }

    fn check_conditions(&self, path: &str, errors: &mut FieldErrors) {
        if self.match_conditions.len() > MOST_CONDITIONS {
            return errors.too_many(format!("{path}.matchConditions"), self.match_conditions.len(), MOST_CONDITIONS as u64);
        }
        let mut seen = HashSet::new();
        for (at, Condition { expression }) in self.match_conditions.iter().enumerate() {
            let path = format!("{path}.matchConditions[{at}].expression");
            if expression.trim().is_empty() {
                errors.required(path, "");
            } else if !seen.insert(expression) {
                errors.duplicate(path, format!("{expression:?}"));
            } else if let Err(why) = Conditions::compile(expression) {
                errors.invalid(path, format!("{expression:?}"), &why);
            }
        }
    }
}

impl Connection {
    fn check(&self, path: &str, errors: &mut FieldErrors) -> Option<PathBuf> {
        let at = format!("{path}.connectionInfo.kubeConfigFile");
        let given = self.kube_config_file.as_deref();
        match self.r#type.as_str() {
            "" => errors.required(format!("{path}.connectionInfo.type"), ""),
            "InClusterConfig" => {
                if let Some(file) = given {
                    errors.invalid(at, format!("{file:?}"), "can only be set when type=KubeConfigFile");
                }
            }
            "KubeConfigFile" => match given.unwrap_or_default() {
                "" => errors.required(at, ""),
                file if !file.starts_with('/') => errors.invalid(at, format!("{file:?}"), "must be an absolute path"),
                file => match std::fs::metadata(file) {
                    Err(e) => {
                        let why =
                            if e.kind() == std::io::ErrorKind::NotFound { "no such file or directory".to_owned() } else { e.to_string() };
                        errors.invalid(at, format!("{file:?}"), &format!("error loading file: stat {file}: {why}"));
                    }
                    Ok(found) if !found.is_file() => errors.invalid(at, format!("{file:?}"), "must be a regular file"),
                    Ok(_) => return Some(file.into()),
                },
            },
            other => {
                let file = given.map_or("null".to_owned(), |file| format!("{file:?}"));
                let value = format!("{{\"Type\":{other:?},\"KubeConfigFile\":{file}}}");
                errors.not_supported(format!("{path}.connectionInfo.type"), value, &["InClusterConfig", "KubeConfigFile"]);
            }
        }
        None
    }
}

/// One of few words.
fn choice<'a>(given: &'a str, path: &str, allowed: &[&str], errors: &mut FieldErrors) -> &'a str {
    match given {
        "" => errors.required(path, ""),
        other if !allowed.contains(&other) => errors.not_supported(path, format!("{other:?}"), allowed),
        _ => {}
    }
    given
}

/// A span of time above zero and, if so told, not above `most` nanoseconds. `default` stands for none and for zero.
fn span(given: Option<&str>, default: i64, path: &str, most: Option<i64>, errors: &mut FieldErrors) -> Duration {
    let Some(mut nanos) = given.map_or(Some(0), coracle_cel::duration) else {
        errors.invalid(path, format!("{:?}", given.unwrap_or_default()), "must be a duration such as 30s or 5m");
        return Duration::ZERO;
    };
    if nanos == 0 {
        nanos = default;
    }
    let wrong = nanos < 0 || most.is_some_and(|most| nanos > most);
    match most {
        _ if nanos == 0 => errors.required(path, ""),
        Some(_) if wrong => errors.invalid(path, format!("{:?}", duration::text(nanos)), "must be > 0s and <= 30s"),
        None if wrong => errors.invalid(path, format!("{:?}", duration::text(nanos)), "must be > 0s"),
        _ => {}
    }
    Duration::from_nanos(u64::try_from(nanos).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n";

    fn parse(rest: &str) -> Result<Configuration, String> {
        Configuration::parse(format!("{HEAD}{rest}").as_bytes())
    }

    /// What kube-apiserver 1.37.1 says of the same files.
    #[test]
    fn what_is_wrong_is_told_in_upstreams_words() {
        let subdomain = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and \
                         end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
                         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
        let known = r#"supported values: "ABAC", "AlwaysAllow", "AlwaysDeny", "#;
        let (first, rest) = (
            r#"[authorizers[0].webhook: Invalid value: "non-null": may only be specified when type=Webhook, authorizers[1].type: Unsupported value: "Foo": "#,
            r#"authorizers[2].type: Duplicate value: "RBAC", authorizers[3].type: Required value, authorizers[4].name: Required value, authorizers[5].name: Invalid value: "A_b": authorizer name is invalid: "#,
        );
        let said = parse(
            "authorizers:\n- {type: RBAC, name: foo, webhook: {}}\n- {type: Foo, name: x}\n- {type: RBAC, name: rbac}\n- {name: x}\n- {type: Node}\n\
             - {type: AlwaysDeny, name: A_b}\n- {type: Webhook, name: w}\n",
        )
        .unwrap_err();
        assert!(said.starts_with(&format!("{first}{known}")), "{said}");
        assert!(
            said.ends_with(&format!("{rest}{subdomain}, authorizers[6].webhook: Required value: required when type=Webhook]")),
            "{said}"
        );
        for (rest, expected) in [
            ("authorizers: []\n", "authorizers: Required value: at least one authorization mode must be defined"),
            (
                "authorizers:\n- {type: RBAC, name: foo}\n- {type: Node, name: bar}\n",
                "[expected name rbac for authorizer RBAC instead of foo, expected name node for authorizer Node instead of bar]",
            ),
            (
                "authorizers:\n- {type: Webhook, name: w, webhook: {}}\n",
                "[authorizers[0].timeout: Required value, authorizers[0].subjectAccessReviewVersion: Required value, \
                 authorizers[0].failurePolicy: Required value, authorizers[0].connectionInfo.type: Required value]",
            ),
            (
                "authorizers:\n- {type: RBAC, name: rbac, foo: 1}\nbar: 2\n",
                r#"failed to load AuthorizationConfiguration from file: strict decoding error: unknown field "authorizers[0].foo", unknown field "bar""#,
            ),
        ] {
            assert_eq!(parse(rest).unwrap_err(), expected);
        }
        assert_eq!(Configuration::parse(b"").unwrap_err(), "authorizers: Required value: at least one authorization mode must be defined");
        let other = Configuration::parse(b"apiVersion: apiserver.config.k8s.io/v1\n").unwrap_err();
        assert!(other.contains("Object 'Kind' is missing in"), "{other}");
    }

    #[test]
    fn each_field_of_a_webhook_is_checked() {
        let said = parse(
            "authorizers:\n- type: Webhook\n  name: w\n  webhook:\n    timeout: 31s\n    authorizedTTL: -1s\n    unauthorizedTTL: 1h\n    \
             subjectAccessReviewVersion: v2\n    matchConditionSubjectAccessReviewVersion: v2\n    failurePolicy: Foo\n    \
             connectionInfo: {type: Foo}\n    matchConditions:\n    - expression: ''\n    - expression: request.user == 'a'\n    \
             - expression: request.user == 'a'\n    - expression: request.user\n    - expression: request.foo\n",
        )
        .unwrap_err();
        let expected = r#"[authorizers[0].timeout: Invalid value: "31s": must be > 0s and <= 30s, authorizers[0].authorizedTTL: Invalid value: "-1s": must be > 0s, authorizers[0].subjectAccessReviewVersion: Unsupported value: "v2": supported values: "v1", "v1beta1", authorizers[0].matchConditionSubjectAccessReviewVersion: Unsupported value: "v2": supported values: "v1", authorizers[0].failurePolicy: Unsupported value: "Foo": supported values: "NoOpinion", "Deny", authorizers[0].connectionInfo.type: Unsupported value: {"Type":"Foo","KubeConfigFile":null}: supported values: "InClusterConfig", "KubeConfigFile", authorizers[0].matchConditions[0].expression: Required value, authorizers[0].matchConditions[2].expression: Duplicate value: "request.user == 'a'", authorizers[0].matchConditions[3].expression: Invalid value: "request.user": must evaluate to bool but got string, authorizers[0].matchConditions[4].expression: Invalid value: "request.foo": compilation failed: ERROR: <input>:1:8: undefined field 'foo'"#;
        assert!(said.starts_with(expected), "{said}");
    }

    #[test]
    fn files_of_webhooks_must_be_there() {
        let of = |connection: &str| {
            let webhook = format!("{{timeout: 3s, subjectAccessReviewVersion: v1, failurePolicy: Deny, connectionInfo: {connection}}}");
            parse(&format!("authorizers:\n- {{type: Webhook, name: w, webhook: {webhook}}}\n"))
        };
        let at = "authorizers[0].connectionInfo.kubeConfigFile:";
        for (connection, expected) in [
            ("{type: KubeConfigFile}", "Required value"),
            ("{type: KubeConfigFile, kubeConfigFile: foo}", r#"Invalid value: "foo": must be an absolute path"#),
            (
                "{type: KubeConfigFile, kubeConfigFile: /nonexistent}",
                r#"Invalid value: "/nonexistent": error loading file: stat /nonexistent: no such file or directory"#,
            ),
            ("{type: KubeConfigFile, kubeConfigFile: /}", r#"Invalid value: "/": must be a regular file"#),
            ("{type: InClusterConfig, kubeConfigFile: /x}", r#"Invalid value: "/x": can only be set when type=KubeConfigFile"#),
        ] {
            assert_eq!(of(connection).unwrap_err(), format!("{at} {expected}"), "{connection}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let found = of(&format!("{{type: KubeConfigFile, kubeConfigFile: {}}}", file.path().display())).unwrap();
        let webhook = found.authorizers[0].webhook.clone().unwrap();
        assert_eq!((webhook.authorized, webhook.unauthorized), (Duration::from_mins(5), Duration::from_secs(30)));
        assert!(webhook.deny_on_failure && webhook.version == Version::V1);
    }
}
