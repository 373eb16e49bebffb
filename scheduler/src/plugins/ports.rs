//! NodePorts: two pods cannot have one host port.

use super::{Events, Plugin, Reason};
use crate::{pod::Pod, snapshot::Snapshot};

pub(super) struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn helped_by(&self) -> Events {
        Events::NODE_ADDED.or(Events::POD_LEFT)
    }

    fn concerns(&self, pod: &Pod) -> bool {
        !pod.ports.is_empty()
    }

    fn filter(&self, pod: &Pod, snapshot: &Snapshot, row: usize, reasons: &mut Vec<Reason>) {
        let taken = &snapshot.ports[row];
        if pod.ports.iter().any(|wanted| taken.iter().any(|port| port.conflicts(wanted))) {
            reasons.push("node(s) didn't have free ports for the requested pod ports".into());
        }
    }
}
