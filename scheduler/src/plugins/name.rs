//! NodeName: a pod that names its node runs there or nowhere.

use super::{Events, Plugin, Reason};
use crate::{pod::Pod, snapshot::Snapshot};

pub(super) struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn helped_by(&self) -> Events {
        Events::NODE_ADDED
    }

    fn concerns(&self, pod: &Pod) -> bool {
        !pod.view.spec.node_name.is_empty()
    }

    fn filter(&self, pod: &Pod, snapshot: &Snapshot, row: usize, reasons: &mut Vec<Reason>) {
        if **snapshot.name(row) != *pod.view.spec.node_name {
            reasons.push("node(s) didn't match the requested node name".into());
        }
    }
}
