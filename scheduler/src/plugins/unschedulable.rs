//! NodeUnschedulable: a cordoned node takes only pods that tolerate it.

use super::{Events, Plugin, Reason, taints::tolerates};
use crate::{pod::Pod, snapshot::Snapshot, view::Taint};

pub(super) struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn helped_by(&self) -> Events {
        Events::NODE_ADDED.or(Events::NODE_TAINTS)
    }

    fn filter(&self, pod: &Pod, snapshot: &Snapshot, row: usize, reasons: &mut Vec<Reason>) {
        let Some(node) = &snapshot.nodes[row] else { return };
        if !node.spec.unschedulable {
            return;
        }
        let cordon = Taint { key: "node.kubernetes.io/unschedulable".into(), value: String::new(), effect: "NoSchedule".into() };
        if !pod.view.spec.tolerations.iter().any(|toleration| tolerates(toleration, &cordon)) {
            reasons.push("node(s) were unschedulable".into());
        }
    }
}
