//! Answers of the access reviews (`pkg/registry/authorization`): may this user do that? They are never stored.

use coracle_schema::FieldErrors;
use serde_json::{Value, json};

pub use super::rules::self_subject_rules_review;
use super::{Authorizer, Chain, Decision};
use crate::{
    authn::User,
    registry::{FieldSelector, Object},
    request::RequestInfo,
    wire::{Status, status::Subject},
};

/// Fills the status of a SubjectAccessReview: about the user it names.
pub fn subject_access_review(chain: &Chain, review: Object) -> Result<Object, Status> {
    check(&review, "SubjectAccessReview", true)?;
    let user = named_user(&review);
    Ok(answer(chain, &user, review))
}

/// Fills the status of a LocalSubjectAccessReview: as the other, in the namespace of its path.
pub fn local_subject_access_review(chain: &Chain, namespace: &str, review: Object) -> Result<Object, Status> {
    check(&review, "LocalSubjectAccessReview", true)?;
    if review.text("/spec/resourceAttributes/namespace") != namespace {
        return Err(Status::bad_request(format!("spec.resourceAttributes.namespace must match namespace: {namespace}")));
    }
    let user = named_user(&review);
    Ok(answer(chain, &user, review))
}

/// Fills the status of a SelfSubjectAccessReview: about the user who asks.
pub fn self_subject_access_review(chain: &Chain, user: &User, review: Object) -> Result<Object, Status> {
    check(&review, "SelfSubjectAccessReview", false)?;
    Ok(answer(chain, user, review))
}

fn check(review: &Object, kind: &str, names_user: bool) -> Result<(), Status> {
    let spec = review.value().get("spec").unwrap_or(&Value::Null);
    let has = |name: &str| spec.get(name).is_some_and(Value::is_object);
    let mut errors = FieldErrors::none();
    match (has("resourceAttributes"), has("nonResourceAttributes")) {
        (true, true) => {
            let value = &spec["nonResourceAttributes"];
            errors.invalid("spec.nonResourceAttributes", value, "cannot be specified in combination with resourceAttributes");
        }
        (false, false) => {
            let text = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.invalid("spec.resourceAttributes", "null", text);
        }
        _ => {}
    }
    let groups = spec.get("groups").and_then(Value::as_array).is_some_and(|g| !g.is_empty());
    if names_user && review.text("/spec/user").is_empty() && !groups {
        errors.invalid("spec.user", r#""""#, "at least one of user or group must be specified");
    }
    for selector in ["fieldSelector", "labelSelector"] {
        let raw = spec.pointer(&format!("/resourceAttributes/{selector}/rawSelector")).and_then(Value::as_str).unwrap_or_default();
        let listed = spec.pointer(&format!("/resourceAttributes/{selector}/requirements")).is_some_and(Value::is_array);
        if !raw.is_empty() && listed {
            let path = format!("spec.resourceAttributes.{selector}.rawSelector");
            errors.invalid(path, format!("{raw:?}"), "may not specified at the same time as requirements");
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(Subject { group: "authorization.k8s.io", resource: kind, name: review.name() }, &errors))
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
        extra: extra.map(|e| e.iter().map(|(k, v)| (k.clone(), texts(Some(v)))).collect()).unwrap_or_default(),
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

fn answer(chain: &Chain, user: &User, mut review: Object) -> Object {
    let request = asked(&review);
    let mut status = json!({});
    let reason = match chain.decide(user, &request) {
        Decision::Allow => {
            status["allowed"] = true.into();
            chain.grounds(user, &request)
        }
        Decision::Deny(reason) => {
            status["allowed"] = false.into();
            status["denied"] = true.into();
            reason
        }
        Decision::NoOpinion(reason) => {
            status["allowed"] = false.into();
            reason
        }
    };
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    if let Some(root) = review.value_mut().as_object_mut() {
        root.insert("status".into(), status);
    }
    review
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "literals are easier to read without borrows")]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Allows jane to read pods of node a in ns, and denies joe everything.
    struct Rule;

    impl Authorizer for Rule {
        fn decide(&self, user: &User, request: &RequestInfo) -> Decision {
            let pods = request.resource == "pods" && request.namespace == "ns" && request.fields.requires("spec.nodeName") == Some("a");
            match &*user.name {
                "jane" if pods && user.in_group("devs") => Decision::Allow,
                "joe" => Decision::Deny("not joe".into()),
                _ => Decision::NoOpinion(String::new()),
            }
        }

        fn grounds(&self, _: &User, _: &RequestInfo) -> String {
            "because".into()
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

    #[test]
    fn the_named_user_is_judged_with_groups_and_selectors() {
        let raw = pods(json!({"rawSelector": "spec.nodeName=a"}));
        let listed = pods(json!({"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["a"]}]}));
        for attributes in [raw.clone(), listed] {
            let spec = json!({"user": "jane", "groups": ["devs"], "resourceAttributes": attributes});
            let status = subject_access_review(&chain(), review(spec)).unwrap().into_value()["status"].take();
            assert_eq!(status, json!({"allowed": true, "reason": "because"}));
        }
        let without_group = json!({"user": "jane", "resourceAttributes": raw.clone()});
        assert_eq!(subject_access_review(&chain(), review(without_group)).unwrap().value()["status"], json!({"allowed": false}));
        let joe = json!({"user": "joe", "resourceAttributes": raw});
        let denied = json!({"allowed": false, "denied": true, "reason": "not joe"});
        assert_eq!(subject_access_review(&chain(), review(joe)).unwrap().value()["status"], denied);
    }

    #[test]
    fn self_review_is_about_the_asker_and_local_review_about_its_namespace() {
        let jane = User::new("jane", &["devs"]);
        let spec = json!({"resourceAttributes": pods(json!({"rawSelector": "spec.nodeName=a"}))});
        let answer = self_subject_access_review(&chain(), &jane, review(spec)).unwrap();
        assert_eq!(answer.value()["status"]["allowed"], true);
        let spec = json!({"user": "jane", "resourceAttributes": pods(json!({}))});
        assert_eq!(local_subject_access_review(&chain(), "other", review(spec)).unwrap_err().code, 400);
    }

    #[test]
    fn a_review_must_ask_one_thing_about_somebody() {
        let neither = subject_access_review(&chain(), review(json!({"user": "jane"}))).unwrap_err();
        assert_eq!(neither.code, 422);
        let both = json!({"resourceAttributes": {}, "nonResourceAttributes": {}});
        assert!(self_subject_access_review(&chain(), &User::anonymous(), review(both)).is_err());
        let nobody = subject_access_review(&chain(), review(json!({"resourceAttributes": {}}))).unwrap_err();
        assert!(nobody.message.contains("at least one of user or group must be specified"));
    }
}
