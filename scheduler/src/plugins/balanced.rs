//! NodeResourcesBalancedAllocation: cpu and memory should be used in equal shares.

use super::{BEST, Events, Plugin};
use crate::{
    pod::Pod,
    snapshot::{Column, Row, Snapshot},
};

pub(super) struct NodeResourcesBalancedAllocation;

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn helped_by(&self) -> Events {
        Events::none()
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, pod: &Pod, snapshot: &Snapshot, rows: &[Row], scores: &mut [i64]) {
        // Upstream skips pods that request nothing (best effort): balance says nothing about them.
        if pod.requests.cpu == 0 && pod.requests.memory == 0 {
            return;
        }
        for (score, row) in scores.iter_mut().zip(rows) {
            let cpu = share(&snapshot.cpu, *row, pod.requests.cpu);
            let memory = share(&snapshot.memory, *row, pod.requests.memory);
            // The standard deviation of two numbers is half their distance.
            *score = ((1.0 - (cpu - memory).abs() / 2.0) * BEST as f64) as i64;
        }
    }
}

fn share(column: &Column, row: Row, wanted: i64) -> f64 {
    let capacity = column.allocatable[row];
    if capacity <= 0 { 1.0 } else { ((column.used[row] + wanted) as f64 / capacity as f64).min(1.0) }
}
