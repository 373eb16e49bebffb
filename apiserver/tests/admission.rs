//! Admission webhooks: they stand in the test and are asked over TLS.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use coracle_apiserver::admission;
use coracle_store::embedded;
use coracle_tree::{Value, json};
use http::{Response, StatusCode};
use http_body_util::Full;

use crate::{
    hook::{Asked, Hook},
    house::{House, Reply},
};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn text(code: u16, body: impl Into<Bytes>) -> Option<Response<Full<Bytes>>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    Some(response)
}

fn reviewed(review: &Value, mut response: Value) -> Option<Response<Full<Bytes>>> {
    response["uid"] = review["request"]["uid"].clone();
    let said = json!({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response});
    text(200, said.to_string())
}

fn patch(review: &Value, operations: &Value) -> Option<Response<Full<Bytes>>> {
    let patch = STANDARD.encode(operations.to_string());
    reviewed(review, json!({"allowed": true, "patch": patch, "patchType": "JSONPatch"}))
}

/// What the webhook of these tests says, by path.
fn say(path: &str, review: &Value) -> Option<Response<Full<Bytes>>> {
    match path.split('?').next().unwrap_or_default() {
        "/deny" => reviewed(
            review,
            json!({"allowed": false, "status": {"message": "not today", "reason": "Sunday", "code": 418}, "warnings": ["careful"]}),
        ),
        "/label" => patch(review, &json!([{"op": "add", "path": "/metadata/labels", "value": {"by": "hook"}}])),
        "/data" => patch(review, &json!([{"op": "add", "path": "/data/hook", "value": "was here"}])),
        "/broken" => patch(review, &json!([{"op": "remove", "path": "/data/nothing"}])),
        "/warn" => reviewed(review, json!({"allowed": true, "warnings": ["mind the gap", "no\nlines"], "auditAnnotations": {"k": "v"}})),
        "/garbage" => text(200, "garbage"),
        "/sick" => text(500, "boom"),
        "/huge" => text(200, vec![b'x'; 20 << 20]),
        "/other-uid" => {
            let said = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": "x", "allowed": true}});
            text(200, said.to_string())
        }
        "/moved" => {
            let mut response = text(307, "")?;
            response.headers_mut().insert("location", "/ok".parse().unwrap());
            Some(response)
        }
        "/away" => {
            let mut response = text(307, "")?;
            response.headers_mut().insert("location", "https://169.254.169.254/latest".parse().unwrap());
            Some(response)
        }
        "/hang" => None,
        _ => reviewed(review, json!({"allowed": true})),
    }
}

struct World {
    house: House,
    hook: Hook,
}

impl World {
    async fn new() -> Self {
        Self { house: House::new().await, hook: Hook::start(&["h2", "http/1.1"], Arc::new(say)).await }
    }

    fn webhook(&self, path: &str, more: &Value) -> Value {
        let mut webhook = json!({
            "name": "h.example.com",
            "clientConfig": {"url": format!("{}{path}", self.hook.url), "caBundle": self.hook.bundle},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
            "sideEffects": "None", "admissionReviewVersions": ["v1"],
        });
        for (name, value) in more.as_object().unwrap() {
            webhook[name] = value.clone();
        }
        webhook
    }

    async fn configure(&self, resource: &str, name: &str, webhooks: Vec<Value>) {
        let path = format!("{GROUP}/{resource}");
        let _ = self.house.delete(&format!("{path}/{name}")).await;
        self.house.post(&path, &json!({"metadata": {"name": name}, "webhooks": webhooks})).await.ok();
    }

    async fn validating(&self, path: &str, more: &Value) {
        self.configure("validatingwebhookconfigurations", "v", vec![self.webhook(path, more)]).await;
    }

    async fn mutating(&self, path: &str, more: &Value) {
        self.configure("mutatingwebhookconfigurations", "m", vec![self.webhook(path, more)]).await;
    }

    async fn make(&self, name: &str) -> Reply {
        self.house.post(MAPS, &json!({"metadata": {"name": name}, "data": {"k": "v"}})).await
    }

    fn asked(&self) -> Vec<Asked> {
        self.hook.take()
    }
}

fn message(reply: &Reply) -> String {
    reply.json()["message"].as_str().unwrap().to_owned()
}

fn warnings(reply: &Reply) -> Vec<&str> {
    reply.headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn a_configuration_is_in_force_once_its_write_is_answered_and_no_longer_once_its_delete_is() {
    let world = World::new().await;
    for round in 0..10 {
        world.validating("/deny", &json!({})).await;
        assert_eq!(world.make(&format!("a{round}")).await.code, 418);
        world.house.delete(&format!("{GROUP}/validatingwebhookconfigurations/v")).await.ok();
        world.make(&format!("a{round}")).await.ok();
    }
}

#[tokio::test]
async fn a_refusal_is_the_webhooks_own_with_its_code_reason_and_warnings() {
    let world = World::new().await;
    world.validating("/deny", &json!({})).await;
    let reply = world.make("a").await;
    let expected = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 418, "reason": "Sunday",
        "message": "admission webhook \"h.example.com\" denied the request: not today"});
    assert_eq!(reply.json(), expected);
    assert_eq!(warnings(&reply), ["299 - \"careful\""]);
}

#[tokio::test]
async fn a_review_tells_all_there_is_to_know_of_a_write() {
    let world = World::new().await;
    world.mutating("/ok", &json!({})).await;
    world.validating("/ok", &json!({})).await;
    let path = format!("{MAPS}?fieldManager=me&dryRun=All");
    world.house.post(&path, &json!({"metadata": {"generateName": "a-"}, "data": {"k": "v"}})).await.ok();
    let [before, after]: [Asked; 2] = world.asked().try_into().unwrap();
    assert_eq!(before.path, "/ok?timeout=10s");
    let request = &before.body["request"];
    let kind = json!({"group": "", "version": "v1", "kind": "ConfigMap"});
    let resource = json!({"group": "", "version": "v1", "resource": "configmaps"});
    let options = json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me", "dryRun": ["All"]});
    for (name, expected) in [
        ("kind", &kind),
        ("requestKind", &kind),
        ("resource", &resource),
        ("requestResource", &resource),
        ("operation", &json!("CREATE")),
        ("namespace", &json!("default")),
        ("userInfo", &json!({"username": "admin", "groups": ["system:masters", "system:authenticated"]})),
        ("oldObject", &Value::Null),
        ("dryRun", &json!(true)),
        ("options", &options),
    ] {
        assert_eq!(&request[name], expected, "{name}");
    }
    // What is mutated is what was sent; what is validated is what will be stored.
    assert!(request.get("name").is_none() && request["object"]["metadata"].get("uid").is_none());
    let stored = &after.body["request"];
    assert!(stored["name"].as_str().unwrap().starts_with("a-") && stored["object"]["metadata"]["uid"].is_string());
}

#[tokio::test]
async fn deletes_show_what_is_deleted_and_collections_each_object() {
    let world = World::new().await;
    for name in ["a", "b", "c"] {
        world.make(name).await.ok();
    }
    world.validating("/ok", &json!({})).await;
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 3, "propagationPolicy": "Background"});
    world.house.ask(http::Method::DELETE, &format!("{MAPS}/a"), &[("content-type", "application/json")], options.to_string()).await.ok();
    let request = world.asked().remove(0).body["request"].clone();
    assert_eq!((&request["operation"], &request["name"], &request["object"]), (&json!("DELETE"), &json!("a"), &Value::Null));
    assert_eq!(request["oldObject"]["metadata"]["name"], "a");
    let expected =
        json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "gracePeriodSeconds": 3, "propagationPolicy": "Background"});
    assert_eq!(request["options"], expected);
    world.house.delete(MAPS).await.ok();
    let mut names: Vec<Value> = world.asked().iter().map(|asked| asked.body["request"]["oldObject"]["metadata"]["name"].clone()).collect();
    names.sort_by_key(ToString::to_string);
    assert_eq!(names, ["b", "c", "kube-root-ca.crt"].map(Value::from)[..names.len()]);
}

#[tokio::test]
async fn patches_are_applied_in_order_of_configurations_and_seen_by_the_next() {
    let world = World::new().await;
    world.configure("mutatingwebhookconfigurations", "b", vec![world.webhook("/data", &json!({}))]).await;
    world.configure("mutatingwebhookconfigurations", "a", vec![world.webhook("/label", &json!({"reinvocationPolicy": "IfNeeded"}))]).await;
    let made = world.make("x").await.ok();
    assert_eq!((&made["metadata"]["labels"], &made["data"]), (&json!({"by": "hook"}), &json!({"k": "v", "hook": "was here"})));
    let paths: Vec<String> = world.asked().iter().map(|asked| asked.path.split('?').next().unwrap().to_owned()).collect();
    // The first asked for it is asked again after the second changed the object.
    assert_eq!(paths, ["/label", "/data", "/label"]);
    // What webhooks change nobody owns.
    assert!(!made["metadata"]["managedFields"].to_string().contains("hook"));
}

#[tokio::test]
async fn a_patch_that_does_not_apply_leaves_nothing_behind() {
    let world = World::new().await;
    world.mutating("/broken", &json!({"failurePolicy": "Ignore"})).await;
    let reply = world.make("x").await;
    assert_eq!(reply.code, 500);
    let why = "error in remove for path: '/data/nothing': Unable to remove nonexistent key: nothing: missing value";
    assert_eq!(message(&reply), format!("Internal error occurred: {why}"));
    assert_eq!(world.house.get(&format!("{MAPS}/x")).await.code, 404);
}

#[tokio::test]
async fn what_is_no_answer_fails_the_write_or_is_ignored_as_the_policy_says() {
    let world = World::new().await;
    let unmarshal = "couldn't get version/kind; json parse error: json: cannot unmarshal string into Go value of type struct { APIVersion string \
                     \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }";
    let too_large = "unexpected error when reading response body. Please retry. Original error: the answer is larger than 16777216 bytes";
    let url = &world.hook.url;
    let hung = format!("Post \"{url}/hang?timeout=1s\": context deadline exceeded");
    let away = format!(
        "Post \"{url}/away?timeout=1s\": redirected to \"https://169.254.169.254/latest\": a webhook may not send questions to somebody else"
    );
    for (path, why) in [
        ("/garbage", unmarshal),
        ("/sick", "an error on the server (\"boom\") has prevented the request from succeeding"),
        ("/huge", too_large),
        ("/hang", &hung),
        ("/away", &away),
    ] {
        world.validating(path, &json!({"timeoutSeconds": 1})).await;
        let reply = world.make("x").await;
        assert_eq!(reply.code, 500, "{path}");
        assert_eq!(
            message(&reply),
            format!("Internal error occurred: failed calling webhook \"h.example.com\": failed to call webhook: {why}")
        );
        world.validating(path, &json!({"timeoutSeconds": 1, "failurePolicy": "Ignore"})).await;
        world.make(path.trim_start_matches('/')).await.ok();
    }
    world.validating("/other-uid", &json!({})).await;
    assert!(message(&world.make("y").await).contains("received invalid webhook response: expected response.uid="));
    world.validating("/moved", &json!({})).await;
    world.make("y").await.ok();
}

#[tokio::test]
async fn connections_are_kept_over_either_protocol() {
    let world = World::new().await;
    world.validating("/ok", &json!({})).await;
    let plain = Hook::start(&["http/1.1"], Arc::new(say)).await;
    let config = json!({"url": format!("{}/ok", plain.url), "caBundle": plain.bundle});
    world.configure("validatingwebhookconfigurations", "w", vec![world.webhook("/ok", &json!({"clientConfig": config}))]).await;
    for name in ["a", "b", "c", "d"] {
        world.make(name).await.ok();
    }
    for (hook, protocol) in [(&world.hook, "HTTP/2.0"), (&plain, "HTTP/1.1")] {
        let asked = hook.take();
        assert_eq!((asked.len(), *hook.connections.lock().unwrap()), (4, 1));
        assert!(asked.iter().all(|asked| asked.protocol == protocol), "{asked:?}");
    }
}

#[tokio::test]
async fn questions_that_come_at_once_share_the_first_connection() {
    let world = World::new().await;
    world.validating("/ok", &json!({})).await;
    let names: Vec<String> = (0..16).map(|n| format!("m{n}")).collect();
    for made in futures::future::join_all(names.iter().map(|name| world.make(name))).await {
        made.ok();
    }
    assert_eq!((world.asked().len(), *world.hook.connections.lock().unwrap()), (16, 1));
}

#[tokio::test]
async fn a_service_is_asked_at_its_endpoints_and_refused_without_any() {
    let world = World::new().await;
    let spec = json!({"ports": [{"name": "https", "port": 443}]});
    world.house.post("/api/v1/namespaces/default/services", &json!({"metadata": {"name": "hook"}, "spec": spec})).await.ok();
    let config = json!({"service": {"namespace": "default", "name": "hook", "path": "/ok"}, "caBundle": world.hook.bundle});
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let slice = |endpoints: Value| {
        json!({"metadata": {"name": "hook", "labels": {"kubernetes.io/service-name": "hook"}}, "addressType": "IPv4",
            "ports": [{"name": "https", "port": world.hook.port}], "endpoints": endpoints})
    };
    world.house.post(slices, &slice(json!([]))).await.ok();
    world.validating("", &json!({"clientConfig": config})).await;
    let why = "Post \"https://hook.default.svc:443/ok?timeout=10s\": no endpoints available for service \"hook\"";
    let expected = format!("Internal error occurred: failed calling webhook \"h.example.com\": failed to call webhook: {why}");
    assert_eq!(message(&world.make("a").await), expected);
    // A service may stand for a name elsewhere; it is known by its own name still, and no question sticks to one connection's server.
    world.house.delete("/api/v1/namespaces/default/services/hook").await.ok();
    let outside = json!({"type": "ExternalName", "externalName": "localhost"});
    world.house.post("/api/v1/namespaces/default/services", &json!({"metadata": {"name": "hook"}, "spec": outside})).await.ok();
    let mut config = config;
    config["service"]["port"] = world.hook.port.into();
    world.validating("", &json!({"clientConfig": config})).await;
    world.make("a").await.ok();
    assert_eq!(world.asked()[0].protocol, "HTTP/1.1");
}

#[tokio::test]
async fn conditions_and_selectors_decide_who_is_asked() {
    let world = World::new().await;
    let ask = async |more: Value| {
        world.validating("/deny", &more).await;
        world.house.post(&format!("{MAPS}?dryRun=All"), &json!({"metadata": {"name": "x", "labels": {"a": "b"}}, "data": {"k": "v"}})).await
    };
    let condition = |expression: &str| json!({"matchConditions": [{"name": "c", "expression": expression}]});
    assert_eq!(ask(condition("object.data.k == 'v' && request.userInfo.username == 'admin' && oldObject == null")).await.code, 418);
    assert_eq!(ask(condition("object.data.k == 'w'")).await.code, 201);
    let reply = ask(condition("object.nothing == 1")).await;
    assert_eq!(
        (reply.code.as_u16(), message(&reply).as_str()),
        (403, "configmaps \"x\" is forbidden: expression 'object.nothing == 1' resulted in error: no such key: nothing")
    );
    let mut ignored = condition("object.nothing == 1");
    ignored["failurePolicy"] = "Ignore".into();
    assert_eq!(ask(ignored).await.code, 201);
    assert_eq!(ask(json!({"objectSelector": {"matchLabels": {"a": "b"}}})).await.code, 418);
    assert_eq!(ask(json!({"objectSelector": {"matchLabels": {"a": "c"}}})).await.code, 201);
    assert_eq!(ask(json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}})).await.code, 418);
    assert_eq!(ask(json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}})).await.code, 201);
}

#[tokio::test]
async fn another_version_of_a_kind_is_shown_to_who_asks_for_it() {
    let world = World::new().await;
    let rules =
        json!([{"operations": ["CREATE"], "apiGroups": ["autoscaling"], "apiVersions": ["v1"], "resources": ["horizontalpodautoscalers"]}]);
    let metrics = json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]);
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
    let scaler = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "scaleTargetRef": target, "metrics": metrics}});
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers?dryRun=All";
    world.validating("/ok", &json!({"rules": rules})).await;
    world.house.post(path, &scaler).await.ok();
    let request = world.asked().remove(0).body["request"].clone();
    assert_eq!((&request["kind"]["version"], &request["requestKind"]["version"]), (&json!("v1"), &json!("v2")));
    assert_eq!(request["object"]["apiVersion"], "autoscaling/v1");
    assert_eq!(request["object"]["spec"]["targetCPUUtilizationPercentage"], 50);
    world.validating("/deny", &json!({"rules": rules, "matchPolicy": "Exact"})).await;
    world.house.post(path, &scaler).await.ok();
}

/// A policy of the resource, bound to all there is.
async fn policy(house: &House, kind: &str, rule: &Value, mut spec: Value, binding: &Value) {
    spec["matchConstraints"] = json!({"resourceRules": [rule]});
    let binding = json!({"metadata": {"name": "p"}, "spec": binding});
    house.post(&format!("{GROUP}/{kind}admissionpolicies"), &json!({"metadata": {"name": "p"}, "spec": spec})).await.ok();
    house.post(&format!("{GROUP}/{kind}admissionpolicybindings"), &binding).await.ok();
}

#[tokio::test]
async fn a_policy_sees_the_version_it_names_and_changes_that() {
    let house = House::new().await;
    let rule =
        json!({"apiGroups": ["autoscaling"], "apiVersions": ["v1"], "resources": ["horizontalpodautoscalers"], "operations": ["CREATE"]});
    let says = json!([{"expression": "object.spec.targetCPUUtilizationPercentage > 10 && request.kind.version == 'v1' && request.requestKind.version == 'v2'"}]);
    let deny = json!({"policyName": "p", "validationActions": ["Deny"]});
    policy(&house, "validating", &rule, json!({"validations": says}), &deny).await;
    let patch = "Object{spec: Object.spec{targetCPUUtilizationPercentage: object.spec.targetCPUUtilizationPercentage + 1}}";
    let mutations = json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": patch}}]);
    policy(&house, "mutating", &rule, json!({"mutations": mutations, "reinvocationPolicy": "Never"}), &json!({"policyName": "p"})).await;
    let scaler = |name: &str, percent: u32| {
        let metric =
            json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}});
        let target = json!({"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"});
        json!({"metadata": {"name": name}, "spec": {"maxReplicas": 2, "scaleTargetRef": target, "metrics": [metric]}})
    };
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let made = house.post(path, &scaler("a", 10)).await.ok();
    assert_eq!(made["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 11);
    assert_eq!(house.post(path, &scaler("b", 9)).await.code, 422);
}

#[tokio::test]
async fn policies_see_configurations_of_webhooks() {
    let world = World::new().await;
    let rule = json!({"apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "operations": ["CREATE"]});
    let deny = json!({"policyName": "p", "validationActions": ["Deny"]});
    let validations = json!([{"expression": "request.resource.group != 'admissionregistration.k8s.io'"}]);
    policy(&world.house, "validating", &rule, json!({"validations": validations}), &deny).await;
    let configuration = json!({"metadata": {"name": "v"}, "webhooks": [world.webhook("/ok", &json!({}))]});
    assert_eq!(world.house.post(&format!("{GROUP}/validatingwebhookconfigurations"), &configuration).await.code, 422);
    let binding = json!({"metadata": {"name": "q"}, "spec": deny});
    world.house.post(&format!("{GROUP}/validatingadmissionpolicybindings"), &binding).await.ok();
}

#[tokio::test]
async fn subresources_are_reviewed_as_what_they_are() {
    let world = World::new().await;
    let rules = json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]);
    let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": "default"}});
    let labels = json!({"matchLabels": {"a": "b"}});
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": 1, "selector": labels, "template": template});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    world.house.post(deployments, &json!({"metadata": {"name": "d"}, "spec": spec})).await.ok();
    world.house.post("/api/v1/namespaces/default/pods", &json!({"metadata": {"name": "p"}, "spec": template["spec"]})).await.ok();
    world.validating("/ok", &json!({"rules": rules, "namespaceSelector": selector})).await;
    let merge = "application/merge-patch+json";
    world.house.patch(&format!("{deployments}/d/scale"), merge, &json!({"spec": {"replicas": 3}})).await.ok();
    let _ = world.house.post("/api/v1/namespaces/default/pods/p/exec?command=ls&stdout=true", &json!({})).await;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    world.house.post("/api/v1/namespaces/default/pods/p/eviction", &eviction).await.ok();
    let seen: Vec<Value> = world.asked().into_iter().map(|asked| asked.body["request"].clone()).collect();
    let kinds: Vec<(&str, &str, &str)> = seen
        .iter()
        .map(|r| (r["operation"].as_str().unwrap(), r["kind"]["kind"].as_str().unwrap(), r["subResource"].as_str().unwrap_or_default()))
        .collect();
    assert_eq!(kinds, [("UPDATE", "Scale", "scale"), ("CONNECT", "PodExecOptions", "exec"), ("CREATE", "Eviction", "eviction")]);
    assert_eq!((&seen[0]["oldObject"]["spec"]["replicas"], &seen[0]["object"]["spec"]["replicas"]), (&json!(1), &json!(3)));
    let expected = json!({"kind": "PodExecOptions", "apiVersion": "v1", "command": ["ls"], "stdout": true});
    assert_eq!((&seen[1]["object"], &seen[1]["options"]), (&expected, &Value::Null));
    world.configure("validatingwebhookconfigurations", "v", vec![]).await;
    let replicas = json!([{"operations": ["UPDATE"], "apiGroups": ["apps"], "apiVersions": ["*"], "resources": ["*/scale"]}]);
    world.mutating("/label", &json!({"rules": replicas})).await;
    world.house.patch(&format!("{deployments}/d/scale"), merge, &json!({"spec": {"replicas": 2}})).await.ok();
}

#[tokio::test]
async fn nobody_is_asked_for_longer_than_the_request_may_take() {
    let world = World::new().await;
    let make = async |name: &str, timeout: &str| {
        world.house.post(&format!("{MAPS}?timeout={timeout}"), &json!({"metadata": {"name": name}})).await
    };
    world.validating("/ok", &json!({"timeoutSeconds": 20})).await;
    make("a", "7s").await.ok();
    assert_eq!(world.asked().last().unwrap().path, "/ok?timeout=7s");
    world.mutating("/hang", &json!({"timeoutSeconds": 20, "failurePolicy": "Ignore"})).await;
    assert_eq!(make("b", "100ms").await.code, 504);
    assert_eq!(message(&make("c", "5").await), "invalid timeout specified in the request URL - time: missing unit in duration \"5\"");
}

#[tokio::test]
async fn who_may_not_be_connected_is_warned_all_the_same() {
    let world = World::new().await;
    let spec = json!({"containers": [{"name": "c", "image": "i"}]});
    world.house.post("/api/v1/namespaces/default/pods", &json!({"metadata": {"name": "p"}, "spec": spec})).await.ok();
    let rules = json!([{"operations": ["CONNECT"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/exec"]}]);
    world.validating("/warn", &json!({"rules": rules})).await;
    let reply = world.house.post("/api/v1/namespaces/default/pods/p/exec?command=ls&stdout=true", &json!({})).await;
    assert_eq!((reply.code.as_u16(), warnings(&reply)), (400, vec!["299 - \"mind the gap\""]));
}

#[tokio::test]
async fn a_binding_is_reviewed_as_one_wherever_it_is_sent() {
    let world = World::new().await;
    let spec = json!({"containers": [{"name": "c", "image": "i"}]});
    let rules = json!([{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["bindings", "pods/binding"]}]);
    world.mutating("/label", &json!({"rules": rules})).await;
    let pods = "/api/v1/namespaces/default/pods";
    for (name, path) in [("p", "/api/v1/namespaces/default/bindings".to_owned()), ("q", format!("{pods}/q/binding"))] {
        world.house.post(pods, &json!({"metadata": {"name": name}, "spec": spec})).await.ok();
        world.house.post(&path, &json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "n"}})).await.ok();
        let asked = world.asked().remove(0).body;
        assert_eq!(asked["request"]["kind"]["kind"], "Binding");
        assert_eq!(world.house.get(&format!("{pods}/{name}")).await.ok()["metadata"]["labels"], json!({"by": "hook"}));
    }
}

#[tokio::test]
async fn names_of_webhooks_in_files_and_rules_without_effect_are_told() {
    let world = World::new().await;
    let path = format!("{GROUP}/validatingwebhookconfigurations");
    let reviews =
        json!({"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "apiVersions": ["v1"], "operations": ["*"]});
    let webhook = world.webhook("/ok", &json!({"rules": [reviews]}));
    let make = async |name: &str| world.house.post(&path, &json!({"metadata": {"name": name}, "webhooks": [webhook]})).await;
    let refused = make("a.static.k8s.io").await;
    assert_eq!(refused.code, 422);
    assert!(message(&refused).contains("names ending with \".static.k8s.io\" are reserved"), "{}", message(&refused));
    let told = "299 - \"webhooks[0].rules[0]: tokenreviews.authentication.k8s.io is excluded from admission webhooks; this rule will have no effect\"";
    assert_eq!(warnings(&make("a").await), [told]);
}

#[tokio::test]
async fn configurations_and_access_reviews_are_never_reviewed() {
    let world = World::new().await;
    let rules = json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "scope": "Cluster"}]);
    world.validating("/deny", &json!({"rules": rules})).await;
    let review = json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    world.house.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await.ok();
    assert_eq!(world.house.post("/api/v1/namespaces", &json!({"metadata": {"name": "n"}})).await.code, 418);
    world.house.delete(&format!("{GROUP}/validatingwebhookconfigurations/v")).await.ok();
}

#[tokio::test]
async fn warnings_reach_the_client_and_those_no_header_can_hold_do_not() {
    let world = World::new().await;
    world.validating("/warn", &json!({})).await;
    let reply = world.make("a").await;
    reply.ok();
    assert_eq!(warnings(&reply), ["299 - \"mind the gap\""]);
}

/// A server whose admission plugins are configured: `plugins` as in an AdmissionConfiguration, beside files of these texts.
async fn configured(plugins: &Value, enable: &[&str], files: &[(&str, String)]) -> (House, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let place = folder.path().display().to_string();
    let file = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": plugins});
    let path = folder.path().join("admission.yaml");
    std::fs::write(&path, file.to_string().replace("FOLDER", &place)).unwrap();
    let store = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
    let options = House::options(store);
    let admission = admission::Settings {
        enable: enable.iter().map(|name| (*name).to_owned()).collect(),
        configuration: admission::Configuration::read(&path).unwrap(),
        ..options.admission
    };
    (House::of(coracle_apiserver::Options { admission, ..options }).await, folder)
}

#[tokio::test]
async fn a_webhook_is_asked_as_whom_the_configuration_names_for_its_place() {
    let hook = Hook::start(&["h2", "http/1.1"], Arc::new(say)).await;
    let users = json!({"users": [{"name": format!("localhost:{}", hook.port), "user": {"token": "of-the-server"}}, {"name": "*", "user": {"token": "other"}}]});
    let named =
        json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "WebhookAdmissionConfiguration", "kubeConfigFile": "FOLDER/users"});
    let plugins = json!([{"name": "ValidatingAdmissionWebhook", "configuration": named}]);
    let (house, _folder) = configured(&plugins, &[], &[("users", users.to_string())]).await;
    let world = World { house, hook };
    world.validating("/ok", &json!({})).await;
    world.mutating("/ok", &json!({})).await;
    world.make("a").await.ok();
    let shown = |asked: &Asked| asked.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    let asked: Vec<Option<String>> = world.asked().iter().map(shown).collect();
    assert_eq!(asked, [None, Some("Bearer of-the-server".to_owned())], "the mutating plugin was told of nobody");
}

#[tokio::test]
async fn images_run_as_the_image_policy_webhook_allows() {
    let policy = |path: &str, review: &Value| {
        let images: Vec<&str> = review["spec"]["containers"].as_array().unwrap().iter().map(|c| c["image"].as_str().unwrap()).collect();
        let status = if images.contains(&"bad") { json!({"allowed": false, "reason": "too old"}) } else { json!({"allowed": true}) };
        assert_eq!((&review["kind"], &review["spec"]["namespace"]), (&json!("ImageReview"), &json!("default")), "{path}");
        text(200, json!({"apiVersion": "imagepolicy.k8s.io/v1alpha1", "kind": "ImageReview", "status": status}).to_string())
    };
    let hook = Hook::start(&["http/1.1"], Arc::new(policy)).await;
    let cluster = json!({"server": format!("{}/policy", hook.url), "certificate-authority-data": hook.bundle});
    let kubeconfig = json!({
        "current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "u", "user": {"token": "t"}}],
    });
    let plugins = json!([{"name": "ImagePolicyWebhook", "configuration": {"imagePolicy": {"kubeConfigFile": "FOLDER/kubeconfig"}}}]);
    let (house, _folder) = configured(&plugins, &["ImagePolicyWebhook"], &[("kubeconfig", kubeconfig.to_string())]).await;
    let pod = |name: &str, image: &str| json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": image}]}});
    let pods = "/api/v1/namespaces/default/pods";
    house.post(pods, &pod("a", "good")).await.ok();
    let refused = house.post(pods, &pod("b", "bad")).await;
    assert_eq!(message(&refused), r#"pods "b" is forbidden: image policy webhook backend denied one or more images: too old"#);
    // The same images are not asked for again at once.
    house.post(pods, &pod("c", "good")).await.ok();
    assert_eq!(hook.take().len(), 2);
}

#[tokio::test]
async fn policies_and_webhooks_of_files_are_in_force_and_out_of_the_apis_reach() {
    let hook = Hook::start(&["http/1.1"], Arc::new(say)).await;
    let every = json!([{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"]}]);
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p.static.k8s.io"},
        "spec": {"matchConstraints": {"resourceRules": every}, "validations": [{"expression": "object == null || !object.metadata.name.startsWith('no-')"}]}});
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "b.static.k8s.io"},
        "spec": {"policyName": "p.static.k8s.io", "validationActions": ["Deny"]}});
    let maps = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]);
    let asked = json!({"name": "a.b.c", "clientConfig": {"url": format!("{}/data", hook.url), "caBundle": hook.bundle}, "rules": maps,
        "sideEffects": "None", "admissionReviewVersions": ["v1"]});
    let webhooks = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration", "metadata": {"name": "w.static.k8s.io"},
        "webhooks": [asked]});
    let (policies, hooks) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(policies.path().join("p.yaml"), format!("{policy}\n---\n{binding}\n")).unwrap();
    std::fs::write(hooks.path().join("w.json"), webhooks.to_string()).unwrap();
    let of = |kind: &str, folder: &std::path::Path| json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": kind, "staticManifestsDir": folder});
    let plugins = json!([
        {"name": "ValidatingAdmissionPolicy", "configuration": of("ValidatingAdmissionPolicyConfiguration", policies.path())},
        {"name": "MutatingAdmissionWebhook", "configuration": of("WebhookAdmissionConfiguration", hooks.path())},
    ]);
    let (house, _folder) = configured(&plugins, &[], &[]).await;

    let made = house.post(MAPS, &json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).await.ok();
    assert_eq!(made["data"]["hook"], "was here");
    let refused = house.post(MAPS, &json!({"metadata": {"name": "no-map"}, "data": {"k": "v"}})).await;
    assert!(
        message(&refused).contains("ValidatingAdmissionPolicy 'p.static.k8s.io' with binding 'b.static.k8s.io' denied request"),
        "{refused:?}"
    );
    // What changes the policies of the API is for those of files to see; who asks what he may, in an object without a name, is for nobody.
    let group = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    let mut other = policy.clone();
    other["metadata"]["name"] = json!("no-policy");
    assert!(message(&house.post(group, &other).await).contains("denied request"));
    let may = json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    house.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &may).await.ok();
    assert_eq!(house.get(&format!("{group}/p.static.k8s.io")).await.code, StatusCode::NOT_FOUND);
}
