//! Priority levels and flow schemas, from outside.

use std::{sync::Arc, time::Duration};

use coracle_apiserver::{Options, flow};
use coracle_store::embedded;
use coracle_tree::{Value, json};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;

use crate::house::{House, Reply};

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const SCHEMA: &str = "x-kubernetes-pf-flowschema-uid";
const LEVEL: &str = "x-kubernetes-pf-prioritylevel-uid";

async fn house(flow: flow::Options) -> House {
    let store = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
    House::of(Options { flow, ..House::options(store) }).await
}

/// As over a connection, by nobody in particular; the answer is not read.
async fn opened(house: &House, path: &str) -> http::Response<coracle_apiserver::wire::Body> {
    let request = Request::builder().method(Method::GET).uri(path).body(Full::<bytes::Bytes>::default()).unwrap();
    house.service().oneshot(request).await.unwrap()
}

async fn anonymous(house: &House, path: &str) -> Reply {
    let (parts, body) = opened(house, path).await.into_parts();
    Reply { code: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
}

async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let settled = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), settled).await.expect("it never came to be so")
}

fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap()
}

fn schema(name: &str, level: &str) -> Value {
    let rule = json!({"subjects": [{"kind": "User", "user": {"name": "system:anonymous"}}], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["/version", "/openapi/*"]}]});
    let spec = json!({"matchingPrecedence": 1000, "priorityLevelConfiguration": {"name": level}, "distinguisherMethod": {"type": "ByUser"}, "rules": [rule]});
    json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": name}, "spec": spec})
}

fn level(name: &str, limited: &Value) -> Value {
    let spec = json!({"type": "Limited", "limited": limited});
    json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn a_request_is_told_whose_it_is_by_the_first_schema_that_takes_it() {
    let house = house(flow::Options::default()).await;
    let told =
        |reply: &Reply| [SCHEMA, LEVEL].map(|name| reply.headers.get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default());
    let default = house.get(&format!("{GROUP}/flowschemas/global-default")).await.ok();
    let probes = house.get(&format!("{GROUP}/flowschemas/probes")).await.ok();
    assert_eq!(told(&anonymous(&house, "/version").await)[0], uid(&default));
    assert_eq!(told(&anonymous(&house, "/healthz").await)[0], uid(&probes));
    assert_eq!(told(&anonymous(&house, "/api/v1/pods").await)[0], uid(&default), "also of what is forbidden");

    let level = house
        .post(
            &format!("{GROUP}/prioritylevelconfigurations"),
            &level("own", &json!({"nominalConcurrencyShares": 5, "limitResponse": {"type": "Reject"}})),
        )
        .await
        .ok();
    let schema = house.post(&format!("{GROUP}/flowschemas"), &schema("own", "own")).await.ok();
    until(async || (told(&anonymous(&house, "/version").await) == [uid(&schema), uid(&level)]).then_some(())).await;
    assert_eq!(told(&anonymous(&house, "/healthz").await)[0], uid(&probes));

    let metrics = String::from_utf8(house.get("/metrics").await.body.to_vec()).unwrap();
    let labels = "flow_schema=\"own\",priority_level=\"own\"";
    let line =
        |name: &str| metrics.lines().find(|line| line.starts_with(&format!("apiserver_flowcontrol_{name}"))).unwrap_or_default().to_owned();
    assert!(line(&format!("dispatched_requests_total{{{labels}}}")).ends_with(" 1"), "{metrics}");
    assert!(line("nominal_limit_seats{priority_level=\"own\"}").ends_with(" 12"));
    let dump = String::from_utf8(house.get("/debug/api_priority_and_fairness/dump_priority_levels").await.body.to_vec()).unwrap();
    assert!(dump.lines().any(|line| line.starts_with("own,") && line.contains("true")), "{dump}");
}

#[tokio::test]
async fn a_large_answer_keeps_its_seat_until_it_is_sent_and_who_finds_none_is_refused_in_upstreams_words() {
    let house = house(flow::Options::default()).await;
    let none = level("none", &json!({"nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}));
    house.post(&format!("{GROUP}/prioritylevelconfigurations"), &none).await.ok();
    let own = house.post(&format!("{GROUP}/flowschemas"), &schema("none", "none")).await.ok();
    until(async || (anonymous(&house, "/version").await.headers.get(SCHEMA)? == uid(&own)).then_some(())).await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rule = json!({"verbs": ["get"], "nonResourceURLs": ["/openapi/v2"]});
    house.post(&format!("{rbac}/clusterroles"), &json!({"metadata": {"name": "reader"}, "rules": [rule]})).await.ok();
    let binding = json!({
        "metadata": {"name": "reader"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:unauthenticated"}],
    });
    house.post(&format!("{rbac}/clusterrolebindings"), &binding).await.ok();
    // What never fits is executed alone.
    let unread = until(async || Some(opened(&house, "/openapi/v2").await).filter(|answer| answer.status() == StatusCode::OK)).await;
    let refused = anonymous(&house, "/version").await;
    assert_eq!((refused.code, &*refused.body), (StatusCode::TOO_MANY_REQUESTS, &b"Too many requests, please try again later.\n"[..]));
    assert_eq!((&refused.headers["retry-after"], &refused.headers[SCHEMA]), (&"1".parse().unwrap(), &uid(&own).parse().unwrap()));
    drop(unread);
    assert_eq!(anonymous(&house, "/version").await.code, StatusCode::OK);
}

#[tokio::test]
async fn what_every_cluster_has_is_kept_and_a_lost_schema_says_so() {
    let house = house(flow::Options::default()).await;
    let one = |name: &str| format!("{GROUP}/flowschemas/{name}");
    for name in ["exempt", "catch-all", "global-default"] {
        let before = house.get(&one(name)).await.ok();
        house.delete(&one(name)).await.ok();
        until(async || {
            let reply = house.get(&one(name)).await;
            (reply.code == StatusCode::OK && uid(&reply.json()) != uid(&before)).then_some(())
        })
        .await;
    }
    let mut spoiled = house.get(&one("catch-all")).await.ok();
    spoiled["spec"]["matchingPrecedence"] = 9999.into();
    house.put(&one("catch-all"), &spoiled).await.ok();
    until(async || (house.get(&one("catch-all")).await.ok()["spec"]["matchingPrecedence"] == 10_000).then_some(())).await;
    let mut own = house.get(&one("global-default")).await.ok();
    own["metadata"]["annotations"]["apf.kubernetes.io/autoupdate-spec"] = "false".into();
    own["spec"]["matchingPrecedence"] = 9000.into();
    house.put(&one("global-default"), &own).await.ok();

    house.post(&format!("{GROUP}/flowschemas"), &schema("lost", "nowhere")).await.ok();
    let dangling = |object: &Value, status: &str| object["status"]["conditions"][0]["status"] == status;
    until(async || dangling(&house.get(&one("lost")).await.ok(), "True").then_some(())).await;
    house
        .post(&format!("{GROUP}/prioritylevelconfigurations"), &level("nowhere", &json!({"limitResponse": {"type": "Reject"}})))
        .await
        .ok();
    let found = until(async || Some(house.get(&one("lost")).await.ok()).filter(|object| dangling(object, "False"))).await;
    let message = "This FlowSchema references the PriorityLevelConfiguration object named \"nowhere\" and it exists";
    assert_eq!(
        (&found["status"]["conditions"][0]["reason"], &found["status"]["conditions"][0]["message"]),
        (&json!("Found"), &json!(message))
    );
    assert_eq!(house.get(&one("global-default")).await.ok()["spec"]["matchingPrecedence"], 9000, "somebody took it over");
}

#[tokio::test]
async fn without_fairness_whoever_comes_first_is_served() {
    let house = house(flow::Options { fair: false, ..flow::Options::default() }).await;
    let reply = anonymous(&house, "/version").await;
    assert_eq!((reply.code, reply.headers.get(SCHEMA)), (StatusCode::OK, None));
    assert_eq!(house.get("/debug/api_priority_and_fairness/dump_queues").await.code, StatusCode::NOT_FOUND);
}
