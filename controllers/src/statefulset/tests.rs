use serde_json::{Value, json};

use super::*;
use crate::{change::Verb, hash};

fn set(replicas: i32, extra: &Value) -> Value {
    let mut spec = json!({
        "replicas": replicas, "serviceName": "db",
        "selector": {"matchLabels": {"app": "db"}},
        "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "new"}]}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}],
    });
    for (key, value) in extra.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"metadata": {"name": "db", "namespace": "a", "uid": "db", "generation": 1}, "spec": spec})
}

fn revision() -> String {
    let set: k8s_openapi::api::apps::v1::StatefulSet = serde_json::from_value(set(1, &json!({}))).unwrap();
    format!("db-{}", hash::word(&set.spec.template, None))
}

fn pod(number: i32, revision: &str, ready: bool) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": format!("db-{number}"), "namespace": "a", "uid": number.to_string(),
            "labels": {"app": "db", "controller-revision-hash": revision},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "db", "controller": true}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    }))
    .unwrap()
}

/// `+db-0` for a pod made, `-db-0` for one deleted, `pvc data-db-0` for a claim.
fn told(set: &Value, pods: Vec<Pod>) -> (Vec<String>, Value) {
    let caches = Arc::new(Caches::default());
    caches.stateful_sets.put(serde_json::from_value(set.clone()).unwrap());
    pods.into_iter().for_each(|pod| caches.pods.put(pod));
    let mut plan = StatefulSets::new(caches).plan(&Key::new("a", "db"), Timestamp::UNIX_EPOCH);
    let tell = |change: &crate::change::Change| match (&change.verb, change.resource.kind.as_ref()) {
        (Verb::Create(_), "Pod") => Some(format!("+{}", change.key.name)),
        (Verb::Create(_), "PersistentVolumeClaim") => Some(format!("pvc {}", change.key.name)),
        (Verb::Delete { .. }, "Pod") => Some(format!("-{}", change.key.name)),
        _ => None,
    };
    let told = plan.changes().filter_map(tell).collect();
    let status = plan.finally.take().map(|finally| finally(&crate::change::Outcome::default()).remove(0).verb);
    let Some(Verb::Update { object, .. }) = status else { return (told, Value::Null) };
    (told, object["status"].clone())
}

#[test]
fn pods_are_made_in_order_each_after_the_one_before_is_ready() {
    let spec = set(3, &json!({}));
    assert_eq!(told(&spec, vec![]).0, ["pvc data-db-0", "+db-0"]);
    assert!(told(&spec, vec![pod(0, &revision(), false)]).0.is_empty());
    assert_eq!(told(&spec, vec![pod(0, &revision(), true)]).0, ["pvc data-db-1", "+db-1"]);
    let parallel = set(3, &json!({"podManagementPolicy": "Parallel", "volumeClaimTemplates": []}));
    assert_eq!(told(&parallel, vec![pod(1, &revision(), false)]).0, ["+db-0", "+db-2"]);
}

#[test]
fn pods_are_removed_from_the_highest_down() {
    let spec = set(1, &json!({}));
    let pods = || vec![pod(0, &revision(), true), pod(1, &revision(), true), pod(2, &revision(), true)];
    assert_eq!(told(&spec, pods()).0, ["-db-2"]);
    let mut going = pods();
    going[2].metadata.deletion_timestamp = Some(Timestamp::UNIX_EPOCH);
    assert!(told(&spec, going).0.is_empty(), "the one before must be gone first");
}

#[test]
fn an_update_goes_from_the_highest_down_to_the_partition() {
    let mut spec = set(3, &json!({"volumeClaimTemplates": []}));
    spec["status"] = json!({"replicas": 3, "currentRevision": "db-old", "currentReplicas": 3});
    let olds = || vec![pod(0, "db-old", true), pod(1, "db-old", true), pod(2, "db-old", true)];
    assert_eq!(told(&spec, olds()).0, ["-db-2"]);
    let updated = || vec![pod(0, "db-old", true), pod(1, "db-old", true), pod(2, &revision(), false)];
    assert!(told(&spec, updated()).0.is_empty(), "the new pod is not ready yet");
    spec["spec"]["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}});
    let mut ready = updated();
    ready[2] = pod(2, &revision(), true);
    assert!(told(&spec, ready).0.is_empty(), "the partition keeps the others");
    spec["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    assert!(told(&spec, olds()).0.is_empty());
}

#[test]
fn the_update_is_complete_when_all_pods_are_ready_with_the_new_revision() {
    let mut spec = set(2, &json!({}));
    spec["status"] = json!({"replicas": 2, "currentRevision": "db-old"});
    let (_, status) = told(&spec, vec![pod(0, &revision(), true), pod(1, &revision(), true)]);
    assert_eq!((status["currentRevision"].as_str(), status["currentReplicas"].as_i64()), (Some(revision().as_str()), Some(2)));
}

#[test]
fn numbers_are_read_from_names() {
    assert_eq!(pods::parent("my-db-12"), Some(("my-db", 12)));
    assert_eq!(pods::parent("db"), None);
    assert_eq!(pods::parent("db-x"), None);
}
