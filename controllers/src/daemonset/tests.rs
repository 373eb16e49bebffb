use serde_json::{Value, json};

use super::*;
use crate::change::Verb;

fn set(extra: &Value) -> Value {
    let mut spec = json!({
        "selector": {"matchLabels": {"app": "d"}},
        "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "new"}]}},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
    });
    for (key, value) in extra.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"metadata": {"name": "d", "namespace": "a", "uid": "d", "generation": 1}, "spec": spec})
}

fn node(name: &str, taints: &Value) -> Value {
    json!({"metadata": {"name": name, "labels": {"zone": "z"}}, "spec": {"taints": taints}})
}

fn pod(name: &str, node: &str, hash: &str, ready: bool) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "a", "uid": name, "labels": {"app": "d", "controller-revision-hash": hash},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d", "controller": true}]},
        "spec": {"nodeName": node},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    }))
    .unwrap()
}

/// Nodes that get a pod, pods deleted, status.
fn run(set: &Value, nodes: &[Value], pods: Vec<Pod>) -> (Vec<String>, Vec<String>, Value) {
    let caches = Arc::new(Caches::default());
    caches.daemon_sets.put(serde_json::from_value(set.clone()).unwrap());
    nodes.iter().for_each(|node| caches.nodes.put(serde_json::from_value(node.clone()).unwrap()));
    pods.into_iter().for_each(|pod| caches.pods.put(pod));
    let mut plan = DaemonSets::new(caches).plan(&Key::new("a", "d"), Timestamp::UNIX_EPOCH);
    let (mut created, mut deleted) = (Vec::new(), Vec::new());
    for change in plan.changes().filter(|change| change.resource.kind == "Pod") {
        match &change.verb {
            Verb::Create(body) => {
                let pod: Pod = serde_json::from_slice(body).unwrap();
                created.push(pods::node_of(&pod).unwrap().to_owned());
            }
            Verb::Delete { .. } => deleted.push(change.key.name.to_string()),
            other => panic!("unexpected {other:?}"),
        }
    }
    let status = plan.finally.take().map(|finally| finally(&crate::change::Outcome::default()).remove(0).verb);
    let Some(Verb::Update { object, .. }) = status else { panic!("no status") };
    (created, deleted, object["status"].clone())
}

fn hash() -> String {
    let set: k8s_openapi::api::apps::v1::DaemonSet = serde_json::from_value(set(&json!({}))).unwrap();
    crate::hash::word(&set.spec.template, None)
}

#[test]
fn every_node_that_takes_it_gets_one_pod() {
    let pressed = json!([{"key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule"}]);
    let tainted = json!([{"key": "mine", "effect": "NoSchedule"}]);
    let nodes = [node("n1", &json!([])), node("n2", &pressed), node("n3", &tainted)];
    let (created, deleted, status) = run(&set(&json!({})), &nodes, vec![]);
    assert_eq!((created, deleted.len(), status["desiredNumberScheduled"].as_i64()), (vec!["n1".to_owned(), "n2".to_owned()], 0, Some(2)));
}

#[test]
fn a_pod_may_stay_under_no_schedule_and_must_go_under_no_execute() {
    let nodes =
        [node("n1", &json!([{"key": "mine", "effect": "NoSchedule"}])), node("n2", &json!([{"key": "mine", "effect": "NoExecute"}]))];
    let (created, deleted, status) = run(&set(&json!({})), &nodes, vec![pod("x", "n1", &hash(), true), pod("y", "n2", &hash(), true)]);
    assert_eq!((created.len(), deleted, status["numberMisscheduled"].as_i64()), (0, vec!["y".to_owned()], Some(2)));
}

#[test]
fn an_update_replaces_unavailable_pods_at_once_and_others_one_by_one() {
    let nodes = [node("n1", &json!([])), node("n2", &json!([])), node("n3", &json!([]))];
    let all_old = |second: bool| vec![pod("x", "n1", "old", true), pod("y", "n2", "old", second), pod("z", "n3", "old", true)];
    assert_eq!(run(&set(&json!({})), &nodes, all_old(true)).1, ["x"]);
    assert_eq!(run(&set(&json!({})), &nodes, all_old(false)).1, ["y"]);
    let on_delete = set(&json!({"updateStrategy": {"type": "OnDelete"}}));
    assert!(run(&on_delete, &nodes, all_old(true)).1.is_empty());
}

#[test]
fn failed_pods_go_and_of_two_the_oldest_stays() {
    let mut failed = pod("f", "n1", &hash(), false);
    failed.status.phase = "Failed".into();
    let mut older = pod("older", "n2", &hash(), true);
    older.metadata.creation_timestamp = Some(Timestamp::UNIX_EPOCH);
    let mut newer = pod("newer", "n2", &hash(), true);
    newer.metadata.creation_timestamp = Some(Timestamp::MAX);
    let nodes = [node("n1", &json!([])), node("n2", &json!([]))];
    let mut deleted = run(&set(&json!({})), &nodes, vec![failed, older, newer]).1;
    deleted.sort();
    assert_eq!(deleted, ["f", "newer"]);
}

#[test]
fn a_node_selector_chooses_the_nodes() {
    let template = json!({"metadata": {"labels": {"app": "d"}}, "spec": {"nodeSelector": {"zone": "other"}, "containers": []}});
    assert!(run(&set(&json!({"template": template})), &[node("n1", &json!([]))], vec![]).0.is_empty());
}
