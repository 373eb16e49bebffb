//! What field ownership costs on the hot path: `cargo bench -p coracle-schema --bench apply`. Prints microseconds of one call, the best of
//! several rounds.

#![expect(clippy::print_stdout, reason = "its figures are its output")]

use std::{hint::black_box, time::Instant};

use coracle_schema::{
    SchemaRef, Tables,
    apply::apply,
    managed::{Who, record_update},
};
use coracle_tree::{Value, json};

/// Few calls a round, so that the copies stay in the processor's cache, as a request's object does.
const CALLS: u32 = 8;
const ROUNDS: usize = 400;

fn main() {
    // `cargo test --benches` runs this, too, without wanting figures.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let Some(schema) = Tables::load().ok().and_then(|t| t.message("core.Pod")) else { return };
    let who = Who {
        manager: "kubectl-create",
        api_version: "v1",
        kind: "Pod",
        subresource: "",
        now: "2026-01-01T00:00:00Z",
        reset: &[&["status"]],
        versions: None,
    };
    let kubelet = Who { manager: "kubelet", subresource: "status", now: "2026-01-01T00:00:09Z", reset: &[&["spec"]], ..who };
    let fresh = pod();
    let stored = recorded(&schema, None, fresh.clone(), &who);
    let running = recorded(&schema, Some(&stored), with_status(&stored, 1), &kubelet);
    let next = with_status(&running, 2);
    let size = |v: &Value| v.to_string().len();
    println!("pod: {} bytes, with owners {}, running {}", size(&fresh), size(&stored), size(&running));
    time("create", &fresh, |new| record_update(&schema, None, new, &who));
    time("status update", &next, |new| record_update(&schema, Some(&running), new, &kubelet));
    time("status update that changes nothing", &running, |new| record_update(&schema, Some(&running), new, &kubelet));
    let applier = Who { manager: "operator", ..who };
    let live = apply(&schema, Some(&running), &fresh, &applier, true).unwrap_or_default();
    time("apply that changes nothing", &fresh, |config| drop(black_box(apply(&schema, Some(&live), config, &applier, false))));
}

fn recorded(schema: &SchemaRef, old: Option<&Value>, mut new: Value, who: &Who<'_>) -> Value {
    record_update(schema, old, &mut new, who);
    new
}

/// Times `run` on fresh copies of `input`, which are made outside the clock.
fn time(what: &str, input: &Value, run: impl Fn(&mut Value)) {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let mut copies: Vec<Value> = (0..CALLS).map(|_| input.clone()).collect();
        let start = Instant::now();
        for copy in &mut copies {
            run(black_box(copy));
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS));
    }
    println!("{what}: {best:.1} µs");
}

fn container(name: &str) -> Value {
    let env: Vec<Value> = (0..24).map(|n| json!({"name": format!("SETTING_{n}"), "value": format!("value-number-{n}")})).collect();
    let probe = json!({
        "httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"},
        "failureThreshold": 3, "initialDelaySeconds": 5, "periodSeconds": 10, "successThreshold": 1, "timeoutSeconds": 1,
    });
    json!({
        "name": name, "image": "registry.example.com/team/app:1.2.3", "imagePullPolicy": "IfNotPresent",
        "args": ["--listen=:8080", "--log-level=info"], "env": env,
        "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}, {"containerPort": 9090, "name": "metrics", "protocol": "TCP"}],
        "resources": {"limits": {"cpu": "1", "memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
        "livenessProbe": probe, "readinessProbe": probe,
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true},
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        "volumeMounts": [{"mountPath": "/etc/config", "name": "config"}, {"mountPath": "/tmp", "name": "tmp"}],
    })
}

/// A pod of about 6 KB, as a deployment of an ordinary service makes it.
fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web-7c5ddbdf54-x2x9k", "namespace": "default", "generateName": "web-7c5ddbdf54-",
            "labels": {"app": "web", "pod-template-hash": "7c5ddbdf54", "app.kubernetes.io/name": "web", "team": "shop"},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9090"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7c5ddbdf54", "uid": "0f1e2d3c", "controller": true, "blockOwnerDeletion": true}],
        },
        "spec": {
            "containers": [container("web"), container("sidecar")],
            "initContainers": [{"name": "init", "image": "busybox:1", "command": ["sh", "-c", "true"], "resources": {}}],
            "volumes": [{"name": "config", "configMap": {"name": "web", "defaultMode": 420}}, {"name": "tmp", "emptyDir": {}}],
            "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": {
                "labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}}]}},
            "tolerations": [
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            ],
            "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always", "schedulerName": "default-scheduler",
            "securityContext": {}, "serviceAccount": "web", "serviceAccountName": "web", "terminationGracePeriodSeconds": 30,
        },
        "status": {"phase": "Pending", "qosClass": "Burstable"},
    })
}

fn with_status(pod: &Value, turn: u32) -> Value {
    let mut next = pod.clone();
    let conditions: Vec<Value> = ["Initialized", "Ready", "ContainersReady", "PodScheduled", "PodReadyToStartContainers"]
        .iter()
        .map(|kind| json!({"type": kind, "status": if turn > 1 { "True" } else { "False" }, "lastProbeTime": null, "lastTransitionTime": format!("2026-01-01T00:00:0{turn}Z")}))
        .collect();
    let statuses: Vec<Value> = ["web", "sidecar"]
        .iter()
        .map(|name| json!({"name": name, "ready": turn > 1, "started": true, "restartCount": 0, "image": "registry.example.com/team/app:1.2.3", "imageID": "sha256:1",
            "containerID": format!("coracle://{name}-{turn}"), "lastState": {}, "state": {"running": {"startedAt": "2026-01-01T00:00:01Z"}}}))
        .collect();
    let ips = json!([{"ip": "10.0.0.7"}]);
    next["status"] = json!({"phase": "Running", "qosClass": "Burstable", "conditions": conditions, "containerStatuses": statuses,
        "hostIP": "192.168.0.2", "podIP": "10.0.0.7", "podIPs": ips, "startTime": "2026-01-01T00:00:00Z"});
    next
}
