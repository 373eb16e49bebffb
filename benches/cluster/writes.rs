//! CPU of one pod written in the ways that clients write: protobuf create, server-side apply, strategic merge.

use anyhow::{Context, Result, bail};
use coracle_schema::{SchemaRef, Tables, proto};
use futures::{StreamExt, TryStreamExt, stream};
use http::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};

use crate::{
    PODS,
    client::{Body, Client},
    own,
    server::{Program, Server, peers},
};

/// Pods made before anything is measured: the first ones pay for what is made once.
const BEFORE: u32 = 500;
/// Pods written in each way, and how many requests are under way at once.
const COUNT: u32 = 3_000;
const AT_ONCE: usize = 16;
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const APPLY: &str = "application/apply-patch+yaml";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// The ways, in the order in which they are measured: each finds what those before it made.
const WAYS: [&str; 5] = ["create, protobuf", "create, JSON", "apply, absent", "apply, changed", "strategic merge"];

/// CPU seconds of 1,000 writes of each kind.
pub async fn writes() -> Result<()> {
    let peer = match peers() {
        Some(binaries) => Some(measure(Program::Peer(binaries, Vec::new())).await?),
        None => None,
    };
    let made = measure(own(&["--agent=off", "--without=scheduler,controllers"])).await?;
    for (at, way) in WAYS.into_iter().enumerate() {
        let ratio =
            peer.map(|peer| format!("; kube-apiserver + etcd {:.2} s: {:.1}x less CPU", peer[at], peer[at] / made[at])).unwrap_or_default();
        println!("write   {way:16}: {:.3} s of CPU per 1,000 pods, {AT_ONCE} at once{ratio}", made[at]);
    }
    Ok(())
}

async fn measure(program: Program) -> Result<[f64; WAYS.len()]> {
    let server = Server::start(program).await?;
    let client = server.client().await?;
    crate::account(&client).await?;
    let schema = Tables::load()?.message("core.Pod").context("the tables have no pod")?;
    let first = stream::iter(0..BEFORE).map(|n| write(&client, first(n)));
    first.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    let mut made = [0.0; WAYS.len()];
    for (at, figure) in made.iter_mut().enumerate() {
        // Made before: one at a time, they would let fewer requests be under way.
        let requests = (0..COUNT).map(|n| request(at, n, &schema)).collect::<Result<Vec<_>>>()?;
        let before = server.cpu()?;
        let all = stream::iter(requests).map(|request| {
            let client = client.clone();
            async move { write(&client, request).await }
        });
        let answers: Vec<Result<()>> = all.buffer_unordered(AT_ONCE).collect().await;
        if let Some(error) = answers.into_iter().find_map(Result::err) {
            bail!("{}: {error}", WAYS[at]);
        }
        *figure = (server.cpu()? - before) / f64::from(COUNT) * 1e3;
    }
    Ok(made)
}

struct Write {
    method: Method,
    path: String,
    body: Body,
}

async fn write(client: &Client, write: Write) -> Result<()> {
    client.send(write.method, &write.path, write.body).await.map(drop)
}

fn first(n: u32) -> Write {
    Write { method: Method::POST, path: PODS.to_owned(), body: Body::json(&pod(&format!("first-{n:05}"))) }
}

fn request(way: usize, n: u32, schema: &SchemaRef) -> Result<Write> {
    let post = |body| Write { method: Method::POST, path: PODS.to_owned(), body };
    let patch = |name: String, content_type, object: &Value| Write {
        method: Method::PATCH,
        path: format!("{PODS}/{name}?fieldManager=bench&force=true"),
        body: Body { content_type, bytes: object.to_string().into() },
    };
    Ok(match way {
        0 => {
            let message = proto::message(pod(&format!("a-{n:05}")).to_string().as_bytes(), schema)?;
            post(Body { content_type: PROTOBUF, bytes: Bytes::from(proto::envelope("v1", "Pod", &message)) })
        }
        1 => post(Body::json(&pod(&format!("b-{n:05}")))),
        2 => patch(format!("c-{n:05}"), APPLY, &pod(&format!("c-{n:05}"))),
        3 => {
            let mut pod = pod(&format!("c-{n:05}"));
            pod["spec"]["containers"][0]["image"] = json!("registry.example.com/team/web-service:1.14.3");
            patch(format!("c-{n:05}"), APPLY, &pod)
        }
        _ => {
            let image = json!([{"name": "app", "image": "registry.example.com/team/web-service:1.14.4"}]);
            let change = json!({"metadata": {"labels": {"changed": n.to_string()}}, "spec": {"containers": image}});
            // Strategic merge knows no force.
            let path = format!("{PODS}/a-{n:05}?fieldManager=bench");
            Write { method: Method::PATCH, path, body: Body { content_type: STRATEGIC, bytes: change.to_string().into() } }
        }
    })
}

/// A pod as charts make them: 2.5 KB of JSON that come back as 6 KB.
pub fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name,
            "labels": {"app.kubernetes.io/name": "web", "app.kubernetes.io/instance": "bench", "app.kubernetes.io/version": "1.14.2",
                "app.kubernetes.io/component": "backend", "pod-template-hash": "6d4f9b7c85"},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9102",
                "checksum/config": "5f2b6e7cb2a7b8a3cf2ab3f3f1f29b9f2f4d1b63c37a4f1e7c2d40a5a9e9c1d7"}},
        "spec": {"containers": [container()],
            "volumes": [{"name": "config", "configMap": {"name": "web-config"}}, {"name": "tmp", "emptyDir": {}}],
            "securityContext": {"runAsUser": 1000, "fsGroup": 1000},
            "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "web", "effect": "NoSchedule"}],
            "terminationGracePeriodSeconds": 30, "restartPolicy": "Always", "dnsPolicy": "ClusterFirst"}})
}

fn container() -> Value {
    let probe = |path: &str| {
        json!({"httpGet": {"path": path, "port": 8080, "scheme": "HTTP"}, "initialDelaySeconds": 5, "periodSeconds": 10,
            "timeoutSeconds": 2, "successThreshold": 1, "failureThreshold": 3})
    };
    json!({"name": "app", "image": "registry.example.com/team/web-service:1.14.2", "imagePullPolicy": "IfNotPresent",
        "command": ["/app/server"], "args": ["--config=/etc/app/config.yaml", "--listen=:8080", "--metrics=:9102"],
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}, {"name": "metrics", "containerPort": 9102, "protocol": "TCP"}],
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
            {"name": "LOG_LEVEL", "value": "info"}, {"name": "DB_HOST", "value": "postgres-primary.data.svc.cluster.local"},
            {"name": "DB_PORT", "value": "5432"}, {"name": "CACHE_URL", "value": "redis://redis-master.data.svc.cluster.local:6379/0"},
            {"name": "FEATURES", "value": "alpha=false,beta=true,gamma=true"},
            {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://otel-collector.observability.svc:4317"}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "500m", "memory": "256Mi"}},
        "livenessProbe": probe("/healthz"), "readinessProbe": probe("/readyz"),
        "volumeMounts": [{"name": "config", "mountPath": "/etc/app", "readOnly": true}, {"name": "tmp", "mountPath": "/tmp"}],
        "securityContext": {"runAsNonRoot": true, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]}}})
}
