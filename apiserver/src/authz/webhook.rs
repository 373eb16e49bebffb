//! Asks somebody else: a SubjectAccessReview over HTTPS (apiserver `plugin/pkg/authorizer/webhook`).

use std::time::Duration;

use async_trait::async_trait;
use coracle_schema::selector::Operator;
use coracle_tree::{Value, json};
use jiff::SignedDuration;
use serde::Deserialize;
use tracing::error;

use super::{
    Decision, Remote, Verdict,
    conditions::Conditions,
    configuration::{Configured, Version, WebhookSettings},
    rules::Known,
};
use crate::{
    authn::{User, cache::Cache},
    request::RequestInfo,
    verbs::Clock,
    webhook::{Backoff, Egress, Kubeconfig, Terms, Webhook, status},
};

/// What is asked and answered.
const KIND: &str = "SubjectAccessReview";
/// Largest answer.
const LARGEST: usize = 4 << 20;
/// What is said when no answer begins in time.
const LATE: &str = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
/// What the asker chose of a question: longer ones are not remembered.
const LONGEST_REMEMBERED: usize = 10_000;

/// A webhook that decides.
pub(super) struct WebhookAuthorizer {
    name: String,
    webhook: Webhook,
    settings: WebhookSettings,
    conditions: Conditions,
    answers: Cache<Status>,
    clock: Clock,
}

/// `SubjectAccessReviewStatus`
#[derive(Clone, Deserialize, Default, Debug, PartialEq, Eq)]
#[serde(default)]
struct Status {
    allowed: bool,
    denied: bool,
    reason: String,
}

impl Version {
    fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "authorization.k8s.io/v1",
            Self::V1beta1 => "authorization.k8s.io/v1beta1",
        }
    }
}

impl WebhookAuthorizer {
    /// Reads the kubeconfig; the error says what is wrong with it.
    pub(super) fn new(configured: &Configured, settings: &WebhookSettings, egress: &Egress, clock: Clock) -> Result<Self, String> {
        let kubeconfig = match &settings.kubeconfig {
            Some(file) => Kubeconfig::read(file)?,
            None => Kubeconfig::in_cluster()?,
        };
        Ok(Self {
            name: configured.name.clone(),
            webhook: Webhook::at(kubeconfig).through(egress),
            settings: settings.clone(),
            conditions: Conditions::new(&settings.conditions)?,
            answers: Cache::new(),
            clock,
        })
    }

    async fn answer(&self, user: &User, request: &RequestInfo) -> Result<Option<Status>, String> {
        let mut spec = spec(user, request);
        if !self.conditions.is_empty() && !self.conditions.hold(&spec)? {
            return Ok(None);
        }
        let now = (self.clock)();
        let key = self.answers.key(&spec.to_string(), &[]);
        if let Some(known) = self.answers.get(&key, now) {
            return Ok(Some(known));
        }
        if let (Version::V1beta1, Some(spec)) = (self.settings.version, spec.as_object_mut())
            && let Some(groups) = spec.remove("groups")
        {
            spec.insert("group", groups);
        }
        spec_without_nothing(&mut spec);
        let review = json!({
            "kind": KIND, "apiVersion": self.settings.version.api_version(), "metadata": {},
            "spec": spec, "status": {"allowed": false},
        });
        let terms = Terms { timeout: self.settings.timeout, late: LATE, largest: LARGEST };
        let answer = self.webhook.review(review.to_string().into(), terms, Backoff::REVIEWS).await;
        let status: Status = answer.and_then(|body| status(&body, self.settings.version.api_version(), KIND)).inspect_err(|why| {
            error!(webhook = self.name, why, "Failed to make webhook authorizer request");
        })?;
        if chosen(request) < LONGEST_REMEMBERED {
            let span = if status.allowed { self.settings.authorized } else { self.settings.unauthorized };
            self.answers.put(key, status.clone(), now, signed(span), None);
        }
        Ok(Some(status))
    }
}

#[async_trait]
impl Remote for WebhookAuthorizer {
    fn name(&self) -> &str {
        &self.name
    }

    async fn ask(&self, user: &User, request: &RequestInfo) -> Verdict {
        let nothing = String::new;
        match self.answer(user, request).await {
            Ok(None) => Decision::NoOpinion(nothing()).into(),
            Ok(Some(Status { allowed: true, denied: true, reason })) => Verdict {
                error: Some("webhook subject access review returned both allow and deny response".to_owned()),
                ..Decision::Deny(reason).into()
            },
            Ok(Some(Status { denied: true, reason, .. })) => Decision::Deny(reason).into(),
            Ok(Some(Status { allowed: true, reason, .. })) => Verdict { grounds: reason, ..Verdict::allowed() },
            Ok(Some(Status { reason, .. })) => Decision::NoOpinion(reason).into(),
            Err(why) if self.settings.deny_on_failure => Verdict { error: Some(why), ..Decision::Deny(nothing()).into() },
            Err(why) => Verdict { error: Some(why), ..Decision::NoOpinion(nothing()).into() },
        }
    }

    fn rules(&self) -> Known {
        Known::untold("webhook authorizer does not support user rule resolution")
    }
}

/// What is asked, with every text there is: conditions see them all.
fn spec(user: &User, request: &RequestInfo) -> Value {
    let groups: Vec<&str> = user.groups.iter().map(|group| &**group).collect();
    let mut spec = json!({"user": &*user.name, "groups": groups, "uid": &*user.uid, "extra": user.extra});
    if !request.is_resource {
        spec["nonResourceAttributes"] = json!({"path": request.path, "verb": request.verb});
        return spec;
    }
    let mut resource = json!({
        "namespace": request.namespace, "verb": request.verb, "group": request.group, "version": request.version,
        "resource": request.resource, "subresource": request.subresource, "name": request.name,
    });
    for (name, requirements) in [("fieldSelector", fields(request)), ("labelSelector", labels(request))] {
        if !requirements.is_empty() {
            resource[name] = json!({"requirements": requirements});
        }
    }
    spec["resourceAttributes"] = resource;
    spec
}

fn fields(request: &RequestInfo) -> Vec<Value> {
    let one = |(key, value, negated): (&str, &str, bool)| json!({"key": key, "operator": if negated { "NotIn" } else { "In" }, "values": [value]});
    request.fields.terms().map(one).collect()
}

/// What reviews have no word for (`>`, `<`) is left out: less is then asked for than is allowed, never more.
fn labels(request: &RequestInfo) -> Vec<Value> {
    let one = |(key, operator, values): (&str, Operator, &[Box<str>])| {
        let operator = match operator {
            Operator::In => "In",
            Operator::NotIn => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
            Operator::GreaterThan | Operator::LessThan => return None,
        };
        let mut one = json!({"key": key, "operator": operator});
        if !values.is_empty() {
            one["values"] = values.iter().map(|value| Value::from(&**value)).collect();
        }
        Some(one)
    };
    request.labels.requirements().filter_map(one).collect()
}

/// Leaves out what is empty, as Go's encoding does.
fn spec_without_nothing(spec: &mut Value) {
    let is_nothing = |value: &Value| match value {
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    for part in ["/resourceAttributes", "/nonResourceAttributes", ""] {
        if let Some(fields) = spec.pointer_mut(part).and_then(Value::as_object_mut) {
            fields.retain(|_, value| !is_nothing(value));
        }
    }
}

/// The bytes of a question that the asker chose.
fn chosen(request: &RequestInfo) -> usize {
    let RequestInfo { namespace, verb, group, version, resource, subresource, name, path, .. } = request;
    [namespace, verb, group, version, resource, subresource, name, path].iter().map(|text| text.len()).sum()
}

fn signed(span: Duration) -> SignedDuration {
    SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::selector::{FieldSelector, LabelSelector};

    #[test]
    fn the_question_names_user_and_request_with_selectors() {
        let user = User::new("jane", &["devs"]);
        let request = RequestInfo {
            is_resource: true,
            verb: "list".into(),
            version: "v1".into(),
            namespace: "dev".into(),
            resource: "pods".into(),
            fields: FieldSelector::parse("spec.nodeName=a,status.phase!=Failed").unwrap(),
            labels: LabelSelector::parse("app in (a,b),!gone,rank>3").unwrap(),
            ..RequestInfo::default()
        };
        let mut spec = spec(&user, &request);
        assert_eq!(spec["resourceAttributes"]["subresource"], "");
        spec_without_nothing(&mut spec);
        let fields = json!([
            {"key": "spec.nodeName", "operator": "In", "values": ["a"]}, {"key": "status.phase", "operator": "NotIn", "values": ["Failed"]}
        ]);
        let labels = json!([{"key": "app", "operator": "In", "values": ["a", "b"]}, {"key": "gone", "operator": "DoesNotExist"}]);
        let resource = json!({
            "verb": "list", "version": "v1", "namespace": "dev", "resource": "pods",
            "fieldSelector": {"requirements": fields}, "labelSelector": {"requirements": labels},
        });
        assert_eq!(spec, json!({"user": "jane", "groups": ["devs", "system:authenticated"], "resourceAttributes": resource}));
    }

    #[test]
    fn long_questions_are_not_remembered() {
        let request = RequestInfo { name: "n".repeat(LONGEST_REMEMBERED), ..RequestInfo::default() };
        assert!(chosen(&request) >= LONGEST_REMEMBERED && chosen(&RequestInfo::default()) == 0);
    }
}
