//! Which pods go first when a set shrinks (upstream's `ActivePodsWithRanks`).

use std::{cmp::Ordering, collections::HashMap, sync::Arc};

use jiff::Timestamp;

use crate::pod::Pod;

const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Sorts `pods` so that those to be deleted first come first; `related` are all pods whose spread over nodes counts.
pub(super) fn sort(pods: &mut [Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| pod.is_active()) {
        *on_node.entry(node(pod)).or_default() += 1;
    }
    let crowd = |pod: &Pod| on_node.get(node(pod)).copied().unwrap_or_default();
    pods.sort_by(|a, b| compare(a, b, crowd(a), crowd(b), now));
}

fn compare(a: &Pod, b: &Pod, crowd_a: usize, crowd_b: usize, now: Timestamp) -> Ordering {
    let unassigned = |pod: &Pod| node(pod).is_empty();
    unassigned(b)
        .cmp(&unassigned(a))
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| a.is_ready().cmp(&b.is_ready()))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| crowd_b.cmp(&crowd_a))
        .then_with(|| if a.is_ready() && b.is_ready() { younger_first(ready_since(a), ready_since(b), a, b, now) } else { Ordering::Equal })
        .then_with(|| b.restarts().cmp(&a.restarts()))
        .then_with(|| younger_first(a.metadata.creation_timestamp, b.metadata.creation_timestamp, a, b, now))
}

fn node(pod: &Pod) -> &str {
    pod.spec.node_name.as_deref().unwrap_or_default()
}

fn phase(pod: &Pod) -> u8 {
    match pod.status.phase.as_str() {
        "Pending" => 0,
        "Unknown" => 1,
        "Running" => 2,
        _ => 0,
    }
}

fn cost(pod: &Pod) -> i32 {
    pod.metadata.annotations.get(COST).and_then(|cost| cost.parse().ok()).unwrap_or_default()
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    pod.condition("Ready").filter(|ready| ready.status == "True").and_then(|ready| ready.last_transition_time)
}

/// Ages are compared by their order of magnitude, and by uid within one: so that scaling down does not always hit the pods
/// of the newest zone (KEP 2185).
fn younger_first(a: Option<Timestamp>, b: Option<Timestamp>, pod_a: &Pod, pod_b: &Pod, now: Timestamp) -> Ordering {
    match (a, b) {
        (a, b) if a == b => Ordering::Equal,
        (None, _) => Ordering::Less,
        (_, None) => Ordering::Greater,
        (Some(a), Some(b)) => magnitude(a, now).cmp(&magnitude(b, now)).then_with(|| pod_a.metadata.uid.cmp(&pod_b.metadata.uid)),
    }
}

fn magnitude(since: Timestamp, now: Timestamp) -> i64 {
    let nanoseconds = now.duration_since(since).as_nanos();
    u128::try_from(nanoseconds).ok().and_then(u128::checked_ilog2).map_or(-1, i64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Condition;

    fn pod(uid: &str, node: &str, phase: &str, ready_for: Option<i64>) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.uid = uid.into();
        pod.metadata.creation_timestamp = Some(at(-10_000));
        pod.spec.node_name = Some(node.to_owned()).filter(|node| !node.is_empty());
        pod.status.phase = phase.into();
        if let Some(seconds) = ready_for {
            let since = Some(at(-seconds));
            pod.status.conditions =
                vec![Condition { type_: "Ready".into(), status: "True".into(), last_transition_time: since, ..Condition::default() }];
        }
        pod
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn order(pods: Vec<Pod>) -> Vec<String> {
        let mut pods: Vec<Arc<Pod>> = pods.into_iter().map(Arc::new).collect();
        let related = pods.clone();
        sort(&mut pods, &related, at(0));
        pods.iter().map(|pod| pod.metadata.uid.clone()).collect()
    }

    #[test]
    fn the_least_useful_pods_go_first() {
        let cheap = {
            let mut pod = pod("cheap", "n1", "Running", Some(5000));
            pod.metadata.annotations.insert(COST.into(), "-5".into());
            pod
        };
        let pods = vec![
            pod("old", "n2", "Running", Some(9000)),
            cheap,
            pod("young", "n3", "Running", Some(10)),
            pod("unready", "n4", "Running", None),
            pod("pending", "n5", "Pending", None),
            pod("unassigned", "", "Pending", None),
        ];
        assert_eq!(order(pods), ["unassigned", "pending", "unready", "cheap", "young", "old"]);
    }

    #[test]
    fn a_crowded_node_gives_first() {
        let pods =
            vec![pod("alone", "n1", "Running", Some(10)), pod("b", "n2", "Running", Some(1000)), pod("c", "n2", "Running", Some(1000))];
        assert_eq!(order(pods), ["b", "c", "alone"]);
    }
}
