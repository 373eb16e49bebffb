use coracle_tree::{Value, json};

use super::*;
use crate::Tables;

const NOW: &str = "2026-01-01T00:00:00Z";
const LATER: &str = "2026-01-01T00:01:00Z";

fn schema(name: &str) -> SchemaRef {
    Tables::load().unwrap().message(name).unwrap()
}

fn who<'a>(manager: &'a str, api_version: &'a str, kind: &'a str) -> Who<'a> {
    Who { manager, api_version, kind, subresource: "", now: NOW, reset: &[&["status"]], versions: None }
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "spec": {
            "replicas": 2, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 10,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "containers": [{
                        "name": "web", "image": "nginx", "imagePullPolicy": "Always", "resources": {},
                        "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    }],
                    "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
                    "securityContext": {}, "terminationGracePeriodSeconds": 30,
                    "imagePullSecrets": [{"name": "reg"}], "nodeSelector": {"a": "b"},
                },
            },
        },
        "status": {},
    })
}

fn created() -> Value {
    let mut new = deployment();
    record_update(&schema("apps.Deployment"), None, &mut new, &who("kubectl-create", "apps/v1", "Deployment"));
    new
}

#[test]
fn a_create_owns_what_upstream_says_it_owns() {
    let list = &created()["metadata"]["managedFields"];
    let expected = json!([{
        "manager": "kubectl-create", "operation": "Update", "apiVersion": "apps/v1", "time": NOW, "fieldsType": "FieldsV1",
        "fieldsV1": {
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                "f:progressDeadlineSeconds": {}, "f:replicas": {}, "f:revisionHistoryLimit": {}, "f:selector": {},
                "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}, "f:maxUnavailable": {}}, "f:type": {}},
                "f:template": {
                    "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {
                        "f:containers": {"k:{\"name\":\"web\"}": {
                            ".": {}, "f:image": {}, "f:imagePullPolicy": {}, "f:name": {}, "f:resources": {},
                            "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}},
                        }},
                        "f:dnsPolicy": {}, "f:restartPolicy": {}, "f:schedulerName": {}, "f:securityContext": {},
                        "f:terminationGracePeriodSeconds": {}, "f:imagePullSecrets": {".": {}, "k:{\"name\":\"reg\"}": {}},
                        "f:nodeSelector": {},
                    },
                },
            },
        },
    }]);
    assert_eq!(list, &expected);
}

#[test]
fn a_scale_by_another_manager_takes_the_field() {
    let old = created();
    let mut new = old.clone();
    new["spec"]["replicas"] = json!(5);
    record_update(&schema("apps.Deployment"), Some(&old), &mut new, &Who { now: LATER, ..who("kubectl-edit", "apps/v1", "Deployment") });
    let list = new["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(list.len(), 2);
    assert!(list[0]["fieldsV1"]["f:spec"].get("f:replicas").is_none());
    assert_eq!(list[1]["manager"], "kubectl-edit");
    assert_eq!(list[1]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
}

#[test]
fn a_removed_field_is_owned_by_nobody_and_moves_no_time() {
    let old = created();
    let mut new = old.clone();
    new["metadata"].as_object_mut().unwrap().remove("labels");
    record_update(&schema("apps.Deployment"), Some(&old), &mut new, &Who { now: LATER, ..who("kubectl-create", "apps/v1", "Deployment") });
    let list = new["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!((list.len(), &list[0]["time"]), (1, &json!(NOW)));
    assert!(list[0]["fieldsV1"].get("f:metadata").is_none());
}

#[test]
fn status_and_spec_are_owned_through_their_own_endpoints() {
    let old = created();
    let mut new = old.clone();
    new["spec"]["replicas"] = json!(7);
    new["status"] = json!({"replicas": 2, "conditions": [{"type": "Available", "status": "True"}]});
    let controller = Who { subresource: "status", reset: &[&["spec"]], ..who("kcm", "apps/v1", "Deployment") };
    record_update(&schema("apps.Deployment"), Some(&old), &mut new, &controller);
    let entry = &new["metadata"]["managedFields"].as_array().unwrap().iter().find(|e| e["manager"] == "kcm").unwrap();
    assert_eq!(entry["subresource"], "status");
    let conditions = json!({".": {}, "k:{\"type\":\"Available\"}": {".": {}, "f:status": {}, "f:type": {}}});
    assert_eq!(entry["fieldsV1"], json!({"f:status": {"f:conditions": conditions, "f:replicas": {}}}));
}

#[test]
fn a_write_that_changes_nothing_changes_no_entry() {
    let old = created();
    let mut new = old.clone();
    record_update(&schema("apps.Deployment"), Some(&old), &mut new, &Who { now: LATER, ..who("other", "apps/v1", "Deployment") });
    assert_eq!(new, old);
    assert!(keep_times_if_unchanged(&old, &mut new));
}

#[test]
fn a_client_that_drops_the_list_does_not_lose_it_and_one_that_empties_it_does() {
    let (schema, who) = (schema("apps.Deployment"), who("x", "apps/v1", "Deployment"));
    let old = created();
    let no_fields = json!([{"manager": "m", "operation": "Update", "apiVersion": "apps/v1", "fieldsType": "FieldsV1", "fieldsV1": "{}{}"}]);
    for harmless in [Value::Null, json!([{"operation": "nonsense"}]), no_fields] {
        let mut new = old.clone();
        new["metadata"]["managedFields"] = harmless;
        record_update(&schema, Some(&old), &mut new, &who);
        assert_eq!(new, old);
    }
    let mut emptied = old.clone();
    for nothing in [json!([]), json!([{}])] {
        emptied["metadata"]["managedFields"] = nothing;
        record_update(&schema, Some(&old), &mut emptied, &who);
        assert!(emptied["metadata"].get("managedFields").is_none());
    }
    let mut next = emptied.clone();
    next["spec"]["replicas"] = json!(9);
    record_update(&schema, Some(&emptied), &mut next, &who);
    assert!(next["metadata"].get("managedFields").is_none(), "not tracked until the next apply");
}

#[test]
fn only_times_that_changed_are_put_back() {
    let old = created();
    let mut new = old.clone();
    new["metadata"]["managedFields"][0]["time"] = json!(LATER);
    new["metadata"]["resourceVersion"] = json!("7");
    assert!(keep_times_if_unchanged(&old, &mut new));
    assert_eq!(new["metadata"]["managedFields"], old["metadata"]["managedFields"]);
    new["spec"]["replicas"] = json!(3);
    assert!(!keep_times_if_unchanged(&old, &mut new));
}

#[test]
fn the_zero_fields_of_a_new_event_are_nobodys() {
    let mut event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "p"}, "reason": "Started", "message": "m", "source": {"component": "kubelet"},
        "firstTimestamp": NOW, "lastTimestamp": NOW, "count": 1, "type": "Normal", "eventTime": null,
        "reportingComponent": "kubelet", "reportingInstance": "",
    });
    record_update(&schema("core.Event"), None, &mut event, &who("kubelet", "v1", "Event"));
    let expected = json!({
        "f:count": {}, "f:firstTimestamp": {}, "f:involvedObject": {}, "f:lastTimestamp": {}, "f:message": {}, "f:reason": {},
        "f:reportingComponent": {}, "f:source": {"f:component": {}}, "f:type": {},
    });
    assert_eq!(event["metadata"]["managedFields"][0]["fieldsV1"], expected);
}

#[test]
fn the_manager_is_the_option_or_the_head_of_the_user_agent() {
    assert_eq!(manager_name("mine", "kubectl/v1"), "mine");
    assert_eq!(manager_name("", "kubectl/v1.37 (linux)"), "kubectl");
    assert_eq!(manager_name("", "\u{7}a\nb/1"), "ab");
}
