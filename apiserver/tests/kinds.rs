//! What single kinds do differently, seen from outside.

use coracle_tree::{Value, json};
use http::{Method, StatusCode};
use http_body_util::BodyExt;

use crate::house::House;

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "p"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn binding(node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": node}})
}

fn service(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn a_pod_is_bound_once_ends_with_grace_and_at_once_when_forced() {
    let house = House::new().await;
    let made = house.post(PODS, &pod("p")).await.ok();
    assert_eq!(made["status"]["phase"], "Pending");
    let bound = house.post(&format!("{PODS}/p/binding"), &binding("n")).await;
    assert_eq!((bound.code, bound.json()["status"].as_str()), (StatusCode::CREATED, Some("Success")));
    let again = house.post(&format!("{PODS}/p/binding"), &binding("m")).await;
    assert_eq!(again.code, StatusCode::CONFLICT);
    let read = house.get(&format!("{PODS}/p")).await.ok();
    assert_eq!((read["spec"]["nodeName"].as_str(), read["status"]["conditions"][0]["status"].as_str()), (Some("n"), Some("True")));
    let on_node = house.get(&format!("{PODS}?fieldSelector=spec.nodeName%3Dn")).await.ok();
    assert_eq!(on_node["items"].as_array().unwrap().len(), 1);

    let going = house.delete(&format!("{PODS}/p")).await.ok();
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    house.delete(&format!("{PODS}/p?gracePeriodSeconds=0")).await.ok();
    assert_eq!(house.get(&format!("{PODS}/p")).await.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn who_watches_sees_the_mark_before_the_end_of_a_pod_that_has_no_grace() {
    let house = House::new().await;
    let made = house.post(PODS, &pod("p")).await.ok();
    let since = made["metadata"]["resourceVersion"].as_str().unwrap();
    let mut body =
        house.open(Method::GET, &format!("{PODS}?watch=true&resourceVersion={since}&timeoutSeconds=5"), &[], "").await.into_body();
    let dry = house.delete(&format!("{PODS}/p?dryRun=All")).await.ok();
    assert_eq!((&dry["metadata"]["resourceVersion"], &dry["metadata"]["deletionGracePeriodSeconds"]), (&json!(since), &json!(0)));
    let last = house.delete(&format!("{PODS}/p")).await.ok();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        seen.extend(frame.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice::<Value>(l).unwrap()));
    }
    assert_eq!((&seen[0]["type"], &seen[1]["type"]), (&json!("MODIFIED"), &json!("DELETED")));
    assert_eq!(seen[1]["object"], last);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        assert_eq!(seen[0]["object"]["metadata"][field], last["metadata"][field], "{field}");
    }
    assert_eq!(last["metadata"]["generation"], 2);
}

#[tokio::test]
async fn a_status_is_written_apart_from_its_spec() {
    let house = House::new().await;
    house.post(PODS, &pod("p")).await.ok();
    let mut object = house.get(&format!("{PODS}/p")).await.ok();
    object["status"]["phase"] = "Running".into();
    object["spec"]["containers"][0]["image"] = "other".into();
    let written = house.put(&format!("{PODS}/p/status"), &object).await.ok();
    assert_eq!((written["status"]["phase"].as_str(), written["spec"]["containers"][0]["image"].as_str()), (Some("Running"), Some("i")));
    let mut whole = written.clone();
    whole["status"]["phase"] = "Failed".into();
    let same = house.put(&format!("{PODS}/p"), &whole).await.ok();
    assert_eq!(same["metadata"]["resourceVersion"], written["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn a_status_takes_finalizers_and_owners_along_where_upstreams_does() {
    let house = House::new().await;
    let (nodes, ranges) = ("/api/v1/nodes", "/apis/networking.k8s.io/v1/servicecidrs");
    house.post(PODS, &pod("p")).await.ok();
    house.post(nodes, &json!({"metadata": {"name": "n"}})).await.ok();
    house.post(ranges, &json!({"metadata": {"name": "r"}, "spec": {"cidrs": ["10.9.0.0/24"]}})).await.ok();
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"});
    let patch = json!({"metadata": {"finalizers": ["x/y"], "ownerReferences": [owner]}});
    for (object, finalizers, owners) in [(format!("{nodes}/n"), 1, 1), (format!("{PODS}/p"), 1, 0), (format!("{ranges}/r"), 0, 0)] {
        let written = house.patch(&format!("{object}/status"), "application/merge-patch+json", &patch).await.ok();
        let count = |field: &str| written["metadata"][field].as_array().map_or(0, Vec::len);
        assert_eq!((count("finalizers"), count("ownerReferences")), (finalizers, owners), "{object}");
    }
}

#[tokio::test]
async fn eviction_asks_the_budget() {
    let house = House::new().await;
    house.post(PODS, &pod("p")).await.ok();
    house.post(&format!("{PODS}/p/binding"), &binding("n")).await.ok();
    let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    house.patch(&format!("{PODS}/p/status"), "application/merge-patch+json", &ready).await.ok();
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "p"}}},
    });
    house.post(budgets, &budget).await.ok();
    let status =
        json!({"status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1, "observedGeneration": 1}});
    house.patch(&format!("{budgets}/b/status"), "application/merge-patch+json", &status).await.ok();
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let refused = house.post(&format!("{PODS}/p/eviction"), &eviction).await;
    assert_eq!(refused.code, StatusCode::TOO_MANY_REQUESTS, "{}", refused.json());
    assert_eq!(refused.json()["details"]["causes"][0]["reason"], "DisruptionBudget");
    house.patch(&format!("{budgets}/b/status"), "application/merge-patch+json", &json!({"status": {"disruptionsAllowed": 1}})).await.ok();
    assert_eq!(house.post(&format!("{PODS}/p/eviction"), &eviction).await.code, StatusCode::CREATED);
    let spent = house.get(&format!("{budgets}/b")).await.ok();
    assert_eq!(spent["status"].get("disruptionsAllowed").cloned().unwrap_or(json!(0)), 0);
    assert!(spent["status"]["disruptedPods"]["p"].is_string());
}

#[tokio::test]
async fn an_eviction_says_why_no_budget_allows_it() {
    let house = House::new().await;
    house.post(PODS, &pod("p")).await.ok();
    house.post(&format!("{PODS}/p/binding"), &binding("n")).await.ok();
    let merge = "application/merge-patch+json";
    let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    house.patch(&format!("{PODS}/p/status"), merge, &ready).await.ok();
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "p"}}});
    house.post(budgets, &json!({"metadata": {"name": "b"}, "spec": spec})).await.ok();
    let condition = |reason: &str, message: &str| {
        let time = "2026-01-01T00:00:00Z";
        json!([{"type": "DisruptionAllowed", "status": "False", "reason": reason, "message": message, "lastTransitionTime": time}])
    };
    let not_now = "The disruption budget b does not allow evicting pods currently";
    let cases = [
        (1, json!([]), "The disruption budget b needs 1 healthy pods and has 1 currently".to_owned()),
        (2, json!([]), not_now.to_owned()),
        (2, condition("InsufficientPods", "too few"), format!("{not_now} (InsufficientPods): too few")),
        (1, condition("SyncFailed", "no scale"), format!("{not_now} because it failed sync: no scale")),
    ];
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    for (healthy, conditions, cause) in cases {
        let counts = json!({"disruptionsAllowed": 0, "currentHealthy": healthy, "desiredHealthy": 1, "expectedPods": 2,
            "observedGeneration": 1, "conditions": conditions});
        house.patch(&format!("{budgets}/b/status"), merge, &json!({"status": counts})).await.ok();
        let refused = house.post(&format!("{PODS}/p/eviction"), &eviction).await;
        assert_eq!(
            (refused.code, refused.json()["details"]["causes"][0]["message"].clone()),
            (StatusCode::TOO_MANY_REQUESTS, json!(cause))
        );
    }
    house.post(budgets, &json!({"metadata": {"name": "c"}, "spec": spec})).await.ok();
    let refused = house.post(&format!("{PODS}/p/eviction"), &eviction).await;
    let text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
    let expected = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": text, "code": 500});
    assert_eq!((refused.code, refused.json()), (StatusCode::INTERNAL_SERVER_ERROR, expected));
}

#[tokio::test]
async fn a_binding_without_a_target_is_told_so_before_it_is_asked_for_its_name() {
    let house = House::new().await;
    let refused = house.post("/api/v1/namespaces/default/bindings", &Value::Null).await;
    assert_eq!((refused.code, &refused.json()["message"]), (StatusCode::INTERNAL_SERVER_ERROR, &json!("target.name: Required value")));
    let nameless = json!({"target": {"kind": "Node", "name": "n"}});
    let refused = house.post("/api/v1/namespaces/default/bindings", &nameless).await;
    assert_eq!((refused.code, &refused.json()["message"]), (StatusCode::BAD_REQUEST, &json!("Name parameter required.")));
}

#[tokio::test]
async fn a_policy_is_told_all_that_is_wrong_with_it_its_expressions_too() {
    let house = House::new().await;
    let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]);
    let spec = json!({
        "matchConstraints": {"resourceRules": rules}, "variables": [{"name": "", "expression": "1"}],
        "validations": [{"expression": "variables.foo == 1"}],
    });
    let refused = house
        .post("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies", &json!({"metadata": {"name": "p"}, "spec": spec}))
        .await;
    let fields: Vec<Value> = refused.json()["details"]["causes"].as_array().unwrap().iter().map(|cause| cause["field"].clone()).collect();
    assert_eq!(fields, ["spec.variables[0].name", "spec.validations[0].expression"]);
}

/// A running pod that a budget covers.
async fn guarded(house: &House, ready: &str, budget: &Value) -> &'static str {
    const BUDGET: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/b";
    const MERGE: &str = "application/merge-patch+json";
    house.post(PODS, &pod("p")).await.ok();
    house.post(&format!("{PODS}/p/binding"), &binding("n")).await.ok();
    let running = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
    house.patch(&format!("{PODS}/p/status"), MERGE, &running).await.ok();
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "p"}}});
    house.post(BUDGET.trim_end_matches("/b"), &json!({"metadata": {"name": "b"}, "spec": spec})).await.ok();
    house.patch(BUDGET, MERGE, budget).await.ok();
    house.patch(&format!("{BUDGET}/status"), MERGE, budget).await.ok();
    BUDGET
}

#[tokio::test]
async fn an_evicted_pod_says_why_it_ends_and_its_budget_that_it_is_spent() {
    let house = House::new().await;
    let counts = json!({"disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2, "observedGeneration": 1});
    let budget = guarded(&house, "True", &json!({"status": counts})).await;
    let eviction = json!({"metadata": {"name": "p"}, "deleteOptions": {"gracePeriodSeconds": 7}});
    house.post(&format!("{PODS}/p/eviction"), &eviction).await.ok();
    let pod = house.get(&format!("{PODS}/p")).await.ok();
    assert_eq!(pod["metadata"]["deletionGracePeriodSeconds"], 7);
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    let condition = conditions.iter().find(|c| c["type"] == "DisruptionTarget").unwrap();
    let said = ["status", "reason", "message"].map(|name| condition[name].as_str().unwrap());
    assert_eq!(said, ["True", "EvictionByEvictionAPI", "Eviction API: evicting"]);
    assert!(condition["lastTransitionTime"].is_string(), "{condition}");
    let owners = pod["metadata"]["managedFields"].to_string();
    assert!(!owners.contains("DisruptionTarget"), "nobody owns the server's word: {owners}");

    let budget = house.get(budget).await.ok();
    let condition = &budget["status"]["conditions"][0];
    let said = ["type", "status", "reason", "message"].map(|name| condition[name].as_str().unwrap());
    assert_eq!((said, &condition["observedGeneration"]), (["DisruptionAllowed", "False", "InsufficientPods", ""], &json!(1)));
    let owner = budget["metadata"]["managedFields"].as_array().unwrap().iter().find(|entry| entry["manager"] == "kube-apiserver");
    assert_eq!(owner.unwrap()["subresource"], "status");
    // Who is on the way out already may be evicted again, and costs nothing.
    house.post(&format!("{PODS}/p/eviction"), &eviction).await.ok();
}

#[tokio::test]
async fn an_unhealthy_pod_goes_free_if_its_budget_says_so_or_has_enough_others() {
    let none = json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 1, "expectedPods": 1, "observedGeneration": 1});
    let enough = json!({"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 2, "observedGeneration": 1});
    for (policy, counts, code) in [
        (Value::Null, &none, StatusCode::TOO_MANY_REQUESTS),
        (Value::Null, &enough, StatusCode::CREATED),
        (json!("IfHealthyBudget"), &none, StatusCode::TOO_MANY_REQUESTS),
        (json!("AlwaysAllow"), &none, StatusCode::CREATED),
    ] {
        let house = House::new().await;
        let mut counts = counts.clone();
        if !policy.is_null() {
            counts["observedGeneration"] = 2.into();
        }
        guarded(&house, "False", &json!({"spec": {"unhealthyPodEvictionPolicy": policy}, "status": counts})).await;
        let eviction = json!({"metadata": {"name": "p"}});
        let answer = house.post(&format!("{PODS}/p/eviction"), &eviction).await;
        assert_eq!(answer.code, code, "{policy} {counts} {}", answer.json());
    }
}

#[tokio::test]
async fn an_eviction_that_is_tried_or_refused_leaves_the_pod_as_it_was() {
    let house = House::new().await;
    let counts = json!({"disruptionsAllowed": 2, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2, "observedGeneration": 1});
    let budget = guarded(&house, "True", &json!({"status": counts})).await;
    house.post(PODS, &pod("waits")).await.ok();
    let evict = async |name: &str, query: &str, options: Value| {
        let eviction = json!({"metadata": {"name": name}, "deleteOptions": options});
        let answer = house.post(&format!("{PODS}/{name}/eviction{query}"), &eviction).await;
        (answer.code.as_u16(), answer.json()["message"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(evict("p", "?dryRun=All", json!({})).await.0, 201);
    assert_eq!(evict("p", "", json!({"dryRun": ["All"]})).await.0, 201);
    let older = |version: &str| json!({"apiVersion": version, "kind": "Eviction", "metadata": {"name": "p"}});
    house.post(&format!("{PODS}/p/eviction?dryRun=All"), &older("policy/v1beta1")).await.ok();
    let unknown = house.post(&format!("{PODS}/p/eviction?dryRun=All"), &older("policy/v2")).await.json()["message"].to_string();
    assert!(unknown.contains("no kind \\\"Eviction\\\" is registered for version \\\"policy/v2\\\""), "{unknown}");
    let mismatch = "Non-matching dry-run options in request and content: [All] and [All All]";
    assert_eq!(evict("p", "?dryRun=All", json!({"dryRun": ["All", "All"]})).await, (500, mismatch.to_owned()));
    let (code, text) = evict("p", "", json!({"ignoreStoreReadErrorWithClusterBreakingPotential": true})).await;
    assert!(code == 422 && text.contains("can not be set for pod eviction"), "{text}");
    for name in ["p", "waits"] {
        let (code, text) = evict(name, "", json!({"preconditions": {"resourceVersion": "1"}})).await;
        assert!(code == 409 && text.contains("the ResourceVersion in the precondition (1) does not match"), "{text}");
        let (code, text) = evict(name, "", json!({"preconditions": {"uid": "other"}})).await;
        assert!(code == 409 && text.contains("the UID in the precondition (other) does not match"), "{text}");
    }
    let named = house.post(&format!("{PODS}/p/eviction"), &json!({"metadata": {"name": "other"}})).await;
    assert_eq!(
        (named.code, &named.json()["message"]),
        (StatusCode::BAD_REQUEST, &json!("name in URL does not match name in Eviction object"))
    );
    assert!(!house.get(PODS).await.ok().to_string().contains("DisruptionTarget"));
    // Refused by a precondition after the budget was asked: the disruption is spent, as with kube-apiserver.
    assert!(house.get(budget).await.ok()["status"]["disruptedPods"]["p"].is_string());
    let version = house.get(&format!("{PODS}/waits")).await.ok()["metadata"]["resourceVersion"].clone();
    assert_eq!(evict("waits", "", json!({"preconditions": {"resourceVersion": version}, "gracePeriodSeconds": 0})).await.0, 201);
    assert_eq!(house.get(&format!("{PODS}/waits")).await.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn services_get_addresses_and_ports_that_no_other_has() {
    let house = House::new().await;
    let spec = json!({"type": "NodePort", "ports": [{"port": 80}], "selector": {"a": "b"}});
    let one = house.post(SERVICES, &service("one", &spec)).await.ok();
    let (address, port) = (&one["spec"]["clusterIP"], &one["spec"]["ports"][0]["nodePort"]);
    assert!(address.as_str().unwrap().starts_with("10.") && (30000..=32767).contains(&port.as_u64().unwrap()), "{one}");
    assert_eq!((&one["spec"]["clusterIPs"][0], &one["spec"]["ipFamilies"][0]), (address, &json!("IPv4")));

    let taken = house.post(SERVICES, &service("two", &json!({"clusterIP": address, "ports": [{"port": 80}]}))).await;
    assert_eq!(taken.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(taken.json()["message"].as_str().unwrap().contains("provided IP is already allocated"), "{}", taken.json());
    let used = house.post(SERVICES, &service("two", &json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}))).await;
    assert!(used.json()["message"].as_str().unwrap().contains("provided port is already allocated"), "{}", used.json());
    let outside = house.post(SERVICES, &service("two", &json!({"clusterIP": "192.168.0.1", "ports": [{"port": 80}]}))).await;
    let refused = "failed to allocate IP 192.168.0.1: the provided network does not match the current range";
    assert!(outside.json()["message"].as_str().unwrap().contains(refused), "{}", outside.json());

    let headless =
        house.post(SERVICES, &service("none", &json!({"clusterIP": "None", "selector": {"a": "b"}, "ports": [{"port": 80}]}))).await.ok();
    assert_eq!(headless["spec"]["clusterIP"], "None");
    house.delete(&format!("{SERVICES}/one")).await.ok();
    house.post(SERVICES, &service("two", &json!({"clusterIP": address, "ports": [{"port": 80}]}))).await.ok();
}

#[tokio::test]
async fn an_updated_service_keeps_its_address_and_ports() {
    let house = House::new().await;
    let spec = json!({"type": "NodePort", "ports": [{"port": 80}], "selector": {"a": "b"}});
    let one = house.post(SERVICES, &service("one", &spec)).await.ok();
    let again = house
        .put(&format!("{SERVICES}/one"), &service("one", &json!({"type": "NodePort", "ports": [{"port": 80}], "selector": {"a": "c"}})))
        .await
        .ok();
    assert_eq!((&again["spec"]["clusterIP"], &again["spec"]["selector"]["a"]), (&one["spec"]["clusterIP"], &json!("c")));
    assert_eq!(again["spec"]["ports"][0]["nodePort"], one["spec"]["ports"][0]["nodePort"]);
    let plain = house.patch(&format!("{SERVICES}/one"), "application/merge-patch+json", &json!({"spec": {"type": "ClusterIP"}})).await.ok();
    assert!(plain["spec"]["ports"][0].get("nodePort").is_none(), "{plain}");
}

#[tokio::test]
async fn a_namespace_is_terminating_until_its_finalizer_is_gone() {
    let house = House::new().await;
    let spaces = "/api/v1/namespaces";
    house.post(spaces, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}})).await.ok();
    let going = house.delete(&format!("{spaces}/n")).await.ok();
    assert_eq!(going["status"]["phase"], "Terminating");
    let refused =
        house.post("/api/v1/namespaces/n/configmaps", &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}})).await;
    assert_eq!(refused.code, StatusCode::FORBIDDEN);
    let mut finished = house.get(&format!("{spaces}/n")).await.ok();
    finished["spec"]["finalizers"] = json!([]);
    house.put(&format!("{spaces}/n/finalize"), &finished).await.ok();
    assert_eq!(house.get(&format!("{spaces}/n")).await.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn replicas_are_scaled_through_the_scale_of_every_kind_that_has_one() {
    let house = House::new().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    house.post(path, &deployment).await.ok();
    let mut scale = house.get(&format!("{path}/d/scale")).await.ok();
    assert_eq!(
        (scale["kind"].as_str(), scale["spec"]["replicas"].as_i64(), scale["status"]["selector"].as_str()),
        (Some("Scale"), Some(1), Some("a=b"))
    );
    scale["spec"]["replicas"] = 3.into();
    assert_eq!(house.put(&format!("{path}/d/scale"), &scale).await.ok()["spec"]["replicas"], 3);
    let stale = house.put(&format!("{path}/d/scale"), &scale).await;
    assert_eq!(stale.code, StatusCode::CONFLICT);
    let patched = house.patch(&format!("{path}/d/scale"), "application/merge-patch+json", &json!({"spec": {"replicas": 5}})).await.ok();
    assert_eq!(patched["spec"]["replicas"], 5);
    let read = house.get(&format!("{path}/d")).await.ok();
    assert_eq!((read["spec"]["replicas"].as_i64(), read["metadata"]["generation"].as_i64()), (Some(5), Some(3)));
    let managed = read["metadata"]["managedFields"].as_array().unwrap();
    assert!(managed.iter().any(|m| m["subresource"] == "scale"), "{managed:?}");
}

#[tokio::test]
async fn kinds_that_share_storage_show_the_same_object() {
    let house = House::new().await;
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "reason": "R", "message": "m", "type": "Normal",
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
    });
    house.post("/api/v1/namespaces/default/events", &event).await.ok();
    let other = house.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await.ok();
    assert_eq!((other["note"].as_str(), other["regarding"]["name"].as_str()), (Some("m"), Some("p")));
    let list = house.get("/apis/events.k8s.io/v1/events").await.ok();
    assert_eq!((list["apiVersion"].as_str(), list["items"][0]["note"].as_str()), (Some("events.k8s.io/v1"), Some("m")));
    let found = house.get("/api/v1/events?fieldSelector=involvedObject.name%3Dp").await.ok();
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    let v1 = json!({
        "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 3, "targetCPUUtilizationPercentage": 50},
    });
    house.post("/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers", &v1).await.ok();
    let v2 = house.get("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/h").await.ok();
    assert_eq!(v2["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
}

#[tokio::test]
async fn foreground_deletion_waits_with_its_finalizer() {
    let house = House::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    house.post(maps, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}})).await.ok();
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"});
    let json_type = [("content-type", "application/json")];
    let going = house.ask(Method::DELETE, &format!("{maps}/c"), &json_type, options.to_string()).await.ok();
    assert_eq!(going["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    let wrong = json!({"preconditions": {"uid": "other"}});
    let refused = house.ask(Method::DELETE, &format!("{maps}/c"), &json_type, wrong.to_string()).await;
    assert_eq!(refused.code, StatusCode::CONFLICT);
}

#[tokio::test]
async fn tables_and_metadata_are_other_forms_of_the_same_list() {
    let house = House::new().await;
    house.post(PODS, &pod("p")).await.ok();
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")];
    let shown = house.ask(Method::GET, PODS, &table, "").await.ok();
    assert_eq!((shown["kind"].as_str(), shown["rows"][0]["cells"][0].as_str()), (Some("Table"), Some("p")));
    let metadata = [("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json")];
    let partial = house.ask(Method::GET, PODS, &metadata, "").await.ok();
    assert_eq!((partial["items"][0]["metadata"]["name"].as_str(), partial["items"][0].get("spec")), (Some("p"), None));
    let yaml = house.ask(Method::GET, &format!("{PODS}/p"), &[("accept", "application/yaml")], "").await;
    assert!(String::from_utf8_lossy(&yaml.body).contains("kind: Pod"), "{:?}", yaml.body);
}

#[tokio::test]
async fn what_is_not_served_at_a_place_says_so() {
    let house = House::new().await;
    assert_eq!(house.post("/api/v1/pods", &pod("p")).await.code, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(house.delete("/api/v1/pods").await.code, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(house.put(PODS, &pod("p")).await.code, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(house.get("/api/v1/namespaces/default/nodes").await.code, StatusCode::NOT_FOUND);
    assert_eq!(house.get(&format!("{PODS}/p/nothing")).await.code, StatusCode::NOT_FOUND);
    let unknown = house.get(&format!("{PODS}?fieldSelector=spec.nothing%3Dx")).await;
    assert_eq!(
        (unknown.code, unknown.json()["message"].as_str()),
        (StatusCode::BAD_REQUEST, Some("field label not supported: spec.nothing"))
    );
}

#[tokio::test]
async fn owners_in_another_version_of_a_built_in_kind_are_asked_in_it_or_forgotten() {
    let house = House::new().await;
    let merge = "application/merge-patch+json";
    let owned = |object: &Value| {
        let all = object["metadata"]["managedFields"].as_array().unwrap();
        let mut all: Vec<(String, Value)> =
            all.iter().map(|entry| (entry["manager"].as_str().unwrap().to_owned(), entry["fieldsV1"].clone())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    let scalers = |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers");
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
    let spec = json!({"minReplicas": 1, "maxReplicas": 3, "targetCPUUtilizationPercentage": 50, "scaleTargetRef": target});
    house.post(&format!("{}?fieldManager=a", scalers("v1")), &json!({"metadata": {"name": "h"}, "spec": spec})).await.ok();
    let metric = json!({"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}});
    let spec = json!({"minReplicas": 2, "metrics": [{"type": "Resource", "resource": metric}]});
    let made = house.patch(&format!("{}/h?fieldManager=b", scalers("v2")), merge, &json!({"spec": spec})).await.ok();
    let (a, b) = (json!({"f:maxReplicas": {}, "f:scaleTargetRef": {}}), json!({"f:metrics": {}, "f:minReplicas": {}}));
    assert_eq!(owned(&made), [("a".into(), json!({"f:spec": a})), ("b".into(), json!({"f:spec": b}))]);
    let spec = json!({"targetCPUUtilizationPercentage": 70});
    let made = house.patch(&format!("{}/h?fieldManager=c", scalers("v1")), merge, &json!({"spec": spec})).await.ok();
    let (b, c) = (json!({"f:minReplicas": {}}), json!({"f:targetCPUUtilizationPercentage": {}}));
    assert_eq!(owned(&made)[1..], [("b".into(), json!({"f:spec": b})), ("c".into(), json!({"f:spec": c}))]);

    // Of another group nothing is known, as with kube-apiserver.
    let event =
        json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "namespace": "default"}, "reason": "r", "type": "Normal"});
    house.post("/api/v1/namespaces/default/events?fieldManager=a", &event).await.ok();
    let labels = json!({"metadata": {"labels": {"x": "y"}}});
    let made = house.patch("/apis/events.k8s.io/v1/namespaces/default/events/e?fieldManager=b", merge, &labels).await.ok();
    assert_eq!(owned(&made), [("b".into(), json!({"f:metadata": {"f:labels": {".": {}, "f:x": {}}}}))]);
}

#[tokio::test]
async fn the_scale_of_a_built_in_kind_has_columns() {
    let house = House::new().await;
    let container = json!({"name": "c", "image": "i"});
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}});
    let deployment =
        json!({"metadata": {"name": "web"}, "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    house.post("/apis/apps/v1/namespaces/default/deployments", &deployment).await.ok();
    let path = "/apis/apps/v1/namespaces/default/deployments/web/scale";
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let table = house.ask(Method::GET, path, &[("accept", accept)], "").await.ok();
    let columns: Vec<&str> = table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(columns, ["Name", "Desired", "Available", "Age"]);
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..3], [json!("web"), json!(3), json!(0)]);
}
