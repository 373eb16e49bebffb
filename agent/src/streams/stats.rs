//! `/pods`, `/stats/summary` and `/metrics`, thin.

use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::State;
use crate::clock::time;
use crate::pods::registry::PodHandle;

/// All pods as a list, with the status last written.
pub(crate) fn pods(state: &State) -> Bytes {
    let items: Vec<Value> = state
        .directory
        .list(None)
        .iter()
        .map(|pod| {
            let view = pod.view();
            json!({"metadata": view.pod.metadata, "spec": view.pod.spec, "status": *view.status})
        })
        .collect();
    Bytes::from(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}).to_string())
}

/// Use of resources by node and pods (`stats/v1alpha1.Summary`); of the first node when none is named.
pub(crate) async fn summary(state: &State, node: Option<&str>) -> Bytes {
    let pods = state.directory.list(node);
    let Some(context) = pods.first().map(|pod| pod.context.clone()) else {
        return Bytes::from(json!({"node": {"nodeName": node.unwrap_or_default()}, "pods": []}).to_string());
    };
    let now = time(context.options.clock.now());
    let stats = context.runtime.stats().await.unwrap_or_default();
    let own: Vec<&Arc<PodHandle>> = pods.iter().filter(|p| p.context.options.node_name == context.options.node_name).collect();
    let pod_stats = own.iter().map(|pod| {
        let view = pod.view();
        let containers = view.containers.iter().filter_map(|c| {
            let found = stats.iter().find(|s| Some(&s.container_id) == c.id.as_ref())?;
            Some(json!({
                "name": c.name,
                "cpu": {"time": now, "usageCoreNanoSeconds": found.cpu_usage_ns},
                "memory": {"time": now, "workingSetBytes": found.memory_working_set_bytes, "rssBytes": found.memory_rss_bytes},
            }))
        });
        let meta = &view.pod.metadata;
        json!({
            "podRef": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
            "startTime": view.status.start_time, "containers": containers.collect::<Vec<_>>(),
        })
    });
    let disk = crate::machine::disk(&context.options.data_dir);
    let capacity = context.node.read().memory_capacity;
    let available = crate::machine::available_memory();
    let body = json!({
        "node": {
            "nodeName": context.options.node_name,
            "memory": {"time": now, "availableBytes": available, "workingSetBytes": (capacity - available).max(0)},
            "fs": disk.map(|d| json!({"time": now, "capacityBytes": d.total, "availableBytes": d.free, "usedBytes": d.total - d.free})),
        },
        "pods": pod_stats.collect::<Vec<_>>(),
    });
    Bytes::from(body.to_string())
}

/// Counts in the Prometheus format.
pub(crate) fn metrics(state: &State) -> Bytes {
    let pods = state.directory.list(None);
    let running: usize = pods.iter().map(|pod| pod.view().containers.iter().filter(|c| c.running).count()).sum();
    let mut text = String::new();
    for (name, help, value) in [
        (
            "kubelet_running_pods",
            "Number of pods that have a running pod sandbox",
            pods.iter().filter(|p| p.view().sandbox_id.is_some()).count(),
        ),
        ("kubelet_running_containers", "Number of containers currently running", running),
    ] {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    }
    Bytes::from(text)
}
