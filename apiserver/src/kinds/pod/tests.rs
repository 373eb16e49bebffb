#![allow(clippy::needless_pass_by_value, reason = "cases read better with their JSON in place")]

use coracle_tree::{Value, json};

use crate::{
    kinds::{
        rules_for,
        tests::{create, update},
    },
    registry::{Object, Part},
};

fn pod(spec: Value) -> (Object, Vec<String>) {
    create("", "v1", "pods", json!({"metadata": {"name": "p"}, "spec": spec}))
}

fn container(more: Value) -> Value {
    let mut made = json!({"name": "c", "image": "nginx:1"});
    made.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    made
}

#[test]
fn a_new_pod_is_pending_with_its_quality_of_service() {
    let resources = json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}});
    let (pod, errors) = pod(json!({"containers": [container(resources)]}));
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(pod.value()["status"], json!({"phase": "Pending", "qosClass": "Guaranteed"}));
    assert_eq!(pod.value()["spec"]["containers"][0]["resources"]["requests"], json!({"cpu": "1", "memory": "1Gi"}));
    assert_eq!(pod.value()["spec"]["enableServiceLinks"], true);
    assert_eq!(pod.value()["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
}

#[test]
fn a_pod_on_the_hosts_network_has_the_hosts_ports() {
    let (pod, errors) = pod(json!({"hostNetwork": true, "containers": [container(json!({"ports": [{"containerPort": 80}]}))]}));
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(pod.value()["spec"]["containers"][0]["ports"][0]["hostPort"], 80);
}

#[test]
fn a_gated_pod_says_why_it_is_not_scheduled() {
    let (pod, _) = pod(json!({"schedulingGates": [{"name": "example.com/wait"}], "containers": [container(json!({}))]}));
    assert_eq!(pod.value()["status"]["conditions"][0]["reason"], "SchedulingGated");
}

#[test]
fn label_keys_of_affinity_become_expressions() {
    let term = json!({"topologyKey": "zone", "labelSelector": {}, "matchLabelKeys": ["v"]});
    let given = json!({"metadata": {"name": "p", "labels": {"v": "1"}}, "spec": {"containers": [container(json!({}))],
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}});
    let (pod, errors) = create("", "v1", "pods", given);
    assert!(errors.is_empty(), "{errors:?}");
    let path = "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution/0/labelSelector/matchExpressions";
    assert_eq!(pod.value().pointer(path).unwrap(), &json!([{"key": "v", "operator": "In", "values": ["1"]}]));
}

#[test]
fn what_is_wrong_with_containers_is_named_as_upstream_names_it() {
    let spec = json!({
        "volumes": [{"name": "V"}, {"name": "two", "emptyDir": {}, "secret": {}}],
        "containers": [
            {"name": "A"},
            container(json!({"ports": [{"name": "x--y", "containerPort": 0}], "env": [{"name": "a=b"}, {"name": "n", "value": "v", "valueFrom": {"fieldRef": {"fieldPath": "x.y"}}}]})),
            container(json!({"volumeMounts": [{"name": "none", "mountPath": "/x"}, {"name": "none", "mountPath": "/x", "subPath": "/y"}]})),
            {"name": "d", "image": "x", "livenessProbe": {"successThreshold": 2}, "lifecycle": {"preStop": {"exec": {}}}},
        ],
    });
    let (_, errors) = pod(spec);
    let expected = [
        "spec.volumes[0].name: Invalid value: \"V\"",
        "spec.volumes[1].secret: Forbidden: may not specify more than 1 volume type",
        "spec.containers[0].name: Invalid value: \"A\"",
        "spec.containers[0].image: Required value",
        "spec.containers[1].ports[0].name: Invalid value: \"x--y\": must not contain consecutive hyphens",
        "spec.containers[1].ports[0].containerPort: Required value",
        "spec.containers[1].env[0].name: Invalid value: \"a=b\"",
        "spec.containers[1].env[1].valueFrom.fieldRef.fieldPath: Invalid value: \"x.y\": error converting fieldPath: field label not supported: x.y",
        "spec.containers[1].env[1].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
        "spec.containers[2].volumeMounts[0].name: Not found: \"none\"",
        "spec.containers[2].volumeMounts[1].name: Not found: \"none\"",
        "spec.containers[2].volumeMounts[1].mountPath: Invalid value: \"/x\": must be unique",
        "spec.containers[2].volumeMounts.subPath: Invalid value: \"/y\": must be a relative path",
        "spec.containers[2].name: Duplicate value: \"c\"",
        "spec.containers[3].lifecycle.preStop.exec.command: Required value",
        "spec.containers[3].livenessProbe: Required value: must specify a handler type",
        "spec.containers[3].livenessProbe.successThreshold: Invalid value: 2: must be 1",
    ];
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (found, wanted) in errors.iter().zip(expected) {
        assert!(found.starts_with(wanted), "{found} is not {wanted}");
    }
}

#[test]
fn only_images_deadline_and_tolerations_may_change() {
    let (old, _) = pod(json!({"containers": [container(json!({}))], "tolerations": [{"key": "a", "operator": "Exists"}]}));
    let change = |change: &dyn Fn(&mut Value)| update("", "v1", "pods", &old, Part::Whole, change).1;
    assert!(change(&|p| p["spec"]["containers"][0]["image"] = "nginx:2".into()).is_empty());
    assert!(change(&|p| p["spec"]["activeDeadlineSeconds"] = 5.into()).is_empty());
    assert!(
        change(&|p| p["spec"]["tolerations"] = json!([{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}])).is_empty()
    );
    assert_eq!(
        change(&|p| p["spec"]["tolerations"] = json!([])),
        ["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"]
    );
    let errors = change(&|p| p["spec"]["hostname"] = "h".into());
    assert!(errors[0].starts_with(
        "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"
    ), "{errors:?}");
    assert_eq!(
        change(&|p| p["spec"]["containers"] = json!([])),
        ["spec.containers: Required value", "spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
}

#[test]
fn ephemeral_containers_are_added_through_their_own_door() {
    let debug = json!([{"name": "debug", "image": "busybox", "targetContainerName": "c"}]);
    let (_, errors) = pod(json!({"containers": [container(json!({}))], "ephemeralContainers": debug}));
    assert_eq!(errors, ["spec.ephemeralContainers: Forbidden: cannot be set on create"]);
    let (old, _) = pod(json!({"containers": [container(json!({}))]}));
    let part = Part::Other("ephemeralcontainers");
    let (with, errors) = update("", "v1", "pods", &old, part, |p| {
        p["spec"]["ephemeralContainers"] = debug.clone();
        p["spec"]["hostname"] = "ignored".into();
    });
    assert!(errors.is_empty() && with.value()["spec"].get("hostname").is_none(), "{errors:?}");
    assert_eq!(with.value()["spec"]["ephemeralContainers"][0]["imagePullPolicy"], "Always");
    let (_, errors) = update("", "v1", "pods", &with, part, |p| p["spec"]["ephemeralContainers"] = json!([]));
    assert_eq!(errors, ["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"debug\" may not be removed\n"]);
}

#[test]
fn a_resize_changes_resources_and_nothing_else() {
    let (old, _) = pod(json!({"containers": [container(json!({"resources": {"requests": {"cpu": "1"}}}))]}));
    let (new, errors) = update("", "v1", "pods", &old, Part::Other("resize"), |p| {
        p["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "2".into();
        p["spec"]["containers"][0]["image"] = "ignored".into();
    });
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(
        (&new.value()["spec"]["containers"][0]["resources"]["requests"]["cpu"], &new.value()["spec"]["containers"][0]["image"]),
        (&json!("2"), &json!("nginx:1"))
    );
    let (_, errors) = update("", "v1", "pods", &old, Part::Other("resize"), |p| p["spec"]["containers"][0]["resources"] = json!({}));
    assert_eq!(errors[0], "spec: Invalid value: \"BestEffort\": Pod QOS Class may not change as a result of resizing");
}

#[test]
fn a_status_write_keeps_the_quality_of_service_and_agrees_addresses() {
    let (old, _) = pod(json!({"containers": [container(json!({}))]}));
    let (new, errors) = update("", "v1", "pods", &old, Part::Status, |p| p["status"] = json!({"phase": "Running", "podIP": "10.1.0.5"}));
    assert!(errors.is_empty());
    assert_eq!(
        (&new.value()["status"]["qosClass"], &new.value()["status"]["podIPs"]),
        (&json!("BestEffort"), &json!([{"ip": "10.1.0.5"}]))
    );
    let fields = rules_for("", "pods").selectable(new.value());
    assert!(fields.contains(&("status.phase", "Running".to_owned())) && fields.contains(&("status.podIP", "10.1.0.5".to_owned())));
    assert!(fields.contains(&("spec.hostNetwork", "false".to_owned())));
}

#[test]
fn a_variable_named_twice_is_warned_of() {
    let (pod, errors) = pod(json!({"containers": [container(json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}))]}));
    assert!(errors.is_empty());
    assert_eq!(
        rules_for("", "pods").warnings(&pod, None),
        ["spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply"]
    );
}
