//! Answers of the access reviews (`pkg/registry/authorization`): may this user do that? They are never stored.

use coracle_schema::{FieldErrors, name, selector::LabelSelector};
use coracle_tree::{Value, json};

pub use super::rules::self_subject_rules_review;
use super::{Chain, Decision};
use crate::{
    authn::User,
    registry::{FieldSelector, Object},
    request::RequestInfo,
    wire::{Status, status::Subject},
};

/// Fills the status of a SubjectAccessReview: about the user it names.
pub async fn subject_access_review(chain: &Chain, review: Object) -> Result<Object, Status> {
    refuse(&check(&review, true, false))?;
    let user = named_user(&review);
    Ok(answer(chain, &user, review).await)
}

/// Fills the status of a LocalSubjectAccessReview: as the other, in its namespace.
pub async fn local_subject_access_review(chain: &Chain, review: Object) -> Result<Object, Status> {
    let mut errors = check(&review, true, true);
    let spec = &review.value()["spec"];
    let namespace = review.text("/spec/resourceAttributes/namespace");
    if spec["resourceAttributes"].is_object() && namespace != review.namespace() {
        errors.invalid("spec.resourceAttributes.namespace", format!("{namespace:?}"), "must match metadata.namespace");
    }
    if spec["nonResourceAttributes"].is_object() {
        errors.invalid("spec.nonResourceAttributes", &spec["nonResourceAttributes"], "disallowed on this kind of request");
    }
    refuse(&errors)?;
    let user = named_user(&review);
    Ok(answer(chain, &user, review).await)
}

/// Fills the status of a SelfSubjectAccessReview: about the user who asks.
pub async fn self_subject_access_review(chain: &Chain, user: &User, review: Object) -> Result<Object, Status> {
    refuse(&check(&review, false, false))?;
    Ok(answer(chain, user, review).await)
}

/// Upstream names no kind here: it asks the object, which has lost it by then.
fn refuse(errors: &FieldErrors) -> Result<(), Status> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(Subject { group: "authorization.k8s.io", resource: "", name: "" }, errors))
}

fn check(review: &Object, names_user: bool, local: bool) -> FieldErrors {
    let spec = review.value().get("spec").unwrap_or(&Value::Null);
    let has = |name: &str| spec.get(name).is_some_and(Value::is_object);
    let mut errors = FieldErrors::none();
    if has("resourceAttributes") == has("nonResourceAttributes") {
        let given = spec.get("nonResourceAttributes").unwrap_or(&Value::Null);
        errors.invalid("spec", given, "exactly one of nonResourceAttributes or resourceAttributes must be specified");
    }
    let groups = spec.get("groups").and_then(Value::as_array).is_some_and(|g| !g.is_empty());
    if names_user && review.text("/spec/user").is_empty() && !groups {
        errors.invalid("spec.user", r#""""#, "at least one of user or group must be specified");
    }
    for selector in ["fieldSelector", "labelSelector"] {
        if let Some(given) = spec.pointer(&format!("/resourceAttributes/{selector}")).filter(|given| given.is_object()) {
            check_selector(given, selector == "labelSelector", &format!("spec.resourceAttributes.{selector}"), &mut errors);
        }
    }
    let metadata = review.value().get("metadata").and_then(Value::as_object);
    let own = |name: &str| name == "managedFields" || local && name == "namespace";
    if metadata.is_some_and(|metadata| metadata.iter().any(|(name, value)| !own(name) && !value.is_null())) {
        let detail = if local { "must be empty except for namespace" } else { "must be empty" };
        errors.invalid("metadata", &review.value()["metadata"], detail);
    }
    errors
}

fn texts<'v>(of: &'v Value, list: &str) -> impl Iterator<Item = &'v str> {
    of.get(list).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn requirements(selector: &Value) -> &[Value] {
    selector.get("requirements").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn raw(selector: &Value) -> &str {
    selector.get("rawSelector").and_then(Value::as_str).unwrap_or_default()
}

/// A selector in one of two forms. Operators nobody here knows are let through: a newer client may know them.
fn check_selector(selector: &Value, of_labels: bool, path: &str, errors: &mut FieldErrors) {
    let (text, listed) = (raw(selector), requirements(selector));
    match (text.is_empty(), listed.is_empty()) {
        (false, false) => {
            errors.invalid(format!("{path}.rawSelector"), format!("{text:?}"), "may not specified at the same time as requirements");
        }
        (true, true) => {
            let detail = format!("when {path} is specified, requirements or rawSelector is required");
            errors.required(format!("{path}.requirements"), &detail);
        }
        _ => {}
    }
    for (at, requirement) in listed.iter().enumerate() {
        let path = format!("{path}.requirements[{at}]");
        let text = |field: &str| requirement.get(field).and_then(Value::as_str).unwrap_or_default();
        if !of_labels && text("key").is_empty() {
            errors.required(format!("{path}.key"), "must be specified");
        }
        let values: Vec<&str> = texts(requirement, "values").collect();
        match text("operator") {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(format!("{path}.values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.forbidden(format!("{path}.values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            _ => {}
        }
        if of_labels {
            errors.invalid_each(&format!("{path}.key"), text("key"), name::qualified(text("key")));
            for (at, value) in values.iter().enumerate() {
                errors.invalid_each(&format!("{path}.values[{at}]"), value, name::label_value(value));
            }
        }
    }
}

/// What of the selectors could not be taken into account (`BuildEvaluationError`).
fn ignored(attributes: &Value) -> Option<String> {
    let mut said = Vec::new();
    for selector in ["fieldSelector", "labelSelector"] {
        let Some(given) = attributes.get(selector).filter(|given| given.is_object()) else { continue };
        let labels = selector == "labelSelector";
        let known = |requirement: &&Value| match requirement.get("operator").and_then(Value::as_str) {
            Some("In" | "NotIn") => labels || texts(requirement, "values").count() == 1,
            Some("Exists" | "DoesNotExist") => labels,
            _ => false,
        };
        let all = requirements(given);
        let kept = all.iter().filter(known).count();
        let text = raw(given);
        let malformed = !text.is_empty() && if labels { LabelSelector::parse(text).is_err() } else { FieldSelector::parse(text).is_err() };
        if kept < all.len() || malformed {
            let partially = if kept > 0 { "partially " } else { "" };
            said.push(format!("spec.resourceAttributes.{selector} {partially}ignored due to parse error"));
        }
    }
    (!said.is_empty()).then(|| said.join("; "))
}

/// The user the review names, with exactly the groups it names.
fn named_user(review: &Object) -> User {
    let spec = &review.value()["spec"];
    let texts = |value: Option<&Value>| -> Vec<String> {
        let list = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let extra = spec.get("extra").and_then(Value::as_object);
    User {
        name: review.text("/spec/user").into(),
        uid: review.text("/spec/uid").into(),
        groups: texts(spec.get("groups")).into_iter().map(Into::into).collect(),
        extra: extra.map(|e| e.iter().map(|(k, v)| (k.to_string(), texts(Some(v)))).collect()).unwrap_or_default(),
    }
}

/// The request the review asks about.
fn asked(review: &Object) -> RequestInfo {
    let attributes = &review.value()["spec"]["resourceAttributes"];
    let text = |name: &str| attributes.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    if !attributes.is_object() {
        return RequestInfo {
            verb: review.text("/spec/nonResourceAttributes/verb").to_owned(),
            path: review.text("/spec/nonResourceAttributes/path").to_owned(),
            ..RequestInfo::default()
        };
    }
    RequestInfo {
        is_resource: true,
        verb: text("verb"),
        group: text("group"),
        version: text("version"),
        namespace: text("namespace"),
        resource: text("resource"),
        subresource: text("subresource"),
        name: text("name"),
        fields: field_selector(&attributes["fieldSelector"]),
        ..RequestInfo::default()
    }
}

/// A selector of a review; what cannot be expressed is left out, which only ever narrows what is allowed.
fn field_selector(value: &Value) -> FieldSelector {
    if let Some(raw) = value.get("rawSelector").and_then(Value::as_str) {
        return FieldSelector::parse(raw).unwrap_or_default();
    }
    let requirements = value.get("requirements").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let terms = requirements.iter().filter_map(|r| {
        let (key, values) = (r.get("key")?.as_str()?, r.get("values")?.as_array()?);
        let operator = match r.get("operator")?.as_str()? {
            "In" => "=",
            "NotIn" => "!=",
            _ => return None,
        };
        let [one] = values.as_slice() else { return None };
        Some(format!("{key}{operator}{}", one.as_str()?.replace('\\', r"\\").replace(',', r"\,").replace('=', r"\=")))
    });
    FieldSelector::parse(&terms.collect::<Vec<_>>().join(",")).unwrap_or_default()
}

async fn answer(chain: &Chain, user: &User, mut review: Object) -> Object {
    let request = asked(&review);
    let verdict = chain.judge(user, &request).await;
    let mut status = json!({"allowed": verdict.is_allowed()});
    if matches!(verdict.decision, Decision::Deny(_)) {
        status["denied"] = true.into();
    }
    if !verdict.reason().is_empty() {
        status["reason"] = verdict.reason().into();
    }
    let said: Vec<String> = verdict.error.into_iter().chain(ignored(&review.value()["spec"]["resourceAttributes"])).collect();
    if !said.is_empty() {
        status["evaluationError"] = said.join("; ").into();
    }
    if let Some(root) = review.value_mut().as_object_mut() {
        root.insert("status", status);
    }
    review
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "literals are easier to read without borrows")]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::authz::{Authorizer, Verdict};

    /// Allows jane to read pods of node a in ns, and denies joe everything.
    struct Rule;

    impl Authorizer for Rule {
        fn name(&self) -> &str {
            "rule"
        }

        fn decide(&self, user: &User, request: &RequestInfo) -> Decision {
            let pods = request.resource == "pods" && request.namespace == "ns" && request.fields.requires("spec.nodeName") == Some("a");
            match &*user.name {
                "jane" if pods && user.in_group("devs") => Decision::Allow,
                "joe" => Decision::Deny("not joe".into()),
                _ => Decision::NoOpinion(String::new()),
            }
        }

        fn explain(&self, user: &User, request: &RequestInfo) -> Verdict {
            let verdict: Verdict = self.decide(user, request).into();
            let grounds = if verdict.is_allowed() { "because".to_owned() } else { String::new() };
            Verdict { grounds, ..verdict }
        }
    }

    fn chain() -> Chain {
        Chain::new(vec![Arc::new(Rule)])
    }

    fn review(spec: Value) -> Object {
        Object::new(json!({"spec": spec})).unwrap()
    }

    fn pods(selector: Value) -> Value {
        json!({"verb": "list", "resource": "pods", "namespace": "ns", "fieldSelector": selector})
    }

    #[tokio::test]
    async fn the_named_user_is_judged_with_groups_and_selectors() {
        let raw = pods(json!({"rawSelector": "spec.nodeName=a"}));
        let listed = pods(json!({"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["a"]}]}));
        for attributes in [raw.clone(), listed] {
            let spec = json!({"user": "jane", "groups": ["devs"], "resourceAttributes": attributes});
            let status = subject_access_review(&chain(), review(spec)).await.unwrap().into_value()["status"].take();
            assert_eq!(status, json!({"allowed": true, "reason": "because"}));
        }
        let without_group = json!({"user": "jane", "resourceAttributes": raw.clone()});
        assert_eq!(subject_access_review(&chain(), review(without_group)).await.unwrap().value()["status"], json!({"allowed": false}));
        let joe = json!({"user": "joe", "resourceAttributes": raw});
        let denied = json!({"allowed": false, "denied": true, "reason": "not joe"});
        assert_eq!(subject_access_review(&chain(), review(joe)).await.unwrap().value()["status"], denied);
    }

    #[tokio::test]
    async fn self_review_is_about_the_asker_and_local_review_about_its_namespace() {
        let jane = User::new("jane", &["devs"]);
        let spec = json!({"resourceAttributes": pods(json!({"rawSelector": "spec.nodeName=a"}))});
        let answer = self_subject_access_review(&chain(), &jane, review(spec)).await.unwrap();
        assert_eq!(answer.value()["status"]["allowed"], true);
        let spec = json!({"user": "jane", "resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "ns"}});
        let local = |namespace: &str| Object::new(json!({"metadata": {"namespace": namespace}, "spec": spec})).unwrap();
        let elsewhere = local_subject_access_review(&chain(), local("other")).await.unwrap_err();
        assert!(elsewhere.message.ends_with("spec.resourceAttributes.namespace: Invalid value: \"ns\": must match metadata.namespace"));
        assert!(local_subject_access_review(&chain(), local("ns")).await.is_ok());
    }

    #[tokio::test]
    async fn a_review_must_ask_one_thing_about_somebody() {
        let neither = subject_access_review(&chain(), review(json!({"user": "jane"}))).await.unwrap_err();
        assert_eq!(neither.code, 422);
        let newer = json!({"requirements": [{"key": "spec.nodeName", "operator": "Near", "values": ["a"]}]});
        let partly =
            self_subject_access_review(&chain(), &User::anonymous(), review(json!({"resourceAttributes": pods(newer)}))).await.unwrap();
        let said = "spec.resourceAttributes.fieldSelector ignored due to parse error";
        assert_eq!(partly.value()["status"], json!({"allowed": false, "evaluationError": said}));
        let both = json!({"resourceAttributes": {}, "nonResourceAttributes": {}});
        assert!(self_subject_access_review(&chain(), &User::anonymous(), review(both)).await.is_err());
        let nobody = subject_access_review(&chain(), review(json!({"resourceAttributes": {}}))).await.unwrap_err();
        assert!(nobody.message.contains("at least one of user or group must be specified"));
    }
}
