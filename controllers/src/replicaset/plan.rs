//! The decision of one replica set: what to create or delete now, and what to report.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::ReplicaSetCondition,
        core::v1::{PodSpec, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use serde::Serialize;

use super::{
    kind::{Counts, Replicated},
    rank,
};
use crate::{
    change::{Change, Note, Outcome, Plan, Step},
    object::{Key, Kind, Object, controller_reference},
    pod::Pod,
    time,
};

/// Creations or deletions of one run (upstream's `BurstReplicas`).
const BURST: usize = 500;
const FAILURE: &str = "ReplicaFailure";

/// Plans one set. `pods` are all pods it owns or is adopting; `related` those that count for ranking.
pub(super) fn replicas<K: Replicated>(set: &K, pods: &[Arc<Pod>], related: &dyn Fn() -> Vec<Arc<Pod>>, now: Timestamp, plan: &mut Plan) {
    let active: Vec<Arc<Pod>> = pods.iter().filter(|pod| pod.is_active()).cloned().collect();
    let wanted = usize::try_from(set.wanted()).unwrap_or_default();
    if set.deleted().is_none() {
        if active.len() < wanted {
            plan.steps.push(Step::SlowStart(creations(set, (wanted - active.len()).min(BURST))));
        } else if active.len() > wanted {
            let mut doomed = active.clone();
            let count = (active.len() - wanted).min(BURST);
            if count < doomed.len() {
                rank::sort(&mut doomed, &related(), now);
                doomed.truncate(count);
            }
            plan.parallel(doomed.iter().map(|pod| deletion(set, pod)).collect());
        }
    }
    let (counts, next) = count(set, pods, &active, now);
    if let Some(at) = next {
        plan.again_at(at, now);
    }
    report(set, counts, now, plan);
}

/// The pod of a template, as it is sent.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewPod<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: NewMeta<'a>,
    spec: Option<&'a PodSpec>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewMeta<'a> {
    generate_name: String,
    namespace: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<&'a BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finalizers: Option<&'a Vec<String>>,
    owner_references: [OwnerReference; 1],
}

fn new_pod<'a, K: Kind>(owner: &'a K, template: &'a PodTemplateSpec) -> NewPod<'a> {
    let metadata = template.metadata.as_ref();
    // A long name leaves no room for the dash (upstream's `getPodsPrefix`).
    let dash = if owner.name().len() < 253 { "-" } else { "" };
    NewPod {
        api_version: "v1",
        kind: "Pod",
        metadata: NewMeta {
            generate_name: format!("{}{dash}", owner.name()),
            namespace: owner.namespace(),
            labels: metadata.and_then(|meta| meta.labels.as_ref()),
            annotations: metadata.and_then(|meta| meta.annotations.as_ref()),
            finalizers: metadata.and_then(|meta| meta.finalizers.as_ref()),
            owner_references: [controller_reference(owner)],
        },
        spec: template.spec.as_ref(),
    }
}

fn creations<K: Replicated>(set: &K, count: usize) -> Vec<Change> {
    // Pods that are not the set's own would be released as soon as they were made, without end. Validation forbids it.
    let no_labels = BTreeMap::new();
    let is_own =
        |template: &&PodTemplateSpec| set.selects(template.metadata.as_ref().and_then(|meta| meta.labels.as_ref()).unwrap_or(&no_labels));
    let Some(template) = set.template().filter(is_own) else { return Vec::new() };
    let body: Arc<[u8]> = serde_json::to_vec(&new_pod(set, template)).unwrap_or_default().into();
    let change = Change::create_bytes(Pod::RESOURCE, Key::new(set.namespace(), ""), body)
        .on_success(Note::normal(set, "SuccessfulCreate", "Created pod: {name}"))
        .on_failure(Note::warning(set, "FailedCreate", "Error creating: {error}"));
    vec![change; count]
}

fn deletion<K: Replicated>(set: &K, pod: &Pod) -> Change {
    Change::delete(pod).on_success(Note::normal(set, "SuccessfulDelete", format!("Deleted pod: {}", pod.name()))).on_failure(Note::warning(
        set,
        "FailedDelete",
        "Error deleting: {error}",
    ))
}

/// The status as counted, and when a pod will next become available by the clock alone.
fn count<K: Replicated>(set: &K, pods: &[Arc<Pod>], active: &[Arc<Pod>], now: Timestamp) -> (Counts, Option<Timestamp>) {
    let wanted_labels = set.template().and_then(|template| template.metadata.as_ref()).and_then(|meta| meta.labels.as_ref());
    let mut counts = Counts {
        replicas: to_i32(active.len()),
        observed_generation: set.generation(),
        conditions: set.counts().conditions,
        ..Counts::default()
    };
    let mut next: Option<Timestamp> = None;
    for pod in active {
        if wanted_labels.is_none_or(|labels| crate::selector::selects_map(labels, pod.labels())) {
            counts.fully_labeled += 1;
        }
        if pod.is_ready() {
            counts.ready += 1;
            let (available, at) = pod.is_available(set.min_ready_seconds(), now);
            counts.available += i32::from(available);
            next = [next, at].into_iter().flatten().min();
        }
    }
    if K::RESOURCE.kind == "ReplicaSet" {
        counts.terminating = Some(to_i32(pods.iter().filter(|pod| pod.is_terminating()).count()));
    }
    (counts, next)
}

/// Writes the status if it changed, once it is known whether the pods could be made.
fn report<K: Replicated>(set: &K, counts: Counts, now: Timestamp, plan: &mut Plan) {
    let set = set.clone();
    plan.finally = Some(Box::new(move |outcome| {
        let counts = Counts { conditions: conditions(&counts.conditions, outcome, now), ..counts };
        if counts == set.counts() {
            return Vec::new();
        }
        vec![Change::update_status(&set.with(counts))]
    }));
}

/// The condition `ReplicaFailure` comes with the first failure and goes with the first success.
fn conditions(old: &[ReplicaSetCondition], outcome: &Outcome, now: Timestamp) -> Vec<ReplicaSetCondition> {
    let is_failure = |condition: &ReplicaSetCondition| condition.type_.as_deref() == Some(FAILURE);
    let failed = outcome.create_error.as_ref().map(|message| ("FailedCreate", message));
    let failed = failed.or(outcome.delete_error.as_ref().map(|message| ("FailedDelete", message)));
    match failed {
        None => old.iter().filter(|condition| !is_failure(condition)).cloned().collect(),
        Some(_) if old.iter().any(is_failure) => old.to_vec(),
        Some((reason, message)) => {
            let condition = ReplicaSetCondition {
                type_: Some(FAILURE.into()),
                status: Some("True".into()),
                reason: Some(reason.into()),
                message: Some(message.clone()),
                last_transition_time: Some(time::api(now)),
            };
            old.iter().cloned().chain([condition]).collect()
        }
    }
}

fn to_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::apps::v1::{ReplicaSet, ReplicaSetSpec},
        apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
    };

    use super::*;
    use crate::{change::Verb, pod::Condition};

    fn set(wanted: i32) -> ReplicaSet {
        let metadata = ObjectMeta {
            name: Some("web".into()),
            namespace: Some("a".into()),
            uid: Some("u".into()),
            generation: Some(3),
            ..ObjectMeta::default()
        };
        let labels: BTreeMap<String, String> = [("app".to_owned(), "web".to_owned())].into();
        let selector = LabelSelector { match_labels: Some(labels.clone()), match_expressions: None };
        let template = PodTemplateSpec { metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }), spec: None };
        let spec = ReplicaSetSpec { replicas: Some(wanted), template: Some(template), selector, ..ReplicaSetSpec::default() };
        ReplicaSet { metadata, spec, status: None }
    }

    fn pod(name: &str, phase: &str, deleted: bool, ready_since: Option<i64>) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = name.into();
        pod.metadata.namespace = "a".into();
        pod.metadata.uid = name.into();
        pod.metadata.deletion_timestamp = deleted.then(|| at(0));
        pod.status.phase = phase.into();
        pod.status.conditions.extend(ready_since.map(|second| Condition {
            type_: "Ready".into(),
            status: "True".into(),
            last_transition_time: Some(at(second)),
            ..Condition::default()
        }));
        Arc::new(pod)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn run(set: &ReplicaSet, pods: &[Arc<Pod>]) -> (usize, Vec<String>, Plan) {
        let mut plan = Plan::nothing();
        replicas(set, pods, &|| pods.to_vec(), at(0), &mut plan);
        let created = plan.changes().filter(|change| matches!(change.verb, Verb::Create(_))).count();
        let deleted: Vec<String> =
            plan.changes().filter(|change| matches!(change.verb, Verb::Delete { .. })).map(|change| change.key.name.to_string()).collect();
        (created, deleted, plan)
    }

    fn status(plan: Plan, outcome: &Outcome) -> Option<serde_json::Value> {
        plan.finally.unwrap()(outcome).pop().map(|change| match change.verb {
            Verb::Update { object, .. } => object["status"].clone(),
            other => panic!("not an update: {other:?}"),
        })
    }

    #[test]
    fn ended_and_terminating_pods_are_replaced() {
        let pods = [pod("a", "Running", false, None), pod("b", "Failed", false, None), pod("c", "Running", true, None)];
        let (created, deleted, plan) = run(&set(3), &pods);
        assert_eq!((created, deleted.len()), (2, 0));
        let status = status(plan, &Outcome::default()).unwrap();
        assert_eq!((status["replicas"].as_i64(), status["terminatingReplicas"].as_i64()), (Some(1), Some(1)));
        assert_eq!(status["observedGeneration"], 3);
    }

    #[test]
    fn the_unready_pod_is_deleted_first() {
        let (created, deleted, _) = run(&set(1), &[pod("ready", "Running", false, Some(-9)), pod("unready", "Running", false, None)]);
        assert_eq!((created, deleted), (0, vec!["unready".to_owned()]));
    }

    #[test]
    fn one_run_creates_at_most_a_burst() {
        assert_eq!(run(&set(3000), &[]).0, BURST);
    }

    #[test]
    fn a_set_that_would_not_own_its_pods_makes_none() {
        let mut set = set(3);
        set.spec.template = Some(PodTemplateSpec::default());
        assert_eq!(run(&set, &[]).0, 0);
    }

    #[test]
    fn a_set_being_deleted_creates_nothing() {
        let mut set = set(3);
        set.metadata.deletion_timestamp = Some(time::api(at(0)));
        assert_eq!(run(&set, &[]).0, 0);
    }

    #[test]
    fn a_refused_creation_becomes_a_condition_and_a_success_takes_it_away() {
        let failed = Outcome { create_error: Some("quota".into()), ..Outcome::default() };
        let report = status(run(&set(1), &[]).2, &failed).unwrap();
        assert_eq!(report["conditions"][0]["reason"], "FailedCreate");
        assert_eq!(report["conditions"][0]["message"], "quota");
        let mut set = set(1);
        set.status = serde_json::from_value(report).unwrap();
        let report = status(run(&set, &[pod("a", "Running", false, None)]).2, &Outcome::default()).unwrap();
        assert_eq!(report["conditions"], serde_json::Value::Null);
    }

    #[test]
    fn a_pod_is_available_only_after_min_ready_seconds_and_the_set_looks_again_then() {
        let mut set = set(1);
        set.spec.min_ready_seconds = Some(10);
        let (_, _, plan) = run(&set, &[pod("a", "Running", false, Some(-4))]);
        assert_eq!(plan.again.unwrap().as_secs(), 6);
        let report = status(plan, &Outcome::default()).unwrap();
        assert_eq!((report["readyReplicas"].as_i64(), report["availableReplicas"].as_i64()), (Some(1), None));
    }

    #[test]
    fn an_unchanged_status_is_not_written() {
        let mut set = set(0);
        let report = status(run(&set, &[]).2, &Outcome::default()).unwrap();
        set.status = serde_json::from_value(report).unwrap();
        assert!(status(run(&set, &[]).2, &Outcome::default()).is_none());
    }
}
