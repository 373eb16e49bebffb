//! NodeAffinity: nodeSelector, required node affinity, and preferred terms by weight.

use super::{Events, Plugin, Reason, normalize};
use crate::{
    pod::Pod,
    snapshot::{Row, Snapshot},
    view::{self, Expression, Labels, Term},
};

pub(super) struct NodeAffinity;

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn helped_by(&self) -> Events {
        Events::NODE_ADDED.or(Events::NODE_LABELS)
    }

    fn concerns(&self, pod: &Pod) -> bool {
        !pod.view.spec.node_selector.is_empty() || wishes(pod).is_some_and(|wishes| wishes.required.is_some())
    }

    fn filter(&self, pod: &Pod, snapshot: &Snapshot, row: Row, reasons: &mut Vec<Reason>) {
        let Some(node) = &snapshot.nodes[row] else { return };
        let labels = &node.metadata.labels;
        let selected = pod.view.spec.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        let required = wishes(pod).and_then(|wishes| wishes.required.as_ref());
        let fits = required.is_none_or(|selector| selector.node_selector_terms.iter().any(|term| matches(term, node)));
        if !selected || !fits {
            reasons.push("node(s) didn't match Pod's node affinity/selector".into());
        }
    }

    fn weight(&self) -> i64 {
        2
    }

    fn score(&self, pod: &Pod, snapshot: &Snapshot, rows: &[Row], scores: &mut [i64]) {
        let Some(wishes) = wishes(pod).filter(|wishes| !wishes.preferred.is_empty()) else { return };
        for (score, row) in scores.iter_mut().zip(rows) {
            let Some(node) = &snapshot.nodes[*row] else { continue };
            *score = wishes.preferred.iter().filter(|wish| matches(&wish.preference, node)).map(|wish| wish.weight).sum();
        }
        normalize(scores, false);
    }
}

fn wishes(pod: &Pod) -> Option<&view::NodeAffinity> {
    pod.view.spec.affinity.as_ref()?.node_affinity.as_ref()
}

/// A term without requirements matches nothing (`nodeaffinity.nodeSelectorTerm`).
fn matches(term: &Term, node: &view::Node) -> bool {
    if term.match_expressions.is_empty() && term.match_fields.is_empty() {
        return false;
    }
    let labels = &node.metadata.labels;
    let by_name = |field: &Expression| field.key == "metadata.name" && holds(field, Some(&node.metadata.name));
    term.match_expressions.iter().all(|e| expression(e, labels)) && term.match_fields.iter().all(by_name)
}

fn expression(expression: &Expression, labels: &Labels) -> bool {
    holds(expression, labels.get(&expression.key))
}

fn holds(expression: &Expression, value: Option<&String>) -> bool {
    match expression.operator.as_str() {
        "In" => value.is_some_and(|value| expression.values.contains(value)),
        "NotIn" => value.is_none_or(|value| !expression.values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers(expression, value).is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers(expression, value).is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

fn numbers(expression: &Expression, value: Option<&String>) -> Option<(i64, i64)> {
    let [bound] = expression.values.as_slice() else { return None };
    Some((value?.parse().ok()?, bound.parse().ok()?))
}
