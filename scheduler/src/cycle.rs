//! One decision: a pod, a snapshot, a node or the reasons why none. Pure.

use crate::{
    plugins::{Candidates, Events, PLUGINS, Reason},
    pod::Pod,
    snapshot::{Row, Snapshot},
};

/// What to do with a pod.
#[derive(Debug, PartialEq)]
pub(crate) enum Decision {
    /// Run it there.
    Bind(Row),
    /// It fits nowhere now.
    Wait {
        /// For people, in kube-scheduler's words.
        message: String,
        /// After these it may fit.
        helped_by: Events,
    },
}

/// Decides where `pod` runs. `turn` breaks ties between equally good nodes, so that they take turns.
pub(crate) fn cycle(pod: &Pod, snapshot: &Snapshot, turn: usize) -> Decision {
    let mut candidates = Candidates { rows: snapshot.live().collect(), ..Candidates::default() };
    let total = candidates.rows.len();
    if total == 0 {
        return Decision::Wait { message: "no nodes available to schedule pods".into(), helped_by: Events::NODE_ADDED };
    }
    for plugin in PLUGINS {
        candidates.filter(*plugin, pod, snapshot);
        if candidates.rows.is_empty() {
            let helped_by = candidates.helped_by.unwrap_or(Events::NODE_ADDED);
            return Decision::Wait { message: message(total, &candidates), helped_by };
        }
    }
    Decision::Bind(best(pod, snapshot, &candidates.rows, turn))
}

fn best(pod: &Pod, snapshot: &Snapshot, rows: &[Row], turn: usize) -> Row {
    if let [only] = rows {
        return *only;
    }
    let mut totals = vec![0; rows.len()];
    let mut scores = vec![0; rows.len()];
    for plugin in PLUGINS.iter().filter(|plugin| plugin.weight() > 0) {
        scores.fill(0);
        plugin.score(pod, snapshot, rows, &mut scores);
        for (total, score) in totals.iter_mut().zip(&scores) {
            *total += score * plugin.weight();
        }
    }
    let highest = totals.iter().copied().max().unwrap_or(0);
    let ties = || rows.iter().zip(&totals).filter(|(_, total)| **total == highest).map(|(row, _)| *row);
    let count = ties().count().max(1);
    ties().nth(turn % count).unwrap_or(rows[0])
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.` (`framework.FitError`)
fn message(total: usize, candidates: &Candidates) -> String {
    let mut parts: Vec<String> = candidates.reasons.iter().map(|(reason, count): (&Reason, _)| format!("{count} {reason}")).collect();
    parts.sort();
    format!("0/{total} nodes are available: {}.", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        pod::tests::pod,
        snapshot::tests::{node, nodes},
    };

    /// Where a pod of this spec goes, or why not.
    fn placed(list: &[Value], spec: &Value) -> String {
        let snapshot = nodes(list);
        match cycle(&pod(json!({"spec": spec})), &snapshot, 0) {
            Decision::Bind(row) => snapshot.name(row).to_string(),
            Decision::Wait { message, .. } => message,
        }
    }

    fn wanting(cpu: &str) -> Value {
        json!({"containers": [{"resources": {"requests": {"cpu": cpu}}}]})
    }

    fn tainted(name: &str, effect: &str) -> Value {
        let mut node = node(name, "4");
        node["spec"] = json!({"taints": [{"key": "dedicated", "value": "db", "effect": effect}]});
        node
    }

    #[test]
    fn a_pod_goes_to_the_node_with_most_left() {
        assert_eq!(placed(&[node("small", "1"), node("large", "4")], &wanting("500m")), "large");
    }

    #[test]
    fn reasons_are_counted_over_all_nodes() {
        let mut cordoned = node("c", "8");
        cordoned["spec"] = json!({"unschedulable": true});
        let list = [node("a", "1"), node("b", "1"), cordoned];
        assert_eq!(placed(&list, &wanting("2")), "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu.");
    }

    #[test]
    fn without_nodes_the_pod_waits_for_one() {
        assert_eq!(placed(&[], &wanting("1")), "no nodes available to schedule pods");
    }

    #[test]
    fn a_hard_taint_rejects_and_a_soft_one_only_deters() {
        assert_eq!(placed(&[tainted("a", "NoSchedule")], &wanting("1")), "0/1 nodes are available: 1 node(s) had untolerated taint(s).");
        assert_eq!(placed(&[tainted("a", "PreferNoSchedule"), node("b", "3900m")], &wanting("1")), "b");
        let mut spec = wanting("1");
        spec["tolerations"] = json!([{"key": "dedicated", "operator": "Exists"}]);
        assert_eq!(placed(&[tainted("a", "NoExecute")], &spec), "a");
    }

    #[test]
    fn selector_and_required_affinity_must_both_hold() {
        let mut ssd = node("ssd", "1");
        ssd["metadata"]["labels"] = json!({"disk": "ssd", "rank": "7"});
        let list = [node("plain", "8"), ssd];
        let mut spec = wanting("100m");
        spec["nodeSelector"] = json!({"disk": "ssd"});
        assert_eq!(placed(&list, &spec), "ssd");
        let term = |operator: &str, values: Value| {
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [{"key": "rank", "operator": operator, "values": values}]}]}}})
        };
        spec["affinity"] = term("Gt", json!(["5"]));
        assert_eq!(placed(&list, &spec), "ssd");
        spec["affinity"] = term("Lt", json!(["5"]));
        assert_eq!(placed(&list, &spec), "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.");
    }

    #[test]
    fn a_preferred_term_outweighs_a_little_more_room() {
        let mut liked = node("liked", "4");
        liked["metadata"]["labels"] = json!({"zone": "a"});
        let mut spec = wanting("100m");
        spec["affinity"] = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
            [{"weight": 10, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}}]}});
        assert_eq!(placed(&[node("larger", "8"), liked], &spec), "liked");
    }

    #[test]
    fn a_taken_host_port_rejects_the_node_until_the_pod_leaves() {
        let mut snapshot = nodes(&[node("a", "4")]);
        let spec = json!({"containers": [{"ports": [{"hostPort": 80}]}]});
        snapshot.place(Arc::new(pod(json!({"metadata": {"uid": "1"}, "spec": spec}))), "a");
        let second = pod(json!({"metadata": {"uid": "2"}, "spec": spec}));
        let Decision::Wait { message, helped_by } = cycle(&second, &snapshot, 0) else { panic!("must wait") };
        assert!(message.contains("free ports"), "{message}");
        assert!(helped_by.any_of(Events::POD_LEFT) && !helped_by.any_of(Events::NODE_LABELS));
        snapshot.unplace("1");
        assert_eq!(cycle(&second, &snapshot, 0), Decision::Bind(0));
    }

    #[test]
    fn equal_nodes_take_turns() {
        let snapshot = nodes(&[node("a", "4"), node("b", "4"), node("c", "4")]);
        let pod = pod(json!({"spec": wanting("1m")}));
        let rows: Vec<Decision> = (0..3).map(|turn| cycle(&pod, &snapshot, turn)).collect();
        assert_eq!(rows, [Decision::Bind(0), Decision::Bind(1), Decision::Bind(2)]);
    }

    #[test]
    fn an_extended_resource_must_exist_on_the_node() {
        let spec = json!({"containers": [{"resources": {"requests": {"example.com/gpu": "1"}}}]});
        assert_eq!(placed(&[node("a", "4")], &spec), "0/1 nodes are available: 1 Insufficient example.com/gpu.");
    }
}
