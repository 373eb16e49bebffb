//! The controllers of nodes: their health, the eviction from tainted ones, their share of the pod network, and the pods they
//! leave behind.

mod eviction;
mod ipam;
mod lifecycle;
mod pod_gc;
mod taints;

pub(crate) use self::{eviction::TaintEviction, ipam::NodeIpam, lifecycle::NodeLifecycle, pod_gc::PodGc, taints::tolerates};

use k8s_openapi::api::core::v1::{Node, NodeCondition};
use serde_json::{Value, json};

use crate::{
    change::{Change, PatchKind, Tolerate},
    object::Key,
    pod::Pod,
    time,
};

/// The condition of this type.
fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

/// The status of the condition `Ready`, `Unknown` when there is none.
fn ready(node: &Node) -> &str {
    condition(node, "Ready").map_or("Unknown", |condition| condition.status.as_str())
}

/// Marks a pod as about to be disrupted, before it is deleted (KEP 3329); `failed` also ends it.
fn disrupt(pod: &Pod, reason: &str, message: &str, failed: bool, now: jiff::Timestamp) -> Change {
    let mut status: Value = json!({"conditions": [{
        "type": "DisruptionTarget",
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": time::api(now),
    }]});
    if failed {
        status["phase"] = "Failed".into();
    }
    let body = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
    Change::patch_status::<Pod>(Key::of(pod), PatchKind::Strategic, body).tolerate(Tolerate::Races)
}
