//! TaintToleration: NoSchedule and NoExecute taints must be tolerated; fewer PreferNoSchedule ones are better.

use super::{Events, Plugin, Reason, normalize};
use crate::{
    pod::Pod,
    snapshot::{Row, Snapshot},
    view::{Taint, Toleration},
};

pub(super) struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn helped_by(&self) -> Events {
        Events::NODE_ADDED.or(Events::NODE_TAINTS)
    }

    fn filter(&self, pod: &Pod, snapshot: &Snapshot, row: Row, reasons: &mut Vec<Reason>) {
        let Some(node) = &snapshot.nodes[row] else { return };
        let hard = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
        if node.spec.taints.iter().filter(hard).any(|taint| !tolerated(&pod.view.spec.tolerations, taint)) {
            reasons.push("node(s) had untolerated taint(s)".into());
        }
    }

    fn weight(&self) -> i64 {
        3
    }

    fn score(&self, pod: &Pod, snapshot: &Snapshot, rows: &[Row], scores: &mut [i64]) {
        for (score, row) in scores.iter_mut().zip(rows) {
            let taints = snapshot.nodes[*row].iter().flat_map(|node| &node.spec.taints);
            let soft = taints.filter(|taint| taint.effect == "PreferNoSchedule");
            *score = soft.filter(|taint| !tolerated(&pod.view.spec.tolerations, taint)).count() as i64;
        }
        normalize(scores, true);
    }
}

fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

/// `v1.Toleration.ToleratesTaint`: an empty key with Exists tolerates all, an empty effect all effects.
pub(super) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    if !toleration.effect.is_empty() && toleration.effect != taint.effect {
        return false;
    }
    if !toleration.key.is_empty() && toleration.key != taint.key {
        return false;
    }
    match toleration.operator.as_str() {
        "" | "Equal" => toleration.value == taint.value,
        "Exists" => true,
        "Lt" => compare(&taint.value, &toleration.value).is_some_and(std::cmp::Ordering::is_lt),
        "Gt" => compare(&taint.value, &toleration.value).is_some_and(std::cmp::Ordering::is_gt),
        _ => false,
    }
}

fn compare(taint: &str, toleration: &str) -> Option<std::cmp::Ordering> {
    Some(taint.parse::<i64>().ok()?.cmp(&toleration.parse::<i64>().ok()?))
}
