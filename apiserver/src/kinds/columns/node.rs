//! Nodes.

use coracle_tree::Value;

use super::{
    AGE, Columns, NAME,
    cell::{self, Subject, items, or, text},
};
use crate::wire::table::Column;

/// Labels `node-role.kubernetes.io/ROLE`.
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
/// The older label, whose value is the role.
const ROLE_LABEL: &str = "kubernetes.io/role";

pub(super) static NODES: Columns = Columns::new(
    &[
        NAME,
        Column::text("Status", "Whether the node is ready and takes pods."),
        Column::text("Roles", "Roles of the node."),
        AGE,
        Column::text("Version", "Version of the node's agent."),
        Column::wide("Internal-IP", "Address of the node inside the cluster."),
        Column::wide("External-IP", "Address of the node outside the cluster."),
        Column::wide("OS-Image", "Operating system of the node."),
        Column::wide("Kernel-Version", "Kernel of the node."),
        Column::wide("Container-Runtime", "Container runtime of the node."),
    ],
    |s| {
        let info = s.at("/status/nodeInfo");
        let mut kernel = or(text(info, "kernelVersion"), "<unknown>").to_owned();
        if !text(info, "architecture").is_empty() {
            kernel.push_str(&format!(" ({})", text(info, "architecture")));
        }
        vec![
            s.name(),
            status(s).into(),
            roles(s).into(),
            s.age(),
            text(info, "kubeletVersion").into(),
            address(s, "InternalIP").into(),
            address(s, "ExternalIP").into(),
            or(text(info, "osImage"), "<unknown>").into(),
            kernel.into(),
            or(text(info, "containerRuntimeVersion"), "<unknown>").into(),
        ]
    },
);

fn status(s: Subject<'_>) -> String {
    // Of several conditions of one type the last counts.
    let ready = items(s.status(), "conditions").iter().rev().find(|c| text(c, "type") == "Ready");
    let mut status = match ready.map(|c| text(c, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if s.spec().get("unschedulable").and_then(Value::as_bool).unwrap_or_default() {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(s: Subject<'_>) -> String {
    let mut roles = Vec::new();
    for (label, value) in s.at("/metadata/labels").as_object().into_iter().flatten() {
        match label.strip_prefix(ROLE_PREFIX) {
            Some(role) => roles.push(role.to_owned()),
            None if label == ROLE_LABEL => roles.push(cell::scalar(value)),
            None => {}
        }
    }
    roles.retain(|r| !r.is_empty());
    roles.sort_unstable();
    roles.dedup();
    or(&roles.join(","), "<none>").to_owned()
}

fn address<'a>(s: Subject<'a>, kind: &str) -> &'a str {
    items(s.status(), "addresses").iter().find(|a| text(a, "type") == kind).map_or("<none>", |a| text(a, "address"))
}
