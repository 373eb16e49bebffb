use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, ReplicaSet, ReplicaSetStatus, RollingUpdateDeployment},
        core::v1::{Container, PodSpec, PodTemplateSpec},
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use serde_json::Value;

use super::*;
use crate::{
    change::{Outcome, Verb},
    object::controller_reference,
    pod::Pod,
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn template(image: &str) -> PodTemplateSpec {
    let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    let container = Container { name: "c".into(), image: Some(image.into()), ..Container::default() };
    let spec = PodSpec { containers: vec![container], ..PodSpec::default() };
    PodTemplateSpec { metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }), spec: Some(spec) }
}

fn deployment(replicas: i32, surge: i32, unavailable: i32) -> Deployment {
    let rolling =
        RollingUpdateDeployment { max_surge: Some(IntOrString::Int(surge)), max_unavailable: Some(IntOrString::Int(unavailable)) };
    let metadata = ObjectMeta {
        name: Some("web".into()),
        namespace: Some("a".into()),
        uid: Some("d".into()),
        generation: Some(1),
        ..ObjectMeta::default()
    };
    let spec = DeploymentSpec {
        replicas: Some(replicas),
        selector: LabelSelector { match_labels: Some(BTreeMap::from([("app".to_owned(), "web".to_owned())])), ..LabelSelector::default() },
        strategy: Some(DeploymentStrategy { type_: Some("RollingUpdate".into()), rolling_update: Some(rolling) }),
        template: template("new"),
        progress_deadline_seconds: Some(600),
        revision_history_limit: Some(10),
        ..DeploymentSpec::default()
    };
    Deployment { metadata, spec, status: None }
}

/// A set of `image` with a size, available pods and a revision.
fn set(of: &Deployment, image: &str, size: i32, available: i32, revision: i64) -> ReplicaSet {
    let mut template = template(image);
    template.metadata.as_mut().unwrap().labels.as_mut().unwrap().insert(HASH_LABEL.into(), image.into());
    let mut set = ReplicaSet::default();
    set.metadata.name = Some(format!("web-{image}"));
    set.metadata.namespace = Some("a".into());
    set.metadata.uid = Some(image.into());
    set.metadata.creation_timestamp = Some(crate::time::api(at(revision)));
    set.metadata.labels = template.metadata.as_ref().unwrap().labels.clone();
    set.metadata.owner_references = Some(vec![controller_reference(of)]);
    set.metadata.annotations = Some(BTreeMap::from([
        ("deployment.kubernetes.io/revision".to_owned(), revision.to_string()),
        ("deployment.kubernetes.io/desired-replicas".to_owned(), strategy::wanted(of).to_string()),
        ("deployment.kubernetes.io/max-replicas".to_owned(), (strategy::wanted(of) + strategy::max_surge(of)).to_string()),
    ]));
    let spec = &mut set.spec;
    (spec.replicas, spec.template) = (Some(size), Some(template));
    set.status = Some(ReplicaSetStatus {
        replicas: size,
        available_replicas: Some(available),
        ready_replicas: Some(available),
        ..ReplicaSetStatus::default()
    });
    set
}

struct Result {
    /// Names and sizes of created or updated sets.
    sizes: Vec<(String, i64)>,
    deleted: Vec<String>,
    notes: Vec<String>,
    status: Option<Value>,
    plan_again: Option<std::time::Duration>,
}

fn run(deployment: &Deployment, sets: Vec<ReplicaSet>, pods: Vec<Pod>, outcome: &Outcome) -> Result {
    let caches = Arc::new(Caches::default());
    caches.deployments.put(deployment.clone());
    sets.into_iter().for_each(|set| caches.replica_sets.put(set));
    pods.into_iter().for_each(|pod| caches.pods.put(pod));
    let plan = Deployments::new(caches).plan(&Key::new("a", "web"), at(100));
    let mut result = Result { sizes: vec![], deleted: vec![], notes: vec![], status: None, plan_again: plan.again };
    for change in plan.changes() {
        result.notes.extend(change.on_success.as_ref().map(|note| note.message.clone()));
        match &change.verb {
            Verb::Create(body) => {
                let object: Value = serde_json::from_slice(body).unwrap();
                result.sizes.push(("new".into(), object["spec"]["replicas"].as_i64().unwrap()));
            }
            Verb::Update { object, .. } => {
                result.sizes.push((change.key.name.replace("web-", ""), object["spec"]["replicas"].as_i64().unwrap()));
            }
            Verb::Delete { .. } => result.deleted.push(change.key.name.to_string()),
            Verb::Patch { .. } => {}
        }
    }
    let status = plan.finally.and_then(|finally| finally(outcome).pop());
    result.status = status.map(|change| match change.verb {
        Verb::Update { object, .. } => object,
        other => panic!("not an update: {other:?}"),
    });
    result
}

fn progressing(result: &Result) -> String {
    let conditions = result.status.as_ref().unwrap()["status"]["conditions"].as_array().unwrap().clone();
    conditions.iter().find(|condition| condition["type"] == "Progressing").unwrap()["reason"].as_str().unwrap().to_owned()
}

#[test]
fn the_first_set_is_made_at_full_size_with_revision_one() {
    let result = run(&deployment(3, 1, 1), vec![], vec![], &Outcome::default());
    assert_eq!(result.sizes, [("new".to_owned(), 3)]);
    assert!(result.notes[0].starts_with("Scaled up replica set web-") && result.notes[0].ends_with("from 0 to 3"), "{:?}", result.notes);
    assert_eq!(progressing(&result), "NewReplicaSetCreated");
    let object = result.status.unwrap();
    assert_eq!(object["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
    assert_eq!(object["status"]["unavailableReplicas"], 3);
}

#[test]
fn a_rolling_update_keeps_to_surge_and_unavailability() {
    // size and availability of the old and the new set, surge, unavailable -> new sizes written
    type Case<'a> = ((i32, i32), Option<(i32, i32)>, i32, i32, &'a [(&'a str, i64)]);
    let cases: &[Case<'_>] = &[
        ((10, 10), None, 2, 2, &[("new", 2), ("old", 8)]),
        ((10, 10), None, 2, 0, &[("new", 2)]),
        ((10, 10), Some((2, 0)), 2, 2, &[("old", 8)]),
        ((8, 8), Some((2, 2)), 2, 2, &[("new", 4)]),
        ((8, 8), Some((4, 2)), 2, 2, &[("old", 6)]),
        ((10, 5), Some((2, 0)), 2, 2, &[("old", 8)]),
        ((10, 10), Some((0, 0)), 0, 1, &[("old", 9)]),
        ((0, 0), Some((10, 10)), 2, 2, &[]),
    ];
    for (old, new, surge, unavailable, expected) in cases {
        let deployment = deployment(10, *surge, *unavailable);
        let mut sets = vec![set(&deployment, "old", old.0, old.1, 1)];
        sets.extend(new.map(|(size, available)| set(&deployment, "new", size, available, 2)));
        let result = run(&deployment, sets, vec![], &Outcome::default());
        let expected: Vec<(String, i64)> = expected.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect();
        assert_eq!(result.sizes, expected, "old {old:?} new {new:?}");
    }
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_spread_in_proportion() {
    let before = deployment(10, 3, 2);
    let sets = vec![set(&before, "old", 8, 8, 1), set(&before, "new", 5, 0, 2)];
    let mut after = deployment(15, 3, 2);
    after.status.get_or_insert_default().replicas = Some(13);
    let mut sizes = run(&after, sets, vec![], &Outcome::default()).sizes;
    sizes.sort();
    assert_eq!(sizes, [("new".to_owned(), 7), ("old".to_owned(), 11)]);
}

#[test]
fn recreate_waits_for_the_old_pods_to_be_gone() {
    let mut deployment = deployment(2, 0, 0);
    deployment.spec.strategy = Some(DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None });
    let down = run(&deployment, vec![set(&deployment, "old", 2, 2, 1)], vec![], &Outcome::default());
    assert_eq!(down.sizes, [("old".to_owned(), 0)]);
    let mut pod = Pod::default();
    (pod.metadata.name, pod.metadata.namespace) = ("p".into(), "a".into());
    pod.status.phase = "Running".into();
    pod.metadata.owner_references = vec![controller_reference(&set(&deployment, "old", 0, 0, 1))];
    let waits = run(&deployment, vec![set(&deployment, "old", 0, 0, 1)], vec![pod], &Outcome::default());
    assert_eq!(waits.sizes, []);
    let up = run(&deployment, vec![set(&deployment, "old", 0, 0, 1)], vec![], &Outcome::default());
    assert_eq!(up.sizes, [("new".to_owned(), 2)]);
}

#[test]
fn a_set_used_again_gets_the_next_revision_and_remembers_its_old_one() {
    let deployment = deployment(1, 1, 0);
    let caches = Arc::new(Caches::default());
    caches.deployments.put(deployment.clone());
    caches.replica_sets.put(set(&deployment, "new", 0, 0, 1));
    caches.replica_sets.put(set(&deployment, "old", 1, 1, 2));
    let plan = Deployments::new(caches).plan(&Key::new("a", "web"), at(100));
    let Verb::Update { object, .. } = &plan.changes().next().unwrap().verb else { panic!("not an update") };
    assert_eq!(object["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
    assert_eq!(object["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"], "1");
}

#[test]
fn a_complete_rollout_says_so_and_then_rests() {
    let mut deployment = deployment(2, 1, 0);
    let sets = vec![set(&deployment, "new", 2, 2, 1)];
    let result = run(&deployment, sets.clone(), vec![], &Outcome::default());
    assert_eq!((progressing(&result).as_str(), result.plan_again), ("NewReplicaSetAvailable", None));
    let object = result.status.unwrap();
    deployment.status = serde_json::from_value(object["status"].clone()).unwrap();
    deployment.metadata.annotations = serde_json::from_value(object["metadata"]["annotations"].clone()).unwrap();
    assert!(run(&deployment, sets, vec![], &Outcome::default()).status.is_none());
}

#[test]
fn no_progress_until_the_deadline_is_a_time_out() {
    let mut deployment = deployment(2, 1, 0);
    deployment.spec.progress_deadline_seconds = Some(60);
    let sets = vec![set(&deployment, "new", 2, 0, 1)];
    let first = run(&deployment, sets.clone(), vec![], &Outcome::default());
    assert_eq!(first.plan_again.unwrap().as_secs(), 61);
    let object = first.status.unwrap();
    deployment.status = serde_json::from_value(object["status"].clone()).unwrap();
    for condition in deployment.status.as_mut().unwrap().conditions.iter_mut().flatten() {
        condition.last_update_time = Some(crate::time::api(at(0)));
    }
    assert_eq!(progressing(&run(&deployment, sets, vec![], &Outcome::default())), "ProgressDeadlineExceeded");
}

#[test]
fn a_set_that_cannot_be_made_is_reported_and_nothing_else() {
    let outcome = Outcome { create_error: Some("denied".into()), ..Outcome::default() };
    let result = run(&deployment(1, 1, 0), vec![], vec![], &outcome);
    assert_eq!(progressing(&result), "ReplicaSetCreateError");
    assert!(result.status.unwrap()["metadata"]["annotations"].is_null());
}

#[test]
fn a_name_taken_by_another_template_salts_the_hash() {
    let deployment = deployment(1, 1, 0);
    let mut other = set(&deployment, "old", 1, 1, 1);
    let hash = crate::hash::word(&template("new"), None);
    other.metadata.name = Some(format!("web-{hash}"));
    let result = run(&deployment, vec![other], vec![], &Outcome::default());
    assert_eq!(result.sizes, []);
    assert_eq!(result.status.unwrap()["status"]["collisionCount"], 1);
}

#[test]
fn old_revisions_above_the_limit_go_once_they_are_empty() {
    let mut deployment = deployment(1, 1, 0);
    deployment.spec.revision_history_limit = Some(1);
    let complete = k8s_openapi::api::apps::v1::DeploymentStatus {
        replicas: Some(1),
        updated_replicas: Some(1),
        available_replicas: Some(1),
        observed_generation: Some(1),
        ..Default::default()
    };
    deployment.status = Some(complete);
    let sets = vec![set(&deployment, "x", 0, 0, 1), set(&deployment, "y", 0, 0, 2), set(&deployment, "new", 1, 1, 3)];
    assert_eq!(run(&deployment, sets, vec![], &Outcome::default()).deleted, ["web-x"]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut deployment = deployment(3, 1, 0);
    deployment.spec.paused = Some(true);
    let result = run(&deployment, vec![set(&deployment, "old", 2, 2, 1)], vec![], &Outcome::default());
    assert_eq!(result.sizes, [("old".to_owned(), 3)]);
    assert_eq!(progressing(&result), "DeploymentPaused");
}
