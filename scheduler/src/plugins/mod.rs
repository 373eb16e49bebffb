//! What decides where a pod may and should run: one file each, all in one list. Names, weights and reasons are kube-scheduler's.

mod affinity;
mod balanced;
mod fit;
mod name;
mod ports;
mod taints;
mod unschedulable;

use std::{borrow::Cow, collections::BTreeMap};

use crate::{
    pod::Pod,
    snapshot::{Row, Snapshot},
};

/// Things that happen in a cluster and can make room for a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Events(u8);

impl Events {
    pub(crate) const NODE_ADDED: Self = Self(1);
    pub(crate) const NODE_ALLOCATABLE: Self = Self(1 << 1);
    pub(crate) const NODE_LABELS: Self = Self(1 << 2);
    pub(crate) const NODE_TAINTS: Self = Self(1 << 3);
    /// A placed pod went away or finished.
    pub(crate) const POD_LEFT: Self = Self(1 << 4);

    pub(crate) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn none() -> Self {
        Self(0)
    }

    pub(crate) fn is_none(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn any_of(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Why a node was rejected.
pub(crate) type Reason = Cow<'static, str>;

/// One plugin. Filters and scores see all candidate nodes at once.
pub(crate) trait Plugin: Sync {
    /// As in kube-scheduler's configuration.
    fn name(&self) -> &'static str;

    /// After which events a pod that this plugin rejected may fit.
    fn helped_by(&self) -> Events;

    /// Adds to `reasons` what speaks against this node.
    fn filter(&self, _pod: &Pod, _snapshot: &Snapshot, _row: Row, _reasons: &mut Vec<Reason>) {}

    /// Whether the filter has anything to say about this pod.
    fn concerns(&self, _pod: &Pod) -> bool {
        true
    }

    /// Weight of its score; 0: it does not score.
    fn weight(&self) -> i64 {
        0
    }

    /// Scores of 0 to 100, one for each row, in their order.
    fn score(&self, _pod: &Pod, _snapshot: &Snapshot, _rows: &[Row], _scores: &mut [i64]) {}
}

/// All plugins, cheapest filters first.
pub(crate) static PLUGINS: &[&dyn Plugin] = &[
    &unschedulable::NodeUnschedulable,
    &name::NodeName,
    &taints::TaintToleration,
    &affinity::NodeAffinity,
    &ports::NodePorts,
    &fit::NodeResourcesFit,
    &balanced::NodeResourcesBalancedAllocation,
];

/// The best possible score of one plugin.
pub(crate) const BEST: i64 = 100;

/// Nodes still possible, and why others are not.
#[derive(Default)]
pub(crate) struct Candidates {
    pub(crate) rows: Vec<Row>,
    pub(crate) reasons: BTreeMap<Reason, usize>,
    /// Events that can help: the union over all plugins that rejected a node.
    pub(crate) helped_by: Option<Events>,
}

impl Candidates {
    /// Keeps the nodes a plugin has nothing against.
    pub(crate) fn filter(&mut self, plugin: &dyn Plugin, pod: &Pod, snapshot: &Snapshot) {
        if !plugin.concerns(pod) {
            return;
        }
        let mut reasons = Vec::new();
        let mut rejected = false;
        let counts = &mut self.reasons;
        self.rows.retain(|row| {
            plugin.filter(pod, snapshot, *row, &mut reasons);
            let keep = reasons.is_empty();
            rejected |= !keep;
            for reason in reasons.drain(..) {
                *counts.entry(reason).or_default() += 1;
            }
            keep
        });
        if rejected {
            tracing::trace!(plugin = plugin.name(), left = self.rows.len(), "rejected nodes");
            self.helped_by = Some(self.helped_by.unwrap_or_else(Events::none).or(plugin.helped_by()));
        }
    }
}

/// Stretches scores so that the highest becomes [`BEST`]; `reverse`: so that the highest becomes 0 (`helper.DefaultNormalizeScore`).
fn normalize(scores: &mut [i64], reverse: bool) {
    let highest = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let stretched = if highest == 0 { 0 } else { *score * BEST / highest };
        *score = if reverse { BEST - stretched } else { stretched };
    }
}
