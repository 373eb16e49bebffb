//! NodeResourcesFit: what the pod requests must be free; the node with most left is best (LeastAllocated).

use super::{BEST, Events, Plugin, Reason};
use crate::{
    pod::Pod,
    snapshot::{Column, Row, Snapshot},
};

pub(super) struct NodeResourcesFit;

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn helped_by(&self) -> Events {
        Events::NODE_ADDED.or(Events::NODE_ALLOCATABLE).or(Events::POD_LEFT)
    }

    fn filter(&self, pod: &Pod, snapshot: &Snapshot, row: Row, reasons: &mut Vec<Reason>) {
        if snapshot.pods.left(row) < 1 {
            reasons.push("Too many pods".into());
        }
        let requests = &pod.requests;
        let short = |wanted: i64, column: &Column| wanted > 0 && wanted > column.left(row);
        if short(requests.cpu, &snapshot.cpu) {
            reasons.push("Insufficient cpu".into());
        }
        if short(requests.memory, &snapshot.memory) {
            reasons.push("Insufficient memory".into());
        }
        if short(requests.ephemeral, &snapshot.ephemeral) {
            reasons.push("Insufficient ephemeral-storage".into());
        }
        for (name, amount) in &requests.other {
            let left = snapshot.other.get(name).map_or(0, |column| column.left(row));
            if *amount > 0 && *amount > left {
                reasons.push(format!("Insufficient {name}").into());
            }
        }
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, pod: &Pod, snapshot: &Snapshot, rows: &[Row], scores: &mut [i64]) {
        let (cpu, memory) = (&snapshot.scoring.0, &snapshot.scoring.1);
        for (score, row) in scores.iter_mut().zip(rows) {
            *score = (least(cpu, *row, pod.scoring.0) + least(memory, *row, pod.scoring.1)) / 2;
        }
    }
}

/// The share left after the pod, of 100.
fn least(column: &Column, row: Row, wanted: i64) -> i64 {
    let capacity = column.allocatable[row];
    let left = capacity - column.used[row] - wanted;
    if capacity <= 0 || left < 0 { 0 } else { (i128::from(left) * i128::from(BEST) / i128::from(capacity)) as i64 }
}
