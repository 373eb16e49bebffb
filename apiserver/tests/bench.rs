//! What requests cost, printed; run with `--ignored --nocapture` and in release mode for figures that mean something.

use std::time::Instant;

use serde_json::{Value, json};

use crate::house::House;

fn pod(i: usize) -> Value {
    let container = json!({
        "name": "main", "image": "registry.example/app:v1", "ports": [{"containerPort": 8080}],
        "env": (0..10).map(|n| json!({"name": format!("SETTING_{n}"), "value": "some value of middling length"})).collect::<Vec<_>>(),
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080}},
    });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{i}"), "labels": {"app": "bench", "n": i.to_string()}, "annotations": {"note": "x".repeat(300)}},
        "spec": {"containers": [container]},
    })
}

#[tokio::test]
#[ignore = "prints figures"]
async fn what_creating_listing_and_reading_pods_costs() {
    let house = House::new().await;
    let path = "/api/v1/namespaces/default/pods";
    const PODS: usize = 2000;
    let started = Instant::now();
    for i in 0..PODS {
        house.post(path, &pod(i)).await.ok();
    }
    println!("create: {:?} each", started.elapsed() / PODS as u32);
    let started = Instant::now();
    let list = house.get("/api/v1/pods").await;
    println!("list of {PODS}: {:?}, {} bytes", started.elapsed(), list.body.len());
    let started = Instant::now();
    for i in 0..PODS {
        house.get(&format!("{path}/pod-{i}")).await;
    }
    println!("get: {:?} each", started.elapsed() / PODS as u32);
    let started = Instant::now();
    for i in 0..PODS {
        let patch = json!({"status": {"phase": "Running"}});
        house.patch(&format!("{path}/pod-{i}/status"), "application/merge-patch+json", &patch).await.ok();
    }
    println!("patch status: {:?} each", started.elapsed() / PODS as u32);
}
