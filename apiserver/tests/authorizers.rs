//! Authorizers that ask somebody else: a webhook of an AuthorizationConfiguration decides, is remembered, breaks, and is asked by policies.

use std::{io::Write, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use coracle_apiserver::{
    authn::User,
    authz::{self, configuration::Configuration},
};
use coracle_store::embedded;
use coracle_tree::{Value, json};
use http::{Response, StatusCode};
use http_body_util::Full;

use crate::{hook::Hook, house::House};

const REVIEWS: &str = "/apis/authorization.k8s.io/v1";

/// What the webhook says of a question: jane reads pods of node a and config maps, joe is denied, `garbled` breaks it.
fn answer(review: &Value) -> (u16, Value) {
    let (spec, resource) = (&review["spec"], &review["spec"]["resourceAttributes"]);
    let of_node = json!([{"key": "spec.nodeName", "operator": "In", "values": ["a"]}]);
    let status = match (spec["user"].as_str().unwrap(), resource["resource"].as_str().unwrap_or_default()) {
        ("jane", "pods") if resource["fieldSelector"]["requirements"] == of_node => json!({"allowed": true, "reason": "of node a"}),
        ("jane", "configmaps") => json!({"allowed": true}),
        ("joe", _) => json!({"allowed": false, "denied": true, "reason": "not joe"}),
        ("both", _) => json!({"allowed": true, "denied": true}),
        ("garbled", _) => return (400, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "I am <broken>"})),
        _ => json!({"allowed": false, "reason": "never heard of it"}),
    };
    (200, json!({"apiVersion": review["apiVersion"], "kind": "SubjectAccessReview", "status": status}))
}

/// A server that asks the webhook after RBAC, about whatever is not in `kube-system`, and the files that say so.
async fn start(failure_policy: &str) -> (House, Hook, tempfile::TempDir) {
    let said = |_: &str, review: &Value| {
        let (code, body) = answer(review);
        Some(
            Response::builder()
                .status(code)
                .header("content-type", "application/json")
                .body(Full::new(Bytes::from(body.to_string())))
                .unwrap(),
        )
    };
    let hook = Hook::start(&["http/1.1"], Arc::new(said)).await;
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    let authority = hook.bundle.clone();
    assert!(STANDARD.decode(&authority).is_ok());
    write!(
        std::fs::File::create(&kubeconfig).unwrap(),
        "{{\"clusters\": [{{\"name\": \"c\", \"cluster\": {{\"server\": \"{}/authorize\", \"certificate-authority-data\": \"{authority}\"}}}}],
          \"contexts\": [{{\"name\": \"x\", \"context\": {{\"cluster\": \"c\"}}}}], \"current-context\": \"x\"}}",
        hook.url
    )
    .unwrap();
    let configuration = json!({
        "apiVersion": "apiserver.config.k8s.io/v1beta1", "kind": "AuthorizationConfiguration",
        "authorizers": [{"type": "RBAC", "name": "rbac"}, {"type": "Webhook", "name": "far", "webhook": {
            "timeout": "3s", "subjectAccessReviewVersion": "v1", "matchConditionSubjectAccessReviewVersion": "v1",
            "failurePolicy": failure_policy, "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": kubeconfig},
            "matchConditions": [
                {"expression": "!has(request.resourceAttributes) || request.resourceAttributes.namespace != 'kube-system'"},
                {"expression": "request.user in ['jane', 'joe', 'both', 'garbled', 'stranger']"},
            ],
        }}],
    });
    let configuration = Configuration::parse(configuration.to_string().as_bytes()).unwrap();
    let store = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
    let authorization = authz::Options { configuration, ..authz::Options::of(&[]) };
    let options = coracle_apiserver::Options { authorization, ..House::options(store) };
    (House::of(options).await, hook, folder)
}

fn of_user(house: &mut House, name: &str) {
    house.user = Arc::new(User::new(name, &[]));
}

#[tokio::test]
async fn a_webhook_decides_with_selectors_where_nobody_before_it_did() {
    let (mut house, hook, _folder) = start("NoOpinion").await;
    of_user(&mut house, "jane");
    house.get("/api/v1/namespaces/default/pods?fieldSelector=spec.nodeName%3Da").await.ok();
    let asked = hook.take();
    let spec = &asked[0].body["spec"];
    assert_eq!(asked[0].path, "/authorize?timeout=3s");
    assert_eq!((&spec["user"], &spec["resourceAttributes"]["verb"]), (&json!("jane"), &json!("list")));
    assert_eq!(asked[0].body["apiVersion"], "authorization.k8s.io/v1");
    house.get("/api/v1/namespaces/default/pods?fieldSelector=spec.nodeName%3Da").await.ok();
    assert!(hook.take().is_empty(), "what it said is remembered");
    let refused = house.get("/api/v1/namespaces/default/pods").await;
    assert_eq!(refused.code, StatusCode::FORBIDDEN);
    let expected =
        r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default": far: never heard of it"#;
    assert_eq!(refused.json()["message"], expected);
    let out_of_reach = house.get("/api/v1/namespaces/kube-system/configmaps").await.json();
    assert!(out_of_reach["message"].as_str().unwrap().ends_with(r#"in the namespace "kube-system""#), "{out_of_reach}");
    assert_eq!(hook.take().len(), 1, "conditions keep the last from being asked");
    of_user(&mut house, "joe");
    let denied = house.get("/api/v1/namespaces/default/pods").await.json();
    assert!(denied["message"].as_str().unwrap().ends_with(r#"in the namespace "default": not joe"#), "{denied}");
}

#[tokio::test]
async fn a_webhook_that_breaks_is_no_permission() {
    for (policy, code) in [("NoOpinion", 500), ("Deny", 500)] {
        let (mut house, _hook, _folder) = start(policy).await;
        for user in ["garbled", "both"] {
            of_user(&mut house, user);
            let reply = house.get("/api/v1/namespaces/default/pods?a=b").await;
            assert_eq!(reply.code, code, "{policy} {user}");
            let text = String::from_utf8(reply.body.to_vec()).unwrap();
            let why =
                if user == "both" { "webhook subject access review returned both allow and deny response" } else { "I am &lt;broken&gt;" };
            assert_eq!(text, format!("Internal Server Error: \"/api/v1/namespaces/default/pods?a=b\": {why}\n"));
        }
        of_user(&mut house, "nobody at all");
        assert_eq!(house.get("/api/v1/namespaces/default/pods").await.code, 403, "who is not asked about is just refused");
    }
}

#[tokio::test]
async fn reviews_go_through_the_webhook_and_rules_are_told_as_incomplete() {
    let (mut house, _hook, _folder) = start("NoOpinion").await;
    let about = |user: &str, selector: &str| {
        let resource = json!({"verb": "list", "resource": "pods", "namespace": "default", "fieldSelector": {"rawSelector": selector}});
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": user, "resourceAttributes": resource}})
    };
    let reviews = format!("{REVIEWS}/subjectaccessreviews");
    let status = async |review: Value| house.post(&reviews, &review).await.ok()["status"].take();
    assert_eq!(status(about("jane", "spec.nodeName=a")).await, json!({"allowed": true, "reason": "of node a"}));
    assert_eq!(status(about("jane", "spec.nodeName=b")).await, json!({"allowed": false, "reason": "far: never heard of it"}));
    assert_eq!(status(about("joe", "a=b")).await, json!({"allowed": false, "denied": true, "reason": "not joe"}));
    let broken = status(about("garbled", "a=b")).await;
    assert_eq!(broken, json!({"allowed": false, "evaluationError": "I am <broken>"}));
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "default"}});
    let rules = house.post(&format!("{REVIEWS}/selfsubjectrulesreviews"), &review).await.ok();
    assert_eq!(rules["status"]["incomplete"], true);
    assert_eq!(rules["status"]["evaluationError"], "webhook authorizer does not support user rule resolution");
    of_user(&mut house, "jane");
    let own = json!({"verb": "get", "resource": "configmaps", "namespace": "default"});
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": own}});
    // Asking about oneself is allowed by RBAC to everybody who is somebody.
    assert_eq!(house.post(&format!("{REVIEWS}/selfsubjectaccessreviews"), &review).await.ok()["status"], json!({"allowed": true}));
}

#[tokio::test]
async fn expressions_of_policies_learn_what_the_webhook_says() {
    let (house, hook, _folder) = start("NoOpinion").await;
    let group = "/apis/admissionregistration.k8s.io/v1";
    let version = "admissionregistration.k8s.io/v1";
    let check = |resource: &str| format!("authorizer.group('').resource('{resource}').namespace('default').check('get')");
    let spec = json!({
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]},
        "variables": [{"name": "why", "expression": format!("{}.reason()", check("secrets"))}],
        "validations": [{
            "expression": format!("{}.allowed() && {}.allowed()", check("configmaps"), check("secrets")),
            "messageExpression": "'secrets: ' + variables.why",
        }],
    });
    let policy = json!({"apiVersion": version, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p"}, "spec": spec});
    house.post(&format!("{group}/validatingadmissionpolicies"), &policy).await.ok();
    let spec = json!({"policyName": "p", "validationActions": ["Deny"]});
    let binding = json!({"apiVersion": version, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "b"}, "spec": spec});
    house.post(&format!("{group}/validatingadmissionpolicybindings"), &binding).await.ok();
    hook.take();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    let jane = House { server: house.server, user: Arc::new(User::new("jane", &[])) };
    let refused = jane.post("/api/v1/namespaces/default/configmaps", &map).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY, "{refused:?}");
    let message = refused.json()["message"].as_str().unwrap().to_owned();
    assert!(message.ends_with("denied request: secrets: far: never heard of it"), "{message}");
    let resources: Vec<Value> = hook.take().iter().map(|asked| asked.body["spec"]["resourceAttributes"]["resource"].clone()).collect();
    assert_eq!(resources, ["configmaps", "configmaps", "secrets"], "the request, and each check once");
}
