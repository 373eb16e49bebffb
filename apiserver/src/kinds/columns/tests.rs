use coracle_tree::{Value, json};

use super::*;

const NOW: &str = "2026-01-02T00:00:00Z";

/// The cells of an object made a day before [`NOW`].
fn cells(group: &str, resource: &str, mut object: Value) -> Value {
    object["metadata"]["name"] = json!("x");
    object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    let printer = columns_for(group, resource);
    let cells = printer.cells(&object, NOW.parse().unwrap());
    assert_eq!(cells.len(), printer.columns().len(), "{group}/{resource}");
    Value::Array(cells)
}

/// Status, readiness and restarts of a pod.
fn pod(object: Value) -> [String; 3] {
    let cells = cells("", "pods", object);
    [2, 1, 3].map(|at: usize| cells[at].as_str().unwrap().to_owned())
}

fn main_container(state: &Value) -> Value {
    json!({"spec": {"containers": [{"name": "a"}]}, "status": {"phase": "Running", "containerStatuses": [state]}})
}

#[test]
fn every_built_in_kind_has_a_cell_for_each_column_even_when_it_is_empty() {
    let tables = coracle_schema::Tables::load().unwrap();
    for resource in &tables.resources {
        let cells = cells(resource.group, resource.plural, json!({}));
        assert!(cells.as_array().unwrap().iter().all(|c| !c.is_null() && !c.is_object()), "{}: {cells}", resource.plural);
    }
}

#[test]
fn a_pods_status_is_the_state_of_its_containers() {
    let ready = json!({"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}});
    assert_eq!(pod(main_container(&ready)), ["Running", "1/1", "0"]);
    let ended = json!({"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T23:57:00Z"}});
    let loops = json!({"name": "a", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended});
    assert_eq!(pod(main_container(&loops)), ["CrashLoopBackOff", "0/1", "2 (3m ago)"]);
    let killed = json!({"name": "a", "restartCount": 0, "state": {"terminated": {"exitCode": 137, "signal": 9}}});
    assert_eq!(pod(main_container(&killed))[0], "Signal:9");
    let failed = json!({"name": "a", "restartCount": 0, "state": {"terminated": {"exitCode": 3}}});
    assert_eq!(pod(main_container(&failed))[0], "ExitCode:3");
    let mut leaving = main_container(&json!({"name": "a", "ready": true, "state": {"running": {}}}));
    leaving["metadata"]["deletionTimestamp"] = json!(NOW);
    assert_eq!(pod(leaving.clone())[0], "Terminating");
    leaving["status"]["reason"] = json!("NodeLost");
    assert_eq!(pod(leaving)[0], "Unknown");
}

#[test]
fn a_finished_pod_is_completed_and_says_so_in_its_row() {
    let object = json!({
        "spec": {"containers": [{"name": "a"}]},
        "status": {"phase": "Succeeded", "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]},
    });
    assert_eq!(pod(object.clone()), ["Completed", "0/1", "0"]);
    let printer = columns_for("", "pods");
    assert_eq!(printer.conditions(&object)[0]["reason"], "Succeeded");
    assert_eq!(printer.conditions(&json!({"status": {"phase": "Running"}})), Value::Null);
}

#[test]
fn init_containers_come_first_and_sidecars_count() {
    let inits = json!([{"name": "one"}, {"name": "side", "restartPolicy": "Always"}]);
    let of = |statuses: Value| {
        let spec = json!({"initContainers": inits, "containers": [{"name": "a"}]});
        pod(json!({"spec": spec, "status": {"phase": "Pending", "initContainerStatuses": statuses}}))
    };
    let waiting = json!({"waiting": {"reason": "PodInitializing"}});
    assert_eq!(
        of(json!([{"name": "one", "restartCount": 1, "state": {"running": {}}}, {"name": "side", "state": waiting}])),
        ["Init:0/2", "0/2", "1"]
    );
    let error = json!([{"name": "one", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]);
    assert_eq!(of(error)[0], "Init:Error");
    let pull = json!([{"name": "one", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]);
    assert_eq!(of(pull)[0], "Init:ImagePullBackOff");
    let done = json!({"name": "one", "restartCount": 4, "state": {"terminated": {"exitCode": 0}}});
    let side = json!({"name": "side", "restartCount": 1, "ready": true, "started": true, "state": {"running": {}}});
    assert_eq!(of(json!([done, side])), ["Pending", "1/2", "1"]);
}

#[test]
fn a_pod_that_is_half_done_is_running_or_not_ready() {
    let status = |ready: &str| {
        json!({
            "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
            "status": {
                "phase": "Running", "conditions": [{"type": "Ready", "status": ready}],
                "containerStatuses": [
                    {"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
                    {"name": "b", "ready": true, "state": {"running": {}}},
                ],
            },
        })
    };
    assert_eq!(pod(status("True"))[0], "Running");
    assert_eq!(pod(status("False"))[0], "NotReady");
}

#[test]
fn the_wide_cells_of_a_pod() {
    let object = json!({
        "spec": {"nodeName": "n1", "readinessGates": [{"conditionType": "g"}, {"conditionType": "h"}]},
        "status": {"podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "g", "status": "True"}]},
    });
    assert_eq!(
        cells("", "pods", object).as_array().unwrap()[4..],
        [json!("24h"), json!("10.0.0.1"), json!("n1"), json!("<none>"), json!("1/2")]
    );
}

#[test]
fn deployments_and_their_kin() {
    let template = json!({"spec": {"containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "j:2"}]}});
    let selector = json!({"matchLabels": {"app": "web"}});
    let deployment = json!({
        "spec": {"replicas": 3, "template": template, "selector": selector},
        "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1},
    });
    assert_eq!(cells("apps", "deployments", deployment.clone()), json!(["x", "2/3", 3, 1, "24h", "a,b", "i:1,j:2", "app=web"]));
    assert_eq!(cells("apps", "statefulsets", deployment.clone()), json!(["x", "2/3", "24h", "a,b", "i:1,j:2"]));
    assert_eq!(cells("apps", "replicasets", deployment), json!(["x", 3, 0, 2, "24h", "a,b", "i:1,j:2", "app=web"]));
    let daemons = json!({"spec": {"selector": selector}, "status": {"desiredNumberScheduled": 4, "numberReady": 2}});
    assert_eq!(cells("apps", "daemonsets", daemons), json!(["x", 4, 0, 2, 0, 0, "<none>", "24h", "", "", "app=web"]));
    let owner = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "controller": true}]);
    let revision = json!({"metadata": {"ownerReferences": owner}, "revision": 7});
    assert_eq!(cells("apps", "controllerrevisions", revision), json!(["x", "statefulset.apps/web", 7, "24h"]));
}

#[test]
fn services_and_what_is_behind_them() {
    let ports = json!([{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]);
    let service = json!({"spec": {"type": "NodePort", "clusterIPs": ["10.96.0.1"], "ports": ports, "selector": {"a": "b"}}});
    assert_eq!(cells("", "services", service), json!(["x", "NodePort", "10.96.0.1", "<none>", "80:30080/TCP,53/UDP", "24h", "a=b"]));
    let pending = json!({"spec": {"type": "LoadBalancer", "clusterIPs": ["None"]}});
    assert_eq!(cells("", "services", pending), json!(["x", "LoadBalancer", "None", "<pending>", "<none>", "24h", "<none>"]));
    let balanced = json!({
        "spec": {"type": "LoadBalancer", "externalIPs": ["9.9.9.9"]},
        "status": {"loadBalancer": {"ingress": [{"ip": "2.2.2.2"}, {"hostname": "a.example"}, {"ip": "1.1.1.1"}]}},
    });
    assert_eq!(cells("", "services", balanced)[3], "1.1.1.1,2.2.2.2,a.example,9.9.9.9");
    let addresses = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
    let endpoints = json!({"subsets": [{"addresses": addresses, "ports": [{"port": 80}, {"port": 443}]}]});
    assert_eq!(cells("", "endpoints", endpoints)[1], "10.0.0.1:80,[fd00::1]:80,10.0.0.1:443 + 1 more...");
    assert_eq!(cells("", "endpoints", json!({}))[1], "<none>");
    let slice = json!({"addressType": "IPv4", "ports": [{"port": 80}, {"name": "x"}, {}], "endpoints": [{"addresses": ["10.0.0.1"]}]});
    assert_eq!(cells("discovery.k8s.io", "endpointslices", slice), json!(["x", "IPv4", "80,x,*", "10.0.0.1", "24h"]));
}

#[test]
fn nodes_show_roles_versions_and_addresses() {
    let node = json!({
        "metadata": {"labels": {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "edge", "node-role.kubernetes.io/": ""}},
        "spec": {"unschedulable": true},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "192.168.0.1"}],
            "nodeInfo": {"kubeletVersion": "v1.37.0", "osImage": "Debian", "kernelVersion": "6.1", "architecture": "amd64"},
        },
    });
    let expected = json!([
        "x",
        "Ready,SchedulingDisabled",
        "edge,worker",
        "24h",
        "v1.37.0",
        "192.168.0.1",
        "<none>",
        "Debian",
        "6.1 (amd64)",
        "<unknown>"
    ]);
    assert_eq!(cells("", "nodes", node), expected);
    assert_eq!(cells("", "nodes", json!({}))[1], "Unknown");
}

#[test]
fn events_of_both_groups_print_alike() {
    let core = json!({
        "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{a}"}, "type": "Normal", "reason": "Started",
        "message": " done \n", "source": {"component": "kubelet", "host": "n1"}, "count": 3,
        "firstTimestamp": "2026-01-01T23:00:00Z", "lastTimestamp": "2026-01-01T23:59:30Z", "eventTime": null,
    });
    let expected = json!(["30s", "Normal", "Started", "pod/p", "spec.containers{a}", "kubelet, n1", "done", "60m", 3, "x"]);
    assert_eq!(cells("", "events", core), expected);
    let new = json!({
        "regarding": {"kind": "Pod", "name": "p"}, "type": "Normal", "reason": "Scheduled", "note": "n", "eventTime": "2026-01-01T23:58:00.5Z",
        "reportingController": "default-scheduler", "reportingInstance": "s-0",
    });
    let expected = json!(["119s", "Normal", "Scheduled", "pod/p", "", "default-scheduler, s-0", "n", "119s", 1, "x"]);
    assert_eq!(cells("events.k8s.io", "events", new), expected);
}

#[test]
fn jobs_and_cron_jobs() {
    let job = json!({
        "spec": {"completions": 3, "parallelism": 2},
        "status": {"succeeded": 1, "startTime": "2026-01-01T23:59:00Z", "conditions": [{"type": "Suspended", "status": "True"}]},
    });
    assert_eq!(cells("batch", "jobs", job), json!(["x", "Suspended", "1/3", "60s", "24h", "", "", "<none>"]));
    let done = json!({
        "spec": {"parallelism": 4},
        "status": {"succeeded": 1, "startTime": "2026-01-01T23:00:00Z", "completionTime": "2026-01-01T23:05:30Z",
            "conditions": [{"type": "Complete", "status": "True"}]},
    });
    assert_eq!(cells("batch", "jobs", done).as_array().unwrap()[1..4], [json!("Complete"), json!("1/1 of 4"), json!("5m30s")]);
    let cron = json!({"spec": {"schedule": "* * * * *", "suspend": false}, "status": {"active": [{}], "lastScheduleTime": "2026-01-01T23:59:18Z"}});
    assert_eq!(cells("batch", "cronjobs", cron), json!(["x", "* * * * *", "<none>", "False", 1, "42s", "24h", "", "", "<none>"]));
}

#[test]
fn volumes_quotas_and_secrets() {
    let modes = json!(["ReadWriteMany", "ReadWriteOnce", "ReadWriteOnce"]);
    let volume = json!({
        "spec": {"capacity": {"storage": "5Gi"}, "accessModes": modes, "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "fast",
            "claimRef": {"namespace": "default", "name": "data"}, "volumeMode": "Filesystem"},
        "status": {"phase": "Bound"},
    });
    let expected = json!(["x", "5Gi", "RWO,RWX", "Retain", "Bound", "default/data", "fast", "<unset>", "", "24h", "Filesystem"]);
    assert_eq!(cells("", "persistentvolumes", volume), expected);
    let claim = json!({"spec": {"storageClassName": "fast"}, "status": {"phase": "Pending"}});
    assert_eq!(cells("", "persistentvolumeclaims", claim), json!(["x", "Pending", "", "", "", "fast", "<unset>", "24h", "<unset>"]));
    let quota = json!({"status": {"hard": {"pods": "10", "limits.cpu": "4", "cpu": "2"}, "used": {"pods": "3"}}});
    assert_eq!(cells("", "resourcequotas", quota), json!(["x", "cpu: 0/2, pods: 3/10", "limits.cpu: 0/4", "24h"]));
    assert_eq!(cells("", "secrets", json!({"type": "Opaque", "data": {"a": "", "b": ""}})), json!(["x", "Opaque", 2, "24h"]));
    assert_eq!(cells("", "configmaps", json!({"data": {"a": ""}, "binaryData": {"b": ""}})), json!(["x", 2, "24h"]));
}

#[test]
fn autoscalers_ingresses_and_bindings() {
    let metrics = json!([
        {"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}},
        {"type": "Pods", "pods": {"target": {"averageValue": "100"}}},
        {"type": "External", "external": {"target": {"value": "5"}}},
    ]);
    let scaler = json!({
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "metrics": metrics, "maxReplicas": 9},
        "status": {"currentReplicas": 2, "currentMetrics": [{"type": "Resource", "resource": {"current": {"averageUtilization": 10}}}]},
    });
    let expected = json!(["x", "Deployment/web", "cpu: 10%/80%, <unknown>/100 + 1 more...", "<unset>", 9, 2, "24h"]);
    assert_eq!(cells("autoscaling", "horizontalpodautoscalers", scaler), expected);
    let rules = json!([{"host": "a"}, {"host": "b"}, {}, {"host": "c"}, {"host": "d"}]);
    let ingress = json!({"spec": {"rules": rules, "tls": [{}], "ingressClassName": "nginx"}});
    assert_eq!(cells("networking.k8s.io", "ingresses", ingress), json!(["x", "nginx", "a,b,c + 2 more...", "", "80, 443", "24h"]));
    let subjects =
        json!([{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "namespace": "n", "name": "s"}, {"kind": "User", "name": "v"}]);
    let binding = json!({"roleRef": {"kind": "ClusterRole", "name": "admin"}, "subjects": subjects});
    assert_eq!(cells("rbac.authorization.k8s.io", "rolebindings", binding), json!(["x", "ClusterRole/admin", "24h", "u, v", "", "n/s"]));
}

#[test]
fn kinds_without_columns_show_when_they_were_made() {
    assert_eq!(cells("", "limitranges", json!({})), json!(["x", "2026-01-01T00:00:00Z"]));
    assert_eq!(cells("rbac.authorization.k8s.io", "clusterroles", json!({})), json!(["x", "2026-01-01T00:00:00Z"]));
    assert_eq!(cells("example.com", "widgets", json!({})), json!(["x", "24h"]));
}

#[test]
fn lists_of_storage_classes_mark_the_default_and_flow_schemas_stand_in_order() {
    use bytes::Bytes;

    use crate::wire::table::{self, Include, TableOptions};
    let options =
        TableOptions { include: Include::None, headers: false, now: NOW.parse().unwrap(), meta: crate::wire::negotiate::MetaVersion::V1 };
    let first_cells = |group, resource, objects: Vec<Value>| -> Vec<String> {
        let wires: Vec<Bytes> = objects.iter().map(|o| o.to_string().into()).collect();
        let table = table::list(columns_for(group, resource), &wires, &json!({}), options).unwrap();
        let table: Value = serde_json::from_slice(&table).unwrap();
        table["rows"].as_array().unwrap().iter().map(|r| r["cells"][0].as_str().unwrap().to_owned()).collect()
    };
    let class = |name: &str, made: &str| {
        let annotations = json!({"storageclass.kubernetes.io/is-default-class": "true"});
        json!({"metadata": {"name": name, "creationTimestamp": made, "annotations": annotations}})
    };
    let classes = vec![class("a", "2026-01-01T00:00:00Z"), class("c", "2026-01-01T00:00:01Z"), class("b", "2026-01-01T00:00:01Z")];
    assert_eq!(first_cells("storage.k8s.io", "storageclasses", classes), ["a", "c", "b (default)"]);
    let flow = |name: &str, precedence: i64| json!({"metadata": {"name": name}, "spec": {"matchingPrecedence": precedence}});
    let flows = vec![flow("z", 2), flow("b", 1), flow("a", 2)];
    assert_eq!(first_cells("flowcontrol.apiserver.k8s.io", "flowschemas", flows), ["b", "a", "z"]);
}
