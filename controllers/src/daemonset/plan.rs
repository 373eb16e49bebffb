//! The decision of one daemon set.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{DaemonSet, DaemonSetStatus},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    fit::{self, Fit},
    pods,
};
use crate::{
    caches::Caches,
    change::{Change, Note, Plan, Step},
    deployment::scaled,
    history::History,
    object::Object,
    pod::Pod,
};

/// Creations of one run (upstream's `BurstReplicas`).
const BURST: usize = 250;

/// What one look at all nodes found.
#[derive(Default)]
struct Found {
    create: Vec<String>,
    delete: Vec<Arc<Pod>>,
    notes: Vec<Note>,
    status: DaemonSetStatus,
    /// Per node that shall have a pod: those it has.
    running: Vec<Vec<Arc<Pod>>>,
    next: Option<Timestamp>,
}

/// Plans one set; `mine` are its pods.
pub(super) fn set(set: &DaemonSet, mine: &[Arc<Pod>], caches: &Caches, now: Timestamp, plan: &mut Plan) {
    let collisions = set.status.as_ref().and_then(|status| status.collision_count);
    let mut history = History::read(set, &set.spec.template, collisions, caches);
    plan.steps.extend(history.change.take().map(Step::One));
    let mut found = look(set, mine, &history.hash, caches, now);
    let outdated = replaceable(set, &found, &history.hash, now);
    found.delete.extend(outdated);
    if let Some(at) = found.next {
        plan.again_at(at, now);
    }
    found.notes.drain(..).for_each(|note| plan.tell(note));
    if !history.collided {
        let spec = pods::spec(set);
        let creations: Vec<Change> = found.create.iter().take(BURST).map(|node| pods::create(set, &spec, &history.hash, node)).collect();
        if !creations.is_empty() {
            plan.steps.push(Step::SlowStart(creations));
        }
    }
    plan.parallel(found.delete.iter().take(BURST).map(|pod| deletion(set, pod)).collect());
    let limit = usize::try_from(set.spec.revision_history_limit.unwrap_or(10)).unwrap_or_default();
    let hash_used = |hash: Option<&String>| mine.iter().any(|pod| pod.labels().get(crate::history::HASH_LABEL) == hash);
    plan.parallel(history.surplus(limit, |revision| hash_used(revision.labels().get(crate::history::HASH_LABEL))));
    found.status.collision_count = if history.collided { Some(collisions.unwrap_or_default() + 1) } else { collisions };
    report(set, found.status, plan);
}

fn look(set: &DaemonSet, mine: &[Arc<Pod>], hash: &str, caches: &Caches, now: Timestamp) -> Found {
    let mut by_node: HashMap<&str, Vec<&Arc<Pod>>> = HashMap::new();
    for pod in mine {
        by_node.entry(pods::node_of(pod).unwrap_or_default()).or_default().push(pod);
    }
    let spec = pods::spec(set);
    let mut found = Found::default();
    for node in caches.nodes.list("") {
        let pods = by_node.remove(node.name()).unwrap_or_default();
        let fit = fit::judge(&spec, &node);
        let kept = sort_out(set, fit, &pods, &mut found);
        if fit == Fit::Yes && pods.is_empty() {
            found.create.push(node.name().to_owned());
        }
        count(set, fit, &pods, hash, now, &mut found);
        if fit == Fit::Yes {
            found.running.push(kept);
        }
    }
    // Pods whose node is gone and that were never bound would wait for ever.
    found.delete.extend(by_node.into_values().flatten().filter(|pod| pod.spec.node_name.is_none() && pod.is_active()).cloned());
    let desired = found.status.desired_number_scheduled;
    found.status.number_unavailable = Some(desired - found.status.number_available.unwrap_or_default()).filter(|count| *count > 0);
    found
}

/// Of the pods of one node: which stay. Ended ones are replaced, and of several the oldest stays.
fn sort_out(set: &DaemonSet, fit: Fit, pods: &[&Arc<Pod>], found: &mut Found) -> Vec<Arc<Pod>> {
    let mut kept: Vec<Arc<Pod>> = Vec::new();
    for pod in pods.iter().filter(|pod| pod.deleted().is_none()) {
        let at = || format!("{}/{} on node {}", pod.namespace(), pod.name(), pods::node_of(pod).unwrap_or_default());
        match (fit, pod.status.phase.as_str()) {
            (Fit::No, _) => found.delete.push((*pod).clone()),
            (_, "Failed") => {
                found.notes.push(Note::warning(set, "FailedDaemonPod", format!("Found failed daemon pod {}, will try to kill it", at())));
                found.delete.push((*pod).clone());
            }
            (_, "Succeeded") => {
                found.notes.push(Note::normal(
                    set,
                    "SucceededDaemonPod",
                    format!("Found succeeded daemon pod {}, will try to delete it", at()),
                ));
                found.delete.push((*pod).clone());
            }
            _ => kept.push((*pod).clone()),
        }
    }
    let surge = max_surge(set, 1) > 0;
    kept.sort_by_key(|pod| pod.created());
    if kept.len() > 1 && !surge {
        found.delete.extend(kept.drain(1..));
    }
    kept
}

fn count(set: &DaemonSet, fit: Fit, pods: &[&Arc<Pod>], hash: &str, now: Timestamp, found: &mut Found) {
    let status = &mut found.status;
    if fit != Fit::Yes {
        status.number_misscheduled += i32::from(!pods.is_empty());
        return;
    }
    status.desired_number_scheduled += 1;
    let Some(pod) = pods.iter().min_by_key(|pod| (!pod.is_ready(), pod.created())) else { return };
    status.current_number_scheduled += 1;
    if pod.is_ready() {
        status.number_ready += 1;
        let (available, at) = pod.is_available(set.spec.min_ready_seconds.unwrap_or_default(), now);
        if available {
            *status.number_available.get_or_insert_default() += 1;
        }
        found.next = [found.next, at].into_iter().flatten().min();
    }
    if pods.iter().any(|pod| pods::is_current(set, pod, hash)) {
        *status.updated_number_scheduled.get_or_insert_default() += 1;
    }
}

/// Pods of old templates that may go now. Unavailable ones go at once, available ones within what may be unavailable.
fn replaceable(set: &DaemonSet, found: &Found, hash: &str, now: Timestamp) -> Vec<Arc<Pod>> {
    let strategy = set.spec.update_strategy.as_ref();
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
        return Vec::new();
    }
    let desired = found.status.desired_number_scheduled;
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let bound = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&IntOrString::Int(1));
    let surge = max_surge(set, desired);
    let may_miss = if surge > 0 { 0 } else { scaled(bound, desired, true) };
    let is_available = |pod: &Pod| pod.is_available(set.spec.min_ready_seconds.unwrap_or_default(), now).0;
    let (mut unavailable, mut healthy, mut doomed) = (0, Vec::new(), Vec::new());
    for pods in &found.running {
        let current_runs = pods.iter().any(|pod| pods::is_current(set, pod, hash) && is_available(pod));
        unavailable += i32::from(!pods.iter().any(|pod| is_available(pod)));
        for pod in pods.iter().filter(|pod| !pods::is_current(set, pod, hash)) {
            if surge > 0 && current_runs || surge == 0 && !is_available(pod) {
                doomed.push(pod.clone());
            } else if surge == 0 {
                healthy.push(pod.clone());
            }
        }
    }
    let room = usize::try_from(may_miss - unavailable).unwrap_or_default();
    doomed.extend(healthy.into_iter().take(room));
    doomed
}

fn max_surge(set: &DaemonSet, desired: i32) -> i32 {
    let rolling = set.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    rolling.and_then(|rolling| rolling.max_surge.as_ref()).map_or(0, |surge| scaled(surge, desired, true))
}

fn report(set: &DaemonSet, mut status: DaemonSetStatus, plan: &mut Plan) {
    status.observed_generation = set.metadata.generation;
    status.conditions = set.status.as_ref().and_then(|status| status.conditions.clone());
    if set.status.as_ref() != Some(&status) {
        let after = DaemonSet { status: Some(status), ..set.clone() };
        plan.finally = Some(Box::new(move |_| vec![Change::update_status(&after)]));
    }
}

fn deletion(set: &DaemonSet, pod: &Pod) -> Change {
    Change::delete(pod).on_success(Note::normal(set, "SuccessfulDelete", format!("Deleted pod: {}", pod.name()))).on_failure(Note::warning(
        set,
        "FailedDelete",
        "Error deleting: {error}",
    ))
}
